"""Jobs in containers of Docker and Podman on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clustrix import errors
from clustrix.backends import wrapper
from clustrix.model.image import BuiltImage
from clustrix.model.job import EndKind, JobId, JobSpec, new_ulid
from clustrix.model.paths import SitePaths
from clustrix.model.progress import SILENT
from clustrix.model.record import load_end
from clustrix.model.resources import Mount
from clustrix.runtimes.base import Artifact
from clustrix.runtimes.docker import Docker, Podman
from clustrix.schedulers.process import Process
from clustrix.transports.local import Local
from tests.conformance.backends import LONG, Backends
from tests.conformance.desk import Desk
from tests.conformance.runtimes import Room, Runtimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import docker

    from clustrix.runtimes.base import Runtime

    from . import servers

pytestmark = pytest.mark.live


def image_of(config_digest: str) -> Artifact:
    return Artifact(image=BuiltImage(config_digest=config_digest, manifest_digest="", platform="linux/amd64"))


@pytest.fixture
def docker_room(docker_engine: docker.DockerClient, bases: dict[str, servers.Base], tmp_path: Path) -> Room:
    artifact = image_of(docker_engine.images.get(bases["debian"].tag).id)
    return Room(Docker(), Local(), SitePaths(str(tmp_path / "a root")), artifact)


@pytest.fixture
def podman_room(
    podman_engine: servers.Podman,
    docker_engine: docker.DockerClient,
    bases: dict[str, servers.Base],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Room]:
    base = docker_engine.images.get(bases["debian"].tag)
    if base.id not in podman_engine("images", "--quiet", "--no-trunc").split():
        archive = tmp_path / "base.tar"
        with archive.open("wb") as file:
            file.writelines(base.save())
        podman_engine("load", "--quiet", "--input", str(archive))
    # The command as an account would find it, with the storage of this test.
    command = tmp_path / "bin" / "podman"
    command.parent.mkdir()
    real = shlex.join(["/usr/bin/env", f"CONTAINERS_CONF={podman_engine.env['CONTAINERS_CONF']}", "/usr/bin/podman"])
    command.write_text(f'#!/bin/sh\nexec {real} {shlex.join(podman_engine.argv[1:])} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    room = Room(Podman(), Local(), SitePaths(str(tmp_path / "a root")), image_of(base.id))
    yield room
    wait_until(lambda: not containers(room.runtime).strip())


def desk_of(room: Room, cache: Path, **options: object) -> Desk:
    placed = room.ensure()
    root = Mount(room.site.root, room.site.root)
    asked = {"mounts": (root,), "variables": {}, "gpus": 0, "memory_bytes": None, "cores": 1, **options}

    def wrap(argv: Sequence[str]) -> Sequence[str]:
        return room.runtime.wrap(placed, argv, **asked)  # type: ignore[arg-type]

    return Desk(Process(), room.transport, room.site.root, cache, interpreter=(placed.interpreter,), wrap=wrap)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.mark.column("docker")
class TestDockerRuntime(Runtimes):
    @pytest.fixture
    def room(self, docker_room: Room) -> Room:
        return docker_room


@pytest.mark.column("podman")
class TestPodmanRuntime(Runtimes):
    @pytest.fixture
    def room(self, podman_room: Room) -> Room:
        return podman_room


@pytest.mark.column("docker")
class TestDockerJobs(Backends):
    @pytest.fixture
    def desk(self, docker_room: Room, cache: Path) -> Iterator[Desk]:
        Path(docker_room.site.root).mkdir()
        desk = desk_of(docker_room, cache)
        yield desk
        desk.clear()


@pytest.mark.column("podman")
class TestPodmanJobs:
    """What of the suite may differ between two engines that are driven by the same command line."""

    @pytest.fixture
    def desk(self, podman_room: Room, cache: Path) -> Iterator[Desk]:
        Path(podman_room.site.root).mkdir()
        desk = desk_of(podman_room, cache)
        yield desk
        desk.clear()

    test_value = Backends.test_value
    test_exception = Backends.test_exception_has_its_own_type_and_says_where_it_was_raised
    test_other_ends = Backends.test_other_ends
    test_output = Backends.test_output_shows_while_the_job_runs
    test_cancel = Backends.test_cancel_ends_every_process
    test_hostile_names = Backends.test_hostile_names
    test_variables = Backends.test_variables_and_the_working_directory


@pytest.fixture(params=["docker", "podman"])
def room(request: pytest.FixtureRequest) -> Room:
    found: Room = request.getfixturevalue(f"{request.param}_room")
    Path(found.site.root).mkdir()
    return found


@pytest.mark.proves("mounts at another path, or read-only", "docker", "podman")
def test_only_what_was_declared_is_seen(room: Room, tmp_path: Path) -> None:
    mount = Mount(str(tmp_path / "a root"), "/input", read_only=True)
    (tmp_path / "a root" / "file").write_text("content")
    code = (
        "import os, sys\n"
        "print(open('/input/file').read(), os.path.exists(sys.argv[1]), os.environ['HOME'])\n"
        "for place in ('/input/new', '/etc/new', '/usr/new'):\n"
        "    try: open(place, 'w')\n"
        "    except OSError as error: print(error.strerror)\n"
        "open('/tmp/new', 'w').close()"
    )
    done = room.python(code, str(tmp_path), mounts=(mount,))
    assert done.stdout.decode().splitlines() == ["content False /tmp", *["Read-only file system"] * 3], done.stderr


def test_nothing_belongs_to_root(room: Room, tmp_path: Path) -> None:
    """Whoever runs the tests: a container's user is the account, not root."""
    placed = room.ensure()
    assert dict(placed.options)["user"] == f"{os.getuid()}:{os.getgid()}"
    somebody = dataclasses.replace(placed, options=(*placed.options, ("user", "12345:12346")))
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    mount = Mount(str(directory), str(directory))
    done = room.python("import sys; open(sys.argv[1] + '/file', 'w')", str(directory), placed=somebody, mounts=(mount,))
    assert done.returncode == 0, done.stderr
    found = (directory / "file").stat()
    assert (found.st_uid, found.st_gid) == (12345, 12346)


@pytest.mark.proves("memory limit", "docker", "podman")
def test_memory_is_enforced_and_its_end_has_a_name(room: Room, cache: Path) -> None:
    desk = desk_of(room, cache, memory_bytes=64 << 20)
    with pytest.raises(errors.OutOfMemory, match="memory="):
        desk.call("def fill(): return len(bytearray(200 << 20))").result(LONG)
    # A process that the function started: the function itself fails of it, and lives on.
    source = """
        import subprocess, sys
        def breed():
            subprocess.run([sys.executable, "-c", "bytearray(200 << 20)"], check=True)
    """
    with pytest.raises(errors.OutOfMemory) as caught:
        desk.call(source).result(LONG)
    assert isinstance(caught.value.__cause__, subprocess.CalledProcessError)


@pytest.mark.parametrize(
    ("code", "kind", "signal_number"),
    [
        ("bytearray(200 << 20)", EndKind.OUT_OF_MEMORY, 9),
        # Not the command itself, but a process of its own.
        (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'bytearray(200 << 20)'])",
            EndKind.OUT_OF_MEMORY,
            None,
        ),
        ("import os; os.kill(os.getpid(), 9)", EndKind.SIGNALLED, 9),
    ],
)
def test_the_wrapper_tells_a_kill_for_memory_from_others(
    docker_engine: docker.DockerClient,
    bases: dict[str, servers.Base],
    tmp_path: Path,
    *,
    code: str,
    kind: EndKind,
    signal_number: int | None,
) -> None:
    """In a container that stands for a machine with little memory, and for a job's cgroup."""
    job = JobId("t", new_ulid())
    paths = SitePaths(str(tmp_path)).job(job.ulid)
    for place in (paths.ends, paths.logs, paths.work):
        Path(place).mkdir(parents=True)
    spec = JobSpec(id=job, name="n", items=1, slices=((0, 1),), workers=1, argv=("python3", "-c", code))
    Path(paths.wrapper).write_text(wrapper.text(spec, paths, native_id="0"))
    limits = {"mem_limit": "64m", "memswap_limit": "64m"}
    volumes = {str(tmp_path): {"bind": str(tmp_path), "mode": "rw"}}
    argv = ["-c", f"sh {paths.wrapper} 0; exit 0"]
    docker_engine.containers.run(bases["debian"].tag, argv, entrypoint="sh", volumes=volumes, remove=True, **limits)
    end = load_end(Path(paths.end(0)).read_bytes())
    assert (end.kind, end.signal) == (kind, signal_number)


@pytest.mark.proves("lost job", "docker", "podman")
def test_no_container_outlives_its_task(room: Room, cache: Path) -> None:
    desk = desk_of(room, cache)
    desk.site = dataclasses.replace(desk.site, grace=1.0)
    job = desk.call("import time\ndef rest(): print('here', flush=True); time.sleep(1000)")
    assert next(job.logs(follow=True)) == "here\n"
    name = f"clustrix-{job.id.ulid}-0"
    assert name in containers(room.runtime)
    # Nothing can be written down, nobody can clean up.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # processes come and go
                words = path.read_bytes().split(b"\0")
                ours = job.id.ulid.encode() in b"".join(words) and b"keep" not in words
                if ours and words[0] in {b"sh", b"docker", b"podman"}:
                    os.kill(int(path.parent.name), number)
    with pytest.raises(errors.JobLost):
        job.result(LONG)
    wait_until(lambda: name not in containers(room.runtime))


@pytest.mark.proves("unsatisfiable request", "docker", "podman", refused="UnsupportedResource")
@pytest.mark.proves("image unavailable", "docker", "podman", refused="ImageUnavailable")
def test_what_the_machine_does_not_have_is_refused(room: Room) -> None:
    with pytest.raises(errors.UnsupportedResource, match="cores=4096"):
        room.wrap(["-c", "pass"], cores=4096)
    absent = image_of("sha256:" + "0" * 64)
    with pytest.raises(errors.ImageUnavailable, match="has no image"):
        room.runtime.ensure(absent, room.transport, room.site, progress=SILENT)


def test_an_image_is_pulled_by_digest(
    docker_room: Room,
    docker_engine: docker.DockerClient,
    registry: servers.Registry,
    bases: dict[str, servers.Base],
    tmp_path: Path,
) -> None:
    # An image that nobody has, pushed by the engine and removed from it.
    made = docker_engine.containers.create(bases["usr-local"].tag)
    image = made.commit(f"{registry.host}/pulled", "latest", changes=f"LABEL made-for={tmp_path}")
    made.remove()
    docker_engine.images.push(f"{registry.host}/pulled", "latest")
    image.reload()
    (reference,) = image.attrs["RepoDigests"]
    docker_engine.images.remove(image.id, force=True)
    absent = BuiltImage(config_digest=image.id, manifest_digest="", platform="linux/amd64", reference=reference)
    docker_room.artifact = Artifact(image=absent)
    assert docker_room.ensure().location == image.id
    assert docker_room.python("print(1)").stdout == b"1\n"
    docker_engine.images.remove(image.id, force=True)
    docker_room.artifact = Artifact(image=dataclasses.replace(absent, config_digest="sha256:" + "1" * 64))
    with pytest.raises(errors.ImageUnavailable, match="another image"):
        docker_room.ensure()
    docker_engine.images.remove(image.id, force=True)


@pytest.mark.parametrize(
    ("runtime", "setting", "words"),
    [
        (Docker(), "DOCKER_HOST=tcp://10.0.0.1:2375", "another machine's"),
        (Docker(), "DOCKER_HOST=ssh://me@elsewhere", "another machine's"),
        (Docker(), "DOCKER_HOST=unix:///nowhere/docker.sock", "answers"),
        (Podman(), "CONTAINER_HOST=ssh://me@elsewhere", "another machine's"),
        (Docker(), "PATH=", "has no command docker"),
    ],
)
@pytest.mark.usefixtures("bases")
def test_engines_that_cannot_do_it_are_refused(
    runtime: Runtime, setting: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variable, _, host = setting.partition("=")
    if variable == "PATH":
        # An sh and what it needs, and no engine.
        for command in ("sh", "id"):
            (tmp_path / command).symlink_to(f"/usr/bin/{command}")
        host = str(tmp_path)
    monkeypatch.setenv(variable, host)
    with pytest.raises(errors.RuntimeUnavailable, match=words) as caught:
        runtime.ensure(image_of("sha256:" + "0" * 64), Local(), SitePaths(str(tmp_path)), progress=SILENT)
    assert caught.value.remedy


def containers(runtime: Runtime) -> str:
    name = str(getattr(runtime, "name", ""))
    argv = [name, "ps", "--all", "--format", "{{.Names}}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def wait_until(happened: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)
