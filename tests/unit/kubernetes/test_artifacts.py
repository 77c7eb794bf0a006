"""What jobs have in a registry that several namespaces share."""

import time

import pytest

from clustrix.kubernetes import artifacts, cargo
from clustrix.model.job import born, new_ulid
from clustrix.oci.client import Client
from clustrix.oci.manifest import digest_of
from clustrix.worker import delivery
from clustrix.worker.artifacts import Login, Repository

from ..oci.fake import FakeRegistry  # noqa: TID252 - tests are no package of the path

DATA = b"x" * 1000
DAY = 86400


@pytest.fixture
def fake():
    fake = FakeRegistry()
    yield fake
    fake.close()


@pytest.fixture
def there(fake):
    return artifacts.Artifacts(Client(insecure=True), f"{fake.host}/jobs")


def push(fake, mark, age):
    """Leave what a job of a namespace leaves: its payload, and the outcome of a pod."""
    ulid = new_ulid(time.time() - age)
    blobs = {digest_of(DATA): DATA}
    cargo.push(Client(insecure=True), f"{fake.host}/jobs", ulid, blobs, mark)
    repository = Repository(Login(f"{fake.host}/jobs", insecure=True, namespace=mark))
    delivery.Delivery(repository, delivery.tag(ulid, 3, "ab-cd")).push([(3, b"{}", None)])
    repository.close()
    return ulid


def test_a_ulid_says_when_it_was_made():
    assert born(new_ulid(1_700_000_000.125).lower()) == 1_700_000_000.125


def test_those_of_the_own_namespace_that_are_old(fake, there):
    old, _, young = push(fake, "here", 2 * DAY), push(fake, "elsewhere", 2 * DAY), push(fake, "here", 60)
    fake.put_manifest("jobs", "0" * 32, b"{}", "application/vnd.oci.image.manifest.v1+json")  # an image
    found = there.find("here", time.time() - DAY)
    payload, outcome = artifacts.payload(old), f"{artifacts.prefix(old)}3-ab-cd"
    assert {ulid: set(tags) for ulid, tags in found.items()} == {old: {payload, outcome}}
    assert found[old][payload] > 1000
    # What was pushed a minute ago may wait for its Job; what a pod sent waits for nobody.
    assert set(there.find("here", time.time())[young]) == {f"{artifacts.prefix(young)}3-ab-cd"}
    assert there.find(None, time.time()) == {}


def test_who_deletes_one_leaves_the_others(fake, there):
    """Two payloads of the same bytes are two manifests."""
    first, second = push(fake, None, 0), push(fake, None, 0)
    assert there.delete([artifacts.payload(first), f"{artifacts.prefix(first)}3-ab-ce"])
    assert there._client.head(there._reference(artifacts.payload(second))) is not None
    (deleted,) = fake.requests("DELETE")
    assert ("jobs", deleted.rpartition("/")[2]) not in fake.manifests


def test_a_registry_that_deletes_nothing_says_so_and_what_to_do(fake, there, caplog):
    ulid = push(fake, "here", 0)
    fake.fail("DELETE", "manifests", lambda handler: handler.refuse(405, "UNSUPPORTED"))
    assert there.delete([artifacts.payload(ulid)]) == []
    assert f"{fake.host} is set up to delete nothing" in caplog.text
    assert "REGISTRY_STORAGE_DELETE_ENABLED" in caplog.text
