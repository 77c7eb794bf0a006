"""What is installed where the caller's Python runs."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from clustrix.model.spelling import normalise

__all__ = ["Distribution", "Environment", "Interpreter", "Origin", "Platform", "normalise"]


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

    ``url``, ``commit``, ``subdirectory`` and ``sha256`` are those of direct_url.json; ``requires`` and
    ``requires_python`` are its Requires-Dist and Requires-Python; ``pure`` is False where the wheel it was installed
    from was made for one platform; ``location`` is the metadata directory (``.dist-info`` or ``.egg-info``).
    ``fingerprint`` is that of `clustrix.model.fingerprint.distribution`, None where it was not computed or there is no
    RECORD.
    """

    name: str
    version: str
    origin: Origin = Origin.INDEX
    url: str | None = None
    commit: str | None = None
    subdirectory: str | None = None
    sha256: str | None = None
    requested: bool = True
    installer: str | None = None
    requires: tuple[str, ...] = ()
    requires_python: str | None = None
    pure: bool = True
    location: str | None = None
    fingerprint: str | None = None

    @property
    def key(self) -> str:
        """Give the normalised name."""
        return normalise(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Hold the distributions a function was written among, and the Python they are for.

    ``platform`` is None where the caller's system is not Linux with glibc. ``shadowed`` holds what lies on the path but
    is not used: a distribution of the same name comes first (leftovers of an interrupted installation, mostly).
    """

    interpreter: Interpreter
    platform: Platform | None
    distributions: tuple[Distribution, ...]
    shadowed: tuple[Distribution, ...] = ()

    def freeze(self) -> tuple[str, ...]:
        """List what ``pip list --format=freeze`` lists, in its order."""
        return tuple(f"{row.name}=={row.version}" for row in sorted(self.distributions, key=lambda row: row.key))
