"""Settings become a target, or a ConfigError that says why they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clustrix import config, engines, registry, target
from clustrix.errors import ConfigError, MissingExtra, TransportError
from clustrix.model.job import JobId, JobRecord
from clustrix.model.settings import ClusterConfig
from clustrix.target import Target
from clustrix.transports.base import Completed


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    config.load.cache_clear()


def made(**settings: Any) -> Target:
    return Target(ClusterConfig(target="t", **settings))


@pytest.mark.parametrize(
    ("settings", "transport", "runtime"),
    [
        ({"runtime": "venv"}, "local", "venv"),
        ({"backend": "ssh", "host": "h"}, "ssh", "apptainer"),
        ({"backend": "ssh", "host": "h", "runtime": "venv"}, "ssh", "venv"),
        ({"backend": "slurm"}, "local", "apptainer"),
        ({"backend": "slurm", "host": "h", "transport": "openssh"}, "openssh", "apptainer"),
    ],
)
def test_what_is_not_said_follows(settings: dict[str, Any], transport: str, runtime: str) -> None:
    found = made(**settings)
    assert (found.transport_name, found.runtime_name) == (transport, runtime)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"backend": "slrum"}, "unknown backend 'slrum'\n.*'slurm'"),
        ({"backend": "process"}, "unknown backend 'process'"),
        ({"backend": "kubernetse"}, "unknown backend 'kubernetse'\n.*'kubernetes'"),
        ({"backend": "kubernetes", "host": "h"}, "host is for hosts, and backend 'kubernetes' has none"),
        ({"backend": "kubernetes", "runtime": "docker"}, "runtime is for hosts"),
        ({"backend": "kubernetes", "root": "/data"}, "root is for hosts"),
        ({"backend": "kubernetes", "store": "s3"}, "unknown store 's3'"),
        ({"backend": "slurm", "namespace": "me"}, "namespace is for backend 'kubernetes', and this is 'slurm'"),
        ({"backend": "local", "courier": True}, "courier is for backend 'kubernetes'"),
        ({"runtime": "dcoker"}, "unknown runtime 'dcoker'\n.*'docker'"),
        ({"transport": "shs"}, "unknown transport 'shs'\n.*'ssh'"),
        ({"backend": "local", "host": "h"}, "'local' is this machine"),
        ({"backend": "local", "transport": "ssh"}, "'local' is this machine"),
        ({"backend": "ssh"}, "transport 'ssh' needs a host"),
        ({"backend": "ssh", "host": "h", "transport": "local"}, "cannot use transport 'local'"),
        ({"backend": "slurm", "host": "h", "transport": "local"}, "is not reached by transport 'local'"),
        ({"backend": "slurm", "transport": "ssh"}, "transport 'ssh' needs a host"),
        ({"backend": "slurm", "host": "h", "root": "/tmp/me"}, "do not see the root /tmp/me"),
        ({"backend": "slurm", "sif_build": "jop"}, "unknown sif_build 'jop'\n.*'job'"),
        ({"backend": "ssh", "host": "h", "sif_build": "job"}, "'job' needs a scheduler"),
        ({"backend": "slurm", "runtime": "venv", "sif_build": "auto"}, "'auto' needs a scheduler and runtime"),
    ],
)
def test_the_impossible_is_refused_before_anything_is_reached(settings: dict[str, Any], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        made(**settings)


def test_a_cluster_has_no_transport() -> None:
    found = made(backend="kubernetes", namespace="me")
    assert (found.runtime_name, found.site.root, found.plain, found.here) == ("pod", "/clustrix", False, False)
    for use in (
        lambda line: line.run("true"),
        lambda line: line.stream("true"),
        lambda line: line.get("/x", Path("x")),
    ):
        with pytest.raises(ConfigError, match="is no host"):
            use(found.transport)


def test_a_cluster_needs_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    registry.load.cache_clear()
    found = made(backend="kubernetes")
    for use in (lambda: found.runtime, lambda: found.backend, lambda: found.namespace):
        with pytest.raises(MissingExtra, match="'kubernetes'") as caught:
            use()
        assert "pip install 'clustrix[kubernetes]'" in str(caught.value)


class Host:
    """A host that answers to every script with the same words."""

    address = "ssh://fake"

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked = 0

    def run(self, script: str, **_: object) -> Completed:
        self.asked += 1
        return Completed(0, self.answer, b"")


def remote(host: Host, **settings: Any) -> Target:
    found = made(backend="ssh", host="h", **settings)
    found.__dict__["transport"] = host
    return found


def test_a_host_is_asked_once_for_all_processes() -> None:
    host = Host(b"Welcome!\n\n/home/alice\naarch64\n8\nglibc 2.28\n")
    found = remote(host)
    assert (found.site.root, found.machine, found.room(2)) == ("/home/alice/.clustrix", "aarch64", 4)
    assert str(found.platform) == "aarch64-manylinux_2_28"
    assert remote(host, root="~/jobs").site.root == "/home/alice/jobs"
    assert host.asked == 1
    assert remote(Host(b""), root="/scratch/").site.root == "/scratch"
    with pytest.raises(TransportError, match="home directory"):
        remote(_elsewhere(Host(b"No.\n"))).site  # noqa: B018


def _elsewhere(host: Host) -> Host:
    host.address = "ssh://elsewhere"
    return host


def test_a_host_without_glibc_takes_no_environment_of_its_own() -> None:
    with pytest.raises(ConfigError, match="glibc only"):
        remote(Host(b"/root\nx86_64\n1\nnone\n")).platform  # noqa: B018


def test_a_job_finds_its_target_again_with_the_password_of_now() -> None:
    config.configure(targets={"hpc": {"backend": "slurm", "host": "h", "password": "hush", "partition": "long"}})
    settings = config.load().resolve("hpc", {"cores": 4})
    record = JobRecord(
        id=JobId("hpc", "0" * 26),
        name="f",
        function="f",
        created=0.0,
        items=1,
        workers=1,
        root="/scratch/alice",
        target=config.public(settings),
    )
    assert "hush" not in str(record)
    found = target.of_record(record)
    assert (found.config.host, found.config.password, found.site.root) == ("h", "hush", "/scratch/alice")
    assert target.of_record(record) is found
    config.configure(targets={"hpc": {"backend": "slurm", "host": "elsewhere"}})
    assert target.of_record(record).config.host == "h"


def test_one_target_for_calls_that_ask_for_different_resources() -> None:
    current = config.load()
    assert target.of(current.resolve("local", {"cores": 2})) is target.of(current.resolve("local", {"cores": 4}))


def test_containers_that_could_not_be_had_are_not_tried_again_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "runtime", lambda: ("docker", "it answers"))
    assert made().runtime_name == "docker"
    engines.avoid("no base")
    assert (made().runtime_name, made().why) == ("venv", "no base")
    assert made(base="oci:base").runtime_name == "docker"
    assert made(runtime="docker").runtime_name == "docker"
    monkeypatch.setattr(engines, "_HOUR", -1)
    engines.avoid("no base")
    assert made().runtime_name == "docker"
