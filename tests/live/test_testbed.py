"""The ground itself: each server of the test beds is real and does what other live tests lean on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import httpx
import paramiko
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    import docker

    from .beds import Bed
    from .conftest import AuthRegistry
    from .servers import Base, Podman, Registry

pytestmark = pytest.mark.live


def _upload(client: httpx.Client, repository: str, content: bytes) -> str:
    started = client.post(f"/v2/{repository}/blobs/uploads/").raise_for_status()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    location = httpx.URL(started.headers["Location"])
    client.put(location.copy_merge_params({"digest": digest}), content=content).raise_for_status()
    return digest


def test_registry_keeps_a_blob(registry: Registry) -> None:
    with httpx.Client(base_url=registry.url, timeout=30) as client:
        assert client.get("/v2/").status_code == 200
        digest = _upload(client, "testbed/blob", b"as it was")
        assert client.get(f"/v2/testbed/blob/blobs/{digest}").content == b"as it was"
        wrong = "sha256:" + "0" * 64
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            client.get(f"/v2/testbed/blob/blobs/{wrong}").raise_for_status()


def test_registry_wants_a_signed_token(auth_registry: AuthRegistry) -> None:
    def token(user: object, scope: str, **options: object) -> str:
        answer = httpx.get(f"{realm}?{urlencode({'service': service, 'scope': scope})}", auth=user, timeout=30)
        return str(answer.raise_for_status().json()["token"])

    with httpx.Client(base_url=auth_registry.url, timeout=30) as client:
        refused = client.get("/v2/")
        assert refused.status_code == 401
        realm, service = re.findall(r'(?:realm|service)="([^"]*)"', refused.headers["WWW-Authenticate"])
        writer, reader = ((user.name, user.password) for user in (auth_registry.writer, auth_registry.reader))
        scope = "repository:a:pull,push"
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            token(("writer", "wrong"), "repository:a:pull")
        for not_enough in (token(None, scope), token(reader, scope), "eyJ.e30.c2ln"):
            client.headers["Authorization"] = f"Bearer {not_enough}"
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                _upload(client, "a", b"x")
        client.headers["Authorization"] = f"Bearer {token(writer, scope)}"
        digest = _upload(client, "a", b"mine")
        client.headers["Authorization"] = f"Bearer {token(reader, 'repository:a:pull')}"
        assert client.get(f"/v2/a/blobs/{digest}").content == b"mine"
    assert ("writer", [scope]) in auth_registry.tokens.requests


PROBE = """
import bz2, ctypes, lzma, sqlite3, ssl, sys
assert ssl.create_default_context().get_ca_certs()
print(sys.prefix)
"""


@pytest.mark.parametrize(("name", "prefix"), [("debian", "/usr"), ("usr-local", "/usr/local")])
def test_base_runs_a_complete_python(
    docker_engine: docker.DockerClient, bases: dict[str, Base], name: str, prefix: str
) -> None:
    output = docker_engine.containers.run(bases[name].tag, ["python3", "-c", PROBE], remove=True, network_disabled=True)
    assert output.decode().split() == [prefix]
    listing = docker_engine.containers.run(bases[name].tag, ["find", "/usr/bin", "-name", "python*"], remove=True)
    assert bool(listing) == (prefix == "/usr")


def test_the_engine_pulls_what_skopeo_pushed(
    docker_engine: docker.DockerClient, registry: Registry, bases: dict[str, Base], base_reference: str
) -> None:
    image = docker_engine.images.pull(base_reference)
    assert image.id == docker_engine.images.get(bases["debian"].tag).id
    docker_engine.images.remove(base_reference)


def test_podman_runs_the_base_and_serves_the_docker_sdk(podman_engine: Podman, base_reference: str) -> None:
    import docker as sdk

    podman_engine("pull", "--quiet", "--tls-verify=false", base_reference)
    client = sdk.DockerClient(base_url=podman_engine.socket, timeout=120)
    try:
        assert client.containers.run(base_reference, ["python3", "-c", "print(6 * 7)"], remove=True) == b"42\n"
    finally:
        client.close()


def test_ssh_lets_its_user_in(ssh_host: Bed, tmp_path: Path) -> None:
    assert ssh_host.ssh("id -un; command -v sbatch || echo none").split() == ["alice", "none"]
    assert ssh_host.root("id -un").split() == ["root"]
    stranger = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    with pytest.raises(RuntimeError, match="Permission denied"):
        dataclasses.replace(ssh_host, key=stranger).ssh("true")


def test_ssh_takes_the_password_both_ways(ssh_host: Bed) -> None:
    def log_in(password: str, method: str) -> None:
        with contextlib.closing(paramiko.Transport((ssh_host.host, ssh_host.port))) as transport:
            transport.start_client(timeout=30)
            if method == "password":
                transport.auth_password(ssh_host.user, password, fallback=False)
            else:
                transport.auth_interactive(ssh_host.user, lambda title, text, prompts: [password for _ in prompts])
            assert transport.is_authenticated()

    for method in ("password", "keyboard-interactive"):
        log_in(ssh_host.password, method)
        with pytest.raises(paramiko.AuthenticationException):
            log_in("wrong", method)


def test_slurm_runs_and_refuses(slurm_cluster: Bed) -> None:
    job = "--wrap 'srun sh -c \"echo \\$SLURMD_NODENAME\"'"
    output = slurm_cluster.ssh(f"cd; timeout 120 sbatch --parsable --wait -N2 -o two.out {job} && sort two.out")
    number, *nodes = output.split()
    assert [node.rpartition("-")[2] for node in nodes] == ["n1", "n2"]
    assert slurm_cluster.ssh(f"sacct -n -P -X -j {number} -o state").split() == ["COMPLETED"]
    with pytest.raises(RuntimeError, match="Invalid account"):
        slurm_cluster.ssh("sbatch --account=nope --wrap true")


def test_slurm_ends_a_job_over_its_memory(slurm_cluster: Bed) -> None:
    greedy = "python3 -c 'x = bytearray(400 * 1024 * 1024); import time; time.sleep(30)'"
    output = slurm_cluster.ssh(f'cd; timeout 120 sbatch --parsable --wait --mem=50 --wrap "{greedy}" || true')
    record = slurm_cluster.ssh(f"scontrol show job {output.split()[0]} --oneliner")
    assert "JobState=OUT_OF_MEMORY" in record


def test_apptainer_runs_in_a_slurm_job(slurm_cluster: Bed, bridge_registry: Registry, base_reference: str) -> None:
    reference = base_reference.replace(base_reference.partition("/")[0], bridge_registry.host)
    slurm_cluster.ssh(f"apptainer -q pull --force --no-https base.sif docker://{reference}")
    job = "apptainer -q exec base.sif python3 -c 'import os, sys; print(sys.prefix, os.environ[\"SLURM_JOB_ID\"])'"
    slurm_cluster.ssh(f"cat >job.sh <<'END'\n#!/bin/sh\n{job}\nEND")
    output = slurm_cluster.ssh("timeout 120 sbatch --parsable --wait -o sif.out job.sh && cat sif.out")
    number, prefix, inside = output.split()
    assert (prefix, inside) == ("/usr", number)


def test_sge_runs_a_job(sge_cluster: Bed) -> None:
    submit = "timeout 120 qsub -sync y -b y -j y -cwd -o where.out hostname >/dev/null"
    assert sge_cluster.ssh(f"cd; . /etc/profile; {submit} && cat where.out") == sge_cluster.root("hostname")
