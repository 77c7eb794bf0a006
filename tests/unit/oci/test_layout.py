import errno
import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from clustrix.errors import BadReference, DiskFull, ImageError, ImageUnavailable
from clustrix.oci import layout as layout_module
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import OCI_MANIFEST, Descriptor, ImageConfig, Manifest, encode_index


def files(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


@pytest.fixture
def image(tmp_path):
    """One image with one layer, named ``app``."""
    layout = Layout(tmp_path / "image")
    layer = layout.put_blob(b"layer")
    config = ImageConfig("linux/amd64", (layer.digest,))
    layout.put_blob(config.encode())
    manifest = Manifest(config.descriptor, (layer,))
    layout.put_blob(manifest.encode())
    layout.tag("app", manifest.descriptor)
    return layout, manifest


@pytest.mark.parametrize("kind", ["bytes", "path", "stream"])
def test_a_blob_comes_in_whole(tmp_path, kind):
    (tmp_path / "file").write_bytes(b"abc")
    source = {"bytes": b"abc", "path": tmp_path / "file", "stream": io.BytesIO(b"abc")}[kind]
    layout = Layout(tmp_path / "oci")
    descriptor = layout.put_blob(source, media_type="text/plain")
    assert descriptor == Descriptor.of(b"abc", "text/plain")
    assert layout.read_blob(descriptor.digest) == b"abc"
    assert layout.has(descriptor.digest)
    assert not layout.has(descriptor.digest, 4)
    assert files(layout.path) == [f"blobs/sha256/{descriptor.digest[7:]}", "oci-layout"]
    assert json.loads((layout.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_another_blob_than_expected_leaves_nothing(tmp_path):
    layout = Layout(tmp_path)
    with pytest.raises(ImageError, match="expected sha256:0000"):
        layout.put_blob(b"abc", digest="sha256:" + "0" * 64)
    assert files(tmp_path) == ["oci-layout"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["write", "close", "index"])
def test_full_disk_leaves_nothing_half_made(image, monkeypatch, step, number):
    layout, manifest = image
    before = files(layout.path)

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if step == "write":
                raise OSError(number, "full")
            return self.file.write(data)

        def close(self):
            self.file.close()
            raise OSError(number, "full")

    if step == "index":
        monkeypatch.setattr(
            layout_module.Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(number, "full"))
        )
        with pytest.raises(DiskFull, match="image"):
            layout.tag("other", manifest.descriptor)
    else:

        def bring_in():
            with layout.writer() as blob:
                blob._file = Full(blob._file)
                blob.write(b"abc")
                blob.commit()

        with pytest.raises(DiskFull, match="image") as caught:
            bring_in()
        assert caught.value.remedy
    assert [name for name in files(layout.path) if name != ".index.lock"] == [n for n in before if n != ".index.lock"]
    assert [entry.digest for entry in layout.manifests()] == [manifest.descriptor.digest]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    layout = Layout(tmp_path)

    def interrupted():
        with layout.writer() as blob:
            blob.write(b"abc")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files(tmp_path) == ["oci-layout"]


def test_big_blobs_need_little_memory(tmp_path):
    class Zeros(io.RawIOBase):
        left = 64 << 20

        def read(self, size=-1):
            size = min(size, self.left)
            self.left -= size
            return bytes(size)

    tracemalloc.start()
    try:
        assert Layout(tmp_path).put_blob(Zeros()).size == 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_resolve(image):
    layout, manifest = image
    for name in (None, "app", manifest.descriptor.digest):
        assert layout.resolve(name).digest == manifest.descriptor.digest
    assert layout.manifest(layout.resolve().digest) == manifest
    # Without a platform of its own a manifest is taken as it is.
    assert layout.resolve("app", "linux/amd64").digest == manifest.descriptor.digest

    other = layout.put_blob(encode_index([Descriptor(OCI_MANIFEST, manifest.descriptor.digest, 1, {}, "linux/amd64")]))
    layout.tag("many", other)
    assert layout.resolve("many").digest == other.digest
    assert layout.resolve("many", "linux/amd64").digest == manifest.descriptor.digest
    for name, platform in ((None, None), ("absent", None), ("many", "linux/s390x")):
        with pytest.raises(ImageUnavailable, match=r"app|linux/amd64"):
            layout.resolve(name, platform)


def test_a_name_moves(image):
    layout, manifest = image
    second = layout.put_blob(Manifest(manifest.config, ()).encode(), media_type=OCI_MANIFEST)
    layout.tag("app", second)
    assert [entry.digest for entry in layout.manifests()] == [second.digest]
    with pytest.raises(ImageUnavailable, match="no manifest"):
        layout.tag("app", Descriptor.of(b"absent", OCI_MANIFEST))


def test_damage_and_absence_are_named(image, tmp_path):
    layout, manifest = image
    layout.blob_path(manifest.config.digest).write_bytes(b"rubbish")
    with pytest.raises(ImageError, match="damaged"):
        layout.read_blob(manifest.config.digest)
    with pytest.raises(ImageUnavailable, match="holds no blob"):
        layout.open_blob("sha256:" + "0" * 64)
    with pytest.raises(BadReference):
        layout.open_blob("sha256:../../../etc/passwd")
    for place in (tmp_path / "nowhere", tmp_path, layout.path / "oci-layout"):
        with pytest.raises(ImageUnavailable, match="no OCI image layout"):
            Layout(place).resolve()


def _tag_many(path, worker):
    layout = Layout(path)
    for number in range(20):
        blob = layout.put_blob(Manifest(Descriptor.of(f"{worker}-{number}".encode(), ""), ()).encode())
        layout.tag(f"{worker}-{number}", blob)


def test_two_processes_lose_no_name(tmp_path):
    workers = [subprocess.Popen([sys.executable, __file__, str(tmp_path), worker]) for worker in "ab"]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    names = {entry.annotations["org.opencontainers.image.ref.name"] for entry in Layout(tmp_path).manifests()}
    assert names == {f"{worker}-{number}" for worker in "ab" for number in range(20)}


if __name__ == "__main__":
    _tag_many(Path(sys.argv[1]), sys.argv[2])
