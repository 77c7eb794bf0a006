"""What every remote transport does with shells of a host; only the pipe to one differs between them.

A shell is started ahead of its use and waits for a script, so that a call costs one round trip and the start-up files
of the account cost nothing.
"""

from __future__ import annotations

import abc
import contextlib
import secrets
import shlex
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

from clustrix.errors import ConnectionLost, TransportError
from clustrix.model.progress import SILENT
from clustrix.transports import copying
from clustrix.transports.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clustrix.model.progress import Progress
    from clustrix.transports.base import Completed
    from clustrix.transports.shell import Pipe

_SETTLE = 10.0  # seconds in which a server ought to have noticed that a session is over
_FEW = 8  # of the ten sessions that an OpenSSH server allows; one more waits ahead

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
        with self._begin(script) as shell:
            return shell.complete(stdin, timeout=timeout, address=self.address)

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
        shell = Shell(self._open)
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
