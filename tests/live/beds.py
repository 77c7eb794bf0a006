"""The HPC test bed: a real log-in node in a container, with a scheduler or bare.

``python -m tests.live.beds slurm`` (or another scheduler, or ``login``) starts one for people, until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .servers import IMAGES, docker_client, need, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import docker

# Its image cannot be pulled everywhere; what is started here is removed here.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

# In place of --privileged, which fails where the machine itself lacks CAP_SYS_RESOURCE. Apptainer needs user
# namespaces and /dev/fuse (the bed unmasks its /proc itself); SLURM needs writable cgroups to enforce memory.
BED_OPTIONS: Final[dict[str, Any]] = {
    "cap_add": ["ALL"],
    "cap_drop": ["SYS_RESOURCE"],
    "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
    "devices": ["/dev/fuse"],
    "device_cgroup_rules": ["b 7:* rwm", "c 10:237 rwm"],
    "cgroupns": "host",
    "volumes": [("/sys/fs/cgroup", "/sys/fs/cgroup", "rw")],
}
OWNER: Final = "clustrix.testbed.owner"


@dataclasses.dataclass(frozen=True, slots=True)
class Bed:
    """A log-in node: who may log in and how, and a way in as root for tests that break things."""

    host: str
    port: int
    user: str
    password: str
    key: Path
    known_hosts: Path
    container: Any

    def ssh(self, command: str) -> str:
        """Run a command as the user through the system's ssh; RuntimeError when it fails."""
        strict = ["-oStrictHostKeyChecking=yes", f"-oUserKnownHostsFile={self.known_hosts}"]
        login = ["-F", "none", "-i", str(self.key), "-oIdentitiesOnly=yes", "-oBatchMode=yes", "-p", str(self.port)]
        return run(["ssh", *login, *strict, f"{self.user}@{self.host}", command], stdin=subprocess.DEVNULL)

    def root(self, command: str) -> str:
        """Run a shell command as root inside; RuntimeError when it fails."""
        code, output = self.container.exec_run(["/bin/sh", "-c", command])
        if code:
            raise RuntimeError(f"{command!r} ended with {code}:\n{output.decode(errors='replace')}")
        return str(output.decode())


def _sweep(client: docker.DockerClient) -> None:
    """Remove beds whose test process on this machine was killed before it could."""
    for container in client.containers.list(all=True, filters={"label": OWNER}):
        host, _, pid = container.labels[OWNER].rpartition(":")
        if host == socket.gethostname() and not Path(f"/proc/{pid}").exists():
            container.stop(timeout=20)
            container.remove(force=True)


@contextlib.contextmanager
def bed(role: str, directory: Path, *, shared: Sequence[Path] = ()) -> Iterator[Bed]:
    """Start the HPC test bed as a scheduler or as ``login``; ready when jobs can be submitted.

    ``shared`` are files and directories of this machine that the bed has at the same place.
    """
    need("testbed")
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    image = run([str(IMAGES / "testbed" / "build"), "hpc"]).strip()
    with contextlib.closing(docker_client()) as client:
        _sweep(client)
    directory.mkdir(parents=True, exist_ok=True)
    key, known_hosts, password = directory / "id_ed25519", directory / "known_hosts", secrets.token_hex(8)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    name = f"{role}-{secrets.token_hex(3)}"
    owner = {OWNER: f"{socket.gethostname()}:{os.getpid()}"}
    container = DockerContainer(image, hostname=name, labels=owner, **BED_OPTIONS)
    container.with_command(role).with_env("BED_PASSWORD", password)
    container.with_env("BED_AUTHORIZED_KEY", key.with_suffix(".pub").read_text().strip())
    for place in shared:
        container.with_volume_mapping(place, str(place), "rw")
    container.ports["22/tcp"] = ("127.0.0.1", None)
    container.waiting_for(LogMessageWaitStrategy("bed ready").with_startup_timeout(120).with_poll_interval(0.1))
    with container:
        try:
            port = int(container.get_exposed_port(22))
            inside = container.get_wrapped_container()
            host_key = inside.exec_run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).output.decode()
            known_hosts.write_text(f"[127.0.0.1]:{port} {host_key}")
            yield Bed("127.0.0.1", port, "alice", password, key, known_hosts, inside)
        finally:
            container.get_wrapped_container().stop(timeout=20)  # it removes its cgroups; killed, it would leave them


def main(role: str) -> None:
    """Start one bed and wait for Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as directory, bed(role, Path(directory)) as node:
        print(f"ssh -i {node.key} -o UserKnownHostsFile={node.known_hosts} -p {node.port} {node.user}@{node.host}")
        print(f"password: {node.password}; as root: docker exec -it {node.container.short_id} bash", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
