"""Exact files for one Python and one platform, and the digest that identifies them."""

from __future__ import annotations

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
