import pytest

from clustrix.oci.auth import Keychain
from clustrix.oci.client import Client

from .fake import FakeRegistry


@pytest.fixture
def fake_registry():
    """Start fake registries: ``fake_registry(auth="bearer")``."""
    started = []

    def start(auth=None):
        started.append(FakeRegistry(auth))
        return started[-1]

    yield start
    for fake in started:
        fake.close()


@pytest.fixture
def fake(fake_registry):
    return fake_registry()


@pytest.fixture
def pauses():
    """How long the client waited, without waiting."""
    return []


@pytest.fixture
def client(tmp_path, pauses):
    with Client(insecure=True, keychain=Keychain(tmp_path / "no-logins.json"), sleep=pauses.append) as client:
        yield client
