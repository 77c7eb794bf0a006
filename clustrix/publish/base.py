"""What every destination of an image does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from clustrix.errors import BadReference
from clustrix.model.progress import SILENT

if TYPE_CHECKING:
    from pathlib import Path

    from clustrix.model.image import BuiltImage
    from clustrix.model.progress import Progress
    from clustrix.oci.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Say where an image is now, and what it took.

    ``reference`` is by digest where a registry serves it, else what was asked for (``oci:DIR:tag``, ``docker:NAME``).
    """

    reference: str
    uploaded_bytes: int  # moved to the destination, repeated ones too
    unchanged: bool = False  # it was there


class Destination(Protocol):
    """Bring images to one place; doing it again changes nothing and moves nothing."""

    def publish(self, image: BuiltImage, layout: Layout, *, progress: Progress = SILENT) -> Published:
        """Bring an image there, whose blobs are in ``layout``. Whoever looks there sees all of it or nothing."""


def check_file(path: Path) -> None:
    """Refuse a place where no file can be written; `BadReference`."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else "is in a directory that does not exist"
        raise BadReference(f"{path} {what}", remedy="Name a file in a directory that exists.")
