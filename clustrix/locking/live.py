"""Lock what is installed beside the running interpreter, package by package according to where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import LockError, UnsupportedPackage
from clustrix.locking import builds, graph, travelling
from clustrix.locking.pylock import local_path
from clustrix.model.environment import Origin
from clustrix.model.lock import LockedPackage, Row, Status

if TYPE_CHECKING:
    from clustrix.locking.pylock import Entry
    from clustrix.locking.resolution import Locker
    from clustrix.locking.target import Target
    from clustrix.model.environment import Distribution, Environment
    from clustrix.model.lock import Travelling

_SOURCES = frozenset({Origin.EDITABLE, Origin.DIRECTORY, Origin.VCS})


@dataclass
class Parts:
    """Collect what a lock is put together from."""

    packages: dict[str, LockedPackage] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    travelling: list[Travelling] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, entry: Entry, locker: Locker, status: Status, *, installed: str | None = None, note: str = ""
    ) -> None:
        """Take the file that fits, building it where there is only source."""
        file = entry.wheel
        if file is not None and locker.target.rank(file.filename) is None:
            raise locker.target.unsupported(entry.name, entry.version)
        if file is None:
            if entry.sdist is None:
                raise locker.target.unsupported(entry.name, entry.version)
            file = builds.from_sdist(entry.name, entry.sdist, locker)
            status, note = Status.REBUILT, "no wheel of it fits the target"
        version = entry.version or file.filename.split("-")[1]
        self.packages[entry.name] = LockedPackage(entry.name, version, file)
        self.rows[entry.name] = Row(entry.name, status, installed, version, note)


def collect(environment: Environment, locker: Locker) -> Parts:
    """Lock an environment.

    Raises:
        LockError: it is of another Python than the target, or cannot be locked.
        UnsupportedPackage: packages cannot be had for the target; each is named.

    """
    _check_interpreter(environment, locker.target)
    parts = Parts(notes=[f"{row.name} {row.version}: a leftover at {row.location}" for row in environment.shadowed])
    same = environment.platform is not None and environment.platform.machine == locker.target.platform.machine
    out = graph.left_out(environment)
    for row in environment.distributions:
        if row.key in out:
            why = "" if row.key == graph.CLUSTRIX else "only clustrix needs it"
            parts.rows[row.key] = Row(row.key, Status.LEFT_OUT, row.version, None, why)
    rest = [row for row in environment.distributions if row.key not in out]
    parts.notes += _too_new(rest, locker.target)
    for row in rest:
        if row.origin in _SOURCES:
            _from_source(row, locker, parts)
    if same:
        _exactly([row for row in rest if row.origin not in _SOURCES], locker, parts)
    else:
        _again(rest, locker, parts)
    return parts


def _exactly(rows: list[Distribution], locker: Locker, parts: Parts) -> None:
    """Lock the versions that are installed, and no others."""
    conda = [row for row in rows if row.origin is Origin.CONDA]
    installed = {row.key: row for row in rows}
    found, refused = locker.pins([_line(row) for row in rows if row not in conda])
    if refused:
        raise _not_to_be_had(refused, [row for row in rows if _line(row) in refused], locker.target)
    for entry in found:
        parts.add(entry, locker, Status.SAME_VERSION, installed=installed[entry.name].version)
    found, refused = locker.pins([_line(row) for row in conda])
    for entry in found:
        note = "conda's build, replaced by the index's"
        parts.add(entry, locker, Status.SUBSTITUTED, installed=installed[entry.name].version, note=note)
    if refused:
        raise UnsupportedPackage(
            f"only conda has {', '.join(refused)}: the index has no such version for {locker.target.platform}",
            remedy="Install them with pip or uv in a version that the index has, or use an image with them: image=...",
        )


def _not_to_be_had(lines: list[str], rows: list[Distribution], target: Target) -> UnsupportedPackage:
    system = [row.name for row in rows if (row.location or "").startswith("/usr/lib")]
    remedy = "Install other versions, or name the index that has these (UV_INDEX, UV_FIND_LINKS, pip's settings)."
    if system:
        remedy = f"{', '.join(system)} came with the operating system: work in a virtual environment instead."
    return UnsupportedPackage(
        f"not to be had for Python {target.minor} on {target.platform}: {', '.join(lines)}", remedy=remedy
    )


def _again(rows: list[Distribution], locker: Locker, parts: Parts) -> None:
    """Resolve for another platform: what is asked for here, within the versions that are installed here."""
    installed = {row.key: row for row in rows}
    local = {row.key for row in rows if row.origin in _SOURCES}
    asked = [row for row in graph.roots(rows) if row.key not in local and row.origin is not Origin.ARCHIVE]
    # What is not from an index is named by where it is from, or a stranger of its name would be taken.
    placed = [row for row in rows if row.key in local or row.origin is Origin.ARCHIVE]
    lines = [_line(row) for row in asked] + [_reference(row) for row in placed]
    constraints = [_line(row) for row in rows if row not in placed]
    for entry in locker.resolve(lines, constraints):
        if entry.name in local:
            continue
        here = installed.get(entry.name)
        if here is None:
            status, note = Status.ADDED, f"{locker.target.platform} needs it"
        elif here.origin is Origin.CONDA:
            status, note = Status.SUBSTITUTED, "conda's build, replaced by the index's"
        else:
            status, note = (Status.SAME_VERSION if here.version == entry.version else Status.CHANGED), ""
        parts.add(entry, locker, status, installed=here.version if here else None, note=note)
    for row in rows:
        if row.key not in parts.rows:
            note = f"{locker.target.platform} does not need it"
            parts.rows[row.key] = Row(row.key, Status.DROPPED, row.version, None, note)


def _from_source(row: Distribution, locker: Locker, parts: Parts) -> None:
    """Let pure-Python editables travel; build the others."""
    if row.origin is Origin.EDITABLE and row.pure:
        found = travelling.of_installed(row.name, row.version, Path(row.location or ""))
        parts.travelling.append(found)
        parts.rows[row.key] = Row(row.key, Status.TRAVELS, row.version, None, ", ".join(found.paths[:1]))
        return
    url = row.url or ""
    if row.origin is Origin.VCS:
        kind, _, url = url.partition("+")
        if kind != "git" or row.commit is None:
            raise UnsupportedPackage(
                f"{row.name} comes from {kind}; only git is known", remedy="Install a wheel of it."
            )
        file = builds.from_repository(row.name, url, commit=row.commit, subdirectory=row.subdirectory, locker=locker)
        note = f"built from commit {row.commit[:12]} of {url}"
    else:
        file = builds.from_directory(row.name, _path(row), row.subdirectory, locker)
        note = f"built from {url}"
    version = file.filename.split("-")[1]
    parts.packages[row.key] = LockedPackage(row.key, version, file)
    parts.rows[row.key] = Row(row.key, Status.REBUILT, row.version, version, note)


def _line(row: Distribution) -> str:
    if row.origin is not Origin.ARCHIVE:
        return f"{row.name}=={row.version}"
    if local_path(row.url or "") is not None:
        _path(row)
    return f"{row.name} @ {row.url}"


def _reference(row: Distribution) -> str:
    """Write the requirement that leads a resolver to a package's own source, not to a stranger of its name."""
    if row.origin is Origin.VCS:
        place = f"#subdirectory={row.subdirectory}" if row.subdirectory else ""
        return f"{row.name} @ {row.url}@{row.commit}{place}"
    return f"{row.name} @ {row.url}"


def _path(row: Distribution) -> Path:
    path = local_path(row.url or "")
    if path is None or not path.exists():
        raise UnsupportedPackage(
            f"{row.name} {row.version} was installed from {row.url}, which does not exist any more",
            remedy="Put it back, or install the package from an index; a package of the same name there is not taken.",
        )
    return path


def _too_new(rows: list[Distribution], target: Target) -> list[str]:
    """Say what wants a newer patch level of Python than the target is known to have."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    notes = []
    for row in rows:
        try:
            fits = SpecifierSet(row.requires_python or "").contains(target.full, prereleases=True)
        except InvalidSpecifier:
            fits = True  # as installers take it
        if not fits:
            notes.append(f"{row.name} {row.version} wants Python {row.requires_python}; the target has {target.full}")
    return notes


def _check_interpreter(environment: Environment, target: Target) -> None:
    python = environment.interpreter
    if python.implementation != "cpython" or python.abi != "cp" + python.minor.replace(".", ""):
        raise LockError(
            f"locks are for CPython with the GIL; this is {python.implementation} {python.version} ({python.abi})",
            remedy="Run on a usual CPython.",
        )
    if python.minor != target.minor:
        raise LockError(
            f"the target has Python {target.minor} and this is {python.version}: functions do not travel between them",
            remedy=f"Use a base with Python {python.minor}, or run on Python {target.minor}.",
        )
