"""SSH by the system's own client, for logins that only it can do: one-time passwords, smart cards, Kerberos.

Everything goes through one connection that stays open (ControlMaster of ssh_config(5)): the user's own where the
configuration names a ControlPath, else one of ours. Who logs in with ``ssh HOST`` first is not asked again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.errors import AuthenticationFailed, ConfigError, HostKeyError, TransportError
from clustrix.transports import login as logins
from clustrix.transports import sshconfig
from clustrix.transports.posix import PosixTransport
from clustrix.transports.shell import Pipe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from clustrix.transports.sshconfig import Login

_READ = 1 << 20
_BROKEN = 255  # what ssh says when it was ssh that failed
_PERSIST = 600  # seconds that our connection outlives its last use


class OpenSSH(PosixTransport):
    """Reach a host as ``ssh HOST`` does."""

    def __init__(
        self,
        host: str,
        *,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        key_file: str | None = None,
        config_file: str | None = None,
    ) -> None:
        super().__init__()
        if password is not None:
            raise ConfigError(
                "transport openssh takes no password: ssh asks for it itself",
                remedy=f"Leave password out and log in once with: ssh {host}",
            )
        if shutil.which("ssh") is None or os.name != "posix":
            raise ConfigError(
                "transport openssh needs the system's ssh, on Linux or macOS", remedy="Use transport: ssh."
            )
        self._host = host
        self._options: list[str] = []
        for flag, value in (("-F", config_file), ("-p", port), ("-l", username), ("-i", key_file)):
            self._options += [flag, str(value)] if value is not None else []
        self._lock = threading.Lock()
        self._resolve: dict[str, Any] = {
            "port": port,
            "username": username,
            "key_file": key_file,
            "config_file": config_file,
        }

    @cached_property
    def _login(self) -> Login:
        return sshconfig.resolve(self._host, **self._resolve)

    @property
    def address(self) -> str:
        """Name the host: ``ssh://user@host:port``."""
        return f"ssh://{self._login.username}@{self._login.hostname}:{self._login.port}"

    @cached_property
    def _shared(self) -> Sequence[str]:
        """Give the options that lead to the shared connection: the user's own socket, or one of ours."""
        given = self._resolve
        said = sshconfig.effective(self._host, given["username"], given["port"], given["config_file"])
        if (said.get("controlpath") or ["none"])[0] != "none":
            return []
        # The address of a socket must be short, which a home directory need not be.
        place = Path(tempfile.gettempdir()) / f"clustrix-{os.getuid()}"
        place.mkdir(mode=0o700, exist_ok=True)
        about = place.lstat()
        if about.st_uid != os.getuid() or about.st_mode & 0o077 or place.is_symlink():
            raise ConfigError(f"{place} is not yours alone", remedy="Remove it, or set TMPDIR.")
        return [f"-oControlPath={place}/%C"]

    def _ssh(self, *options: str) -> list[str]:
        # `ask` takes the place of a configured `no`: nobody is trusted unseen.
        return ["ssh", "-oStrictHostKeyChecking=ask", *self._shared, *self._options, *options, "--", self._host]

    def _open(self, command: str) -> Pipe:
        with self._lock:
            if self._check().returncode != 0:
                self._log_in()
        return _Process([*self._ssh("-T", "-oControlMaster=no", "-oBatchMode=yes"), command])

    def _check(self) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self._ssh("-O", "check"), capture_output=True, check=False, stdin=subprocess.DEVNULL)

    def _log_in(self) -> None:
        """Open the connection; ssh itself asks whoever sits at the terminal, and goes to the background."""
        options = ["-MNf", f"-oControlPersist={_PERSIST}", "-oServerAliveInterval=15", "-oExitOnForwardFailure=no"]
        if logins.terminal() is None:
            options.append("-oBatchMode=yes")
        with tempfile.TemporaryFile() as errors:
            # A file, and no pipe: what goes to the background keeps it open.
            done = subprocess.run(self._ssh(*options), check=False, stdout=subprocess.DEVNULL, stderr=errors)
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
        if done.returncode != 0:
            raise _failure(said, self.address)

    def _disconnect(self) -> None:
        """End the connection if it is ours."""
        if self._shared:
            subprocess.run(self._ssh("-O", "exit"), capture_output=True, check=False, stdin=subprocess.DEVNULL)


def _failure(said: str, address: str) -> TransportError:
    if re.search("Host key verification failed|IDENTIFICATION HAS CHANGED|No .* host key is known", said):
        return HostKeyError(
            f"{address}: {said}", remedy="Log in once with ssh, and compare the fingerprint that it shows."
        )
    if "Permission denied" in said:
        return AuthenticationFailed(f"{address}: {said}", remedy="Log in once with ssh; its connection is then used.")
    return TransportError(f"no SSH connection to {address}: {said}")


class _Process(Pipe):
    """Reach a command through the pipes of a process of this machine."""

    def __init__(self, argv: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        # A session of its own: Ctrl-C is for us to understand.
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, bufsize=0)
        assert self._process.stdin is not None  # noqa: S101 - what was asked for
        assert self._process.stdout is not None  # noqa: S101 - what was asked for
        assert self._process.stderr is not None  # noqa: S101 - what was asked for
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        self._closing = threading.Lock()

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._stdin.write(left) :]
        except ValueError as error:  # closed here
            raise BrokenPipeError(str(error)) from error

    def end(self) -> None:
        self._stdin.close()

    def read(self) -> bytes:
        return _received(self._stdout)

    def read_error(self) -> bytes:
        return _received(self._stderr)

    def returncode(self) -> int | None:
        status = self._process.wait()
        return None if status == _BROKEN else status

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        with self._closing:
            if self._process.poll() is None:
                self._process.terminate()
            self._process.wait()
            for stream in (self._stdin, self._stdout, self._stderr):
                with contextlib.suppress(OSError):
                    stream.close()


def _received(stream: IO[bytes]) -> bytes:
    with contextlib.suppress(OSError, ValueError):  # closed by another thread
        return stream.read(_READ) or b""
    return b""
