"""A host over SSH that has Docker: the image is built here, brought to its engine, and jobs run in containers there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import beds, servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker

    from .beds import Bed

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

SCRIPT = """
import os, time
import six
from clustrix import JobCancelled, OutOfMemory, cluster

@cluster(target="box", cores=1)
def f(number):
    if number < 0:
        raise LookupError(f"no {number}", six.__version__)
    print("computing", number, flush=True)
    return number * 10, os.getuid(), os.path.exists("/usr/local/sbin/bed")

@cluster(target="box", memory="64MB")
def greedy():
    return len(bytearray(1 << 28))

@cluster(target="box")
def rest():
    print("here", flush=True)
    time.sleep(1000)

if __name__ == "__main__":
    print(f(4))
    print([value for value, *_ in f.map([1, 2, 3])])
    for call in (lambda: f(-1), greedy):
        try:
            call()
        except (LookupError, OutOfMemory) as error:
            print(type(error).__name__)
    job = rest.submit()
    next(job.logs(follow=True))
    job.cancel()
    try:
        job.result(60)
    except JobCancelled as error:
        print(type(error).__name__)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory that this machine, its engine and the bed have at the same place, and that is the bed's user's."""
    place = tmp_path / "root"
    place.mkdir()
    os.chown(place, 1000, 1000)
    return place


@pytest.fixture
def box(docker_engine: docker.DockerClient, root: Path, tmp_path: Path) -> Iterator[Bed]:
    """A log-in node with a docker command whose engine is this machine's."""
    servers.need("docker command")
    shared = [root, servers.SOCKET, Path(str(shutil.which("docker")))]
    with beds.bed("login", tmp_path / "bed", shared=shared) as bed:
        bed.root(f"groupadd -o -g {servers.SOCKET.stat().st_gid} engine && usermod -aG engine {bed.user}")
        yield bed


@pytest.mark.proves("success", "docker over ssh")
@pytest.mark.proves("typed failure", "docker over ssh")
@pytest.mark.proves("memory limit", "docker over ssh")
@pytest.mark.proves("cancel running", "docker over ssh")
def test_jobs_run_in_the_containers_of_another_host(
    box: Bed, root: Path, docker_engine: docker.DockerClient, base_layout: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / ".git").mkdir()
    (project / "fit.py").write_text(SCRIPT)
    (project / "requirements.txt").write_text("six==1.16.0\n")  # no other test's, so that no engine has the image
    (project / "ssh_config").write_text(
        f"Host box\n  HostName {box.host}\n  Port {box.port}\n  User {box.user}\n  IdentityFile {box.key}\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {box.known_hosts}\n"
    )
    (project / "clustrix.yml").write_text(
        "environment: requirements.txt\ntargets:\n  box:\n    backend: ssh\n    runtime: docker\n    host: box\n"
        f"    root: {root}\n    ssh_config: {project}/ssh_config\n    base: oci:{base_layout}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "clustrix", "run", "fit.py"],
        cwd=project,
        env={**os.environ, "CLUSTRIX_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines() == [
        "computing 4",
        "(40, 1000, False)",
        "[10, 20, 30]",
        "LookupError",
        "OutOfMemory",
        "JobCancelled",
    ]
    jobs = [job.name for job in (root / "jobs").iterdir()]
    deadline = time.monotonic() + 60  # the last one is removed a second after its job
    while any(f"-{job}-" in container.name for container in docker_engine.containers.list(all=True) for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.2)
