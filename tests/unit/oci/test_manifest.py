import json

import pytest

from clustrix.errors import ImageError, ImageUnavailable
from clustrix.oci.manifest import (
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Manifest,
    encode_index,
    is_index,
    parse_index,
    select,
)


def entry(platform, text="x"):
    return Descriptor(OCI_MANIFEST, Descriptor.of(text.encode(), "").digest, 1, platform=platform)


def test_manifest_bytes_are_the_same_however_they_were_made():
    layer = Descriptor.of(b"layer", OCI_LAYER_GZIP)
    config = ImageConfig("linux/amd64", ("sha256:" + "1" * 64,)).descriptor
    one = Manifest(config, (layer, layer), {"b": "2", "a": "1"})
    other = Manifest(config, (layer, layer), {"a": "1", "b": "2"})
    assert one.encode() == other.encode()
    assert Manifest.parse(one.encode()) == one
    assert one.descriptor.digest == Descriptor.of(one.encode(), OCI_MANIFEST).digest
    assert one.blobs == (layer, config)  # each once
    # Golden: a change here changes the digest of every image.
    assert one.descriptor.digest == "sha256:5daa75eb4d3aa603736a040f8332d0973b127c38268b8f59e8e3686912f684fd"


def test_config_extends_a_docker_base():
    base = ImageConfig.parse(
        json.dumps(
            {
                "os": "linux",
                "architecture": "arm64",
                "variant": "v8",
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]},
                "config": {"Env": ["PATH=/bin", "A=x=y"], "Cmd": ["sh"], "Labels": None},
                "docker_version": "20",
            }
        ).encode()
    )
    built = base.add_layers([("sha256:" + "2" * 64, "numpy")]).with_settings(
        env={"PATH": "/venv/bin:/bin", "B": "1"}, labels={"l": "1"}, Cmd=None, WorkingDir="/"
    )
    assert ImageConfig.parse(built.encode()) == built
    assert built.platform == "linux/arm64/v8"
    assert built.env == {"PATH": "/venv/bin:/bin", "A": "x=y", "B": "1"}
    assert built.labels == {"l": "1"}
    assert "Cmd" not in built.settings
    # One history entry a layer, or readers refuse the image.
    assert len(built.history) == len(built.diff_ids) == 2
    assert b"docker_version" not in built.encode()


@pytest.mark.parametrize(
    ("offered", "asked", "chosen"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", 1),
        (["linux/arm64/v8"], "linux/arm64", 0),
        (["linux/arm64"], "linux/arm64/v8", 0),
        (["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", 1),
        (["unknown/unknown", "linux/amd64"], "linux/amd64", 1),
        (["windows/amd64", "linux/amd64/v3", "linux/amd64"], "linux/amd64", 2),
    ],
)
def test_select(offered, asked, chosen):
    entries = [entry(platform, str(number)) for number, platform in enumerate(offered)]
    assert select(encode_index(entries), asked).digest == entries[chosen].digest


@pytest.mark.parametrize("asked", ["linux/ppc64le", "linux/arm/v5"])
def test_select_lists_what_exists(asked):
    index = encode_index([entry("linux/arm/v7", "1"), entry("linux/amd64", "2"), entry("unknown/unknown", "3")])
    with pytest.raises(ImageUnavailable, match=r"exists for: linux/amd64, linux/arm/v7$"):
        select(index, asked)


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (Manifest.parse, b"<html>"),
        (Manifest.parse, b"[]"),
        (Manifest.parse, b"\xff\xfe"),
        (Manifest.parse, encode_index([])),
        (Manifest.parse, b'{"schemaVersion": 1, "fsLayers": []}'),
        (Manifest.parse, b'{"config": {"digest": "sha256:1", "size": 1}, "layers": []}'),
        (Manifest.parse, b'{"config": 1, "layers": []}'),
        (ImageConfig.parse, b"{}"),
        (ImageConfig.parse, b'{"os": "linux", "architecture": "amd64"}'),
        (ImageConfig.parse, b'{"os": "linux", "architecture": "amd64", "rootfs": []}'),
        (parse_index, b'{"manifests": {}}'),
        (parse_index, b'{"manifests": [{"digest": "../../etc/passwd", "size": 1}]}'),
    ],
)
def test_garbage_is_an_image_error(parse, data):
    with pytest.raises(ImageError):
        parse(data)


def test_is_index():
    assert is_index(encode_index([]))
    assert json.loads(encode_index([]))["mediaType"] == OCI_INDEX
    assert not is_index(Manifest(Descriptor.of(b"", ""), ()).encode())
