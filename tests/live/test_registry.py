"""Images on their way into and out of a real registry, a real engine and other people's programs."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from clustrix.errors import ImageError, ImageUnavailable, RegistryDenied
from clustrix.model.image import BuiltImage
from clustrix.oci.auth import Keychain
from clustrix.oci.client import Client, pull
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import OCI_LAYER_GZIP, ImageConfig, Manifest, encode_index
from clustrix.oci.reference import Reference
from clustrix.publish import destination

from . import servers, tokens

pytestmark = pytest.mark.live

BIG = 8 << 20  # more than goes in one request


def make_image(layout: Layout, marker: str, big: int = BIG) -> BuiltImage:
    """A real image of two layers: one file that is random and big, one that says ``marker``."""
    diff_ids, layers = [], []
    for name, data in (("big", os.urandom(big)), ("marker", marker.encode())):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        diff_ids.append("sha256:" + hashlib.sha256(tar.getvalue()).hexdigest())
        layers.append(layout.put_blob(gzip.compress(tar.getvalue(), 1, mtime=0), media_type=OCI_LAYER_GZIP))
    config = ImageConfig("linux/amd64").add_layers((diff_id, marker) for diff_id in diff_ids)
    layout.put_blob(config.encode())
    manifest = Manifest(config.descriptor, tuple(layers))
    layout.put_blob(manifest.encode())
    return BuiltImage(
        config_digest=config.descriptor.digest, manifest_digest=manifest.descriptor.digest, platform="linux/amd64"
    )


def keychain(directory: Path, registry: str, user: object) -> Keychain:
    auth = base64.b64encode(f"{user.name}:{user.password}".encode()).decode()
    path = directory / f"{user.name}.json"
    path.write_text(json.dumps({"auths": {registry: {"auth": auth}}}))
    return Keychain(path)


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "blobs")


def test_push_with_tokens_then_nothing_then_a_mount(auth_registry, layout, tmp_path):
    servers.need("skopeo")
    host, keys = auth_registry.host, keychain(tmp_path, auth_registry.host, auth_registry.writer)
    image = make_image(layout, "one")
    blobs = layout.manifest(image.manifest_digest).blobs

    client = Client(insecure=[host], keychain=keys)
    first = destination(f"{host}/team/app:1", client=client).publish(image, layout)
    assert first.reference == f"{host}/team/app@{image.manifest_digest}"
    assert first.uploaded_bytes == client.stats.uploaded_bytes > BIG

    # A stranger's program agrees.
    inspect = ["skopeo", "inspect", "--tls-verify=false", "--authfile", str(keys.path), f"docker://{host}/team/app:1"]
    seen = json.loads(servers.run(inspect))
    assert seen["Digest"] == image.manifest_digest
    assert set(seen["Layers"]) == {blob.digest for blob in blobs[:-1]}

    # Again: one HEAD, or the challenge, the token and the HEAD for a process that has no token yet.
    before = client.stats.requests.copy()
    again = destination(f"{host}/team/app:1", client=client).publish(image, layout)
    assert (again.unchanged, again.uploaded_bytes) == (True, 0)
    assert client.stats.requests - before == {"HEAD": 1}
    fresh = Client(insecure=[host], keychain=keys)
    assert destination(f"{host}/team/app:1", client=fresh).publish(image, layout).unchanged
    assert fresh.stats.requests == {"HEAD": 2, "TOKEN": 1}
    assert fresh.stats.uploaded_bytes == 0

    # Another repository mounts what this one has: nothing but the manifest moves.
    other = destination(f"{host}/team/other:1", client=fresh).publish(image, layout)
    manifest_size = layout.describe(image.manifest_digest).size
    assert other.uploaded_bytes == fresh.stats.uploaded_bytes == manifest_size
    assert fresh.head(Reference.parse(f"{host}/team/other:1")).digest == image.manifest_digest
    assert all(fresh.has_blob(Reference.parse(f"{host}/team/other"), blob.digest) for blob in blobs)


def test_denied_and_absent_are_told_apart(auth_registry, layout, tmp_path):
    host = auth_registry.host
    image = make_image(layout, "denied", 10)
    nobody = Client(insecure=[host], keychain=Keychain(tmp_path / "none.json"))
    reader = Client(insecure=[host], keychain=keychain(tmp_path, host, auth_registry.reader))
    wrong = tokens.User("stranger", "not:it", frozenset())
    stranger = Client(insecure=[host], keychain=keychain(tmp_path, host, wrong))
    for client, remedy in ((nobody, "No login"), (reader, "not enough"), (stranger, "docker login")):
        with pytest.raises(RegistryDenied, match=r"denied|refused") as caught:
            destination(f"{host}/team/denied:1", client=client).publish(image, layout)
        assert remedy in str(caught.value)
        assert "look:only" not in repr(caught.value)
        assert "not:it" not in repr(caught.value)
    reading = Client(insecure=[host], keychain=keychain(tmp_path, host, auth_registry.reader))
    assert reading.head(Reference.parse(f"{host}/team/absent:1")) is None
    with pytest.raises(ImageUnavailable, match="team/absent:1"):
        reading.manifest(Reference.parse(f"{host}/team/absent:1"))


def test_pull_brings_only_what_is_missing(registry, layout, tmp_path):
    client = Client(insecure=[registry.host])
    image = make_image(layout, "pull")
    reference = Reference.parse(f"{registry.host}/pull/app:1")
    destination(str(reference), client=client).publish(image, layout)
    # As part of an index, as public images are.
    index = encode_index([layout.describe(image.manifest_digest, "linux/amd64")])
    many = Reference.parse(f"{registry.host}/pull/app:many")
    client.push_manifest(many, index, json.loads(index)["mediaType"])
    assert client.head(many).media_type.endswith("index.v1+json")

    here = Layout(tmp_path / "pulled")
    blobs = layout.manifest(image.manifest_digest).blobs
    here.put_blob(layout.blob_path(blobs[0].digest))  # the big one is there
    got = pull(client, many, "linux/amd64", here)
    assert got.digest == image.manifest_digest
    assert client.stats.downloaded_bytes < BIG
    assert all(here.read_blob(blob.digest) == layout.read_blob(blob.digest) for blob in blobs)
    with pytest.raises(ImageUnavailable, match=r"linux/arm64.*linux/amd64"):
        pull(client, many, "linux/arm64", here)

    # By digest, all there: no question is asked.
    before = client.stats.requests.copy()
    assert pull(client, many.with_digest(client.head(many).digest), "linux/amd64", here).digest == got.digest
    assert client.stats.requests - before == {"HEAD": 1}  # ours, the line above


class Cable(threading.Thread):
    """A connection to a server that breaks once, when ``cut`` bytes went through it in either direction."""

    def __init__(self, server, cut):
        super().__init__(daemon=True)
        host, _, port = server.partition(":")
        self.server, self.left, self.broken = (host, int(port)), cut, False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self):
        with suppress(OSError):  # until the listener is closed
            while True:
                here, _ = self.listener.accept()
                there = socket.create_connection(self.server)
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=self.carry, args=ends, daemon=True).start()

    def carry(self, one, other):
        with one, suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
                self.left -= len(data)
                if self.left < 0 and not self.broken:
                    self.broken = True
                    break
            for end in (one, other):
                end.shutdown(socket.SHUT_RDWR)


def test_a_transfer_that_is_cut_comes_to_its_end(registry, layout, tmp_path):
    blob = layout.put_blob(io.BytesIO(os.urandom(64 << 20)))
    cable = Cable(registry.host, 32 << 20)
    cable.start()
    with cable.listener, Client(insecure=[cable.host]) as client:
        reference = Reference.parse(f"{cable.host}/cut/blob")
        # Distribution 2 throws away an upload that was cut within a request, so all of it goes again.
        assert client.push_blob(reference, blob, lambda: layout.open_blob(blob.digest)) > blob.size
        assert cable.broken
    cable = Cable(registry.host, 32 << 20)
    cable.start()
    with cable.listener, Client(insecure=[cable.host]) as client:
        back = Layout(tmp_path / "back")
        client.fetch_blob(Reference.parse(f"{cable.host}/cut/blob"), blob, back)
        assert cable.broken
        assert back.has(blob.digest, blob.size)
        assert client.stats.requests == {"GET": 2}
        assert client.stats.downloaded_bytes == blob.size  # no byte twice


MEMORY = """
import io, sys
from pathlib import Path
from clustrix.oci.client import Client
from clustrix.oci.layout import Layout
from clustrix.oci.reference import Reference

class Zeros(io.RawIOBase):
    left = 1 << 30
    def read(self, size=-1):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)

layout, client = Layout(sys.argv[2]), Client(insecure=True)
reference = Reference.parse(sys.argv[1])
blob = layout.put_blob(Zeros())
client.push_blob(reference, blob, lambda: layout.open_blob(blob.digest))
layout.blob_path(blob.digest).unlink()
client.fetch_blob(reference, blob, layout)
# ru_maxrss would count what the process that started this one had.
(peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(peak)
"""


def test_a_blob_of_a_gigabyte_needs_little_memory(registry, tmp_path):
    argv = [sys.executable, "-c", MEMORY, f"{registry.host}/big/blob", str(tmp_path / "layout")]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300 << 10  # KiB


def test_layout_and_archive_are_what_others_read(layout, tmp_path):
    servers.need("skopeo")
    image = make_image(layout, "files")
    for text in (f"oci:{tmp_path}/out:v1", f"oci-archive:{tmp_path}/out.tar:v1"):
        published = destination(text).publish(image, layout)
        assert published.reference == text
        seen = json.loads(servers.run(["skopeo", "inspect", "--raw", text]))
        assert seen["config"]["digest"] == image.config_digest
        copy = f"oci:{tmp_path}/copy-of-{text.partition(':')[0]}:v1"
        servers.run(["skopeo", "--insecure-policy", "copy", "--quiet", text, copy])
        assert Layout(copy.split(":")[1]).resolve("v1").digest == image.manifest_digest
    assert destination(f"oci:{tmp_path}/out:v1").publish(image, layout).unchanged


def test_engine_loads_once(docker_engine, layout):
    image = make_image(layout, "engine")
    names = ["clustrix-test/loaded:1", "clustrix-test/loaded:2"]
    try:
        first = destination(f"docker:{names[0]}").publish(image, layout)
        assert first.uploaded_bytes > BIG
        assert docker_engine.images.get(names[0]).id == image.config_digest
        second = destination(f"docker-daemon:{names[1]}").publish(image, layout)
        assert (second.unchanged, second.uploaded_bytes) == (True, 0)
        assert set(docker_engine.images.get(image.config_digest).tags) == set(names)
        layout.blob_path(layout.manifest(image.manifest_digest).layers[1].digest).write_bytes(b"rubbish")
        docker_engine.images.remove(image.config_digest, force=True)
        with pytest.raises(ImageError, match="cannot load clustrix-test/loaded:1"):
            destination(f"docker:{names[0]}").publish(image, layout)
    finally:
        for name in names:
            if docker_engine.images.list(name):
                docker_engine.images.remove(name, force=True)


def test_podman_loads_the_same(podman_engine, layout, monkeypatch):
    image = make_image(layout, "podman", 10)
    monkeypatch.setenv("DOCKER_HOST", podman_engine.socket)
    assert destination("docker:clustrix-test/podman:1").publish(image, layout).uploaded_bytes > 0
    assert (
        podman_engine("image", "inspect", "--format", "{{.Id}}", "clustrix-test/podman:1").strip()
        in image.config_digest
    )
    assert destination("docker:clustrix-test/podman:1").publish(image, layout).unchanged
