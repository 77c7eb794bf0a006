"""Somebody who has just installed clustrix: a home with nothing in it, a project, and the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.unit.wheels import make_wheel, uv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.unit.locking.index import Index

LONG = 120.0  # seconds; nobody waits as long unless something is broken
_KEPT = {".index.lock", ".origins", ".git", ".gitignore", ".lock"}


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Stranger:
    """Has a home and a project; ``variables`` are set for every command."""

    def __init__(self, place: Path, index: Index | None = None) -> None:
        self.home, self.project = place / "home", place / "project"
        self.scratch = self.home / "tmp"
        self.state = self.home / "state"
        for directory in (self.scratch, self.project):
            directory.mkdir(parents=True)
        (self.project / ".git").mkdir()
        known = ("PATH", "LANG", "SSL_", "DOCKER_HOST", *(() if index else ("UV_", "PIP_")))
        self.variables = {name: value for name, value in os.environ.items() if name.startswith(known)}
        self.variables |= {
            "HOME": str(self.home),
            "CLUSTRIX_HOME": str(self.home / ".clustrix"),
            "CLUSTRIX_STATE_DIR": str(self.state),
            "TMPDIR": str(self.scratch),
        }
        self.index = index
        if index is not None:
            self.variables |= {"UV_DEFAULT_INDEX": index.url, "UV_NO_CONFIG": "1", "PIP_CONFIG_FILE": os.devnull}

    def argv(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "clustrix", *map(str, arguments)]

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Begin a command as a terminal does: in a process group of its own."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        settings = {"cwd": self.project, "env": self.variables, **pipes, **options}
        return subprocess.Popen(self.argv(*arguments), **settings)

    def __call__(self, *arguments: object, **variables: str) -> Said:
        """Run a command to its end."""
        with self.start(*arguments, env={**self.variables, **variables}) as command:
            return said(command)

    def locked(self, *requirements: str, name: str = "fit") -> Path:
        """Make the project one that needs ``requirements``, with its uv.lock."""
        needs = ", ".join(f'"{requirement}"' for requirement in requirements)
        (self.project / "pyproject.toml").write_text(
            f'[project]\nname = "{name}"\nversion = "0"\nrequires-python = ">=3.10"\ndependencies = [{needs}]\n'
        )
        assert self.index is not None
        uv("lock", "--quiet", "--directory", str(self.project), "--default-index", self.index.url, "--no-cache")
        return self.project / "uv.lock"

    def script(self, text: str, name: str = "job.py") -> Path:
        path = self.project / name
        path.write_text(text)
        return path

    def configured(self, **settings: object) -> Path:
        """Give the project one target, ``here``."""
        path = self.project / "clustrix.yml"
        path.write_text(json.dumps({"targets": {"here": settings}}))
        return path

    def left_behind(self) -> list[str]:
        """Name what is half-made: temporary files, blobs that are not what they are called, processes, containers."""
        found = [str(path) for path in _files(self.home / "state") if _half_made(path)]
        found += [str(path) for path in self.scratch.rglob("*") if path.is_file()]
        wanted = time.monotonic() + 30
        while (running := self.processes()) and time.monotonic() < wanted:
            time.sleep(0.05)
        found += [f"process {line}" for line in running.values()]
        return found + [f"container {name}" for name in self.containers()]

    def forget_images(self) -> None:
        """Take the images that were built here out of the engine, if it has them."""
        records = self.state.glob("cache/build/images/*.json")
        digests = [json.loads(path.read_bytes())["image"]["config_digest"] for path in records]
        if digests and shutil.which("docker"):
            subprocess.run(["docker", "rmi", "--force", *digests], capture_output=True, check=False)

    def processes(self, but: tuple[int, ...] = ()) -> dict[int, str]:
        """List what runs with this home, by process id."""
        mark, found = f"HOME={self.home}".encode(), {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(entry.name) not in but and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
        return found

    def containers(self) -> list[str]:
        """List the containers of this stranger's jobs."""
        jobs = [path.name for path in self.home.glob("**/jobs/*") if path.is_dir()]
        if not jobs or shutil.which("docker") is None:
            return []
        argv = ["docker", "ps", "--all", "--format", "{{.Names}}"]
        names = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
        return [name for name in names if any(job in name for job in jobs)]


def said(command: subprocess.Popen[str], seconds: float = LONG) -> Said:
    """Wait for the end of a command."""
    try:
        out, err = command.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(command.pid, signal.SIGKILL)
        raise
    return Said(command.returncode, out, err)


def interrupt(command: subprocess.Popen[str]) -> None:
    """Press Ctrl-C: the terminal signals the whole group."""
    os.killpg(command.pid, signal.SIGINT)


def wait_until(happened: Callable[[], object], command: subprocess.Popen[str] | None = None) -> None:
    """Wait for something; AssertionError when the command ends before it, or it takes too long."""
    deadline = time.monotonic() + LONG
    while not happened():
        assert time.monotonic() < deadline, "nothing happened"
        assert command is None or command.poll() is None, command.communicate()
        time.sleep(0.01)


@contextlib.contextmanager
def shop(place: Path, wheels: Mapping[str, Mapping[str, str] | None]) -> Iterator[Index]:
    """Serve version 1.0 of some wheels, by name and files, on an index of this process.

    No two shops have the same wheels: images of them are in one engine, and are taken out of it.
    """
    from tests.unit.locking.index import Index

    place.mkdir(exist_ok=True)
    for name, files in wheels.items():
        own = {f"{name}.py": f"VERSION = '1.0'\nSHOP = '{uuid.uuid4()}'\n"}
        make_wheel(place, name, "1.0", files={**own, **(files or {})})
    index = Index(place)
    try:
        yield index
    finally:
        index.close()


def _files(place: Path) -> Iterator[Path]:
    return (path for path in place.rglob("*") if "venvs" not in path.parts and path.name not in _KEPT)


def _half_made(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix in {".part", ".new", ".tmp"} or path.parent.name == "payloads":
        return True
    if path.parts[-3:-1] == ("blobs", "sha256"):
        return hashlib.sha256(path.read_bytes()).hexdigest() != path.name
    if path.suffix == ".whl" and path.parent.parent.name == "wheels":
        return hashlib.sha256(path.read_bytes()).hexdigest() != path.parent.name
    return False
