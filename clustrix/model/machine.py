"""Machines, as uname names them (``x86_64``), and as the platforms of images do (``linux/amd64``).

The words of images are Go's: https://github.com/opencontainers/image-spec/blob/main/config.md#properties.
"""

from __future__ import annotations

from clustrix.errors import UnknownOption, UnsupportedPackage

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}
_MACHINES = {f"linux/{architecture}": machine for machine, architecture in _ARCHITECTURES.items()}


def platform_of(machine: str) -> str:
    """Turn ``x86_64`` into ``linux/amd64``; `UnsupportedPackage` if there are no images for it."""
    if machine not in _ARCHITECTURES:
        raise UnsupportedPackage(
            f"no image can be made for the machine {machine!r}", remedy=f"Known: {', '.join(sorted(_ARCHITECTURES))}."
        )
    return f"linux/{_ARCHITECTURES[machine]}"


def machine_of(platform: str) -> str:
    """Turn ``linux/amd64`` into ``x86_64``; `UnknownOption`."""
    if platform not in _MACHINES:
        raise UnknownOption("platform", platform, tuple(_MACHINES))
    return _MACHINES[platform]
