import concurrent.futures
import os
import signal
import threading

import pytest

from clustrix.errors import ImageUnavailable, RegistryDenied
from clustrix.oci.auth import Keychain
from clustrix.oci.client import Client
from clustrix.publish.registry import BASE_NAME, Registry

from ..oci.fake import FakeRegistry  # noqa: TID252 - tests are no package of the path


@pytest.fixture
def fake():
    fake = FakeRegistry()
    yield fake
    fake.close()


@pytest.fixture
def client(tmp_path):
    with Client(insecure=True, keychain=Keychain(tmp_path / "none"), sleep=lambda _: None) as client:
        yield client


def test_unchanged_is_one_head_and_no_bytes(fake, client, layout, build):
    image = build(b"base", b"wheels")
    target = Registry(f"{fake.host}/me/app:1", client=client)
    first = target.publish(image, layout)
    assert first.reference == f"{fake.host}/me/app@{image.manifest_digest}"
    assert first.uploaded_bytes == client.stats.uploaded_bytes
    assert fake.manifests["me/app", "1"][0] == layout.read_blob(image.manifest_digest)
    assert fake.requests()[-1] == "/v2/me/app/manifests/1"  # after everything it points at

    fake.seen.clear()
    again = target.publish(image, layout)
    assert (again.unchanged, again.uploaded_bytes, again.reference) == (True, 0, first.reference)
    assert [(verb, path) for verb, path, _ in fake.seen] == [("HEAD", "/v2/me/app/manifests/1")]

    # One layer changes: that layer, the config and the manifest move.
    changed = build(b"base", b"other wheels")
    moved = target.publish(changed, layout).uploaded_bytes
    manifest = layout.manifest(changed.manifest_digest)
    assert moved == manifest.layers[1].size + manifest.config.size + layout.describe(changed.manifest_digest).size


def test_another_repository_mounts(fake, client, layout, build):
    image = build(b"base", b"wheels")
    Registry(f"{fake.host}/me/app:1", client=client).publish(image, layout)
    fake.seen.clear()
    other = Registry(f"{fake.host}/you/tool:1", client=client).publish(image, layout)
    assert other.uploaded_bytes == layout.describe(image.manifest_digest).size
    assert len(fake.requests("POST")) == 3
    assert all("from=me%2Fapp" in path for path in fake.requests("POST"))


def test_blobs_of_the_base_need_not_be_here(fake, client, layout, build):
    image = build(b"base", b"wheels", **{BASE_NAME: f"{fake.host}/library/python:3.11"})
    base = layout.manifest(image.manifest_digest).layers[0]
    layout.blob_path(base.digest).unlink()
    target = Registry(f"{fake.host}/me/app:1", client=client)
    with pytest.raises(ImageUnavailable, match=base.digest):
        target.publish(image, layout)
    assert ("me/app", "1") not in fake.manifests
    fake.put_blob("library/python", b"base")
    target.publish(image, layout)
    assert ("me/app", base.digest) in fake.blobs


@pytest.mark.parametrize("name", ["other.io/python:3.11", "%%%", ""])
def test_a_base_elsewhere_is_not_asked_for(fake, client, layout, build, name):
    Registry(f"{fake.host}/me/app:1", client=client).publish(build(b"x", **{BASE_NAME: name}), layout)
    assert not any("mount=" in path for path in fake.requests("POST"))


def test_a_failure_leaves_the_tag_alone(fake, client, layout, build):
    before = build(b"one")
    target = Registry(f"{fake.host}/me/app:1", client=client)
    target.publish(before, layout)
    fake.fail("POST", "uploads", lambda handler: handler.refuse(403, "DENIED"), times=99)
    with pytest.raises(RegistryDenied):
        target.publish(build(b"two"), layout)
    assert fake.manifests["me/app", "1"][0] == layout.read_blob(before.manifest_digest)


def test_ctrl_c_ends_it_soon_and_leaves_nothing(fake, client, layout, build, monkeypatch):
    heard, stopping = threading.Event(), threading.Event()

    def on_interrupt(number, frame):
        if not heard.is_set():
            heard.set()
            raise KeyboardInterrupt

    def wait(futures, seconds):
        stopping.set()
        return futures_wait(futures, 60)  # they may tidy up for two seconds, which is little on a busy machine

    futures_wait = concurrent.futures.wait
    monkeypatch.setattr("clustrix.oci.client.wait", wait)

    class Impatient:
        closed = False

        def start(self, stage, total):
            return self

        def advance(self, amount):
            while amount and not stopping.is_set():
                # Again and again: Python does not hear a signal that comes just before it begins to wait.
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                stopping.wait(0.1)

        def close(self):
            self.closed = True

    progress = Impatient()
    image = build(*(os.urandom(20 << 20) for _ in range(3)))
    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            Registry(f"{fake.host}/me/app:1", client=client).publish(image, layout, progress=progress)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert progress.closed
    assert client.stats.uploaded_bytes < 30 << 20
    assert fake.manifests == fake.uploads == {}
