import io
import json
import os
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from clustrix.errors import (
    DiskFull,
    ImageError,
    ImageUnavailable,
    RateLimited,
    RegistryDenied,
    RegistryError,
)
from clustrix.oci.auth import Keychain
from clustrix.oci.client import Client, each, pull
from clustrix.oci.layout import BlobWriter, Layout
from clustrix.oci.manifest import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, ImageConfig, Manifest, encode_index
from clustrix.oci.reference import Reference

BIG = 6 << 20  # more than goes in one request


class Recorder:
    """A progress and its bar."""

    def __init__(self):
        self.total = self.done = 0
        self.closed = False

    def start(self, stage, total):
        self.total = total
        return self

    def advance(self, amount):
        self.done += amount

    def close(self):
        self.closed = True


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "layout")


@pytest.fixture
def big():
    return os.urandom(BIG)


def at(fake, repository="me/app", tag="1"):
    return Reference.parse(f"{fake.host}/{repository}:{tag}")


def serve_image(fake, repository="me/app", layers=(b"one", b"two")):
    blobs = [Descriptor.of(data, OCI_LAYER_GZIP) for data in layers]
    config = ImageConfig("linux/amd64", tuple(blob.digest for blob in blobs))
    for data in (*layers, config.encode()):
        fake.put_blob(repository, data)
    manifest = Manifest(config.descriptor, tuple(blobs))
    fake.put_manifest(repository, "1", manifest.encode(), OCI_MANIFEST)
    return manifest


# --- what it does -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, BIG])
def test_a_blob_goes_there_and_comes_back(fake, client, layout, size):
    blob = layout.put_blob(os.urandom(size))
    bar = Recorder()
    assert client.push_blob(at(fake), blob, lambda: layout.open_blob(blob.digest), bar=bar) == size
    assert fake.blobs["me/app", blob.digest] == layout.read_blob(blob.digest)
    assert len(fake.requests("PATCH")) == (size == BIG)
    assert client.stats.uploaded_bytes == bar.done == size
    other = Layout(layout.path.parent / "other")
    assert client.fetch_blob(at(fake), blob, other, bar=bar) == size
    assert other.read_blob(blob.digest) == layout.read_blob(blob.digest)
    assert bar.done == 2 * size
    assert client.fetch_blob(at(fake), blob, other) == 0


def test_a_mount_moves_nothing(fake, client, layout):
    blob = layout.put_blob(b"abc")
    client.push_blob(at(fake), blob, lambda: layout.open_blob(blob.digest))
    fake.seen.clear()
    assert client.push_blob(at(fake, "me/other"), blob, pytest.fail, mount_from="me/app") == 0
    assert fake.requests() == [f"/v2/me/other/blobs/uploads/?mount={blob.digest.replace(':', '%3A')}&from=me%2Fapp"]
    # What the other repository does not have is uploaded, unless it is here already.
    new = layout.put_blob(b"new")
    for moved, verbs in ((3, ["POST", "HEAD", "PUT"]), (0, ["POST", "HEAD", "DELETE"])):
        fake.seen.clear()
        assert client.push_blob(at(fake), new, lambda: layout.open_blob(new.digest), mount_from="me/absent") == moved
        assert [verb for verb, _, _ in fake.seen] == verbs
    assert not fake.uploads


def test_head_says_what_is_there(fake, client):
    manifest = serve_image(fake)
    assert client.head(at(fake)) == manifest.descriptor
    assert client.head(at(fake, tag="absent")) is None
    assert client.stats.downloaded_bytes == 0
    # A registry that says less in a HEAD is asked for all of it.
    fake.fail("HEAD", "manifests", lambda handler: handler.answer(200))
    assert client.head(at(fake)) == manifest.descriptor


def test_pull_then_nothing(fake, client, layout):
    manifest = serve_image(fake)
    index = encode_index([Descriptor(OCI_MANIFEST, manifest.descriptor.digest, 1, {}, "linux/amd64")])
    by_digest = at(fake).with_digest(fake.put_manifest("me/app", "many", index, "application/json"))
    bar = Recorder()
    for reference in (at(fake, tag="many"), by_digest):
        assert pull(client, reference, "linux/amd64", layout, progress=bar).digest == manifest.descriptor.digest
    assert (bar.done, bar.closed) == (bar.total, True)
    assert layout.resolve(str(at(fake, tag="many"))).digest == manifest.descriptor.digest
    assert [layout.read_blob(layer.digest) for layer in manifest.layers] == [b"one", b"two"]
    assert layout.origin(manifest.config.digest, fake.host) == "me/app"
    assert len(fake.requests("GET")) == 2 + 3  # index, manifest, blobs: the second pull asked nothing
    with pytest.raises(ImageUnavailable, match=r"me/app:many.*linux/arm64.*linux/amd64"):
        pull(client, at(fake, tag="many"), "linux/arm64", layout)
    # A blob that is gone here is fetched again.
    layout.blob_path(manifest.layers[0].digest).unlink()
    pull(client, by_digest, "linux/amd64", layout)
    assert layout.has(manifest.layers[0].digest)


def test_delete_and_ping(fake, client):
    manifest = serve_image(fake)
    client.ping(fake.host)
    client.delete(at(fake).with_digest(manifest.descriptor.digest))
    assert client.head(at(fake).with_digest(manifest.descriptor.digest)) is None


# --- what goes wrong --------------------------------------------------------------------------------------------------


def refuse(status, code="DENIED", message="no", **headers):
    return lambda handler: handler.refuse(status, code, message, **headers)


REFUSALS = {
    "denied": (refuse(403), RegistryDenied, "docker login"),
    "unauthorised": (refuse(401), RegistryDenied, "docker login"),
    "absent": (refuse(404, "MANIFEST_UNKNOWN"), ImageUnavailable, "Check the name"),
    "rate limited": (refuse(429, "TOOMANYREQUESTS", "slow down", Retry_After="3600"), RateLimited, "3600 s"),
    "rate limited with a date": (refuse(429, Retry_After="Fri, 31 Dec 2199 23:59:59 GMT"), RateLimited, "come back"),
    "always busy": (refuse(503), RegistryError, "503"),
    "an HTML page": (lambda handler: handler.answer(200, b"<html>"), RegistryError, "no manifest"),
    "a teapot": (refuse(418, "TEAPOT", "I am\x1b[31m a pot"), RegistryError, "TEAPOT I am [31m a pot"),
    "another manifest": (
        lambda handler: handler.answer(200, b"{}", Docker_Content_Digest="sha256:" + "0" * 64),
        RegistryError,
        "another manifest",
    ),
    "endless": (lambda handler: handler.answer(200, bytes(9 << 20)), RegistryError, "8 MiB"),
    "cut every time": (lambda handler: handler.cut(), RegistryError, "cannot be reached"),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_refusals_are_typed_and_name_the_image(fake, client, pauses, case):
    action, error, words = case
    fake.fail("GET", "manifests", action, times=99)
    with pytest.raises(error) as caught:
        client.manifest(at(fake))
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert "me/app" in str(caught.value) or "8 MiB" in words
    assert "\x1b" not in str(caught.value)
    assert len(fake.seen) <= 5
    assert sum(pauses) < 60


def test_what_passes_is_waited_for(fake, client, pauses):
    manifest = serve_image(fake)
    fake.fail("GET", "manifests", refuse(503))
    fake.fail("GET", "manifests", refuse(429, Retry_After="7"))
    fake.fail("GET", "manifests", lambda handler: handler.cut())
    assert client.manifest(at(fake))[0] == manifest.descriptor
    assert pauses[1] == 7
    assert 0.5 <= pauses[0] <= 1
    assert 2 <= pauses[2] <= 4  # it grows


def test_by_digest_only_those_bytes(fake, client):
    reference = at(fake).with_digest("sha256:" + "1" * 64)
    fake.manifests["me/app", reference.digest] = (b"{}", OCI_MANIFEST)
    with pytest.raises(RegistryError, match="another manifest"):
        client.manifest(reference)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nobody_there(scheme, tmp_path):
    reference = Reference.parse("127.0.0.1:1/me/app")
    client = Client(insecure=scheme == "http", keychain=Keychain(tmp_path / "none"), sleep=pytest.fail)
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1 cannot be reached"):
        client.manifest(reference)


def test_plain_http_only_when_said(fake, tmp_path):
    client = Client(insecure=["other:5000"], keychain=Keychain(tmp_path / "none"), sleep=pytest.fail)
    with pytest.raises(RegistryError, match="plain HTTP"):
        client.manifest(at(fake))
    assert fake.seen == []


def cut_after(size):
    def action(handler):
        if handler.command == "PATCH":
            name = handler.path.partition("?")[0].rpartition("/")[2]
            handler.fake.uploads[name] += handler.body(limit=size)
        else:
            repository, name = handler.path.removeprefix("/v2/").split("/blobs/")
            data = handler.fake.blobs[repository, name]
            first = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            handler.send_response(206 if first else 200)
            handler.send_header("Content-Length", str(len(data) - first))
            if first:
                handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            handler.end_headers()
            handler.wfile.write(data[first : first + size])
            handler.wfile.flush()
        handler.cut()

    return action


def test_an_upload_that_is_cut_goes_on_from_there(fake, client, layout, big):
    blob, bar = layout.put_blob(big), Recorder()
    fake.fail("PATCH", "uploads", cut_after(2 << 20))
    fake.fail("PATCH", "uploads", cut_after(1 << 20))
    client.push_blob(at(fake), blob, lambda: layout.open_blob(blob.digest), bar=bar)
    assert fake.blobs["me/app", blob.digest] == big
    ranges = [headers.get("Content-Range") for verb, _, headers in fake.seen if verb == "PATCH"]
    assert ranges == [None, f"{2 << 20}-{BIG - 1}", f"{3 << 20}-{BIG - 1}"]
    assert bar.done == BIG


UPLOAD_FAULTS = {
    "the registry forgot it": [("PATCH", cut_after(1 << 20)), ("GET", refuse(404, "BLOB_UPLOAD_UNKNOWN"))],
    "the registry threw it away": [("PATCH", cut_after(1 << 20)), ("GET", refuse(400, "BLOB_UPLOAD_INVALID"))],
    "the registry miscounts": [
        ("PATCH", cut_after(2 << 20)),
        ("PUT", lambda handler: handler.refuse(400, "DIGEST_INVALID")),
    ],
    "nothing arrived": [("PATCH", cut_after(0))],
    "busy": [("PATCH", refuse(503)), ("PUT", refuse(502))],
    "elsewhere in the meantime": [("PATCH", refuse(416, "RANGE_INVALID"))],
    "unknown": [("PATCH", refuse(404, "BLOB_UPLOAD_UNKNOWN")), ("GET", refuse(404, "BLOB_UPLOAD_UNKNOWN"))],
    "a proxy takes only pieces": [("PATCH", refuse(413)), ("PATCH", refuse(413))],
    "the start is cut": [("POST", lambda handler: handler.cut())],
}


@pytest.mark.parametrize("faults", UPLOAD_FAULTS.values(), ids=UPLOAD_FAULTS)
def test_an_upload_survives(fake, client, layout, big, faults):
    blob, bar = layout.put_blob(big), Recorder()
    for method, action in faults:
        fake.fail(method, "uploads", action)
    client.push_blob(at(fake), blob, lambda: layout.open_blob(blob.digest), bar=bar)
    assert fake.blobs["me/app", blob.digest] == big
    assert bar.done == BIG


def test_an_upload_whose_last_answer_is_lost_is_there(fake, client, layout, big):
    blob = layout.put_blob(big)

    def commit_and_cut(handler):
        fake.blobs["me/app", blob.digest] = bytes(fake.uploads.popitem()[1])
        handler.cut()

    fake.fail("PUT", "uploads", commit_and_cut)
    assert client.push_blob(at(fake), blob, lambda: layout.open_blob(blob.digest)) == BIG


UPLOAD_ENDS = {
    "denied": ("POST", refuse(403), RegistryDenied),
    "full": ("PUT", refuse(507, "UNKNOWN", "no space"), RegistryError),
    "too large in pieces": ("PATCH", refuse(413), RegistryError),
    "no location": ("POST", lambda handler: handler.answer(202), RegistryError),
    "corrupted on the way": ("PUT", refuse(400, "DIGEST_INVALID"), RegistryError),
    "always cut": ("PATCH", cut_after(0), RegistryError),
    "rate limited": ("PATCH", refuse(429, Retry_After="100"), RateLimited),
}


@pytest.mark.parametrize("case", UPLOAD_ENDS.values(), ids=UPLOAD_ENDS)
def test_an_upload_that_fails_leaves_nothing_behind(fake, client, layout, big, case):
    method, action, error = case
    blob = layout.put_blob(big)
    fake.fail(method, "uploads", action, times=99)
    with pytest.raises(error, match="me/app") as caught:
        client.push_blob(at(fake), blob, lambda: layout.open_blob(blob.digest))
    assert type(caught.value) is error
    assert fake.blobs == {}
    assert len(fake.uploads) <= 4  # those that the registry never named again
    assert len(fake.requests(method)) <= 5


def test_a_blob_that_is_short_here_is_said(fake, client, layout, big):
    blob = layout.put_blob(big)
    layout.blob_path(blob.digest).write_bytes(big[:-1])
    with pytest.raises(ImageError, match="shorter"):
        client.push_blob(at(fake), blob, lambda: layout.open_blob(blob.digest))
    assert fake.uploads == fake.blobs == {}


def test_a_download_that_is_cut_goes_on_from_there(fake, client, layout, big):
    blob = Descriptor(OCI_LAYER_GZIP, fake.put_blob("me/app", big), BIG)
    fake.fail("GET", "blobs", cut_after(2 << 20))
    fake.fail("GET", "blobs", refuse(503))
    fake.fail("GET", "blobs", cut_after(1 << 20))
    bar = Recorder()
    client.fetch_blob(at(fake), blob, layout, bar)
    assert layout.read_blob(blob.digest) == big
    assert client.stats.downloaded_bytes == bar.done == BIG
    ranges = [headers.get("Range") for verb, _, headers in fake.seen if verb == "GET"]
    assert ranges == [None, f"bytes={2 << 20}-", f"bytes={2 << 20}-", f"bytes={3 << 20}-"]


def test_a_registry_without_ranges_starts_anew_but_not_for_ever(fake, client, layout, big):
    blob = Descriptor(OCI_LAYER_GZIP, fake.put_blob("me/app", big), BIG)

    def always_half(handler):
        handler.headers.replace_header("Range", "bytes=0-") if "Range" in handler.headers else None
        cut_after(BIG // 2)(handler)

    fake.fail("GET", "blobs", always_half, times=1)
    fake.fail("GET", "blobs", lambda handler: handler.answer(200, big))
    bar = Recorder()
    client.fetch_blob(at(fake), blob, layout, bar)
    assert bar.done == BIG
    layout.blob_path(blob.digest).unlink()
    fake.fail("GET", "blobs", always_half, times=99)
    with pytest.raises(RegistryError):
        client.fetch_blob(at(fake), blob, layout)
    assert not layout.has(blob.digest)


DAMAGE = {
    "other bytes": lambda data: lambda handler: handler.answer(200, bytes(len(data))),
    "more bytes": lambda data: lambda handler: handler.answer(200, data + bytes(7 << 20)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_corrupted_blob_is_never_kept(fake, client, layout, damage):
    blob = Descriptor(OCI_LAYER_GZIP, fake.put_blob("me/app", b"abc"), 3)
    fake.fail("GET", "blobs", damage(b"abc"), times=2)
    with pytest.raises(RegistryError, match=r"something else than blob .* of .*me/app"):
        client.fetch_blob(at(fake), blob, layout)
    assert client.stats.downloaded_bytes <= 1 << 20  # an endless one does not fill the disk
    with pytest.raises(RegistryError, match="something else"):
        client.read_blob(at(fake), blob)
    assert not list(layout.path.rglob("sha256/*")) + list(layout.path.rglob("sha256/.*"))


def test_a_full_disk_stops_a_pull_and_leaves_no_image(fake, client, layout, monkeypatch):
    manifest = serve_image(fake, layers=(b"one", bytes(100)))
    write = BlobWriter.write

    def full(self, data):
        if len(data) == 100:
            raise DiskFull(f"no space left for {layout.path}")
        write(self, data)

    monkeypatch.setattr(BlobWriter, "write", full)
    with pytest.raises(DiskFull):
        pull(client, at(fake), "linux/amd64", layout)
    assert not layout.has(manifest.descriptor.digest)
    assert layout.manifests() == ()
    assert not list(layout.path.rglob(".partial*"))


def test_the_first_failure_stops_the_others():
    running, stopped = [], []

    def move(blob, bar):
        if blob.size == 0:
            raise RateLimited("enough")
        running.append(blob.size)
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                bar.advance(1)
                time.sleep(0.001)
        except CancelledError:
            stopped.append(blob.size)
        return 1

    with Client() as client, pytest.raises(RateLimited):
        each(move, [Descriptor("", "", size) for size in (1, 2, 0, 3, 4, 5, 6, 7)], Recorder(), client)
    assert len(running) < 7
    assert sorted(stopped) == sorted(running)


def test_a_failure_wakes_those_who_wait_for_an_answer(fake, layout):
    """One blob is refused while the others wait for a registry that says nothing; the client goes on afterwards."""
    asked, released = threading.Event(), threading.Event()

    def silent(handler):
        asked.set()
        released.wait(60)

    data = [b"x" * size for size in (1, 2, 3)]
    waits, fails, _ = (layout.put_blob(piece) for piece in data)
    fake.fail("GET", waits.digest, silent)
    with Client(insecure=[fake.host]) as client:
        reference = at(fake)

        def move(blob, bar):
            if blob == fails:
                assert asked.wait(30)
                raise RateLimited("enough")
            return client.fetch_blob(reference, blob, Layout(layout.path / "other"), bar)

        try:
            with pytest.raises(RateLimited):
                each(move, [waits, fails], Recorder(), client)
            assert not released.is_set()
            assert fake.requests("GET").count(f"/v2/{reference.repository}/blobs/{waits.digest}") == 1
            assert client.head(reference.with_digest(waits.digest)) is None
        finally:
            released.set()


def test_credentials_do_not_follow_a_redirect(fake_registry, tmp_path, layout):
    here, there = fake_registry("basic"), fake_registry()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {here.host: {"username": "me", "password": "s3cret"}}}))
    blob = Descriptor(OCI_LAYER_GZIP, there.put_blob("me/app", b"abc"), 3)
    with Client(insecure=True, keychain=Keychain(config), sleep=pytest.fail) as client:
        client.ping(here.host)
        target = f"http://{there.host}/v2/me/app/blobs/{blob.digest}"
        here.fail("GET", "blobs", lambda handler: handler.answer(307, Location=target))
        client.fetch_blob(at(here), blob, layout)
        # Nor an upload that is sent elsewhere.
        begin = f"http://{there.host}/v2/me/app/blobs/uploads/"
        there.uploads["x"] = bytearray()
        here.fail("POST", "uploads", lambda handler: handler.answer(202, Location=f"{begin}x"))
        new = layout.put_blob(b"new")
        client.push_blob(at(here), new, lambda: io.BytesIO(b"new"))
    assert there.blobs["me/app", new.digest] == b"new"
    assert any("Authorization" in headers for _, _, headers in here.seen)
    assert len(there.seen) == 2
    assert not any("Authorization" in headers for _, _, headers in there.seen)


def test_importing_costs_no_network_and_no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    assert Keychain().path == Path(tmp_path / "none" / "config.json")
    Client().close()


def test_tags_that_begin_alike(fake, client):
    reference = Reference.parse(f"{fake.host}/pods:any")
    assert list(client.tags(reference, "b-")) == []
    for tag in ("a-1", *(f"b-{number}" for number in range(5)), "c-1", "c-2"):
        fake.put_manifest("pods", tag, tag.encode(), "text/plain")
    fake.page = 2
    assert list(client.tags(reference, "b-")) == [f"b-{number}" for number in range(5)]
    assert len(fake.requests("GET")) == 1 + 3
