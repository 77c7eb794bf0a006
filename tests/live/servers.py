"""Real servers for the live tests, each started by the test process that needs it and gone with it.

``python tests/live/servers.py slurm`` (or ``sge``, ``login``, ``registry``) starts one for people, until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

# Its image cannot be pulled everywhere; the fixtures remove what they start.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

IMAGES: Final = Path(__file__).parents[2] / "images"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clustrix-ci"
REMEDY: Final = "on Debian, `bash .ci/run packages engine images` as root installs and starts it"


# --- what is there, and what happens when it is not --------------------------------------------------------------------


def _program(name: str) -> str | None:
    return None if shutil.which(name) else f"there is no program {name}"


def _engine() -> str | None:
    from docker.errors import DockerException

    try:
        with contextlib.closing(docker_client()) as client:
            client.ping()
    except DockerException as error:
        return f"no Docker engine answers ({error})"
    return None


def _image_builder() -> str | None:
    return _engine() or _program("mmdebstrap") or (None if os.geteuid() == 0 else "mmdebstrap needs root")


NEEDS: Final[dict[str, Callable[[], str | None]]] = {
    "engine": _engine,
    "registry": lambda: _program("docker-registry"),
    "skopeo": lambda: _program("skopeo"),
    "podman": lambda: _program("podman"),
    "bases": lambda: _image_builder() or _program("skopeo"),
    "testbed": _image_builder,
}


def need(server: str) -> None:
    """Skip the test (CLUSTRIX_LIVE=auto, the default) or fail it (``require``) where the server cannot start."""
    reason = NEEDS[server]()
    if reason is not None:
        _absent(f"{server}: {reason}; {REMEDY}")


def _absent(message: str) -> NoReturn:
    import pytest

    live = os.environ.get("CLUSTRIX_LIVE", "auto")
    if live == "require":
        pytest.fail(message, pytrace=False)
    if live == "auto":
        pytest.skip(message)
    pytest.fail(f"CLUSTRIX_LIVE={live}: it is auto or require", pytrace=False)


# --- processes ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(argv: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server of this machine; it ends with the block, and with this process should that be killed."""
    if shutil.which("setpriv"):
        argv = ["setpriv", "--pdeathsig", "TERM", "--", *argv]
    with log.open("wb") as output, subprocess.Popen(argv, stdout=output, stderr=output, **options) as server:
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(pattern: str, log: Path, server: subprocess.Popen[bytes], seconds: float = 60) -> re.Match[str]:
    """Return the first match in the log; RuntimeError with the log when the server ends or says nothing of the kind."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended = server.poll() is not None
        if match := re.search(pattern, log.read_text(errors="replace")):
            return match
        if ended:
            break
        time.sleep(0.02)
    raise RuntimeError(f"{server.args} did not come up:\n{log.read_text(errors='replace')[-4000:]}")


# --- registries --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Registry:
    """Debian's docker-registry, spoken to over plain HTTP at ``host`` (``127.0.0.1:41234``)."""

    host: str
    storage: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def load(self, layout: Path, name: str) -> str:
        """Copy an OCI layout in with skopeo, a client that is not ours, and return its reference."""
        need("skopeo")
        reference = f"{self.host}/{name}"
        skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
        run([*skopeo, f"oci:{layout}:latest", f"docker://{reference}"])
        return reference


CONFIGURATION: Final = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http: {{addr: "{address}"}}
"""


@contextlib.contextmanager
def registry(directory: Path, *, address: str = "127.0.0.1", storage: Path | None = None, auth: str = "") -> Iterator[Registry]:
    """Start a registry on a free port of ``address``; ``auth`` is the YAML of its auth section."""
    need("registry")
    directory.mkdir(parents=True, exist_ok=True)
    storage = storage or directory / "storage"
    configuration, log = directory / "registry.yml", directory / "registry.log"
    configuration.write_text(CONFIGURATION.format(storage=storage, address=f"{address}:0") + auth)
    with process(["docker-registry", "serve", str(configuration)], log) as server:
        port = wait_for(rf"listening on {re.escape(address)}:(\d+)", log, server)[1]
        yield Registry(f"{address}:{port}", storage, log)


# --- engines and images ------------------------------------------------------------------------------------------------


def docker_client() -> docker.DockerClient:
    import docker

    return docker.from_env(timeout=120)


def run(argv: list[str], **options: Any) -> str:
    """Return what a program prints; RuntimeError with its error output when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(argv)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """One of the base images of ``images/base``: an OCI layout (tag ``latest``) and a tag of the local engine."""

    layout: Path
    tag: str


def bases() -> dict[str, Base]:
    """Build the base images, or find them built: ``debian`` and ``usr-local``."""
    need("bases")
    lines = run([str(IMAGES / "base" / "build"), str(CACHE / "images" / "base")]).splitlines()
    return {name: Base(Path(layout), tag) for name, layout, tag in map(str.split, lines)}


@dataclasses.dataclass(frozen=True, slots=True)
class Podman:
    """Podman with storage of its own: ``argv`` runs it (with ``env``), ``socket`` is what DOCKER_HOST takes."""

    argv: list[str]
    env: dict[str, str]
    socket: str

    def __call__(self, *arguments: str) -> str:
        return run([*self.argv, *arguments], env=self.env)


@contextlib.contextmanager
def podman(directory: Path) -> Iterator[Podman]:
    """Serve Podman's API on a socket in ``directory``."""
    need("podman")
    configuration, log = directory / "containers.conf", directory / "podman.log"
    # Podman asks for more than the limits it has; where CAP_SYS_RESOURCE is missing that is refused.
    configuration.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n')
    argv = ["podman", "--root", str(directory / "root"), "--runroot", str(directory / "run")]
    environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}
    # A socket's path has 107 bytes at most, and pytest's directories are deep.
    with tempfile.TemporaryDirectory(prefix="podman-") as short:
        engine = Podman(argv, environment, f"unix://{short}/socket")
        with process([*argv, "system", "service", "--time=0", engine.socket], log, env=environment) as server:
            deadline = time.monotonic() + 60
            while not Path(short, "socket").exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"podman did not come up:\n{log.read_text()[-4000:]}")
                time.sleep(0.02)
            yield engine
            engine("rm", "--all", "--force")
            engine("rmi", "--all", "--force")


# --- the HPC test bed --------------------------------------------------------------------------------------------------

# In place of --privileged, which fails where the machine itself lacks CAP_SYS_RESOURCE. Apptainer needs user namespaces and
# /dev/fuse (the bed unmasks its /proc itself); SLURM needs writable cgroups to enforce memory.
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
        options = ["-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes"]
        options += ["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-F", "none", "-p", str(self.port)]
        return run(["ssh", *options, f"{self.user}@{self.host}", command], stdin=subprocess.DEVNULL)

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
            container.remove(force=True)


@contextlib.contextmanager
def bed(role: str, directory: Path) -> Iterator[Bed]:
    """Start the HPC test bed as ``slurm``, ``sge`` or ``login``; ready when jobs can be submitted."""
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
    container = DockerContainer(image, hostname=name, labels={OWNER: f"{socket.gethostname()}:{os.getpid()}"}, **BED_OPTIONS)
    container.with_command(role).with_env("BED_PASSWORD", password)
    container.with_env("BED_AUTHORIZED_KEY", key.with_suffix(".pub").read_text().strip())
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
    """Start one server and wait for Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        if role == "registry":
            print(stack.enter_context(registry(Path(directory))).url)
        else:
            node = stack.enter_context(bed(role, Path(directory)))
            print(f"ssh -i {node.key} -o UserKnownHostsFile={node.known_hosts} -p {node.port} {node.user}@{node.host}")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
