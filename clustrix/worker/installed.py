"""What is installed beside this Python, read from its RECORDs.

The worker runs this inside the container before any user code, so it is small, quick and needs the standard library
only. Formats: https://packaging.python.org/en/latest/specifications/recording-installed-packages/ and, for wheels,
https://packaging.python.org/en/latest/specifications/binary-distribution-format/.
"""

from __future__ import annotations

import os
import site
import sys

from clustrix.errors import LockError
from clustrix.model import fingerprint
from clustrix.model.spelling import is_name, normalise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from clustrix.model.environment import Interpreter, Platform
    from clustrix.model.lock import Lock


class Metadata:
    """Name one ``.dist-info`` or ``.egg-info`` on the path; name and version as its own name spells them."""

    __slots__ = ("name", "path", "version")

    def __init__(self, name: str, version: str, path: str) -> None:
        self.name = name
        self.version = version
        self.path = path

    @property
    def key(self) -> str:
        """Give the normalised name."""
        return normalise(self.name)


class Altered:
    """Name one installed file that is not the one its RECORD lists; ``how`` is "changed" or "missing"."""

    __slots__ = ("distribution", "how", "path")

    def __init__(self, distribution: str, path: str, how: str) -> None:
        self.distribution = distribution
        self.path = path
        self.how = how


def identity() -> tuple[str, str, str]:
    """Name this Python by its implementation (``cpython``), minor version (``3.11``) and ABI (``cp311``)."""
    name = sys.implementation.name
    major, minor = sys.version_info[:2]
    free_threaded = "t" if "t" in getattr(sys, "abiflags", "") else ""
    abi = f"cp{major}{minor}{free_threaded}" if name == "cpython" else f"{name}{major}{minor}"
    return name, f"{major}.{minor}", abi


def interpreter() -> Interpreter:
    """Describe this Python."""
    from clustrix.model.environment import Interpreter

    implementation, _, abi = identity()
    return Interpreter(implementation, sys.version.split()[0], abi)


def platform() -> Platform | None:
    """Give this machine's platform; None where it is not Linux with glibc."""
    from clustrix.model.environment import Platform

    if sys.platform != "linux":
        return None
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return None
    name, _, version = libc.partition(" ")
    major, _, minor = version.partition(".")
    if name != "glibc" or not (major.isdigit() and minor.isdigit()):
        return None
    return Platform(os.uname().machine, (int(major), int(minor)))


def machine() -> str:
    """Name this machine's architecture as uname does on Linux, on every system."""
    import platform

    return {"AMD64": "x86_64", "arm64": "aarch64", "ARM64": "aarch64"}.get(platform.machine(), platform.machine())


def site_directories() -> list[str]:
    """List the directories of sys.path that installers write to, in its order."""
    known = {*site.getsitepackages(), site.getusersitepackages()}
    return [path for path in dict.fromkeys(sys.path) if path in known]


def find(paths: Iterable[str]) -> tuple[list[Metadata], list[Metadata]]:
    """List the distributions on ``paths``: those in use, and those that are shadowed by the first of the same name.

    The order is pip's: path by path, ``.dist-info`` before ``.egg-info``. A directory that cannot be read holds none.
    """
    used: dict[str, Metadata] = {}
    shadowed: list[Metadata] = []
    for path in dict.fromkeys(paths):
        found = list(_in_directory(path))
        shadowed += [metadata for metadata in found if used.setdefault(metadata.key, metadata) is not metadata]
    return list(used.values()), shadowed


def fingerprint_of(metadata: str) -> str | None:
    """Digest the installed distribution whose ``.dist-info`` this is; None where it has no RECORD."""
    name, version = _split(os.path.basename(metadata))
    record = _text(os.path.join(metadata, "RECORD"))
    if record is None:
        return None
    return fingerprint.installed(normalise(name), version, _tags(_text(os.path.join(metadata, "WHEEL"))), record)


def fingerprints(paths: Sequence[str] | None = None) -> dict[str, str]:
    """Digest every distribution on ``paths`` (this Python's site directories): normalised name to fingerprint.

    A distribution without RECORD counts by its version alone.
    """
    used, _ = find(site_directories() if paths is None else paths)
    return {found.key: fingerprint_of(found.path) or f"version {found.version}" for found in used}


def of_environment(paths: Sequence[str] | None = None) -> str:
    """Digest this Python and what is installed on ``paths`` (its site directories): ``sha256:...``."""
    return fingerprint.environment(*identity(), fingerprints(paths).items())


def of_wheel(wheel: str | os.PathLike[str]) -> str:
    """Digest what a wheel will be once it is installed; `LockError` if it is no wheel."""
    import zipfile

    try:
        with zipfile.ZipFile(wheel) as archive:
            record = next(
                (name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/RECORD")),
                None,
            )
            if record is None:
                raise LockError(f"{os.fspath(wheel)} is no wheel: it has no RECORD")
            directory = record.rpartition("/")[0]
            name, version = _split(directory)
            tags = _tags(archive.read(f"{directory}/WHEEL").decode("utf-8", "surrogateescape"))
            text = archive.read(record).decode("utf-8", "surrogateescape")
    except (zipfile.BadZipFile, KeyError) as error:
        raise LockError(f"{os.fspath(wheel)} is no wheel: {error}") from error
    return fingerprint.wheel(normalise(name), version, tags, text)


def of_wheels(wheels: Mapping[str, str | os.PathLike[str]]) -> dict[str, str]:
    """Digest what wheels (by normalised name) will be once they are installed: `fingerprints`, beforehand."""
    return {name: of_wheel(wheel) for name, wheel in wheels.items()}


def of_lock(lock: Lock, wheels: Mapping[str, str | os.PathLike[str]]) -> str:
    """Digest the environment that a lock's wheels (by normalised name) will make: `of_environment`, beforehand."""
    rows = of_wheels({package.name: wheels[package.name] for package in lock.packages})
    return fingerprint.environment("cpython", lock.python, "cp" + lock.python.replace(".", ""), rows.items())


def altered(paths: Sequence[str] | None = None) -> Iterator[Altered]:
    """Hash every installed file on ``paths`` again and yield those that are not what RECORD says."""
    from csv import reader

    used, _ = find(site_directories() if paths is None else paths)
    for found in used:
        root = os.path.dirname(found.path)
        for row in reader((_text(os.path.join(found.path, "RECORD")) or "").splitlines()):
            algorithm, _, expected = (row[1] if len(row) > 1 else "").partition("=")
            if not expected:
                continue
            try:
                actual = _hash(os.path.join(root, row[0]), algorithm)
            except OSError:
                yield Altered(found.key, row[0], "missing")
                continue
            if actual != expected:
                yield Altered(found.key, row[0], "changed")


def _in_directory(path: str) -> Iterator[Metadata]:
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return
    # Two passes: pip, through importlib.metadata, prefers a dist-info to an egg-info beside it.
    for suffix in (".dist-info", ".egg-info"):
        for entry in names:
            if entry.endswith(suffix):
                name, version = _split(entry)
                if is_name(name):
                    yield Metadata(name, version, os.path.join(path, entry))
    if path.endswith(".egg") and "EGG-INFO" in names:
        name, version = _split(os.path.basename(path))
        yield Metadata(name, version, os.path.join(path, "EGG-INFO"))


def _split(directory: str) -> tuple[str, str]:
    """Split ``name-version.dist-info`` or ``name-version-py3.11.egg-info``; the version may be absent."""
    name, _, version = directory.rpartition(".")[0].partition("-")
    return name, version.partition("-py")[0]


def _tags(wheel: str | None) -> list[str]:
    return [line[5:].strip() for line in (wheel or "").splitlines() if line.startswith("Tag: ")]


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except OSError:
        return None


def _hash(path: str, algorithm: str) -> str:
    import hashlib
    from base64 import urlsafe_b64encode

    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
