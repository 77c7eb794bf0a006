"""What every remote transport does with a pipe to a POSIX shell; only the pipe differs between them.

A shell is started ahead of its use and waits for a script, so that a call costs one round trip and the start-up files
of the account cost nothing. Both its outputs are framed by a random marker: whatever start-up files print is not taken
for an answer. A script runs only if all of it arrived.
"""

from __future__ import annotations

import abc
import contextlib
import io
import secrets
import shlex
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

from clustrix.errors import ConnectionLost, TransportError
from clustrix.model.progress import SILENT
from clustrix.transports import copying
from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clustrix.model.progress import Progress

CHUNK = 1 << 18
_PIPELINED = 1 << 16  # what every server takes before it must be read
_WARM_UP = 60.0  # seconds that start-up files may take
_SETTLE = 10.0  # seconds in which a server ought to have noticed that a session is over
_FEW = 8  # of the ten sessions that an OpenSSH server allows; one more waits ahead

# One line without '!' inside single quotes: every login shell, csh too, hands it to sh as it is.
_BOOTSTRAP = (
    "exec sh -c '"
    'm={marker}; printf "%s\\n" $m; printf "%s\\n" $m >&2; read -r n && s=$(head -c $n) && '
    'case $s in *"#$m") (eval "$s"); r=$?; printf "%s %d\\n" $m $r; printf "%s\\n" $m >&2; exit $r;; esac; exit 125'
    "'"
)
# The end of its input ends a streaming script: also when the connection breaks and nobody could say so.
_STREAMING = """exec 3<&0
(cat <&3 >/dev/null; kill -TERM 0) 2>/dev/null &
exec 3<&-
"""
_LOGIN_PATH = """printf '%s\\n' "$PATH"
timeout 30 "${SHELL:-sh}" -lc 'echo; echo MARKER; env' </dev/null 2>/dev/null | sed -n '/^MARKER$/,$s/^PATH=//p'
exit 0
"""


class Refused(TransportError):
    """The server opens no further session on this connection."""


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
    """Run one script in a shell that was started before."""

    def __init__(self, pipe: Pipe, marker: str) -> None:
        self.pipe = pipe
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


class PosixTransport(abc.ABC):
    """Keep the promises of `clustrix.transports.base.Transport` over pipes that a subclass opens."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit = _FEW
        self._used = 0
        self._open_shells = 0
        self._spare: Shell | None = None
        self._warming = False
        self._prefix: str | None = None

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """Name the host."""

    @abc.abstractmethod
    def _open(self, command: str) -> Pipe:
        """Start a command in the account's login shell, connecting first if need be; TransportError, Refused."""

    @abc.abstractmethod
    def _disconnect(self) -> None:
        """Let go of the connection."""

    def run(self, script: str, *, stdin: bytes | BinaryIO = b"", timeout: float | None = None) -> Completed:
        """Run an sh script to its end: one round trip; ConnectionLost, TransportError."""
        with self._begin(script) as shell, _limit(shell.pipe, timeout) as late:
            try:
                with _feeding(shell.pipe, stdin):
                    stdout = b"".join(shell.output())
                    assert shell.returncode is not None  # noqa: S101 - output() has set it
                    return Completed(shell.returncode, stdout, shell.errors())
            except ConnectionLost:
                if late.is_set():
                    raise ConnectionLost(f"no end within {timeout} s on {self.address}; it may still run") from None
                raise

    @contextlib.contextmanager
    def stream(self, script: str) -> Iterator[Iterator[bytes]]:
        """Run an sh script and give its standard output as it comes; leaving the context ends the script."""
        with self._begin(_STREAMING + script) as shell:
            yield shell.output()

    def put(self, source: Path, destination: str, *, mode: int = 0o600, progress: Progress | None = None) -> None:
        """Copy a file there, resumed after a cut, verified, renamed; TransportError, DiskFull."""
        copying.put(self._begin, source, destination, mode=mode, progress=progress or SILENT, address=self.address)

    def get(self, source: str, destination: Path, *, progress: Progress | None = None) -> None:
        """Copy a file here, with the same promises."""
        copying.get(self._begin, source, destination, progress=progress or SILENT, address=self.address)

    def close(self) -> None:
        """Let go of the connection; the next call opens a new one."""
        with self._changed:
            self._changed.wait_for(lambda: not self._warming)
            spare, self._spare = self._spare, None
        if spare is not None:
            self._release(spare)
        self._disconnect()

    @contextlib.contextmanager
    def _begin(self, script: str) -> Iterator[Shell]:
        """Start a script in a shell; a shell that died while it waited is replaced, for it cannot have run anything."""
        with self._changed:
            self._changed.wait_for(lambda: self._used < self._limit)
            self._used += 1
        shell: Shell | None = None
        try:
            try:
                script = self._environment() + script
                shell = self._take()
                if shell is not None:
                    try:
                        shell.start(script)
                    except OSError:
                        self._release(shell)
                        shell = None
                if shell is None:
                    shell = self._fresh()
                    shell.start(script)
            except OSError as error:
                raise ConnectionLost(f"the connection to {self.address} broke: {error}") from error
            self._warm()
            yield shell
        finally:
            if shell is not None:
                self._release(shell)
            with self._changed:
                self._used -= 1
                self._changed.notify_all()

    def _environment(self) -> str:
        """Give what sets the PATH of a login shell: schedulers are often found in that alone. Asked for once."""
        if self._prefix is None:
            marker = secrets.token_hex(8)
            shell = self._fresh()
            try:
                shell.start(_LOGIN_PATH.replace("MARKER", marker))
                first, *found = b"".join(shell.output()).decode(errors="replace").splitlines()
            finally:
                self._release(shell)
            # The last one counts: a value may hold line breaks, and PATH does not.
            self._prefix = f"PATH={shlex.quote(found[-1] if found else first)}; export PATH\n"
        return self._prefix

    def _take(self) -> Shell | None:
        with self._changed:
            self._changed.wait_for(lambda: not self._warming)
            shell, self._spare = self._spare, None
        if shell is not None and not shell.pipe.alive():
            self._release(shell)
            return None
        return shell

    def _release(self, shell: Shell) -> None:
        shell.pipe.close()
        with self._changed:
            self._open_shells -= 1
            self._changed.notify_all()

    def _fresh(self) -> Shell:
        """Start a shell; where the server allows fewer sessions than usual, wait for one of ours to end."""
        patience = time.monotonic() + _SETTLE
        while True:
            try:
                return self._start()
            except Refused:  # noqa: PERF203 - one attempt is one round trip
                with self._changed:
                    spare, self._spare = self._spare, None
                    # A server notices the end of a session after we do.
                    if not self._open_shells and time.monotonic() > patience:
                        raise
                    self._limit = max(1, min(self._limit, self._open_shells))
                if spare is not None:
                    self._release(spare)
                with self._changed:
                    self._changed.wait(0.1)

    def _start(self) -> Shell:
        marker = f"=={secrets.token_hex(16)}=="
        shell = Shell(self._open(_BOOTSTRAP.replace("{marker}", marker)), marker)
        with self._changed:
            self._open_shells += 1
        try:
            shell.wait()
        except BaseException:
            self._release(shell)
            raise
        return shell

    def _warm(self) -> None:
        """Start the shell of the next call, in the background."""
        with self._changed:
            if self._warming or self._spare is not None or self._limit < _FEW:
                return
            self._warming = True
        threading.Thread(target=self._warm_up, daemon=True).start()

    def _warm_up(self) -> None:
        spare = None
        # Whatever fails here fails again, and is told, in the call that needs the shell.
        try:
            with contextlib.suppress(TransportError, OSError):
                spare = self._start()
        finally:
            with self._changed:
                self._spare = spare
                self._warming = False
                self._changed.notify_all()


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
            while data := source.read(CHUNK):
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
