"""Read and write pylock.toml (PEP 751, https://packaging.python.org/en/latest/specifications/pylock-toml/)."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from clustrix.errors import HashMismatch, LockError
from clustrix.model.environment import Platform, normalise
from clustrix.model.lock import Lock, LockedFile, LockedPackage

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from clustrix.locking.target import Target

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same library under its first name
    import tomli as tomllib

MEND = "Mend it there, or make it again with the tool that wrote it."
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Hold what a lock file offers for one package that the target needs: at most one of its files fits best.

    ``directory`` is (absolute path, subdirectory, editable), ``vcs`` is (type, URL, commit, subdirectory).
    """

    name: str
    version: str | None
    wheel: LockedFile | None = None
    sdist: LockedFile | None = None
    directory: tuple[str, str | None, bool] | None = None
    vcs: tuple[str, str, str, str | None] | None = None


def load(text: str, what: str) -> dict[str, Any]:
    """Parse TOML; `LockError` where it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LockError(f"{what} does not parse: {error}", remedy=MEND) from error


def entries(
    text: str,
    what: str,
    base: Path,
    target: Target,
    *,
    extras: Collection[str] = (),
    groups: Collection[str] = (),
    hashes: Mapping[str, frozenset[str]] | None = None,
) -> list[Entry]:
    """Read what a pylock.toml has for a target. Relative paths start at ``base``.

    ``hashes``, by normalised name, are the only sha256 that may be chosen.

    Raises:
        LockError: it does not parse, is of a newer format, or is for another Python.
        HashMismatch: no file of a package has one of the ``hashes``.

    """
    data = load(text, what)
    try:
        if not str(data["lock-version"]).startswith("1."):
            raise LockError(f"{what} has lock-version {data['lock-version']}; 1.0 is known", remedy="Update clustrix.")
        check_python(data.get("requires-python"), what, target)
        _check_choices(data, what, extras, groups)
        found = [
            _entry(package, base, target, hashes)
            for package in data.get("packages", [])
            if _wanted(package, target, extras, groups)
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise LockError(f"{what} is no pylock.toml: {error!r}", remedy=MEND) from error
    names = [entry.name for entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LockError(f"{what} locks {', '.join(twice)} more than once for {target.platform}")
    return found


def write(lock: Lock) -> str:
    """Write a lock as pylock.toml: same lock, same text; pip and uv can install from it."""
    machine, (major, minor) = lock.platform.machine, lock.platform.glibc
    low, high = lock.python, f"3.{int(lock.python.split('.')[1]) + 1}"
    lines = [
        'lock-version = "1.0"',
        f"""environments = ["sys_platform == 'linux' and platform_machine == '{machine}'"]""",
        f'requires-python = ">={low},<{high}"',
        'created-by = "clustrix"',
    ]
    for package in lock.packages:
        file = package.file
        size = "" if file.size is None else f", size = {file.size}"
        hashes = f"{{ sha256 = {_string(file.sha256)} }}"
        lines += [
            "",
            "[[packages]]",
            f"name = {_string(package.name)}",
            f"version = {_string(package.version)}",
            f"wheels = [{{ name = {_string(file.filename)}, url = {_string(file.url)}{size}, hashes = {hashes} }}]",
        ]
    lines += ["", "[tool.clustrix]", f"python = {_string(low)}", f"machine = {_string(machine)}"]
    lines += [f"glibc = [{major}, {minor}]", f"digest = {_string(lock.digest)}"]
    return "\n".join(lines) + "\n"


def read(path: Path) -> Lock:
    """Read a pylock.toml that `write` wrote.

    Raises:
        LockError: it cannot be read, or somebody else wrote it: that is a `PylockSource` to make a lock from.
        HashMismatch: its packages were edited after it was written.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"cannot read {path}: {error}") from error
    data = load(text, str(path))
    ours = data.get("tool", {}).get("clustrix")
    if ours is None:
        raise LockError(
            f"{path} was not written by clustrix: it does not say which files are for which platform",
            remedy=f"Lock it for a platform: clustrix env lock --environment {path}",
        )
    try:
        packages = []
        for package in data.get("packages", []):
            (wheel,) = package["wheels"]
            file = LockedFile(wheel["name"], _sha256(wheel["hashes"]), wheel["url"], wheel.get("size"))
            packages.append(LockedPackage(package["name"], package["version"], file))
        lock = Lock(ours["python"], Platform(ours["machine"], tuple(ours["glibc"])), tuple(packages))
        written = ours["digest"]
    except (KeyError, TypeError, ValueError) as error:
        raise LockError(f"{path} is no lock of clustrix: {error!r}") from error
    if lock.digest != written:
        raise HashMismatch(f"{path} was edited: it is {lock.digest} and says {written}", remedy="Lock again.")
    return lock


def check_python(requires: str | None, what: str, target: Target) -> None:
    """Refuse a Requires-Python (``>=3.11``) that the target does not meet, with `LockError`."""
    if requires is None:
        return
    from packaging.specifiers import SpecifierSet

    if not SpecifierSet(requires).contains(target.full, prereleases=True):
        raise LockError(
            f"{what} requires Python {requires}; the target has {target.python}",
            remedy="Lock with the Python that the function runs on, or choose another base.",
        )


def _check_choices(data: dict[str, Any], what: str, extras: Collection[str], groups: Collection[str]) -> None:
    for kind, asked, known in (
        ("extra", extras, data.get("extras", [])),
        ("group", groups, data.get("dependency-groups", [])),
    ):
        if unknown := sorted(set(asked) - set(known)):
            raise LockError(
                f"{what} has no {kind} {', '.join(unknown)}", remedy=f"It has: {', '.join(known) or 'none'}."
            )


def _wanted(package: dict[str, Any], target: Target, extras: Collection[str], groups: Collection[str]) -> bool:
    marker = package.get("marker")
    if marker is None:
        return True
    from packaging.markers import InvalidMarker, Marker

    variables: dict[str, Any] = target.markers()
    if "extras" in marker or "dependency_groups" in marker:
        variables |= {"extras": frozenset(extras), "dependency_groups": frozenset(groups)}
    try:
        return bool(Marker(marker).evaluate(variables))
    except (InvalidMarker, KeyError, TypeError) as error:
        raise LockError(
            f"cannot evaluate the marker of {package.get('name')}: {marker}",
            remedy="Lock with a tool that follows PEP 508 and PEP 751.",
        ) from error


def _entry(package: dict[str, Any], base: Path, target: Target, hashes: Mapping[str, frozenset[str]] | None) -> Entry:
    name, version = normalise(package["name"]), package.get("version")
    if "directory" in package:
        data = package["directory"]
        path = str((base / data["path"]).resolve())
        return Entry(name=name, version=version, directory=(path, data.get("subdirectory"), bool(data.get("editable"))))
    if "vcs" in package:
        data = package["vcs"]
        url = data.get("url") or (base / data["path"]).resolve().as_uri()
        return Entry(name=name, version=version, vcs=(data["type"], url, data["commit-id"], data.get("subdirectory")))
    if "archive" in package:
        file = _file(package["archive"], base)
        if file.filename.endswith(".whl"):
            return Entry(name=name, version=version, wheel=file)
        return Entry(name=name, version=version, sdist=file)
    wheels = [_file(wheel, base) for wheel in package.get("wheels", [])]
    sdist = _file(package["sdist"], base) if "sdist" in package else None
    if hashes is not None:
        allowed = hashes.get(name, frozenset())
        if not any(file.sha256 in allowed for file in (*wheels, *([sdist] if sdist else []))):
            raise HashMismatch(
                f"no file of {name} {version} has a hash that the requirements list",
                remedy="Make the hashes again, or find out who changed the files on the index.",
            )
        wheels = [wheel for wheel in wheels if wheel.sha256 in allowed]
        sdist = sdist if sdist and sdist.sha256 in allowed else None
    ranked = [(rank, wheel) for wheel in wheels if (rank := target.rank(wheel.filename)) is not None]
    best = min(ranked, key=lambda pair: pair[0])[1] if ranked else None
    return Entry(name=name, version=version, wheel=best, sdist=sdist)


def _file(data: dict[str, Any], base: Path) -> LockedFile:
    url = data.get("url") or (base / data["path"]).resolve().as_uri()
    parts = urlsplit(url)
    # Credentials in an index's URLs are for the one who downloads, not for those who read the lock.
    url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    filename = data.get("name") or unquote(parts.path).rpartition("/")[2]
    return LockedFile(filename, _sha256(data["hashes"]), url, data.get("size"))


def _sha256(hashes: dict[str, str]) -> str:
    value = hashes.get("sha256", "").lower()
    if not _SHA256.fullmatch(value):
        raise LockError(f"a file has no sha256 but {hashes}", remedy="Lock with hashes of that kind.")
    return value


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def local_path(url: str) -> Path | None:
    """Give the path of a ``file:`` URL, None for others."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    from urllib.request import url2pathname

    return Path(url2pathname(parts.path))
