"""Images in a registry: what it has is not sent, what it has elsewhere is mounted, the manifest comes last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clustrix.errors import BadReference
from clustrix.model.progress import SILENT
from clustrix.oci.client import Client, each
from clustrix.oci.manifest import Manifest
from clustrix.oci.reference import Reference
from clustrix.publish.base import Published

if TYPE_CHECKING:
    from clustrix.model.image import BuiltImage
    from clustrix.model.progress import Bar, Progress
    from clustrix.oci.layout import Layout
    from clustrix.oci.manifest import Descriptor

BASE_NAME = "org.opencontainers.image.base.name"


class Registry:
    """Push to ``registry/repository[:tag]``. An image that is there under that tag costs one HEAD."""

    def __init__(self, location: str, *, client: Client | None = None) -> None:
        self.reference = Reference.parse(location)
        if self.reference.digest:
            raise BadReference(
                f"cannot push to a digest: {location!r}", remedy="Name a tag; the digest follows from it."
            )
        self._client = client or Client()

    def publish(self, image: BuiltImage, layout: Layout, *, progress: Progress = SILENT) -> Published:
        """Push an image; raises what `Client` does, and `ImageUnavailable` for a blob that is nowhere."""
        reference = str(self.reference.with_digest(image.manifest_digest))
        before = self._client.head(self.reference, writing=True)
        if before is not None and before.digest == image.manifest_digest:
            return Published(reference=reference, uploaded_bytes=0, unchanged=True)
        data = layout.read_blob(image.manifest_digest)
        manifest = Manifest.parse(data)
        base = _repository_at(self.reference.registry, manifest.annotations.get(BASE_NAME))

        def push(blob: Descriptor, bar: Bar) -> int:
            return self._push(blob, layout, base, bar)

        bar = progress.start(f"push {self.reference}", sum(blob.size for blob in manifest.blobs))
        try:
            uploaded = each(push, manifest.blobs, bar, self._client)
        finally:
            bar.close()
        self._client.push_manifest(self.reference, data, manifest.media_type)
        return Published(reference=reference, uploaded_bytes=uploaded + len(data))

    def _push(self, blob: Descriptor, layout: Layout, base: str | None, bar: Bar) -> int:
        registry, repository = self.reference.registry, self.reference.repository
        elsewhere = layout.origin(blob.digest, registry) or base
        elsewhere = elsewhere if elsewhere != repository else None
        if elsewhere is None and self._client.has_blob(self.reference, blob.digest, writing=True):
            bar.advance(blob.size)
            moved = 0
        else:
            moved = self._client.push_blob(
                self.reference, blob, lambda: layout.open_blob(blob.digest), mount_from=elsewhere, bar=bar
            )
        layout.note_origin(blob.digest, registry, repository)
        return moved


def _repository_at(registry: str, name: str | None) -> str | None:
    """Give the base's repository, if the base is at this registry."""
    if name is None:
        return None
    try:
        base = Reference.parse(name)
    except BadReference:  # other builders write what they like there
        return None
    return base.repository if base.registry == registry else None
