"""Bytecode for an image, made on the client by a fresh interpreter of the image's minor version (decision 14)."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import BuildError
from clustrix.oci.layout import disk_full

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROGRAM = Path(__file__).with_name("compiler.py")
_DESCRIBE = (
    "import json, sys, sysconfig; print(json.dumps([sys.version, '%d.%d.%d' % sys.version_info[:3], "
    "sys.implementation.cache_tag, bool(sysconfig.get_config_var('Py_GIL_DISABLED'))]))"
)
JOB_MODULES = 128
"""How many modules one job compiles. Part of what bytecode is made of: see `clustrix.build.compiler`."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Name a Python of this machine; ``build`` tells it from others of the same ``version``."""

    path: str
    version: str  # 3.11.7
    build: str
    cache_tag: str  # cpython-311

    @property
    def identity(self) -> list[str]:
        """Say what decides on the bytes it makes."""
        return [self.build, self.cache_tag, str(JOB_MODULES)]


@cache
def find(abi: str) -> Interpreter | None:
    """Find a CPython of an ABI (``cp311``, ``cp313t``) on this machine: the running one, or one that uv knows.

    None if there is none; nothing is downloaded.
    """
    own = f"cp{sys.version_info[0]}{sys.version_info[1]}{'t' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''}"
    if platform.python_implementation() == "CPython" and own == abi:
        return Interpreter(sys.executable, platform.python_version(), sys.version, str(sys.implementation.cache_tag))
    from uv import find_uv_bin

    minor = f"{abi[2]}.{abi[3:]}"
    argv = [find_uv_bin(), "python", "find", "--no-project", "--no-config", "--no-python-downloads", f"cpython@{minor}"]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return None
    path = found.stdout.strip()
    described = subprocess.run([path, "-I", "-S", "-c", _DESCRIBE], capture_output=True, text=True, check=False)
    if described.returncode != 0:
        return None
    build, version, cache_tag, free_threaded = json.loads(described.stdout)
    if not version.startswith(minor.rstrip("t") + ".") or free_threaded != minor.endswith("t"):
        return None
    return Interpreter(path, version, build, cache_tag)


class Compiler:
    """Compile modules of wheels in up to ``processes`` interpreters; safe for several threads.

    ``directory`` receives what is made; whoever asked removes it.
    """

    def __init__(self, interpreter: Interpreter, directory: Path, processes: int) -> None:
        self.interpreter = interpreter
        self._directory = directory
        self._running: set[subprocess.Popen[bytes]] = set()
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._closed = False

    def compile(self, wheel: Path, output: str, modules: Sequence[tuple[str, str]]) -> tuple[Path, list[int | None]]:
        """Compile (member, file name once installed) of a wheel into one file and give the size of each.

        A size is None where the module is not for this Python. Raises `BuildError` if the interpreter dies.
        """
        made = self._directory / output
        job = {"wheel": os.fspath(wheel), "output": os.fspath(made), "modules": modules}
        process = self._idle.get()
        try:
            self._check_open()
            if process is None:
                process = self._start()
            assert process.stdin is not None  # noqa: S101 - for the type checker: both are pipes
            assert process.stdout is not None  # noqa: S101
            try:
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except (OSError, ValueError):  # it is gone, or `close` has closed its pipes
                answer = b""
            if not answer:
                self._stop(process)
                process = None
                self._check_open()
                raise BuildError(
                    f"{self.interpreter.path} died while it compiled {wheel.name}",
                    remedy="Build without bytecode, or with another Python of the same version.",
                )
            if os.name == "nt":  # no fork there: one process, one job
                self._stop(process)
                process = None
        finally:
            self._idle.put(process)
        said = json.loads(answer)
        if "errno" in said:
            with disk_full(self._directory):
                raise OSError(said["errno"], said["strerror"])
        return made, said["sizes"]

    def close(self) -> None:
        """End every interpreter, also in the middle of its work."""
        self._closed = True
        for process in list(self._running):
            self._stop(process)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # As -I, but that would ignore the hash seed too.
            [self.interpreter.path, "-S", "-s", "-B", "-W", "ignore", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._directory,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )
        self._running.add(process)
        return process

    def _check_open(self) -> None:
        if self._closed:
            raise BuildError("the build was interrupted")

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        self._running.discard(process)
        with contextlib.suppress(OSError):  # it may have ended by itself
            if os.name == "nt":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)  # its forks too
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it did not read any more
                    pipe.close()


def _environment() -> Mapping[str, str]:
    kept = ("SYSTEMROOT",)  # Windows starts nothing without it
    return {"PYTHONHASHSEED": "0", **{name: os.environ[name] for name in kept if name in os.environ}}
