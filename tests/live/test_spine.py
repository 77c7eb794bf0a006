"""What the spine is done by (issue 2): one test for each sentence, through the command line, in a fresh home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clustrix.build import contents
from clustrix.oci.client import Client
from tests.unit.wheels import Venv, make_wheel, uv

from . import servers
from .stranger import Stranger, said, shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker

    from tests.unit.locking.index import Index

pytestmark = pytest.mark.live

SOURCES = Path(__file__).parents[2]
HEAD = '# /// script\n# dependencies = ["tiny"]\n# ///\nimport sys, time\nfrom clustrix import cluster\n\n'
ENVIRONMENT = """
@cluster
def environment():
    import os, tiny
    from clustrix.worker import installed
    return tiny.VERSION, installed.of_environment(), os.path.dirname(tiny.__file__)

print(*environment(), sep="\\n")
"""
TALK = """
@cluster
def talk(flag):
    import os
    print("seen", flush=True)
    while not os.path.exists(flag):
        time.sleep(0.02)
    return "ended"

print(talk(sys.argv[1]))
"""
LOOPS = """
import os
from near import cubes

@cluster(cores=2, parallel=True)
def squares(count):
    found, processes = [], set()
    for i in range(count):
        found.append(i * i)
        processes.add(os.getpid())
    return found, os.getpid() in processes

print(squares(5), cubes(3))
"""
NEAR = """
from clustrix import cluster

@cluster(cores=2, parallel=True)
def cubes(count):
    found = {}
    for i in range(count):
        found[i] = i ** 3
    return found
"""
WORK = """
@cluster(cores=2, memory="1GB", time="30m")
def work():
    held = bytearray(200 * 2**20)
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    return len(held)

print(work.submit().id)
"""
FAMILY = """
@cluster
def breed():
    import subprocess
    idle = "import time; time.sleep(1000)"
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); " + idle
    subprocess.Popen([sys.executable, "-c", idle])
    child = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
    subprocess.run(["sh", "-c", "sleep 1000 & exit"], start_new_session=True, check=True)
    print("ready", flush=True)
    time.sleep(1000)

print(breed.submit().id)
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with shop(tmp_path_factory.mktemp("shop"), {"tiny": None}) as index:
        yield index


@pytest.fixture
def stranger(index: Index, tmp_path: Path) -> Iterator[Stranger]:
    stranger = Stranger(tmp_path / "stranger", index)
    yield stranger
    assert stranger.left_behind() == []
    stranger.forget_images()


def built(stranger: Stranger, base: Path, *output: str) -> dict[str, object]:
    done = stranger("build", "--lock", stranger.locked("tiny"), "--base", f"oci:{base}", "--json", "--output", *output)
    assert done.status == 0, done.err
    assert done.err == ""
    found: dict[str, object] = done.json
    return found


def runtime(stranger: Stranger, name: str, base: Path | None = None) -> None:
    stranger.configured(runtime=name, **({"base": f"oci:{base}"} if base else {}))


def test_a_build_prints_the_digests_twice_the_same(stranger: Stranger, index: Index, base_layout: Path) -> None:
    first = built(stranger, base_layout, "oci:out")
    again = built(stranger, base_layout, "oci:out")
    other = Stranger(stranger.home.parent / "other", index)
    elsewhere = built(other, base_layout, "oci:elsewhere")
    identity = ("config_digest", "manifest_digest", "fingerprint", "lock")
    assert all(str(first[name]).startswith("sha256:") for name in identity)
    assert [first[name] for name in identity] == [again[name] for name in identity]
    assert [first[name] for name in identity] == [elsewhere[name] for name in identity]
    index_json = json.loads((stranger.project / "out" / "index.json").read_bytes())
    assert [entry["digest"] for entry in index_json["manifests"]] == [first["manifest_digest"]]
    smaller = built(stranger, base_layout, "oci:smaller", "--compression", "zstd")
    assert [smaller[name] == first[name] for name in identity] == [True, False, True, True]


def test_an_image_runs_from_a_registry_and_others_accept_it(
    stranger: Stranger,
    base_layout: Path,
    registry: servers.Registry,
    docker_engine: docker.DockerClient,
    podman_engine: servers.Podman,
) -> None:
    servers.need("skopeo")
    name = f"{registry.host}/spine-{os.getpid()}/fit:1"
    made = built(stranger, base_layout, name, "--output", "oci:out", "--insecure-registry")
    code = "import tiny; print(tiny.VERSION)"
    reference = made["outputs"][0]["reference"]  # type: ignore[index]
    try:
        options = ["--rm", "--quiet", "--read-only", "--network=none", "--user=1234:1234"]
        assert servers.run(["docker", "run", *options, reference, "python", "-c", code]) == "1.0\n"
        assert docker_engine.images.get(reference).id == made["config_digest"]
    finally:
        docker_engine.images.remove(reference, force=True)
    inspected = json.loads(servers.run(["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"]))
    assert inspected["Digest"] == made["manifest_digest"]
    assert inspected["Labels"]["dev.clustrix.fingerprint"] == made["fingerprint"]
    image = podman_engine("pull", "--quiet", "--tls-verify=false", name).strip()
    try:
        argv = ["--rm", "--read-only", "--network=none", image, "python", "-c", code]
        assert podman_engine("run", *argv) == "1.0\n"
    finally:
        podman_engine("rmi", "--force", image)


@pytest.mark.proves("other environment", "docker", refused="EnvironmentMismatch")
def test_another_build_of_the_same_version_in_the_image_is_refused(
    stranger: Stranger, base_layout: Path, registry: servers.Registry, docker_engine: docker.DockerClient
) -> None:
    """Somebody puts another wheel of the same version over the one that was locked, and pushes what comes of it."""
    made = built(stranger, base_layout, f"{registry.host}/spine-{os.getpid()}/other:1", "--insecure-registry")
    reference = made["outputs"][0]["reference"]  # type: ignore[index]
    venv = Venv(stranger.project / "venv")
    venv.install(make_wheel(stranger.project, "tiny", "1.0", files={"tiny.py": "VERSION = '1.0'\nBLAS = 'other'\n"}))
    tampered = f"{registry.host}/spine-{os.getpid()}/tampered"
    docker_engine.images.pull(reference)
    container = docker_engine.containers.create(reference)
    try:
        site = "/opt/clustrix/venv/lib/python3.11/site-packages/"
        servers.run(["docker", "cp", "--quiet", f"{venv.site}/.", f"{container.id}:{site}"])
        container.commit(tampered, "1")
        docker_engine.images.push(tampered, "1")
    finally:
        container.remove(force=True)
    try:
        speaker = partial(Client, insecure=(registry.host,))
        inside = {
            name: contents.fingerprints(name, "x86_64", client=speaker, cache=stranger.project)["tiny"]
            for name in (reference, f"{tampered}:1")
        }
        assert len({*inside.values()}) == 2  # so `clustrix env diff` tells one from the other, too
        stranger.configured(runtime="docker", insecure_registry=True)
        text = HEAD + ENVIRONMENT.replace("@cluster", f"@cluster(image={tampered + ':1'!r})") + "print('ran')\n"
        done = stranger("run", stranger.script(text))
        assert done.status == 1, done
        assert "error[EnvironmentMismatch]" in done.err
        assert "Traceback" not in done.err
        assert "ran" not in done.out
        good = text.replace(f"{tampered}:1", str(reference))
        done = stranger("run", stranger.script(good))
        assert done.out.endswith("ran\n"), done.err
    finally:
        for name in (f"{tampered}:1", reference):
            docker_engine.images.remove(name, force=True)


def test_one_altered_file_is_found(tmp_path: Path) -> None:
    """Somebody edits one file of an installed package; its RECORD, and so the quick comparison, does not see it."""
    stranger = Stranger(tmp_path / "stranger")
    venv = tmp_path / "venv"
    uv("venv", "--quiet", "--python", sys.executable, str(venv))
    # Files of its own: others may have altered those of a shared cache.
    uv("pip", "install", "--quiet", "--no-cache", "--python", str(venv / "bin" / "python"), str(SOURCES))

    def diff(*options: str) -> subprocess.CompletedProcess[str]:
        argv = [str(venv / "bin" / "clustrix"), "env", "diff", *options, "--json"]
        place = {"cwd": stranger.project, "env": stranger.variables}
        return subprocess.run(argv, capture_output=True, text=True, check=False, **place)  # type: ignore[call-overload]

    clean = diff("--deep")
    assert clean.returncode == 0, clean.stderr
    assert json.loads(clean.stdout)["differences"] == []
    (victim,) = venv.glob("lib/python*/site-packages/mdurl/_parse.py")
    victim.write_text(victim.read_text() + "# patched in place\n")
    assert diff().returncode == 0
    altered = diff("--deep")
    assert altered.returncode == 1, altered.stderr
    (found,) = json.loads(altered.stdout)["differences"]
    assert found["package"] == "mdurl"
    assert found["difference"].startswith("changed: ")
    assert found["difference"].endswith("mdurl/_parse.py")
    assert stranger.left_behind() == []


def test_a_script_captures_what_it_asked_for_and_nothing_of_ours(stranger: Stranger) -> None:
    """clustrix lies beside the environment of the script that it runs, and is no part of it."""
    runtime(stranger, "venv")
    locks = []
    for options in ("", '(environment="interpreter")'):
        script = stranger.script(HEAD + ENVIRONMENT.replace("@cluster", f"@cluster{options}"))
        done = stranger("run", script)
        assert done.status == 0, done.err
        job = stranger("jobs", "--json").json[0]["id"]
        locks.append(stranger("status", job, "--json").json["lock"])
    assert locks[0] == locks[1]


@pytest.mark.parametrize("name", ["venv", "docker"])
def test_loops_are_shared_out_in_a_job(stranger: Stranger, request: pytest.FixtureRequest, name: str) -> None:
    if name == "docker":
        servers.need("engine")
    runtime(stranger, name, request.getfixturevalue("base_layout") if name == "docker" else None)
    stranger.script(NEAR, "near.py")
    done = stranger("run", stranger.script(HEAD + LOOPS))
    assert (done.status, done.out) == (0, "([0, 1, 4, 9, 16], False) {0: 0, 1: 1, 2: 8}\n"), done.err


@pytest.mark.proves("live log line", "local venv", "docker")
@pytest.mark.parametrize("name", ["venv", "docker"])
def test_a_blocking_call_shows_a_line_while_the_job_runs(
    stranger: Stranger, request: pytest.FixtureRequest, name: str
) -> None:
    if name == "docker":
        servers.need("engine")
    runtime(stranger, name, request.getfixturevalue("base_layout") if name == "docker" else None)
    flag = stranger.project / "flag"
    text = HEAD + (
        TALK if name == "venv" else TALK.replace("@cluster", f"@cluster(mounts=[{str(stranger.project)!r}])")
    )
    with stranger.start("run", stranger.script(text), flag) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "seen\n"
        assert command.poll() is None
        (job,) = stranger("jobs", "--json").json
        assert job["state"] == "running"
        flag.touch()
        assert said(command).out == "ended\n"


@pytest.mark.proves("cancel running", "local venv", "docker")
@pytest.mark.proves("whole script as one job", "local venv", "docker")
@pytest.mark.parametrize("name", ["venv", "docker"])
def test_cancel_leaves_no_descendant(stranger: Stranger, request: pytest.FixtureRequest, name: str) -> None:
    if name == "docker":
        servers.need("engine")
    runtime(stranger, name, request.getfixturevalue("base_layout") if name == "docker" else None)
    submitted = stranger("run", stranger.script(HEAD + FAMILY))
    assert submitted.status == 0, submitted.err
    job = submitted.out.strip()
    with stranger.start("logs", "-f", job) as logs:
        assert logs.stdout is not None
        assert logs.stdout.readline() == "ready\n"
        if name == "venv":
            assert len(stranger.processes(but=(logs.pid,))) >= 4
        else:
            assert stranger.containers()
        cancelled = stranger("cancel", job)
        assert cancelled.out == f"{job} is cancelled\n", cancelled.err
        assert said(logs).status == 0
    if name == "venv":
        assert stranger.processes() == {}
    assert stranger.left_behind() == []
    assert stranger("status", job, "--json").json["state"] == "cancelled"
    result = stranger("result", job)
    assert result.status == 1
    assert "error[JobCancelled]" in result.err


@pytest.mark.proves("reattach from another home", "local venv")
def test_a_job_outlives_its_client_and_is_read_from_another_home(
    stranger: Stranger, index: Index, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    stranger.configured(runtime="venv", root=str(tmp_path / "root"))
    with stranger.start("run", stranger.script(HEAD + TALK), flag) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "seen\n"
        (job,) = stranger("jobs", "--json", "--offline").json
        os.killpg(client.pid, signal.SIGKILL)
    flag.touch()
    other = Stranger(tmp_path / "other", index)
    shutil.copy(stranger.project / "clustrix.yml", other.project)
    found = other("result", job["id"])
    assert (found.status, found.out) == (0, "'ended'\n"), found.err
    assert other("logs", job["id"]).out == "seen\n"
    assert other.left_behind() == []


@pytest.mark.proves("what was used", "local venv")
def test_usage_proposes_a_line_to_paste(stranger: Stranger) -> None:
    runtime(stranger, "venv")
    submitted = stranger("run", stranger.script(HEAD + WORK))
    assert submitted.status == 0, submitted.err
    job = submitted.out.strip()
    assert stranger("result", job).status == 0
    found = stranger("usage", job, "--json").json
    assert found["asked"] == {"cores": 2, "memory_bytes": 2**30, "time_seconds": 1800}
    assert (found["items"], found["measured"], found["open"]) == (1, 1, 0)
    assert 0.5 <= found["used"]["cpu_seconds"] < 5
    assert 200 * 2**20 < found["used"]["memory_bytes"] < 400 * 2**20
    assert found["next"]["cores"] == 1
    assert 250 * 2**20 < found["next"]["memory_bytes"] <= 512 * 2**20
    assert 120 <= found["next"]["time_seconds"] < 1800
    shown = stranger("usage", job.partition("/")[2])
    assert shown.status == 0, shown.err
    assert shown.out.splitlines()[-1] == found["decorator"]
    script = stranger.script(HEAD + found["decorator"] + "\ndef one():\n    return 1\n\nprint(one())\n")
    assert stranger("run", script).out == "1\n"


def test_a_limit_that_nothing_enforces_is_said_and_recorded(stranger: Stranger, base_layout: Path) -> None:
    servers.need("engine")
    source = HEAD + "@cluster(memory='1GB')\ndef f():\n    return 1\n\nprint(f())\n"
    for name, unenforced in (("venv", ["memory"]), ("docker", [])):
        runtime(stranger, name, base_layout if name == "docker" else None)
        done = stranger("run", stranger.script(source))
        assert (done.status, done.out) == (0, "1\n"), done.err
        assert ("memory=1073741824 bytes is not enforced by runtime venv" in done.err) == bool(unenforced)
        (job, *_) = stranger("jobs", "--json").json
        assert stranger("status", job["id"], "--json").json["unenforced"] == unenforced


@pytest.mark.proves("same environment, measured there", "local venv", "docker")
def test_the_fingerprint_is_the_same_in_a_venv_and_in_docker(stranger: Stranger, base_layout: Path) -> None:
    servers.need("engine")
    found, places = [], []
    for name in ("venv", "docker"):
        runtime(stranger, name, base_layout if name == "docker" else None)
        done = stranger("run", stranger.script(HEAD + ENVIRONMENT))
        assert done.status == 0, done.err
        version, fingerprint, place = done.out.split()
        job = stranger("jobs", "--json").json[0]["id"]
        assert stranger("status", job, "--json").json["fingerprint"] == fingerprint
        found.append((version, fingerprint))
        places.append(place)
    assert found[0] == found[1]
    assert places[1] == "/opt/clustrix/venv/lib/python3.11/site-packages"
    assert places[0] != places[1]
