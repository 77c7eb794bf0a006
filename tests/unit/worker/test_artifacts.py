"""What a registry in front of pods may do wrong; real ones are in tests/live/test_pod_artifacts.py."""

from __future__ import annotations

import io
import json
import os
import time

import pytest

from clustrix.errors import RegistryDenied, RegistryError
from clustrix.worker.artifacts import Login, Repository

from ..oci.fake import FakeRegistry, digest  # noqa: TID252 - tests are no package of the path


@pytest.fixture
def registries():
    started = []

    def start(auth=None, **options):
        fake = FakeRegistry(auth)
        login = Login(f"{fake.host}/pods", True, *(("me", "s3cret") if auth else ()))
        repository = Repository(login, **{"patience": 10, **options})
        started.append((fake, repository))
        return fake, repository

    yield start
    for fake, repository in started:
        repository.close()
        fake.close()


def read(repository, name, start, stop):
    found = bytearray(stop)

    def write(place, data):
        found[place : place + len(data)] = data

    repository.read(name, start, stop, write)
    return bytes(found[start:stop])


def push(repository, data):
    return repository.push(len(data), lambda: io.BytesIO(data))


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_login_is_sent_where_it_is_asked_for_and_not_to_another_host(registries, auth):
    fake, repository = registries(auth)
    other, _ = registries()
    name = push(repository, b"elsewhere")
    other.blobs["pods", name] = fake.blobs.pop(("pods", name))
    for method in ("GET", "HEAD"):
        fake.fail(
            method, f"blobs/{name}", lambda h: h.answer(307, Location=f"http://{other.host}/v2/pods/blobs/{name}")
        )
    assert read(repository, name, 0, 9) == b"elsewhere"
    assert repository.has(name)
    assert [method for method, _, _ in other.seen] == ["GET", "HEAD"]
    assert not any("Authorization" in headers for _, _, headers in other.seen)
    assert all("Authorization" in headers for method, _, headers in fake.seen if method == "PUT")


def test_a_wrong_password_is_said_and_not_repeated(registries):
    fake, _ = registries("basic")
    repository = Repository(Login(f"{fake.host}/pods", True, "me", "wrong"))
    with pytest.raises(RegistryDenied, match="401"):
        repository.has(digest(b""))
    assert len(fake.seen) == 2
    repository.close()


def test_a_redirect_in_circles_ends(registries):
    fake, repository = registries()
    fake.fail("GET", "blobs", lambda h: h.answer(302, Location=h.path), times=99)
    with pytest.raises(RegistryError, match="circles"):
        read(repository, digest(b"x"), 0, 1)


def test_retry_after_and_faults_that_pass(registries):
    fake, repository = registries()
    fake.fail("POST", "uploads", lambda h: h.refuse(429, "TOOMANYREQUESTS", Retry_After="3"))
    fake.fail("PUT", "uploads", lambda h: h.refuse(503, "UNAVAILABLE"))
    fake.fail("PUT", "uploads", lambda h: h.cut())
    started = time.monotonic()
    assert push(repository, b"at last") == digest(b"at last")
    assert time.monotonic() - started >= 3  # without being told so it would have waited for half of that
    assert len(fake.requests("POST")) == 4


def test_what_does_not_pass_is_said_at_once_in_the_registrys_words(registries):
    fake, repository = registries()
    fake.fail("POST", "uploads", lambda h: h.refuse(403, "DENIED", "quota exceeded"))
    with pytest.raises(RegistryDenied, match="DENIED quota exceeded"):
        push(repository, b"x")
    assert len(fake.seen) == 1


def test_a_limit_that_is_too_far_away_is_not_waited_for(registries):
    fake, repository = registries()
    fake.fail("POST", "uploads", lambda h: h.refuse(429, "TOOMANYREQUESTS", Retry_After="3600"), times=9)
    with pytest.raises(RegistryError, match="429"):
        push(repository, b"x")
    assert len(fake.seen) == 1


def test_a_download_goes_on_where_it_was_cut(registries):
    fake, repository = registries()
    data = os.urandom(3 << 20)
    name = fake.put_blob("pods", data)

    def half(handler):
        handler.send_response(206)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: 1 << 20])
        handler.cut()

    fake.fail("GET", "blobs", half)

    def rest(handler):
        first = int(handler.headers["Range"].removeprefix("bytes=").partition("-")[0])
        handler.answer(206, data[first:])

    fake.fail("GET", "blobs", rest, times=9)
    assert read(repository, name, 0, len(data)) == data
    ranges = [headers["Range"] for method, _, headers in fake.seen if method == "GET"]
    assert ranges[0].startswith("bytes=0-")
    assert not ranges[1].startswith("bytes=0-")


def test_a_registry_without_ranges(registries):
    fake, repository = registries()
    name = fake.put_blob("pods", bytes(range(200)))  # it answers this kind of range with all there is
    found = bytearray(200)

    def write(place, data):
        found[place : place + len(data)] = data

    repository.read(name, 50, 60, write)
    assert bytes(found) == bytes(range(200))


def test_a_proxy_that_takes_little_at_a_time(registries):
    fake, repository = registries()

    def limited(handler):
        if int(handler.headers["Content-Length"]) <= 1 << 20:
            return True
        handler.refuse(413, "TOO_LARGE")
        return None

    for method in ("PATCH", "PUT"):
        fake.fail(method, "uploads", limited, times=99)
    data = os.urandom(5 << 20)
    assert push(repository, data) == digest(data)
    assert fake.blobs["pods", digest(data)] == data
    before = len(fake.seen)
    small = os.urandom(2 << 20)
    assert push(repository, small) == digest(small)
    assert len(fake.seen) == before + 6  # it remembers


def test_a_registry_that_was_started_again_in_the_middle(registries):
    fake, repository = registries()

    def forget(handler):
        fake.uploads.clear()
        return True

    fake.fail("PATCH", "uploads", forget)
    data = os.urandom(5 << 20)
    assert push(repository, data) == digest(data)


def test_no_login_goes_to_a_token_server_without_tls(registries):
    fake, repository = registries("bearer")
    repository._login = Login(f"{fake.host}/pods", False, "me", "s3cret")
    with pytest.raises(RegistryError, match="not https"):
        repository._log_in(f'Bearer realm="http://{fake.host}/token"', None)
    assert not fake.token_requests


def test_patience_may_end_while_it_waits(registries):
    fake, repository = registries(patience=600)
    fake.fail("POST", "uploads", lambda h: setattr(repository, "patience", 0) or h.refuse(503, "X", Retry_After="300"))
    with pytest.raises(RegistryError, match="503"):
        push(repository, b"x")


def test_words_of_a_stranger_are_no_problem(registries):
    fake, repository = registries()
    for body in (b"<html>", json.dumps({"errors": [7]}).encode(), b"[]", b'{"errors": null}'):
        fake.fail("POST", "uploads", lambda h, body=body: h.answer(400, body))
        with pytest.raises(RegistryError, match="answered 400"):
            push(repository, b"x")
