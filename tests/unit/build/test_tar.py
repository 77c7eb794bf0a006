"""Headers are what `tarfile` reads, and what GNU tar would have written for the same."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from clustrix.build import tar
from clustrix.build.compression import codec, uncompressed
from clustrix.oci.layout import BlobWriter
from clustrix.oci.manifest import OCI_LAYER_GZIP

if TYPE_CHECKING:
    from pathlib import Path

PATHS = [
    "a",
    "a" * 99,
    "a" * 100,
    "a" * 101,
    "d" * 60 + "/" + "e" * 60,
    "d" * 155 + "/" + "e" * 100,
    "d" * 156 + "/" + "e" * 99,
    "/".join(["p" * 50] * 6),
    "e" * 300,
    "ünï/cödé",
    "odd\udcff",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("kind", "link"), [(tar.FILE, ""), (tar.DIRECTORY, ""), (tar.LINK, "t"), (tar.LINK, "t" * 120)]
)
def test_headers(path: str, kind: bytes, link: str) -> None:
    data = tar.header(path, kind=kind, mode=0o755, link=link) + tar.END
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        (entry,) = archive.getmembers()
    assert (entry.name, entry.linkname, entry.type, entry.mode) == (path, link, kind, 0o755)
    assert (entry.mtime, entry.uid, entry.gid, entry.uname) == (tar.MTIME, 0, 0, "")


def test_huge_files_have_their_size() -> None:
    data = tar.header("huge", size=9 << 30)
    with tarfile.open(fileobj=io.BytesIO(data + tar.END)) as archive:
        entry = archive.next()
    assert entry is not None
    assert entry.size == 9 << 30


def test_a_stream_writes_parents_once_and_checks_sizes(tmp_path: Path) -> None:
    with BlobWriter(tmp_path) as blob:
        stream = tar.TarStream(blob, codec("gzip"))
        stream.file("a/b/one", 3, [b"o", b"ne"])
        stream.file("a/b/two", 600, [b"2" * 600], executable=True)
        stream.link("a/link", "b/one")
        stream.raw(tar.END)
        stream.finish()
        digest = blob.commit()
    with (
        (tmp_path / digest.removeprefix("sha256:")).open("rb") as file,
        uncompressed(file, OCI_LAYER_GZIP) as layer,
        tarfile.open(fileobj=layer, mode="r|") as archive,
    ):
        assert archive.getnames() == ["a", "a/b", "a/b/one", "a/b/two", "a/link"]
    with BlobWriter(tmp_path) as blob:
        stream = tar.TarStream(blob, codec("gzip"))
        with pytest.raises(ValueError, match="has 3 bytes, not the 4"):
            stream.file("x", 4, [b"one"])
