"""Bad input, as a stranger meets it: one clear error with its name and remedy, its exit status, nothing half-made left.

Every row of the table is a whole command in a fresh home against real servers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import errors
from clustrix.cli.output import exit_status
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import ImageConfig
from tests.unit.build.bases import DEBIAN, make_base, python
from tests.unit.locking.index import Index
from tests.unit.oci.fake import FakeRegistry
from tests.unit.wheels import make_wheel

from . import proxies, servers
from .stranger import LONG, Said, Stranger, interrupt, said, shop, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.live

ABI = f"cp{sys.version_info[0]}{sys.version_info[1]}"
INTERRUPTED = 130
CALL = """\
import sys, time
from clustrix import cluster

@cluster({options})
def work():
    {body}

print(work())
"""
MODULES = {f"wide/module_{number}.py": "x = [\n" + "    {1: (2, 3)},\n" * 300 + "]\n" for number in range(300)}


@dataclasses.dataclass(frozen=True, slots=True)
class Ground:
    """What a row stands on: a stranger whose index has the wheels ``tiny`` and ``wide``, and servers on demand."""

    stranger: Stranger
    index: Index
    place: Path
    server: Callable[[str], Any]
    stack: contextlib.ExitStack

    def build(self, *arguments: object, **variables: str) -> Said:
        """Build from a uv.lock on the base of the test bed."""
        return self.stranger("build", "--lock", self.stranger.locked("tiny"), *self.base(), *arguments, **variables)

    def base(self) -> tuple[str, str]:
        return "--base", f"oci:{self.server('base_layout')}"

    def call(self, body: str = "return 1", options: str = "", **target: object) -> Said:
        """Run a script with one call."""
        if target:
            self.stranger.configured(**target)
        return self.stranger("run", self.stranger.script(CALL.format(options=options, body=body)))

    def registry(self, answer: Callable[[Any], object], method: str, part: str = "") -> FakeRegistry:
        """Start a registry that answers some requests in a way of its own."""
        found = FakeRegistry()
        self.stack.callback(found.close)
        found.fail(method, part, answer, times=1000)
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    act: Callable[[Ground], Said]
    kind: type[errors.ClustrixError] | None
    words: tuple[str, ...]


ROWS: dict[str, Row] = {}


def row(
    name: str, kind: type[errors.ClustrixError] | None, *words: str
) -> Callable[[Callable[[Ground], Said]], Callable[[Ground], Said]]:
    """Add a row to the table; without a kind it is the command line that is refused."""

    def add(act: Callable[[Ground], Said]) -> Callable[[Ground], Said]:
        ROWS[name] = Row(act, kind, words)
        return act

    return add


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with shop(tmp_path_factory.mktemp("shop"), {"tiny": None, "wide": MODULES}) as index:
        yield index


@pytest.fixture
def ground(index: Index, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ground]:
    stranger = Stranger(tmp_path / "stranger", index)
    with contextlib.ExitStack() as stack:
        yield Ground(stranger, index, tmp_path, request.getfixturevalue, stack)
    stranger.forget_images()


# --- locks ----------------------------------------------------------------------------------------


@row("uv-lock-does-not-parse", errors.LockError, "uv.lock")
def _(it: Ground) -> Said:
    lock = it.stranger.locked("tiny")
    lock.write_text("version = [")
    return it.stranger("build", "--lock", lock, *it.base())


@row("pylock-does-not-parse", errors.LockError, "pylock.toml")
def _(it: Ground) -> Said:
    lock = it.stranger.project / "pylock.toml"
    lock.write_text("lock-version = '1.0'\npackages = 3\n")
    return it.stranger("build", "--lock", lock, *it.base())


@row("requirements-do-not-parse", errors.LockError, "requirements.txt", "tiny ==")
def _(it: Ground) -> Said:
    path = it.stranger.project / "requirements.txt"
    path.write_text("tiny == \n")
    return it.stranger("build", "--requirements", path, *it.base())


@row("script-metadata-does-not-parse", errors.LockError, "job.py")
def _(it: Ground) -> Said:
    return it.stranger("run", it.stranger.script("# /// script\n# dependencies = [\n# ///\n"))


@row("hash-mismatch", errors.HashMismatch, "tiny-1.0-py3-none-any.whl", "nothing of it was kept")
def _(it: Ground) -> Said:
    files = it.place / "files"
    other = it.stack.enter_context(shop(files, {"tiny": None}))
    it.stranger.index = other
    it.stranger.variables["UV_DEFAULT_INDEX"] = other.url
    lock = it.stranger.locked("tiny")
    make_wheel(files, "tiny", "1.0", files={"tiny.py": "evil = True\n"})
    done = it.stranger("build", "--lock", lock, *it.base())
    assert not list(it.stranger.state.rglob("*.whl"))
    return done


@row("no-wheel-for-the-platform", errors.UnsupportedPackage, "onlymac")
def _(it: Ground) -> Said:
    files = it.place / "files"
    it.stack.enter_context(shop(files, {}))
    make_wheel(files, "onlymac", "1.0", tag="cp311-cp311-macosx_11_0_arm64")
    other = it.stack.enter_context(shop(files, {}))
    path = it.stranger.project / "requirements.txt"
    path.write_text("onlymac\n")
    return it.stranger("build", "--requirements", path, *it.base(), UV_DEFAULT_INDEX=other.url)


@row("conda-only-package", errors.UnsupportedPackage, "solver-of-conda", "conda")
def _(it: Ground) -> Said:
    info = it.place / "conda" / "solver_of_conda-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: solver-of-conda\nVersion: 1.0\n")
    (info / "INSTALLER").write_text("conda\n")
    (info / "RECORD").write_text("")
    del it.stranger.variables["UV_DEFAULT_INDEX"]
    return it.stranger("env", "lock", PYTHONPATH=str(info.parent), **REAL_INDEX)


# --- Pythons and bases ----------------------------------------------------------------------------


BARE = {path: what for path, what in DEBIAN.items() if "python" not in path}


@row("base-without-python", errors.BaseImageError, "has no Python", "Use a base with Python")
def _(it: Ground) -> Said:
    base = make_base(it.place / "base", (BARE,))
    return it.stranger("build", "--lock", it.stranger.locked("tiny"), "--base", base)


@row("base-with-another-minor", errors.BaseImageError, "/base has no Python 3.11", "3.12.2", "--base")
def _(it: Ground) -> Said:
    base = make_base(it.place / "base", ({**BARE, "usr/bin/python3.12": python("3.12.2")},))
    return it.stranger("build", "--lock", it.stranger.locked("tiny"), "--base", base)


@row("image-with-another-minor", errors.EnvironmentMismatch, "Python 3.9", "job.py:")
def _(it: Ground) -> Said:
    registry = it.server("registry")
    layout = Layout(it.place / "image")
    make_base(layout.path)
    manifest = layout.manifest(layout.resolve().digest)
    config = ImageConfig.parse(layout.read_blob(manifest.config.digest))
    labels = {"dev.clustrix.python": "3.9", "dev.clustrix.fingerprint": "sha256:" + "0" * 64}
    config = dataclasses.replace(config, settings={**config.settings, "Labels": labels})
    layout.put_blob(config.encode())
    manifest = dataclasses.replace(manifest, config=config.descriptor)
    layout.put_blob(manifest.encode())
    layout.tag("latest", manifest.descriptor)
    reference = registry.load(layout.path, f"old-{os.getpid()}:1")
    target = {"runtime": "docker", "insecure_registry": True}
    return it.call(options=f"image={reference!r}", **target)


def _pretending(it: Ground, code: str) -> Said:
    """Run in an environment whose Python says something else of itself, before anything of ours runs there."""
    files = it.place / "files"
    # A .pth, since some distributions have a sitecustomize of their own that comes first.
    make_wheel(_made(files), "pretence", "1.0", files={"pretence.pth": "import pretence\n", "pretence.py": code})
    other = it.stack.enter_context(shop(files, {}))
    it.stranger.variables["UV_DEFAULT_INDEX"] = other.url
    it.stranger.configured(runtime="venv")
    head = '# /// script\n# dependencies = ["pretence"]\n# ///\n'
    done = it.stranger("submit", "--wait", it.stranger.script(head + "print('ran')\n"))
    assert done.out.startswith("here/")
    assert "ran" not in done.out
    return dataclasses.replace(done, out="")


@row("another-implementation", errors.EnvironmentMismatch, "implementation is pypy, not cpython")
def _(it: Ground) -> Said:
    return _pretending(it, "import sys\nsys.implementation.name = 'pypy'\n")


@row("another-abi", errors.EnvironmentMismatch, f"ABI is {ABI}t, not {ABI}")
def _(it: Ground) -> Said:
    return _pretending(it, "import sys\nsys.abiflags = 't'\n")


# --- registries -----------------------------------------------------------------------------------


@row("registry-denied", errors.RegistryDenied, "team/fit:1", "docker login")
def _(it: Ground) -> Said:
    host = it.server("auth_registry").host
    return it.build("--insecure-registry", "--output", f"{host}/team/fit:1")


@row("registry-unreachable", errors.RegistryError, "127.0.0.1:1", "Connection refused")
def _(it: Ground) -> Said:
    return it.build("--output", "127.0.0.1:1/team/fit:1")


@row("base-absent", errors.ImageUnavailable, "nothing/here:1", "--base")
def _(it: Ground) -> Said:
    host = it.server("registry").host
    lock = it.stranger.locked("tiny")
    return it.stranger("build", "--lock", lock, "--base", f"{host}/nothing/here:1", "--insecure-registry")


@row("plain-http-was-not-said", errors.RegistryError, "plain HTTP", "insecure_registry")
def _(it: Ground) -> Said:
    return it.build("--output", f"{it.server('registry').host}/team/fit:1")


@row("registry-rate-limited", errors.RateLimited, "team/fit:1", "3600 s")
def _(it: Ground) -> Said:
    found = it.registry(lambda request: request.refuse(429, "TOOMANYREQUESTS", Retry_After="3600"), "POST")
    return it.build("--insecure-registry", "--output", f"{found.host}/team/fit:1")


@row("registry-cut-in-mid-upload", errors.RegistryError, "team/cut:1")
def _(it: Ground) -> Said:
    """The line is cut for good; once it is mended the same command sends the rest."""
    registry = it.server("registry")
    address, _, port = registry.host.partition(":")
    line = it.stack.enter_context(proxies.proxy((address, int(port))))
    line.cut_when = lambda direction, data: direction == "up" and line.up > 1 << 20
    host = f"127.0.0.1:{line.port}"
    output = ("--insecure-registry", "--output", f"{host}/team/cut:1")
    failed = it.build(*output)
    line.cut_when = lambda direction, data: False
    again = it.stranger("build", "--lock", it.stranger.project / "uv.lock", *it.base(), *output, "--json")
    assert again.status == 0, again.err
    assert again.json["packed_bytes"] == 0 or again.json["reused_bytes"] > 0
    return failed


# --- the machine ----------------------------------------------------------------------------------


@row("full-disk", errors.DiskFull, "no space")
def _(it: Ground) -> Said:
    servers.need("mount")
    small, lock = it.stranger.state, it.stranger.locked("tiny")
    small.mkdir()
    inside = shlex.join(it.stranger.argv("build", "--lock", lock, *it.base()))
    look = f"find {shlex.quote(str(small))} -name '.partial*' -o -name '.bytecode*'"
    script = f'mount -t tmpfs -o size=12m tmpfs {shlex.quote(str(small))} && {{ {inside}; s=$?; {look}; exit "$s"; }}'
    done = subprocess.run(
        [*servers.mounting(), "sh", "-c", script],
        env=it.stranger.variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@row("engine-down", errors.RuntimeUnavailable, "docker", "Start it")
def _(it: Ground) -> Said:
    it.stranger.variables["DOCKER_HOST"] = f"unix://{it.place}/nowhere.sock"
    base = f"oci:{it.server('base_layout')}"
    it.stranger.configured(runtime="docker", base=base)
    head = '# /// script\n# dependencies = ["tiny"]\n# ///\n'
    return it.stranger("run", it.stranger.script(head + CALL.format(options="", body="return 1")))


@row("engine-down-for-an-output", errors.RuntimeUnavailable, "engine")
def _(it: Ground) -> Said:
    return it.build("--output", "docker:fit", DOCKER_HOST=f"unix://{it.place}/nowhere.sock")


# --- what was typed -------------------------------------------------------------------------------


@row("unknown-command-line-option", None, "--outptu", "--output")
def _(it: Ground) -> Said:
    return it.stranger("build", "--outptu", "oci:x")


@row("unknown-command", None, "'biuld'", "Did you mean 'build'?")
def _(it: Ground) -> Said:
    return it.stranger("biuld")


@row("unknown-option-of-cluster", errors.UnknownOption, "'memroy'", "Did you mean 'memory'?", "job.py:4")
def _(it: Ground) -> Said:
    return it.call(options="memroy='1GB'", runtime="venv")


@row("more-cores-than-there-are", errors.UnsupportedResource, "cores=4096", "at most", "job.py:8")
def _(it: Ground) -> Said:
    return it.call(options="cores=4096", runtime="venv")


@row("unknown-key-of-the-configuration", errors.UnknownOption, "clustrix.yml:1", "'memroy'", "Did you mean 'memory'?")
def _(it: Ground) -> Said:
    (it.stranger.project / "clustrix.yml").write_text("memroy: 1GB\n")
    return it.stranger("config")


@row("unknown-target", errors.UnknownOption, "target 'heer'", "Did you mean 'here'?")
def _(it: Ground) -> Said:
    it.stranger.configured(runtime="venv")
    return it.stranger("run", "--target", "heer", it.stranger.script("print(1)\n"))


@row("unknown-job", errors.UnknownJob, "here/nothing", "clustrix jobs")
def _(it: Ground) -> Said:
    return it.stranger("result", "here/nothing")


@row("unknown-output", errors.BadReference, "'somewhere'", "registry/repository:tag")
def _(it: Ground) -> Said:
    return it.build("--output", "somewhere")


@row("configuration-does-not-parse", errors.ConfigError, "clustrix.yml:3 is no YAML")
def _(it: Ground) -> Said:
    (it.stranger.project / "clustrix.yml").write_text("targets:\n  hpc: [\n")
    return it.stranger("config")


@row("configuration-cannot-be-read", errors.ConfigError, "cannot read", "CLUSTRIX_CONFIG")
def _(it: Ground) -> Said:
    return it.stranger("config", CLUSTRIX_CONFIG=str(it.place / "absent.yml"))


@row("secrets-that-others-can-read", errors.ConfigError, "password", "chmod 600")
def _(it: Ground) -> Said:
    path = it.stranger.project / "clustrix.yml"
    path.write_text("targets: {hpc: {backend: slurm, host: h, password: hush}}\n")
    path.chmod(0o644)
    done = it.stranger("config")
    assert "hush" not in done.err
    return done


REAL_INDEX = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}


@pytest.mark.parametrize("name", ROWS)
def test_bad_input(ground: Ground, name: str) -> None:
    expected = ROWS[name]
    done = expected.act(ground)
    assert "Traceback" not in done.err
    assert done.out == ""
    if expected.kind is None:
        assert done.status == 2, done
        assert done.err.count("Error: ") == 1, done.err
    else:
        assert done.err.count("error[") == 1, done.err
        assert f"error[{expected.kind.__name__}]: " in done.err, done.err
        assert done.status == exit_status(expected.kind.__new__(expected.kind)), done
        assert "\n  " in done.err.partition("error[")[2], f"no remedy: {done.err}"
    for word in expected.words:
        assert word in done.err, done.err
    assert ground.stranger.left_behind() == []


# --- Ctrl-C ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Hold an answer back from the moment that somebody asks until the end of the test."""

    asked: threading.Event = dataclasses.field(default_factory=threading.Event)
    released: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __call__(self, *_: object) -> bool:
        self.asked.set()
        self.released.wait(LONG)
        return True


def _holding(it: Ground, part: str) -> tuple[Held, Index]:
    """Serve the same wheels by an index that never answers what has ``part`` in its path."""
    held, other = Held(), Index(it.index.files)
    it.stack.callback(other.close)
    it.stack.callback(held.released.set)
    answer = other.answer

    def slow(request: Any) -> None:
        if part in request.path:
            held()
        with contextlib.suppress(ConnectionError):  # who asked has gone
            answer(request)

    other.answer = slow  # type: ignore[method-assign]
    it.stranger.index = other
    it.stranger.variables["UV_DEFAULT_INDEX"] = other.url
    return held, other


def _lock(it: Ground) -> tuple[subprocess.Popen[str], Callable[[], object]]:
    held, _ = _holding(it, "/simple/")
    (it.stranger.project / "requirements.txt").write_text("tiny\n")
    return it.stranger.start("build", "--requirements", "requirements.txt", *it.base()), held.asked.is_set


def _fetch(it: Ground) -> tuple[subprocess.Popen[str], Callable[[], object]]:
    # uv wants the beginning of the file when it locks: only what asks for the whole is held.
    _, other = _holding(it, "/nothing/")
    lock = it.stranger.locked("tiny")
    held, answer = Held(), other.answer
    it.stack.callback(held.released.set)

    def slow(request: Any) -> None:
        if "/files/" in request.path:
            request.send_response(200)
            request.send_header("Content-Length", "100000")
            request.end_headers()
            request.wfile.write(b"PK\x03\x04")
            request.wfile.flush()
            held()
            request.close_connection = True
        else:
            answer(request)

    other.answer = slow  # type: ignore[method-assign]
    return it.stranger.start("build", "--lock", lock, *it.base()), held.asked.is_set


def _pack(it: Ground) -> tuple[subprocess.Popen[str], Callable[[], object]]:
    command = it.stranger.start("build", "--lock", it.stranger.locked("wide"), *it.base())
    return command, lambda: list(it.stranger.state.rglob(".bytecode-*"))


def _push(it: Ground) -> tuple[subprocess.Popen[str], Callable[[], object]]:
    held = Held()
    found = it.registry(held, "PATCH")
    it.stack.callback(held.released.set)
    output = ("--insecure-registry", "--output", f"{found.host}/team/fit:1")
    return it.stranger.start("build", "--lock", it.stranger.locked("tiny"), *it.base(), *output), held.asked.is_set


def _run(it: Ground, **target: object) -> tuple[subprocess.Popen[str], Callable[[], object]]:
    it.stranger.configured(**target)
    mark = it.stranger.home / "running"
    body = (
        "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True); "
        "print('running', flush=True); time.sleep(1000)"
    )
    head = '# /// script\n# dependencies = ["tiny"]\n# ///\n'
    script = it.stranger.script(head + CALL.format(options="", body=body))
    with mark.open("w") as file:
        command = it.stranger.start("run", script, stdout=file)
    return command, lambda: "running" in mark.read_text()


STAGES: dict[str, Callable[[Ground], tuple[subprocess.Popen[str], Callable[[], object]]]] = {
    "lock": _lock,
    "fetch": _fetch,
    "pack": _pack,
    "push": _push,
    "run-venv": lambda it: _run(it, runtime="venv"),
    "run-docker": lambda it: _run(it, runtime="docker", base=f"oci:{it.server('base_layout')}"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c(ground: Ground, stage: str) -> None:
    if stage == "run-docker":
        servers.need("engine")
    command, reached = STAGES[stage](ground)
    wait_until(reached, command)
    interrupt(command)
    done = said(command)
    assert done.status == INTERRUPTED, done
    assert "Traceback" not in done.err
    assert done.err.endswith("interrupted\n")
    if stage.startswith("run"):
        assert "is cancelled" in done.err
        (job,) = ground.stranger("jobs", "--json").json
        assert job["state"] == "cancelled"
    assert ground.stranger.left_behind() == []


def test_two_builds_of_one_lock_at_once(ground: Ground) -> None:
    lock = ground.stranger.locked("tiny", "wide")
    argv = ("build", "--lock", lock, *ground.base(), "--output", "oci:out", "--json")
    commands = [ground.stranger.start(*argv) for _ in range(2)]
    first, second = (said(command) for command in commands)
    assert (first.status, second.status) == (0, 0), (first.err, second.err)
    assert first.json["config_digest"] == second.json["config_digest"]
    assert first.json["manifest_digest"] == second.json["manifest_digest"]
    out = Layout(ground.stranger.project / "out")
    assert out.resolve("latest").digest == first.json["manifest_digest"]
    assert ground.stranger.left_behind() == []


def _made(place: Path) -> Path:
    place.mkdir(exist_ok=True)
    return place
