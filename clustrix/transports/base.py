"""The contract of a transport: three verbs, POSIX sh on the other side."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from clustrix.model.progress import Progress


@dataclass(frozen=True, slots=True)
class Completed:
    """Hold what a remote command printed and its exit status (negative: died of that signal)."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def stdout_text(self) -> str:
        """Give its output as text, without white space around it."""
        return self.stdout.decode(errors="replace").strip()

    @property
    def stderr_text(self) -> str:
        """Give what it complained of as text, without white space around it."""
        return self.stderr.decode(errors="replace").strip()


class Pieces(io.RawIOBase):
    """Read an iterator of bytes as a file: what `Transport.run` is fed with, or what `Transport.stream` gives."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - whatever io hands in
        """Fill ``buffer`` from the next piece."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class Transport(Protocol):
    """Run sh scripts on one host and move files to and from it.

    Every path is absolute and POSIX. Safe to use from several threads. Nothing but POSIX sh, coreutils and
    findutils is asked of the host (decision 17).
    """

    @property
    def address(self) -> str:
        """Name the host for people and for caches: ``local``, ``ssh://user@host:22``."""
        ...

    def run(self, script: str, *, stdin: bytes | BinaryIO = b"", timeout: float | None = None) -> Completed:
        """Run an sh script to its end: one round trip.

        Raises:
            ConnectionLost: the answer did not arrive; the script may have run.
            TransportError: it could not be run.

        """
        ...

    def stream(self, script: str) -> AbstractContextManager[Iterator[bytes]]:
        """Run an sh script and give its standard output as it comes; leaving the context ends the script."""
        ...

    def put(self, source: Path, destination: str, *, mode: int = 0o600, progress: Progress | None = None) -> None:
        """Copy a file there: under a temporary name of its own, verified by sha256, then renamed.

        Missing directories are made (0700). A copy that was cut goes on where it stopped.
        """
        ...

    def get(self, source: str, destination: Path, *, progress: Progress | None = None) -> None:
        """Copy a file here, with the same promises."""
        ...

    def close(self) -> None:
        """Let go of the connection; the next call opens a new one."""
        ...
