"""This machine, through the same three verbs as every other host."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from clustrix.errors import ConnectionLost, DiskFull, TransportError
from clustrix.model.progress import SILENT
from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.model.progress import Progress

_CHUNK = 1 << 20
_ARGUMENT = 100_000  # bytes; Linux takes 131,071 in one argument (MAX_ARG_STRLEN)


class Local:
    """Run scripts with this machine's sh."""

    @property
    def address(self) -> str:
        """Give ``local``."""
        return "local"

    def run(self, script: str, *, stdin: bytes | BinaryIO = b"", timeout: float | None = None) -> Completed:
        """Run an sh script to its end; ConnectionLost when it takes too long, TransportError without a sh."""
        with _feeding(stdin) as (source, failures), _shell(script, stdin=source.fileno()) as process:
            source.close()
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                raise ConnectionLost(f"a script did not end within {timeout} s and was stopped") from None
        if failures:
            raise failures[0]
        return Completed(process.returncode, stdout, stderr)

    @contextlib.contextmanager
    def stream(self, script: str) -> Iterator[Iterator[bytes]]:
        """Run an sh script and give its standard output as it comes; leaving the context ends the script."""
        with _shell(script, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None  # noqa: S101 - _shell opens it
            yield _pieces(process.stdout)

    def put(self, source: Path, destination: str, *, mode: int = 0o600, progress: Progress | None = None) -> None:
        """Copy a file, verified and renamed; TransportError, DiskFull."""
        target = Path(destination)
        missing = target.parent
        # mkdir(parents=True) gives the mode to the last one alone.
        for directory in reversed([missing, *missing.parents]):
            if not directory.exists():
                directory.mkdir(0o700, exist_ok=True)
        _copy(source, target, mode, progress or SILENT)

    def get(self, source: str, destination: Path, *, progress: Progress | None = None) -> None:
        """Copy a file, with the same promises."""
        _copy(Path(source), destination, 0o600, progress or SILENT)

    def close(self) -> None:
        """Let go of nothing."""


def _pieces(output: IO[bytes]) -> Iterator[bytes]:
    """Read what is there as it comes; ``output`` is not buffered. Another thread may close it."""
    with contextlib.suppress(ValueError, OSError):
        while piece := output.read(_CHUNK):
            yield piece


@contextlib.contextmanager
def _shell(script: str, *, stdin: int, stderr: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """Start a script in a session of its own; whatever of that session still runs at the end is killed."""
    sh = shutil.which("sh")
    if sh is None or os.name != "posix":
        raise TransportError(
            "this machine has no POSIX shell", remedy="Jobs run here on Linux and macOS; on Windows use WSL."
        )
    with contextlib.ExitStack() as stack:
        text = script.encode()
        if len(text) < _ARGUMENT:
            argv = [sh, "-c", script]
        else:
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="clustrix-", suffix=".sh"))
            file.write(text)
            file.flush()
            argv = [sh, file.name]
        # Without buffers, whose locks a thread that reads for ever would hold when the interpreter ends.
        process = subprocess.Popen(
            argv, bufsize=0, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _feeding(stdin: bytes | BinaryIO) -> Iterator[tuple[BinaryIO, list[Exception]]]:
    """Give a pipe that yields ``stdin``, to be closed here once it was handed on, and what went wrong in filling it."""
    failures: list[Exception] = []
    descriptor, writer = os.pipe()

    def feed() -> None:
        try:
            with os.fdopen(writer, "wb") as pipe:
                shutil.copyfileobj(io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin, pipe, _CHUNK)
        except BrokenPipeError:
            pass  # a script need not read all of its input
        except Exception as error:  # noqa: BLE001 - raised in the thread that asked
            failures.append(error)

    feeder = threading.Thread(target=feed, daemon=True)
    try:
        with os.fdopen(descriptor, "rb", buffering=0) as reader:
            feeder.start()
            yield reader, failures
    finally:
        feeder.join()


def _copy(source: Path, destination: Path, mode: int, progress: Progress) -> None:
    partial = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}")
    try:
        size = source.stat().st_size
        bar = progress.start(f"copy {destination.name}", size)
        try:
            written = hashlib.sha256()
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with source.open("rb") as reader, os.fdopen(descriptor, "wb") as writer:
                while chunk := reader.read(_CHUNK):
                    written.update(chunk)
                    writer.write(chunk)
                    bar.advance(len(chunk))
                writer.flush()
                os.fsync(writer.fileno())
            with partial.open("rb") as reader:
                read = hashlib.sha256()
                while chunk := reader.read(_CHUNK):
                    read.update(chunk)
            if read.digest() != written.digest():
                raise TransportError(f"{destination} does not hold what was written to it")
            partial.chmod(mode)
            partial.replace(destination)
        finally:
            bar.close()
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"no space left for {destination}") from error
        raise TransportError(f"{source} cannot be copied to {destination}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
