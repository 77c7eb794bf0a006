"""Images in an OCI layout directory, which skopeo, podman and apptainer read as ``oci:DIR:tag``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import BadReference
from clustrix.model.progress import SILENT
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import REF_NAME
from clustrix.oci.reference import split_tag
from clustrix.publish.base import Published

if TYPE_CHECKING:
    from clustrix.model.image import BuiltImage
    from clustrix.model.progress import Progress


class LayoutDirectory:
    """Copy to ``DIR[:tag]``, beside the images that are there."""

    def __init__(self, location: str) -> None:
        directory, self.tag = split_tag(location)
        self.path = Path(directory).expanduser()

    def publish(self, image: BuiltImage, layout: Layout, *, progress: Progress = SILENT) -> Published:
        """Copy the blobs that are missing, then name the image; `BadReference` for a directory of something else."""
        target = Layout(self.path)
        if not target.exists() and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise BadReference(
                f"{self.path} exists and is no OCI image layout", remedy="Name a new or empty directory."
            )
        manifest = layout.describe(image.manifest_digest, image.platform)
        blobs = (*layout.manifest(image.manifest_digest).blobs, manifest)  # it comes after all it points at
        copied = 0
        bar = progress.start(f"copy to {self.path}", sum(blob.size for blob in blobs))
        try:
            for blob in blobs:
                if not target.has(blob.digest, blob.size):
                    with layout.open_blob(blob.digest) as file:
                        target.put_blob(file, digest=blob.digest)
                    copied += blob.size
                bar.advance(blob.size)
        finally:
            bar.close()
        unchanged = copied == 0 and replace(manifest, annotations={REF_NAME: self.tag}) in target.manifests()
        if not unchanged:
            target.tag(self.tag, manifest)
        return Published(reference=f"oci:{self.path}:{self.tag}", uploaded_bytes=copied, unchanged=unchanged)
