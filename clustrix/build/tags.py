"""Whether a wheel fits the Python and the glibc of an image (PEP 425, PEP 600)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clustrix.errors import UnsupportedPackage
from clustrix.model.wheel import tags_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clustrix.model.environment import Interpreter, Platform
    from clustrix.model.lock import LockedPackage

_LEGACY = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
_X86_ONLY = {"manylinux2010", "manylinux1"}


def check(packages: Iterable[LockedPackage], platform: Platform, python: Interpreter) -> None:
    """Raise `UnsupportedPackage`, which names them all, for wheels that would not run there."""
    fitting = supported(platform, python)
    strangers = [package.file.filename for package in packages if not tags_of(package.file.filename) & fitting]
    if strangers:
        glibc = ".".join(map(str, platform.glibc))
        raise UnsupportedPackage(
            f"not for the base image (Python {python.minor}, {python.abi}, {platform.machine}, glibc {glibc}): "
            + ", ".join(strangers),
            remedy="Lock for that base, or name a base with a newer glibc.",
        )


def supported(platform: Platform, python: Interpreter) -> frozenset[str]:
    """List the tags of every wheel that runs on a glibc Linux with this CPython."""
    from packaging.tags import compatible_tags, cpython_tags

    major, minor = map(int, python.minor.split("."))
    platforms = list(_platforms(platform))
    return frozenset(
        str(tag)
        for tags in (
            cpython_tags((major, minor), [python.abi], platforms),
            compatible_tags((major, minor), python.abi, platforms),
        )
        for tag in tags
    )


def _platforms(platform: Platform) -> Iterator[str]:
    major, newest = platform.glibc
    for minor in range(newest, 4, -1):
        yield f"manylinux_{major}_{minor}_{platform.machine}"
        legacy = _LEGACY.get((major, minor))
        if legacy and (platform.machine in {"x86_64", "i686"} or legacy not in _X86_ONLY):
            yield f"{legacy}_{platform.machine}"
    yield f"linux_{platform.machine}"
