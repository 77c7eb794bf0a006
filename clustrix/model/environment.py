"""What is installed where the caller's Python runs."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Origin(enum.Enum):
    """Say where an installed distribution came from (PEP 610)."""

    INDEX = "index"
    ARCHIVE = "archive"  # a wheel or sdist given by URL or path
    DIRECTORY = "directory"  # installed from a source tree, not editable
    EDITABLE = "editable"
    VCS = "vcs"
    CONDA = "conda"


@dataclass(frozen=True, slots=True)
class Platform:
    """Name what a wheel must fit: ``machine`` as uname says it, and the glibc floor."""

    machine: str
    glibc: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.machine}-manylinux_{self.glibc[0]}_{self.glibc[1]}"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Describe a Python: implementation (``cpython``), version (``3.11.7``) and ABI (``cp311``)."""

    implementation: str
    version: str
    abi: str

    @property
    def minor(self) -> str:
        """Give ``3.11`` of ``3.11.7``."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Describe one installed distribution; ``name`` is spelled as its metadata spells it.

    ``url``, ``commit`` and ``subdirectory`` are those of direct_url.json. ``fingerprint`` is that of
    `clustrix.model.fingerprint.distribution`, None where there is no RECORD.
    """

    name: str
    version: str
    origin: Origin = Origin.INDEX
    url: str | None = None
    commit: str | None = None
    subdirectory: str | None = None
    requested: bool = True
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Hold the distributions a function was written among, and the Python they are for.

    ``source`` says what was read: ``interpreter``, or the path of a lock, requirements or script.
    """

    interpreter: Interpreter
    platform: Platform | None
    distributions: tuple[Distribution, ...]
    source: str = "interpreter"

    def freeze(self) -> tuple[str, ...]:
        """List what ``pip list --format=freeze`` lists, in its order."""
        rows = sorted(self.distributions, key=lambda distribution: distribution.name.lower())
        return tuple(f"{row.name}=={row.version}" for row in rows)
