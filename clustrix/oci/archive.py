"""Images as one tar file, made as a stream of pieces: an OCI archive, or what ``docker load`` reads.

https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md, and
https://github.com/moby/moby/blob/v28.0.0/image/spec/spec.md, "Combined Image JSON + Filesystem Changeset Format".
Always the same bytes for the same image.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

from clustrix.oci.layout import CHUNK, VERSION
from clustrix.oci.manifest import REF_NAME, canonical, encode_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from clustrix.oci.layout import Layout
    from clustrix.oci.manifest import Descriptor

_END = bytes(2 * tarfile.BLOCKSIZE)


def oci_archive(layout: Layout, manifest: Descriptor, name: str) -> Iterator[bytes]:
    """Give an OCI archive of one image, tagged ``name``."""
    entry = replace(manifest, annotations={**manifest.annotations, REF_NAME: name})
    yield from _small("oci-layout", VERSION)
    yield from _small("index.json", encode_index([entry]))
    blobs = {manifest.digest, *(blob.digest for blob in layout.manifest(manifest.digest).blobs)}
    for digest in sorted(blobs):
        yield from _blob(layout, f"blobs/{digest.replace(':', '/')}", digest)
    yield _END


def docker_archive(layout: Layout, manifest: Descriptor, name: str) -> Iterator[bytes]:
    """Give what an engine loads as ``name`` (``repository:tag``); layers stay compressed, engines unpack them.

    The image ID is then the config digest.
    """
    image = layout.manifest(manifest.digest)
    config = f"{_encoded(image.config)}.json"
    layers = [f"{_encoded(layer)}.tar" for layer in image.layers]
    for blob in image.blobs:
        yield from _blob(layout, config if blob == image.config else f"{_encoded(blob)}.tar", blob.digest)
    yield from _small("manifest.json", canonical([{"Config": config, "Layers": layers, "RepoTags": [name]}]))
    yield _END


def _encoded(blob: Descriptor) -> str:
    return blob.digest.partition(":")[2]


def _blob(layout: Layout, name: str, digest: str) -> Iterator[bytes]:
    with layout.open_blob(digest) as file:
        yield from _member(name, layout.blob_path(digest).stat().st_size, file)


def _small(name: str, data: bytes) -> Iterable[bytes]:
    return _member(name, len(data), io.BytesIO(data))


def _member(name: str, size: int, file: BinaryIO) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)  # mtime, owner and group are 0
    info.size = size
    info.mode = 0o644
    yield info.tobuf(tarfile.PAX_FORMAT)
    while piece := file.read(CHUNK):
        yield piece
    if size % tarfile.BLOCKSIZE:
        yield bytes(tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE)
