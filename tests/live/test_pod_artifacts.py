"""What pods use of a registry, with Debian's docker-registry: open, and with signed bearer tokens."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time

import pytest

from clustrix.errors import RegistryDenied, RegistryError
from clustrix.oci.client import Client
from clustrix.oci.manifest import EMPTY, Descriptor, Manifest
from clustrix.oci.reference import Reference
from clustrix.worker.artifacts import Login, Repository

from . import servers

pytestmark = pytest.mark.live

BIG = 9 << 20


class Patterned(io.RawIOBase):
    """A file of any size that is in no memory."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = size
        self.largest = 0

    def read(self, size: int = -1) -> bytes:
        data = bytes(min(size, self.left))
        self.left -= len(data)
        self.largest = max(self.largest, len(data))
        return data


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read(repository: Repository, digest: str, start: int, stop: int) -> bytes:
    found = io.BytesIO()

    def write(place: int, data: bytes) -> None:
        found.seek(place - start)
        found.write(data)

    repository.read(digest, start, stop, write)
    return found.getvalue()


def test_small_and_large_blobs_go_and_ranges_of_them_come_back(registry):
    repository = Repository(Login(f"{registry.host}/pods/plain", insecure=True))
    small, large = os.urandom(1000), os.urandom(BIG)
    for data in (small, large, b""):
        assert repository.push(len(data), lambda data=data: io.BytesIO(data)) == digest_of(data)
        assert repository.has(digest_of(data))
        assert read(repository, digest_of(data), 0, len(data)) == data
    assert read(repository, digest_of(large), 12345, BIG - 1) == large[12345:-1]
    assert not repository.has(digest_of(b"never"))
    repository.close()


def test_a_manifest_that_the_client_reads(registry):
    name = f"{registry.host}/pods/manifests"
    repository = Repository(Login(name, insecure=True))
    blob = repository.push(4, lambda: io.BytesIO(b"data"))
    repository.push(2, lambda: io.BytesIO(b"{}"))
    manifest = Manifest(EMPTY, (Descriptor("application/x", blob, 4),), artifact_type="application/y")
    assert repository.push_manifest("one-0-uid", manifest.encode()) == manifest.descriptor.digest
    with Client(insecure=True) as client:
        assert client.manifest(Reference.parse(f"{name}:one-0-uid"))[1] == manifest.encode()
    repository.close()


def test_what_is_large_is_in_no_memory(registry):
    repository = Repository(Login(f"{registry.host}/pods/large", insecure=True))
    opened = []

    def body() -> Patterned:
        opened.append(Patterned(64 << 20))
        return opened[-1]

    digest = repository.push(64 << 20, body)
    assert len(opened) == 1
    assert opened[0].largest <= 1 << 20
    with Client(insecure=True) as client:
        assert client.has_blob(Reference.parse(f"{registry.host}/pods/large:x"), digest)
    repository.close()


@pytest.mark.parametrize("size", [100, BIG])
def test_tokens_for_who_may_push(auth_registry, size):
    data = os.urandom(size)
    writer, reader, nobody = (
        Repository(Login(f"{auth_registry.host}/pods/tokens", True, *login), patience=5)
        for login in (
            (auth_registry.writer.name, auth_registry.writer.password),
            (auth_registry.reader.name, auth_registry.reader.password),
            (None, None),
        )
    )
    before = len(auth_registry.tokens.requests)
    digest = writer.push(size, lambda: io.BytesIO(data))
    assert len(auth_registry.tokens.requests) == before + 1
    assert read(reader, digest, 0, size) == data
    with pytest.raises(RegistryDenied, match=r"the login as 'reader'|DENIED"):
        reader.push(size, lambda: io.BytesIO(data))
    with pytest.raises(RegistryDenied, match="no login"):
        nobody.has(digest)
    wrong = Repository(Login(f"{auth_registry.host}/pods/tokens", True, "writer", "wrong"), patience=5)
    with pytest.raises(RegistryDenied, match="token server"):
        wrong.has(digest)
    for repository in (writer, reader, nobody, wrong):
        repository.close()


def test_a_token_that_ran_out_is_replaced(auth_registry):
    login = Login(f"{auth_registry.host}/pods/old", True, auth_registry.writer.name, auth_registry.writer.password)
    repository = Repository(login, patience=5)
    for size in (10, BIG):
        repository._authorization = "Bearer of.old.times"
        data = os.urandom(size)
        assert repository.push(size, lambda data=data: io.BytesIO(data)) == digest_of(data)
    repository.close()


def test_a_registry_that_is_away_for_a_while(tmp_path):
    with servers.registry(tmp_path / "first") as first:
        host = first.host
    data, pushed = os.urandom(BIG), []
    login = Login(f"{host}/pods/away", insecure=True)

    def push() -> None:
        repository = Repository(login, patience=60)
        pushed.append(repository.push(BIG, lambda: io.BytesIO(data)))
        repository.close()

    thread = threading.Thread(target=push)
    thread.start()
    time.sleep(1.5)
    assert not pushed
    configuration = tmp_path / "again.yml"
    configuration.write_text(servers.CONFIGURATION.format(storage=tmp_path / "storage", address=host))
    log = tmp_path / "again.log"
    with servers.process(["docker-registry", "serve", str(configuration)], log) as server:
        servers.wait_for("listening on", log, server)
        thread.join(50)
        assert pushed == [digest_of(data)]


def test_patience_ends(tmp_path):
    with servers.registry(tmp_path / "gone") as gone:
        host = gone.host
    repository = Repository(Login(f"{host}/pods/gone", insecure=True), patience=1)
    started = time.monotonic()
    with pytest.raises(RegistryError, match="does not answer"):
        repository.push(3, lambda: io.BytesIO(b"abc"))
    assert time.monotonic() - started < 30


def test_the_login_of_a_file():
    text = json.dumps({"repository": "r:5000/team", "insecure": True, "username": "me", "password": "it's"})
    login = Login.read(text.encode())
    assert login == Login("r:5000/team", True, "me", "it's")
    assert "it's" not in repr(login)
    for wrong in (b"", b"[]", b"{}", b'"text"'):
        with pytest.raises(RegistryError):
            Login.read(wrong)
