"""The destinations that are files: a layout directory and an archive."""

import errno
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from clustrix.errors import BadReference, DiskFull, ImageUnavailable
from clustrix.oci import archive as archive_module
from clustrix.oci.layout import Layout
from clustrix.publish import destination


def test_a_layout_holds_several_images_and_takes_what_is_missing(layout, build, tmp_path):
    one, two = build(b"base", b"one"), build(b"base", b"two")
    target = Layout(tmp_path / "out")
    first = destination(f"oci:{target.path}:one").publish(one, layout)
    assert first.reference == f"oci:{target.path}:one"
    second = destination(f"oci:{target.path}:two").publish(two, layout)
    assert second.uploaded_bytes == first.uploaded_bytes - len(b"base")
    assert destination(f"oci:{target.path}:one").publish(one, layout).unchanged
    assert target.resolve("one", "linux/amd64").digest == one.manifest_digest
    assert target.resolve("two").platform == "linux/amd64"
    for blob in target.manifest(two.manifest_digest).blobs:
        assert target.read_blob(blob.digest) == layout.read_blob(blob.digest)
    # A damaged one is made whole.
    target.blob_path(one.manifest_digest).write_bytes(b"")
    assert not destination(f"oci:{target.path}:one").publish(one, layout).unchanged
    assert target.manifest(one.manifest_digest)


def test_an_archive_is_always_the_same_and_is_a_layout(layout, build, tmp_path):
    image = build(b"base", b"x" * 1000, b"base")
    paths = [tmp_path / "a.tar", tmp_path / "b.tar"]
    for path in paths:
        published = destination(f"oci-archive:{path}:v1").publish(image, layout)
        assert published.uploaded_bytes == path.stat().st_size
    assert paths[0].read_bytes() == paths[1].read_bytes()
    # Golden: the bytes depend on nothing but the image.
    assert (
        hashlib.sha256(paths[0].read_bytes()).hexdigest()
        == "11a7a87853ea80474c356fb79bb74690416daff8452b8bf8046580f5cc6d0ad5"
    )
    with tarfile.open(paths[0]) as archive:
        assert all((member.mtime, member.uid, member.mode) == (0, 0, 0o644) for member in archive)
        # Python 3.11.2, which Debian 12 has, knows no filters.
        archive.extractall(tmp_path / "out", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    assert Layout(tmp_path / "out").resolve("v1").digest == image.manifest_digest


def test_what_an_engine_loads(layout, build):
    image = build(b"base", b"wheels", b"base")
    data = b"".join(archive_module.docker_archive(layout, layout.describe(image.manifest_digest), "app:1"))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))
        assert entry["RepoTags"] == ["app:1"]
        assert [archive.extractfile(name).read() for name in entry["Layers"]] == [b"base", b"wheels", b"base"]
        config = archive.extractfile(entry["Config"]).read()
    assert "sha256:" + hashlib.sha256(config).hexdigest() == image.config_digest


@pytest.mark.parametrize("scheme", ["oci", "oci-archive"])
def test_nothing_else_is_overwritten(layout, build, tmp_path, scheme):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    places = ["mine"] if scheme == "oci-archive" else ["mine", "file"]
    for place in (*places, "absent/out.tar") if scheme == "oci-archive" else places:
        with pytest.raises(BadReference, match=place):
            destination(f"{scheme}:{tmp_path}/{place}").publish(build(b"x"), layout)
    assert (tmp_path / "file").read_text() == "x"
    assert len(list((tmp_path / "mine").iterdir())) == 1


@pytest.mark.parametrize("scheme", ["oci", "oci-archive"])
def test_a_missing_blob_and_a_full_disk_leave_the_old_image(layout, build, tmp_path, monkeypatch, scheme):
    target = tmp_path / "out"
    old, new = build(b"old"), build(b"new", b"gone")
    destination(f"{scheme}:{target}").publish(old, layout)
    before = {path: path.read_bytes() for path in tmp_path.rglob("out*") if path.is_file()}

    gone = layout.manifest(new.manifest_digest).layers[1].digest
    layout.blob_path(gone).rename(tmp_path / "aside")
    with pytest.raises(ImageUnavailable, match=gone):
        destination(f"{scheme}:{target}").publish(new, layout)
    layout.put_blob(tmp_path / "aside")

    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "full")

    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode, *more, **options: Full(self, mode) if mode == "xb" else opened(self, mode)
    )
    with pytest.raises(DiskFull, match=str(target)):
        destination(f"{scheme}:{target}").publish(new, layout)
    assert {path: path.read_bytes() for path in tmp_path.rglob("out*") if path.is_file()} == before
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".index.lock"]
    if scheme == "oci":
        assert Layout(target).resolve("latest").digest == old.manifest_digest
