"""What an engine saved becomes an image in a layout. The engine is a script here; real ones are in `tests/live`."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from clustrix.build import engine
from clustrix.build.compression import uncompressed
from clustrix.errors import BuildError, ImageError, RuntimeUnavailable
from clustrix.oci.layout import Layout
from clustrix.records import Records

if TYPE_CHECKING:
    from pathlib import Path

LOWER, UPPER = b"the lower layer" * 100, b"the upper layer"


def saved(place: Path, *, diff_ids: list[str] | None = None) -> str:
    """Make an engine whose ``save`` prints an archive as Docker 20.10 does: a layer that comes twice is a link."""
    shas = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (LOWER, UPPER, LOWER)]
    settings = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids or shas}}
    ).encode()
    entry = {"Config": "c.json", "RepoTags": None, "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"]}
    with tarfile.open(place / "saved.tar", "w") as archive:
        for name, data in (("c.json", settings), ("1/layer.tar", LOWER), ("2/layer.tar", UPPER)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("3/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../1/layer.tar"
        archive.addfile(link)
        text = json.dumps([entry]).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    return script(place, f'[ "$*" = "save the-id" ] && cat "{place}/saved.tar"')


def script(place: Path, text: str) -> str:
    path = place / "engine"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_layers_keep_their_order_and_are_compressed_once(tmp_path: Path) -> None:
    layout, records = Layout(tmp_path / "oci"), Records(tmp_path / "records")
    command = saved(tmp_path)
    found = layout.manifest(engine.take(command, "the-id", layout, records=records).digest)
    contents = []
    for layer in found.layers:
        with layout.open_blob(layer.digest) as blob, uncompressed(blob, layer.media_type) as stream:
            contents.append(stream.read())
    assert contents == [LOWER, UPPER, LOWER]
    stamps = {layer.digest: layout.blob_path(layer.digest).stat().st_mtime_ns for layer in found.layers}
    again = layout.manifest(engine.take(command, "the-id", layout, records=records).digest)
    assert again == found
    assert stamps == {layer.digest: layout.blob_path(layer.digest).stat().st_mtime_ns for layer in again.layers}


def test_layers_of_the_base_below_stay_what_they_are(tmp_path: Path) -> None:
    layout, records = Layout(tmp_path / "oci"), Records(tmp_path / "records")
    below = layout.put_blob(b"the lower layer, as a registry has it")
    known = {f"sha256:{hashlib.sha256(LOWER).hexdigest()}": below}
    command = saved(tmp_path)
    found = layout.manifest(engine.take(command, "the-id", layout, records=records, known=known).digest)
    assert [layer == below for layer in found.layers] == [True, False, True]


def test_what_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    layout, records = Layout(tmp_path / "oci"), Records(tmp_path / "records")
    command = saved(tmp_path, diff_ids=["sha256:" + "0" * 64] * 3)
    with pytest.raises(ImageError, match="another layer"):
        engine.take(command, "the-id", layout, records=records)
    with pytest.raises(ImageError, match="cannot be read"):
        engine.take(script(tmp_path, "echo nonsense"), "the-id", layout, records=records)
    with pytest.raises(ImageError, match="no such image"):
        engine.take(script(tmp_path, "echo no such image >&2; exit 1"), "the-id", layout, records=records)


def test_packages_are_added_by_root_for_the_user_that_was() -> None:
    text = engine.instructions("clustrix:0", ("gdal-bin", "jq=1.6-2"), "1000:1000")
    lines = text.splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("FROM clustrix:0", "USER root", "USER 1000:1000")
    assert "install -y --no-install-recommends gdal-bin jq=1.6-2 &&" in lines[2]
    assert engine.instructions("clustrix:0", ("jq",), "").splitlines()[-1].startswith("RUN ")


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("/bin/sh: 1: apt-get: not found", "The base has no apt-get"),
        ("E: Unable to locate package x", "the engine's own"),
        ("/bin/sh: 1: cmake: not found; exit code: 127", "the engine's own"),
    ],
)
def test_an_engine_that_fails_is_quoted(tmp_path: Path, said: str, remedy: str) -> None:
    with pytest.raises(BuildError, match=said) as caught:
        engine.make(script(tmp_path, f"echo '{said}' >&2; exit 1"), "install x", ("-",))
    assert remedy in (caught.value.remedy or "")


def test_who_is_there_but_does_not_answer_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = script(tmp_path, "echo the daemon is down >&2; exit 1")
    monkeypatch.setattr(engine, "COMMANDS", (command,))
    with pytest.raises(RuntimeUnavailable, match="the daemon is down"):
        engine.find()
    monkeypatch.setattr(engine, "COMMANDS", (script(tmp_path, "exit 0"),))
    assert engine.find() == command
