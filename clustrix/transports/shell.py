"""One script in a POSIX shell at the other end of a pipe.

Both outputs of the shell are framed by a random marker: whatever start-up files print is not taken for an answer. A
script runs only if all of it arrived.
"""

from __future__ import annotations

import abc
import contextlib
import io
import secrets
import threading
from typing import TYPE_CHECKING, BinaryIO

from clustrix.errors import ConnectionLost, TransportError
from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 1 << 18
_PIPELINED = 1 << 16  # what every server takes before it must be read
_WARM_UP = 60.0  # seconds that start-up files may take

# One line without '!' inside single quotes: every login shell, csh too, hands it to sh as it is.
_BOOTSTRAP = (
    "exec sh -c '"
    'm={marker}; printf "%s\\n" $m; printf "%s\\n" $m >&2; read -r n && s=$(head -c $n) && '
    'case $s in *"#$m") (eval "$s"); r=$?; printf "%s %d\\n" $m $r; printf "%s\\n" $m >&2; exit $r;; esac; exit 125'
    "'"
)


class Pipe(abc.ABC):
    """Reach the three streams of one command on the other side. Reading and writing may happen in two threads."""

    @abc.abstractmethod
    def write(self, data: bytes) -> None:
        """Send to its standard input; OSError when it is gone."""

    @abc.abstractmethod
    def end(self) -> None:
        """Close its standard input."""

    @abc.abstractmethod
    def read(self) -> bytes:
        """Receive from its standard output; empty at the end, and once it is closed by any thread."""

    @abc.abstractmethod
    def read_error(self) -> bytes:
        """Receive from its standard error; empty at the end."""

    @abc.abstractmethod
    def returncode(self) -> int | None:
        """Give its exit status once its output is at its end (negative: signal), None if nobody said."""

    @abc.abstractmethod
    def alive(self) -> bool:
        """Tell whether it still waits for input, as far as this side knows."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of it."""


class Shell:
    """Run one script in a shell that was started before, by ``open_pipe``: a way to start a command over there."""

    def __init__(self, open_pipe: Callable[[str], Pipe]) -> None:
        marker = f"=={secrets.token_hex(16)}=="
        self.pipe = open_pipe(_BOOTSTRAP.replace("{marker}", marker))
        self.returncode: int | None = None
        self._marker = marker.encode()
        self._buffer = b""
        self._errors = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def wait(self) -> None:
        """Skip what the start-up files print; TransportError when no shell comes up."""
        start = self._marker + b"\n"
        with _limit(self.pipe, _WARM_UP) as late:
            while start not in self._buffer and (data := self.pipe.read()):
                self._buffer += data
        noise, started, self._buffer = self._buffer.partition(start)
        if late.is_set():
            raise TransportError(
                f"the login shell did not start within {_WARM_UP:.0f} s",
                remedy="Look for a start-up file (.bashrc, .profile) there that waits for input.",
            )
        if not started:
            said = (noise + self.errors()).decode(errors="replace").strip()
            raise TransportError(f"the login shell ended at once; it said: {said or 'nothing'}")

    def start(self, script: str) -> None:
        """Hand over the script; OSError if it cannot have arrived whole."""
        text = f"{script}\n#{self._marker.decode()}".encode()
        self.pipe.write(b"%d\n" % len(text) + text)

    def output(self) -> Iterator[bytes]:
        """Give the script's standard output as it comes, then set ``returncode``; ConnectionLost."""
        end = self._marker + b" "
        data = self._buffer
        while True:
            at = data.find(end)
            if at >= 0 and b"\n" in data[at:]:
                if at:
                    yield data[:at]
                self.returncode = int(data[at:].split()[1])
                return
            # A marker may be cut in two; everything before it is passed on at once.
            whole = at if at >= 0 else len(data) - _overlap(data, end)
            if whole:
                yield data[:whole]
                data = data[whole:]
            more = self.pipe.read()
            if not more:
                self.returncode = self.pipe.returncode()
                if self.returncode is None or self.returncode >= 0:
                    raise ConnectionLost("the connection broke before the script's end; it may have run")
                if data:
                    yield data
                return
            data = data + more if data else more

    def complete(self, stdin: bytes | BinaryIO, *, timeout: float | None, address: str) -> Completed:
        """Feed the script and read all that it says; ConnectionLost, also after ``timeout`` seconds."""
        with _limit(self.pipe, timeout) as late:
            try:
                with _feeding(self.pipe, stdin):
                    stdout = b"".join(self.output())
                    assert self.returncode is not None  # noqa: S101 - output() has set it
                    return Completed(self.returncode, stdout, self.errors())
            except ConnectionLost:
                if late.is_set():
                    raise ConnectionLost(f"no end within {timeout} s on {address}; it may still run") from None
                raise

    def line(self) -> str:
        """Read one line of the script's standard output, before `output`; empty when it ended without one."""
        while b"\n" not in self._buffer and (more := self.pipe.read()):
            self._buffer += more
        if self._buffer.startswith(self._marker):
            return ""
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def errors(self) -> bytes:
        """Give what the script wrote to standard error; call it after `output`."""
        self._listener.join()
        _, started, framed = self._errors.partition(self._marker + b"\n")
        return framed.partition(self._marker + b"\n")[0] if started else self._errors

    def _listen(self) -> None:
        mark = self._marker + b"\n"
        pieces = bytearray()
        # With both markers there is nothing more to wait for, also if the script left a process behind.
        while pieces.count(mark) < 2 and (more := self.pipe.read_error()):  # noqa: PLR2004 - start and end
            pieces += more
        self._errors = bytes(pieces)


@contextlib.contextmanager
def _limit(pipe: Pipe, seconds: float | None) -> Iterator[threading.Event]:
    """Close a pipe after some time, and tell; who reads it finds its end."""
    late = threading.Event()
    if seconds is None:
        yield late
        return

    def expire() -> None:
        late.set()
        pipe.close()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


@contextlib.contextmanager
def _feeding(pipe: Pipe, stdin: bytes | BinaryIO) -> Iterator[None]:
    """Send a script's input while its output is read; a script need not read all of it."""
    if isinstance(stdin, bytes) and len(stdin) <= _PIPELINED:
        with contextlib.suppress(OSError):
            pipe.write(stdin)
            pipe.end()
        yield
        return
    source = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin
    failure: list[BaseException] = []

    def feed() -> None:
        try:
            while data := source.read(_CHUNK):
                try:
                    pipe.write(data)
                except OSError:  # noqa: PERF203 - and one of these ends it
                    return
            with contextlib.suppress(OSError):
                pipe.end()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            # The other side cannot tell this from the end of the input; whoever asked is told.
            failure.append(error)
            pipe.close()

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        yield
    except ConnectionLost:
        if failure:
            raise failure[0] from None
        raise
    finally:
        # The script has ended; what it did not read is not sent.
        pipe.close()
        feeder.join()
    if failure:
        raise failure[0]


def _overlap(data: bytes, end: bytes) -> int:
    """Count the bytes at the end of ``data`` that may be the beginning of ``end``."""
    return next((size for size in range(min(len(end) - 1, len(data)), 0, -1) if end.startswith(data[-size:])), 0)
