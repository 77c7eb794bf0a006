"""What a wheel must fit: the tags and the marker variables of a Python on a Linux with glibc that is not this one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from clustrix.errors import LockError, UnsupportedPackage
from clustrix.model.environment import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.tags import Tag

UV, PIP_TOOLS = "uv", "pip-tools"
"""The tools that can lock."""

MACHINES = ("x86_64", "aarch64")
_UV_FLOORS = (17, 28, *range(31, 41))
"""The minor versions of glibc 2 that uv has a ``--python-platform`` for."""
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""PEP 599, 571 and 513 names of glibc 2.x."""
_OLDEST = {"x86_64": 5, "aarch64": 17}


@dataclass(frozen=True)
class Target:
    """Name the Python (``3.11``, or ``3.11.7`` where it is known) and the platform that a lock is for."""

    platform: Platform
    python: str

    def __post_init__(self) -> None:
        machine, (major, minor) = self.platform.machine, self.platform.glibc
        if machine not in MACHINES:
            raise LockError(f"no locks are made for {machine}", remedy=f"Machines: {', '.join(MACHINES)}.")
        if major != 2 or minor < _UV_FLOORS[0]:  # noqa: PLR2004 - glibc has been 2 since 1997
            raise LockError(f"glibc {major}.{minor} is too old", remedy="Use a base with glibc 2.17 or newer.")

    @property
    def minor(self) -> str:
        """Give ``3.11``."""
        return ".".join(self.python.split(".")[:2])

    @property
    def full(self) -> str:
        """Give ``3.11.7``; the newest patch level there could be, where the base's is not known."""
        return self.python if self.python.count(".") > 1 else f"{self.python}.99"

    @property
    def uv_platform(self) -> str:
        """Give the newest platform uv knows that is not newer than this one."""
        floor = max(floor for floor in _UV_FLOORS if floor <= self.platform.glibc[1])
        return str(Platform(self.platform.machine, (2, floor)))

    @cached_property
    def ranks(self) -> dict[Tag, int]:
        """Rank the wheel tags that fit, best first (PEP 425, PEP 600)."""
        from packaging import tags

        version = tuple(int(part) for part in self.minor.split("."))
        short = "cp" + self.minor.replace(".", "")
        platforms = list(self._platforms())
        fitting = [
            *tags.cpython_tags(version, abis=[short], platforms=platforms),
            *tags.compatible_tags(version, interpreter=short, platforms=platforms),
        ]
        return {tag: rank for rank, tag in reversed(list(enumerate(fitting)))}

    def rank(self, filename: str) -> tuple[int, int] | None:
        """Rank a wheel by its file name, best least: by tag, then the higher build number; None where it does not fit.

        Raises:
            LockError: it is no name of a wheel.

        """
        from packaging.utils import InvalidWheelFilename, parse_wheel_filename

        try:
            _, _, build, tags = parse_wheel_filename(filename)
        except InvalidWheelFilename as error:
            raise LockError(f"{filename!r} is no name of a wheel") from error
        return min(((self.ranks[tag], -(build[0] if build else 0)) for tag in tags if tag in self.ranks), default=None)

    def markers(self) -> dict[str, str]:
        """Give the variables of environment markers (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.full,
            "os_name": "posix",
            "platform_machine": self.platform.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.full,
            "python_version": self.minor,
            "sys_platform": "linux",
        }

    def unsupported(self, name: str, version: str | None) -> UnsupportedPackage:
        """Say that a package has nothing that fits."""
        return UnsupportedPackage(
            f"{name} {version or ''}".rstrip() + f" has no wheel for Python {self.minor} on {self.platform}",
            remedy="Take another version, put a wheel into a find-links directory, or use a base with a newer glibc.",
        )

    def _platforms(self) -> Iterator[str]:
        machine = self.platform.machine
        yield f"linux_{machine}"  # what is built for one machine knows it best
        for minor in range(self.platform.glibc[1], _OLDEST[machine] - 1, -1):
            yield f"manylinux_2_{minor}_{machine}"
            if minor in _LEGACY:
                yield f"{_LEGACY[minor]}_{machine}"
