"""What a lock is made from: the live environment, or a file that describes one."""

from __future__ import annotations

from dataclasses import dataclass

from clustrix.model.environment import Environment


@dataclass(frozen=True, slots=True)
class ProjectSource:
    """Name a directory with ``pyproject.toml`` and ``uv.lock``; extras and groups are never implied."""

    directory: str
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PylockSource:
    """Name a lock file of PEP 751; extras and groups are never implied."""

    path: str
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequirementsSource:
    """Name a requirements file; where it has no hashes it is resolved first."""

    path: str


@dataclass(frozen=True, slots=True)
class ScriptSource:
    """Name a script with inline metadata (PEP 723)."""

    path: str


Source = Environment | ProjectSource | PylockSource | RequirementsSource | ScriptSource
