"""Base images made of a few files, as OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from typing import TYPE_CHECKING

from clustrix.build.baseimage import Base, resolve
from clustrix.build.compression import codec
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor, ImageConfig, Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from clustrix.oci.client import Client

Files = "Mapping[str, bytes | str | int | tuple[str, str]]"
LIBC = b"\x7fELF...\0GNU C Library (Debian GLIBC 2.36-9+deb12u4) stable release version 2.36.\nCopyright\0"
MUSL = b"\x7fELF...\0musl libc\0"


def python(version: str) -> bytes:
    """What a binary of CPython holds, as far as anyone reads it."""
    return b"\x7fELF...\0Python %s\0" % version.encode() + b"\0" + version.encode() + b"\0main\0"


DEBIAN: Mapping[str, bytes | str | int | tuple[str, str]] = {
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/lib": 0o755,
    "tmp": 0o1777,
    "bin": "usr/bin",
    "lib": "usr/lib",
    "usr/bin/python3.11": python("3.11.2"),
    "usr/bin/python3": "python3.11",
    "usr/lib/x86_64-linux-gnu/libc.so.6": LIBC,
}


def make_base(
    directory: Path,
    layers: Sequence[Mapping[str, bytes | str | int | tuple[str, str]]] = (DEBIAN,),
    *,
    env: Sequence[str] = ("PATH=/usr/local/bin:/usr/bin:/bin",),
    platform: str = "linux/amd64",
    compression: str = "gzip",
) -> str:
    """Write a layout and name it (``oci:DIR``).

    A layer maps paths to file contents (bytes), symbolic links (str), directory modes (int) or hard links (a pair).
    """
    layout = Layout(directory)
    blobs, diff_ids = [], []
    for layer in layers:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for path, what in layer.items():
                entry = tarfile.TarInfo(path)
                if isinstance(what, int):
                    entry.type, entry.mode = tarfile.DIRTYPE, what
                elif isinstance(what, str):
                    entry.type, entry.linkname = tarfile.SYMTYPE, what
                elif isinstance(what, tuple):
                    entry.type, entry.linkname = tarfile.LNKTYPE, what[1]
                else:
                    entry.size = len(what)
                archive.addfile(entry, io.BytesIO(what) if isinstance(what, bytes) else None)
        data = stream.getvalue()
        diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
        if compression == "gzip":
            blobs.append(layout.put_blob(gzip.compress(data, mtime=0), media_type=OCI_LAYER_GZIP))
        else:
            compressor = codec("zstd").compressor()
            blobs.append(layout.put_blob(compressor.compress(data) + compressor.flush(), media_type=OCI_LAYER_ZSTD))
    config = ImageConfig(platform, tuple(diff_ids), settings={"Env": list(env), "Entrypoint": ["/entry"]})
    layout.put_blob(config.encode())
    manifest = Manifest(config.descriptor, tuple(blobs))
    layout.put_blob(manifest.encode())
    layout.tag("latest", manifest.descriptor)
    return f"oci:{directory}"


class NoClient:
    """Stand where no registry is to be asked."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"a registry was asked: {name}")


def probed(base: str, place: Path, *, minor: str = "3.11", machine: str = "x86_64") -> Base:
    """Resolve a base into ``place``."""
    client: Client = NoClient()  # type: ignore[assignment]
    return resolve(
        base,
        minor=minor,
        machine=machine,
        client=lambda: client,
        layout=Layout(place / "layout"),
        cache=place / "cache",
    )


def descriptor(layout: Layout, digest: str) -> Descriptor:
    """Describe a manifest of a layout."""
    return layout.manifest(digest).descriptor
