import pytest

from clustrix.model.image import BuiltImage
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import OCI_LAYER_GZIP, ImageConfig, Manifest


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "blobs")


@pytest.fixture
def build(layout):
    """Make an image of the given layers; they are no tar files, which nobody here looks into."""

    def make(*layers, **annotations):
        blobs = tuple(layout.put_blob(layer, media_type=OCI_LAYER_GZIP) for layer in layers)
        config = ImageConfig("linux/amd64", tuple(blob.digest for blob in blobs))
        layout.put_blob(config.encode())
        manifest = Manifest(config.descriptor, blobs, annotations)
        digest = layout.put_blob(manifest.encode()).digest
        return BuiltImage(config_digest=config.descriptor.digest, manifest_digest=digest, platform="linux/amd64")

    return make
