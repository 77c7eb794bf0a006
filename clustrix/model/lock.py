"""Exact files for one Python and one platform, their digest, and how they compare to what is installed."""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clustrix.model.environment import Platform


@dataclass(frozen=True, slots=True)
class LockedFile:
    """Name a wheel: where it can be had (``https:`` or ``file:``) and the sha256 it must have."""

    filename: str
    sha256: str
    url: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """Pin one distribution (normalised name, PEP 503) to one wheel."""

    name: str
    version: str
    file: LockedFile


@dataclass(frozen=True)
class Lock:
    """Hold everything an environment consists of, sorted by name."""

    python: str  # the minor version: 3.11
    platform: Platform
    packages: tuple[LockedPackage, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "packages", tuple(sorted(self.packages, key=lambda package: package.name)))

    @cached_property
    def digest(self) -> str:
        """Identify the lock: no URL, time, path or tool version takes part (``sha256:...``)."""
        canonical = [self.python, str(self.platform), [[p.name, p.version, p.file.sha256] for p in self.packages]]
        text = json.dumps(canonical, separators=(",", ":"), ensure_ascii=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class Status(enum.Enum):
    """Say how a locked distribution relates to the installed one, or to the file it was read from."""

    EXACT = "exact"  # RECORD of the locked wheel equals the installed one
    SAME_VERSION = "same version"  # the builds were not compared (yet)
    OTHER_BUILD = "same version, other build"
    REBUILT = "rebuilt"  # no wheel exists: one was built here from its source
    SUBSTITUTED = "substituted"  # conda's build replaced by the index's, same version
    TRAVELS = "travels as source"  # a pure-Python editable: in the code bundle, not in the image
    LEFT_OUT = "left out"  # clustrix, and what only clustrix needs
    LOCKED = "as locked"  # taken from a lock file, hash and all
    RESOLVED = "resolved"  # version chosen now, from requirements
    ADDED = "added"  # only the target platform, or a requirement given beside the environment, needs it
    DROPPED = "dropped"  # the target platform does not need it
    CHANGED = "changed"  # another version than the installed one


@dataclass(frozen=True, slots=True)
class Row:
    """Report on one package; ``note`` says why, where the status alone does not."""

    name: str
    status: Status
    installed: str | None = None
    locked: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Report on every package of a capture, sorted by name."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(sorted(self.rows, key=lambda row: row.name)))

    def having(self, *statuses: Status) -> tuple[Row, ...]:
        """Select rows by status."""
        return tuple(row for row in self.rows if row.status in statuses)

    def text(self) -> str:
        """Write one line per status with many unremarkable packages, and one line per package that needs a look."""
        lines = []
        for status in Status:
            rows = self.having(status)
            if not rows:
                continue
            lines.append(f"{status.value}: {len(rows)}")
            if status not in _UNREMARKABLE:
                lines += [f"  {_line(row)}" for row in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def as_json(self) -> dict[str, object]:
        """Give the report as JSON types."""
        rows = [
            {
                "name": row.name,
                "status": row.status.value,
                "installed": row.installed,
                "locked": row.locked,
                "note": row.note,
            }
            for row in self.rows
        ]
        return {"packages": rows, "notes": list(self.notes)}


_UNREMARKABLE = frozenset({Status.EXACT, Status.SAME_VERSION, Status.LOCKED, Status.RESOLVED})


def _line(row: Row) -> str:
    versions = " -> ".join(dict.fromkeys(version for version in (row.installed, row.locked) if version))
    return " ".join(part for part in (row.name, versions, f"({row.note})" if row.note else "") if part)


@dataclass(frozen=True, slots=True)
class Travelling:
    """Name the source of a pure-Python editable, which goes into the code bundle.

    ``roots`` are the directories it adds to sys.path; ``modules`` are (top-level import name, absolute path) of those
    an import hook maps; ``metadata`` is its ``.dist-info`` directory, which has to travel too for importlib.metadata.
    """

    name: str
    version: str
    roots: tuple[str, ...] = ()
    modules: tuple[tuple[str, str], ...] = ()
    metadata: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """List what has to travel: directories that hold modules, packages, single modules, the metadata."""
        return (*self.roots, *(path for _, path in self.modules), *([self.metadata] if self.metadata else []))


@dataclass(frozen=True, slots=True)
class LockResult:
    """Hold a lock, how it differs from what is installed, and what travels beside it."""

    lock: Lock
    report: Report
    travelling: tuple[Travelling, ...] = ()
