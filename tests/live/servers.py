"""Real servers for the live tests, each started by the test process that needs it and gone with it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import docker

IMAGES: Final = Path(__file__).parents[2] / "images"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clustrix-ci"
SOCKET: Final = Path("/var/run/docker.sock")
BASE_PYTHON: Final = "3.11"
REMEDY: Final = "on Debian, `bash .ci/run packages engine images` as root installs and starts it"


# --- what is there, and what happens when it is not -----------------------------------------------


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


def _docker_command() -> str | None:
    here = None if SOCKET.is_socket() else f"its engine is not at {SOCKET}"
    return _engine() or _program("docker") or here


def _image_builder() -> str | None:
    return _engine() or _program("mmdebstrap") or (None if os.geteuid() == 0 else "mmdebstrap needs root")


def _bases() -> str | None:
    """Say what keeps this Python's functions out of the base images: Debian 12's Python, or no way to make them."""
    here = ".".join(map(str, sys.version_info[:2]))
    other = None if here == BASE_PYTHON else f"the base images have Python {BASE_PYTHON}, and this is {here}"
    return other or _image_builder() or _program("skopeo")


def mounting() -> list[str]:
    """Begin a command that may mount file systems which nobody else sees."""
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def _mount() -> str | None:
    if (missing := _program("unshare")) is not None:
        return missing
    done = subprocess.run(
        [*mounting(), "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, check=False
    )
    return f"no file system can be mounted here: {done.stderr.strip()}" if done.returncode else None


def _kubernetes() -> str | None:
    from . import cluster

    return cluster.programs()


NEEDS: Final[dict[str, Callable[[], str | None]]] = {
    "engine": _engine,
    "docker command": _docker_command,
    "registry": lambda: _program("docker-registry"),
    "skopeo": lambda: _program("skopeo"),
    "podman": lambda: _program("podman"),
    "bases": _bases,
    "testbed": _image_builder,
    "mount": _mount,
    "kubernetes": _kubernetes,
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


# --- processes ------------------------------------------------------------------------------------


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


# --- registries -----------------------------------------------------------------------------------


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
def registry(
    directory: Path, *, address: str = "127.0.0.1", storage: Path | None = None, auth: str = ""
) -> Iterator[Registry]:
    """Start a registry on a free port of ``address``; ``auth`` is the YAML of its auth section."""
    need("registry")
    directory.mkdir(parents=True, exist_ok=True)
    storage = storage or directory / "storage"
    configuration, log = directory / "registry.yml", directory / "registry.log"
    configuration.write_text(CONFIGURATION.format(storage=storage, address=f"{address}:0") + auth)
    with process(["docker-registry", "serve", str(configuration)], log) as server:
        port = wait_for(rf"listening on {re.escape(address)}:(\d+)", log, server)[1]
        yield Registry(f"{address}:{port}", storage, log)


# --- engines and images ---------------------------------------------------------------------------


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
    environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}
    # It takes 50 characters of run root and a socket's path has 107 at most, and pytest's directories are deep.
    with tempfile.TemporaryDirectory(prefix="podman-") as short:
        argv = ["podman", "--root", str(directory / "root"), "--runroot", f"{short}/run"]
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
