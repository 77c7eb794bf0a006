"""Bring the files of a lock here, each under its sha256, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from clustrix.errors import DiskFull, HashMismatch, LockError
from clustrix.locking import indexes, pylock
from clustrix.model.progress import SILENT
from clustrix.oci.connections import Connections

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import httpx

    from clustrix.model.lock import Lock, LockedFile
    from clustrix.model.progress import Bar, Progress

_PARALLEL = 8
_ATTEMPTS = 4
_PAUSE_SECONDS = 0.25  # doubled each time
_CHUNK = 1 << 20
_TOO_MANY_REQUESTS, _SERVER_ERRORS = 429, 500
_UNAUTHORISED = (401, 403)


def fetch(lock: Lock, cache: Path, progress: Progress = SILENT) -> dict[str, Path]:
    """Give the wheel of every package by normalised name, downloaded into ``cache`` unless it is there.

    Each lies at ``<cache>/wheels/<sha256>/<filename>`` and is verified every time.

    Raises:
        HashMismatch: a file is not the one that was locked; nothing of it stays in the cache.
        LockError: a file cannot be had.
        DiskFull: there is no space for it.

    """
    paths = files([package.file for package in lock.packages], cache, progress)
    return {package.name: path for package, path in zip(lock.packages, paths, strict=True)}


def files(wanted: Sequence[LockedFile], cache: Path, progress: Progress = SILENT) -> list[Path]:
    """Do what `fetch` does, for any files."""
    missing = [file for file in wanted if not _is_there(file, cache)]
    if missing:
        from concurrent.futures import ThreadPoolExecutor

        sizes = [file.size for file in missing]
        bar = progress.start("fetch", None if None in sizes else sum(size or 0 for size in sizes))
        stop = threading.Event()
        try:
            connections = Connections()
            with _client(connections) as client, ThreadPoolExecutor(_PARALLEL) as pool:
                waiting = [pool.submit(_obtain, file, cache, client, bar, stop) for file in missing]
                try:
                    for one in waiting:
                        one.result()
                except BaseException:
                    # The others end now, whatever they wait for.
                    stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    connections.cut()
                    raise
        finally:
            bar.close()
    return [_place(file, cache) for file in wanted]


def _place(file: LockedFile, cache: Path) -> Path:
    return cache / "wheels" / file.sha256 / file.filename


def _is_there(file: LockedFile, cache: Path) -> bool:
    """Verify a file of the cache; one that was damaged there is removed and fetched again."""
    path = _place(file, cache)
    try:
        with path.open("rb") as stream:
            digest = hashlib.sha256()
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return False
    if digest.hexdigest() == file.sha256:
        return True
    path.unlink(missing_ok=True)
    return False


def _obtain(file: LockedFile, cache: Path, client: httpx.Client, bar: Bar, stop: threading.Event) -> None:
    local = pylock.local_path(file.url)
    if local is None:
        _download(file, cache, client, bar, stop)
        return
    try:
        with local.open("rb") as source:
            _keep(file, cache, iter(lambda: source.read(_CHUNK), b""), bar, stop)
    except FileNotFoundError as error:
        raise LockError(
            f"{local}, which the lock names, does not exist", remedy="Put it back, or lock again."
        ) from error


def _download(file: LockedFile, cache: Path, client: httpx.Client, bar: Bar, stop: threading.Event) -> None:
    import httpx

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with client.stream("GET", file.url, auth=indexes.credentials(file.url)) as response:
                _check_status(response.status_code, file)
                if response.is_success:
                    _keep(file, cache, response.iter_bytes(_CHUNK), bar, stop)
                    return
                reason = f"HTTP {response.status_code}"
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        except httpx.InvalidURL as error:
            raise LockError(f"{file.filename}: {file.url} is no URL: {error}") from error
        if attempt < _ATTEMPTS and stop.wait(_PAUSE_SECONDS * 2**attempt):
            return
    raise LockError(
        f"cannot fetch {file.filename} from {urlsplit(file.url).hostname}: {reason}",
        remedy="Check the network and the index, then do the same again: what was fetched is kept.",
    )


def _check_status(status: int, file: LockedFile) -> None:
    host = urlsplit(file.url).hostname
    if status in _UNAUTHORISED:
        raise LockError(
            f"{host} refuses {file.filename} (HTTP {status})",
            remedy=f"Put the credentials for {host} into ~/.netrc, UV_INDEX or UV_INDEX_NAME_PASSWORD.",
        )
    if status != _TOO_MANY_REQUESTS and 400 <= status < _SERVER_ERRORS:  # noqa: PLR2004 - the class of client errors
        raise LockError(f"{file.url} answers HTTP {status}", remedy="The index no longer has this file: lock again.")


def _keep(file: LockedFile, cache: Path, chunks: Iterator[bytes], bar: Bar, stop: threading.Event) -> None:
    """Write chunks under a temporary name, verify them, and only then give them their name."""
    place, done = _place(file, cache), 0
    directory = cache / "wheels"
    directory.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=directory, prefix=".")
    try:
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as stream:
            for chunk in chunks:
                if stop.is_set():
                    return
                digest.update(chunk)
                stream.write(chunk)
                done += len(chunk)
                bar.advance(len(chunk))
        _verify(file, digest.hexdigest())
        place.parent.mkdir(exist_ok=True)
        Path(name).replace(place)
    except BaseException as error:
        bar.advance(-done)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"no space for {file.filename} below {cache}", remedy="Free some: clustrix gc") from error
        raise
    finally:
        Path(name).unlink(missing_ok=True)


def _verify(file: LockedFile, sha256: str) -> None:
    if sha256 != file.sha256:
        raise HashMismatch(
            f"{file.filename} is not the file that was locked: its sha256 is {sha256}, not {file.sha256}",
            remedy=f"Do not trust what {file.url} serves until you know why; nothing of it was kept.",
        )


def _client(connections: Connections) -> httpx.Client:
    import httpx

    from clustrix.oci.trust import LateTrust

    bundle = None if "SSL_CERT_FILE" in os.environ else indexes.pip_settings().get("cert")
    limits = httpx.Limits(max_connections=_PARALLEL)
    headers = {"Accept-Encoding": "identity"}  # a wheel is compressed already, and its hash is that of its bytes
    return httpx.Client(
        headers=headers,
        follow_redirects=True,
        timeout=httpx.Timeout(60, connect=30),
        verify=LateTrust(bundle or None),
        limits=limits,
        event_hooks={"request": [connections.follow]},
    )
