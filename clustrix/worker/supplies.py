# ruff: noqa: PTH103, PTH105, PTH110, PTH112, PTH123, PTH208, PTH211
# pathlib would take a seventh of the time in which a worker starts.
"""Lay what Kubernetes mounts, and what is in the registry, where the worker expects the files of a job.

Below the root of a pod (an emptyDir) all is as at any other target (`clustrix.model.paths`). Beside it are the mounts:
``<root>-job`` with the job's Secret and ``<root>-bundles/<sha256>/bundle.zip``. ``remote.json`` of the Secret names the
blobs of what is too large for it: ``payload`` with ``digest``, ``size``, ``table`` (where its table begins) and
``table_sha256``; ``bundles`` by their sha256, with ``digest`` and ``size``.
"""

from __future__ import annotations

import os

from clustrix.errors import StoreError
from clustrix.model import stdlib
from clustrix.model.paths import JobPaths, SitePaths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from typing_extensions import Self

    from clustrix.worker.artifacts import Repository


def home(root: str) -> tuple[str, str]:
    """Place the home directory and that of temporary files."""
    return f"{root}/home", f"{root}/tmp"  # noqa: S108 - its own


def secret(root: str, name: str) -> str:
    """Place a file of the job's Secret."""
    return f"{root}-job/{name}"


def number() -> int:
    """Tell the number of the task: of several Jobs that do one, each counts from 0."""
    return int(os.environ.get("CLUSTRIX_OFFSET", "0")) + int(os.environ.get("JOB_COMPLETION_INDEX", "0"))


def directories(root: str, ulid: str) -> JobPaths:
    """Make the directories of a pod."""
    site = SitePaths(root)
    paths = site.job(ulid)
    for directory in (*home(root), site.bundles, paths.work, paths.outcomes, paths.ends):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    return paths


def lay(root: str, ulid: str) -> JobPaths:
    """Put what is mounted in place."""
    paths = directories(root, ulid)
    for name, place in (("task.json", paths.task), ("payload", paths.payload)):
        if os.path.exists(secret(root, name)):
            _link(secret(root, name), place)
    with open(secret(root, "key"), "rb") as file:
        key = file.read()
    descriptor = os.open(paths.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, key)
    os.close(descriptor)
    mounted = f"{root}-bundles"
    for digest in os.listdir(mounted) if os.path.isdir(mounted) else ():
        _link(f"{mounted}/{digest}/bundle.zip", SitePaths(root).bundle(digest))
    return paths


def missing(root: str, paths: JobPaths) -> list[str]:
    """List the files that are in the registry and not here yet."""
    remote = _remote(root)
    if remote is None:
        return []
    site = SitePaths(root)
    files = [*([paths.payload] if "payload" in remote else ()), *(site.bundle(name) for name in remote["bundles"])]
    return [file for file in files if not os.path.exists(file)]


def fetch(root: str, paths: JobPaths, repository: Repository, items: Iterable[int]) -> None:
    """Bring what is in the registry here; of the payload only what these items need.

    Raises:
        RegistryError: it cannot be had.
        StoreError: it is not what was put there.

    """
    remote = _remote(root)
    if remote is None:
        return
    for digest, blob in remote["bundles"].items():
        place = SitePaths(root).bundle(digest)
        if not os.path.exists(place):
            with _Sparse(place, blob["size"]) as file:
                repository.read(blob["digest"], 0, blob["size"], file.write)
    if "payload" in remote and not os.path.exists(paths.payload):
        _fetch_payload(remote["payload"], paths.payload, repository, items)


def _fetch_payload(blob: dict[str, Any], place: str, repository: Repository, items: Iterable[int]) -> None:
    from clustrix.worker.payload import extents

    digest, size, table = blob["digest"], blob["size"], blob["table"]
    with _Sparse(place, size) as file:
        repository.read(digest, table, size, file.write)
        rows = file.read(table, size)
        # The registry is not trusted; with the table every section is known by its sha256.
        if stdlib.Sha256(rows).hexdigest() != blob["table_sha256"]:
            raise StoreError(
                f"the payload in the registry is not the one that was put there: {digest}", remedy="Submit it again."
            )
        for start, stop in extents(rows, items):
            repository.read(digest, start, stop, file.write)


class _Sparse:
    """Write pieces of a file anywhere; it appears under its name once it is closed."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._file = open(f"{path}.part", "w+b")  # noqa: SIM115 - see __exit__
        self._file.truncate(size)

    def write(self, place: int, data: bytes) -> None:
        self._file.seek(place)
        self._file.write(data)

    def read(self, start: int, stop: int) -> bytes:
        self._file.seek(start)
        return self._file.read(stop - start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            os.replace(f"{self._path}.part", self._path)


def _remote(root: str) -> dict[str, Any] | None:
    try:
        with open(secret(root, "remote.json"), "rb") as file:
            remote: dict[str, Any] = stdlib.decode(file.read())
    except FileNotFoundError:
        return None
    return {"bundles": {}, **remote}


def _link(target: str, place: str) -> None:
    if not os.path.lexists(place):
        os.symlink(target, place)
