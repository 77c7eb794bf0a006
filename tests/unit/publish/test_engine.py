import gc
import sys

import pytest

from clustrix.errors import MissingExtra, RuntimeUnavailable
from clustrix.publish import destination
from clustrix.registry import PLUG_INS, load


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(MissingExtra, match=r"clustrix\[docker\]"):
        destination("docker:app")  # before anything is built


@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning"
)  # the docker package forgets a socket that it cannot connect
@pytest.mark.parametrize("host", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1", "nonsense://"])
def test_without_an_engine_it_says_so(layout, build, monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(RuntimeUnavailable, match="no Docker or Podman engine answers") as caught:
        destination("docker:app").publish(build(b"x"), layout)
    assert "oci:DIR" in caught.value.remedy
    del caught
    gc.collect()


@pytest.mark.parametrize("name", PLUG_INS["publish"])
def test_the_register_finds_every_destination(name):
    assert hasattr(load("publish", name), "publish")
