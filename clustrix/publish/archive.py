"""Images in one tar file, which skopeo, podman and apptainer read as ``oci-archive:FILE:tag``."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.model.progress import SILENT
from clustrix.oci.archive import oci_archive
from clustrix.oci.layout import disk_full
from clustrix.oci.reference import split_tag
from clustrix.publish.base import Published, check_file

if TYPE_CHECKING:
    from clustrix.model.image import BuiltImage
    from clustrix.model.progress import Progress
    from clustrix.oci.layout import Layout


class Archive:
    """Write ``FILE[:tag]``: always the same bytes for the same image, and never half a file."""

    def __init__(self, location: str) -> None:
        file, self.tag = split_tag(location)
        self.path = Path(file).expanduser()

    def publish(self, image: BuiltImage, layout: Layout, *, progress: Progress = SILENT) -> Published:
        """Write the archive, in the place of one that may be there; `DiskFull`, `BadReference` for no place for it."""
        check_file(self.path)
        manifest = layout.describe(image.manifest_digest, image.platform)
        temporary = self.path.with_name(f".{self.path.name}-{os.getpid()}-{secrets.token_hex(8)}")
        bar = progress.start(f"write {self.path}", sum(blob.size for blob in layout.manifest(manifest.digest).blobs))
        written = 0
        try:
            with disk_full(self.path):
                with temporary.open("xb") as file:
                    for piece in oci_archive(layout, manifest, self.tag):
                        file.write(piece)
                        written += len(piece)
                        bar.advance(len(piece))
                temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
            bar.close()
        return Published(reference=f"oci-archive:{self.path}:{self.tag}", uploaded_bytes=written)
