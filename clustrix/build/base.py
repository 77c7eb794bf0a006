"""What a builder is asked for, and what it gives back."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from clustrix.errors import ConfigError
from clustrix.model.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clustrix.build.baseimage import Base
    from clustrix.model.image import BuiltImage
    from clustrix.model.lock import Lock, LockedPackage
    from clustrix.model.progress import Progress


def source_date_epoch() -> int:
    """Read the date that an image claims, in seconds since the epoch (https://reproducible-builds.org/specs/)."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not text.isdecimal():
        raise ConfigError(f"SOURCE_DATE_EPOCH is not a number of seconds: {text!r}")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Say everything that decides on an image.

    ``pylock`` is the text of the lock file, which is put into the image; ``files`` are (path here, absolute path
    there); ``created`` is in seconds since the epoch.
    """

    lock: Lock
    pylock: str
    base: Base
    files: tuple[tuple[str, str], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    compression: str = "gzip"
    bytecode: bool = True
    created: int = field(default_factory=source_date_epoch)


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Describe a layer of ours; ``size`` is what is stored and uploaded, in bytes. ``reused``: it stood already."""

    title: str
    digest: str
    diff_id: str
    size: int
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """Hold a built image, whose blobs are in the layout, except the base's where ``base_reference`` serves them.

    ``bytecode`` says which Python compiled (``3.11.7``), or why none did (``none: ...``).
    """

    image: BuiltImage
    layers: tuple[LayerReport, ...]
    base_reference: str | None
    bytecode: str

    @property
    def packed_bytes(self) -> int:
        """Count the bytes of the layers that were made."""
        return sum(layer.size for layer in self.layers if not layer.reused)

    @property
    def reused_bytes(self) -> int:
        """Count the bytes of the layers that stood already."""
        return sum(layer.size for layer in self.layers if layer.reused)


class Builder(Protocol):
    """Make images of recipes: same recipe, same config digest."""

    def find(self, recipe: Recipe) -> BuildResult | None:
        """Give the image if it was built before and is whole; needs no wheel, no network."""

    def missing(self, recipe: Recipe) -> tuple[LockedPackage, ...]:
        """List the packages whose wheels `build` will read: the others were packed before."""

    def build(self, recipe: Recipe, wheels: Mapping[str, Path], *, progress: Progress = SILENT) -> BuildResult:
        """Make the image from wheels by normalised name.

        Raises `HashMismatch`, `UnsupportedPackage`, `CredentialsInLayer`, `DiskFull`, `BuildError`.
        """
