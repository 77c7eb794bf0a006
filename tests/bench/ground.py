"""What the measures stand on: wheels, an index, a registry with a base image, environments with the contenders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import index
from uv import find_uv_bin

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent))  # for the servers of the live tests

from live import servers  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clustrix-bench"
PEERS = ("submitit", "parsl")
EXTRAS = "docker,kubernetes"
CHANGE = ("idna==3.20", "idna==3.10")


@dataclass
class Ground:
    """Prepare each thing when a measure first asks for it; ``work`` is a directory that ends with the bench."""

    work: Path
    _stack: ExitStack = field(default_factory=ExitStack)
    _count: int = 0

    @cached_property
    def requirements(self) -> dict[str, str]:
        """Give the texts of three requirements files: ``first``, the same with one package ``changed``, ``second``."""
        first = (HERE / "requirements.txt").read_text()
        before, after = CHANGE
        return {"first": first, "changed": first.replace(before, after), "second": (HERE / "second.txt").read_text()}

    @cached_property
    def wheels(self) -> Path:
        """Fetch the wheels of all three, once a machine."""
        directory = CACHE / "wheels"
        directory.mkdir(parents=True, exist_ok=True)
        for text in self.requirements.values():
            index.fetch_wheels(self.write("requirements.txt", text), directory)
        return directory

    @cached_property
    def index(self) -> str:
        """Serve them."""
        site = self.fresh("index")
        index.write_pages(self.wheels, site)
        return self._stack.enter_context(index.serve(site))

    @cached_property
    def registry(self) -> servers.Registry:
        """Start a registry."""
        return self._stack.enter_context(servers.registry(self.fresh("registry")))

    @cached_property
    def base(self) -> str:
        """Put the base image into the registry; its reference by digest."""
        layout = servers.bases()["debian"].layout
        self.registry.load(layout, "base:bookworm")
        (manifest,) = json.loads((layout / "index.json").read_text())["manifests"]
        return f"{self.registry.host}/base@{manifest['digest']}"

    @cached_property
    def scientific(self) -> Path:
        """Make an environment of the first requirements, with pip and this checkout; its Python."""
        return self._environment("scientific", self.requirements["first"], "--no-index", "--find-links", self.wheels)

    @cached_property
    def peers(self) -> Path:
        """Make an environment of this checkout and its peers; its Python."""
        return self._environment("peers", "\n".join(PEERS))

    def versions(self, python: Path, *names: str) -> dict[str, str]:
        """Ask an environment for the versions of distributions."""
        code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        return dict(zip(names, run(python, "-c", code, *names).split(), strict=True))

    def at_the_end(self, action: Callable[[], object]) -> None:
        """Do something when the bench ends, however it ends."""
        self._stack.callback(action)

    def fresh(self, name: str) -> Path:
        """Make an empty directory."""
        self._count += 1
        directory = self.work / f"{self._count}-{name}"
        directory.mkdir()
        return directory

    def write(self, name: str, text: str) -> Path:
        """Write a file into a directory of its own."""
        path = self.fresh("file") / name
        path.write_text(text)
        return path

    def _environment(self, name: str, requirements: str, *options: str | Path) -> Path:
        stamp = requirements + EXTRAS + sys.version + (ROOT / "pyproject.toml").read_text()
        directory = CACHE / f"{name}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
        python = directory / "bin" / "python"
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            uv, quiet = find_uv_bin(), "--quiet"
            run(uv, "venv", quiet, "--seed", "--python", sys.executable, directory)
            install = (uv, "pip", "install", quiet, "--compile-bytecode", "--python", python)
            run(*install, *options, "--requirement", self.write("requirements.txt", requirements))
            run(*install, "--editable", f"{ROOT}[{EXTRAS}]")
            (directory / "complete").touch()
        return python


@contextmanager
def ground() -> Iterator[Ground]:
    """Give a ground; its servers end with the block."""
    with tempfile.TemporaryDirectory(prefix="clustrix-bench-") as directory, ExitStack() as stack:
        yield Ground(Path(directory), stack)


def run(*argv: str | Path, **options: Any) -> str:
    """Run a command to its end and give what it prints; what it says if it fails."""
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def peak_bytes(*argv: str | Path, **options: Any) -> int:
    """Run a command to its end and give the highest resident set of any of its processes."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(list(map(str, argv)), stdout=output, stderr=output, **options)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(map(str, argv))}: exit {process.returncode}\n{output.read().decode()}")
    return int(usage.ru_maxrss) * 1024
