"""SSH by paramiko: one connection, used by all threads, opened when it is needed and again when it broke."""

from __future__ import annotations

import contextlib
import logging
import threading
from functools import cached_property
from typing import TYPE_CHECKING

from clustrix.errors import ConnectionLost, TransportError
from clustrix.transports import login as logins
from clustrix.transports import sshconfig
from clustrix.transports.posix import PosixTransport, Refused
from clustrix.transports.shell import Pipe

if TYPE_CHECKING:
    import socket

    import paramiko

    from clustrix.transports.login import Ask
    from clustrix.transports.sshconfig import Login

_WINDOW = 1 << 24  # bytes that may be under way, and that are read at a time: 16 MiB keep a long fat line busy
_PACKET = 1 << 18
_REKEY = 1 << 35  # bytes under one key: half of what RFC 4344 allows for AES
_KEEPALIVE = 20  # seconds between two questions whether the server is there; firewalls forget silent connections
_SILENCE = 45  # seconds that it may take to answer
_SEND = 32_704  # what an OpenSSH server takes in one packet

# What it logs is raised as well; without a handler Python would print it.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SSH(PosixTransport):
    """Reach a host by its name or its alias in ``~/.ssh/config``.

    Keys come from the agent, ``key_file``, the configuration and ``~/.ssh``. ``ask`` is called with a prompt where a
    passphrase, password or one-time code is wanted; by default whoever sits at the terminal is asked.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        key_file: str | None = None,
        config_file: str | None = None,
        ask: Ask | None = None,
    ) -> None:
        super().__init__()
        self._host = host
        self._port = port
        self._username = username
        self._password = password
        self._key_file = key_file
        self._config_file = config_file
        self._ask = ask
        self._lock = threading.Lock()
        self._hops: list[paramiko.Transport] = []

    @cached_property
    def _login(self) -> Login:
        return sshconfig.resolve(
            self._host,
            port=self._port,
            username=self._username,
            key_file=self._key_file,
            config_file=self._config_file,
        )

    @property
    def address(self) -> str:
        """Name the host: ``ssh://user@host:port``."""
        return f"ssh://{self._login.username}@{self._login.hostname}:{self._login.port}"

    def _open(self, command: str) -> Pipe:
        import paramiko

        connection = self._connection()
        try:
            channel = connection.open_session()
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            # Two threads that are refused at once are not both told so by paramiko.
            if connection.is_active():
                raise Refused(f"{self.address} opens no further session: {error}") from error
            raise ConnectionLost(f"the connection to {self.address} broke: {error}") from error
        return _Channel(channel)

    def _connection(self) -> paramiko.Transport:
        with self._lock:
            if not self._hops or not all(hop.is_active() for hop in self._hops):
                self._hang_up()
                self._hops = self._connect()
            return self._hops[-1]

    def _disconnect(self) -> None:
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        for hop in reversed(self._hops):
            hop.close()
        self._hops = []

    def _connect(self) -> list[paramiko.Transport]:
        """Log in, through every jump host on the way."""
        hops: list[paramiko.Transport] = []
        try:
            for hop in self._route(self._login):
                hops.append(self._log_in(hop, hops[-1] if hops else None))
        except BaseException:
            for opened in reversed(hops):
                opened.close()
            raise
        return hops

    def _route(self, last: Login) -> list[Login]:
        if last.proxy_jump is None:
            return [last]
        route: list[Login] = []
        for word in last.proxy_jump.split(","):
            user, _, place = word.removeprefix("ssh://").rpartition("@")
            name, colon, port = place.rpartition(":")
            hop = sshconfig.resolve(
                (name if colon else place).strip("[]"),
                port=int(port) if colon else None,
                username=user or None,
                config_file=self._config_file,
            )
            # Only the first hop of a list is reached by what its own entry says, as ssh does it.
            route += self._route(hop) if not route else [hop]
        return [*route, last]

    def _log_in(self, login: Login, through: paramiko.Transport | None) -> paramiko.Transport:
        import paramiko

        known, revoked = logins.known_keys(login)
        kinds = {key.get_name() for key in known}
        patience = max(login.connect_timeout, 30.0)
        with contextlib.ExitStack() as undo:
            line = self._line(login, through)
            undo.callback(line.close)
            try:
                transport = paramiko.Transport(line, default_window_size=_WINDOW, default_max_packet_size=_PACKET)
                undo.callback(transport.close)
                transport.banner_timeout = transport.auth_timeout = patience
                # paramiko's thread waits for itself when a session ends during a key exchange: 30 s, then it dies.
                transport.packetizer.REKEY_BYTES = _REKEY
                options = transport.get_security_options()
                # GCM is the fastest: it needs no second pass over the data for a MAC.
                options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
                # The server is asked for the kind of key that is known of it, not for one that would look changed.
                options.key_types = sorted(options.key_types, key=lambda kind: _plain(kind) not in kinds)
                transport.start_client(timeout=patience)
                logins.check_host(login, transport, known, revoked)
                password = self._password if login is self._login else None
                logins.authenticate(login, transport, password, self._ask or logins.terminal())
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise TransportError(f"no SSH connection to {login.hostname}:{login.port}: {error}") from error
            undo.pop_all()
        threading.Thread(target=_keep_alive, args=(transport,), daemon=True).start()
        return transport

    def _line(self, login: Login, through: paramiko.Transport | None) -> socket.socket | paramiko.Channel:
        import paramiko

        if through is not None:
            try:
                return through.open_channel("direct-tcpip", (login.hostname, login.port), ("127.0.0.1", 0))
            except paramiko.SSHException as error:
                raise TransportError(f"the jump host does not reach {login.hostname}:{login.port}: {error}") from error
        if login.proxy_command is not None:
            return paramiko.ProxyCommand(login.proxy_command)  # type: ignore[return-value]  # made to be used as a socket
        return logins.reach(login)


def _plain(kind: str) -> str:
    """Name the key behind a signature algorithm: one RSA key signs in several ways."""
    return "ssh-rsa" if kind.startswith("rsa-sha2") else kind


def _keep_alive(transport: paramiko.Transport) -> None:
    """Ask now and then whether the server is there, and hang up when it does not answer: others wait for it."""
    while transport.is_active():
        transport.join(_KEEPALIVE)
        late = threading.Timer(_SILENCE, transport.close)
        late.daemon = True
        late.start()
        # Servers refuse what they do not know, which is an answer, too.
        with contextlib.suppress(*_broken()):
            transport.global_request("keepalive@openssh.com")
        late.cancel()


def _broken() -> tuple[type[Exception], ...]:
    """List what paramiko raises when a connection is gone."""
    import paramiko

    return (OSError, EOFError, paramiko.SSHException)


class _Channel(Pipe):
    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def write(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _SEND):
                self._channel.sendall(data[start : start + _SEND])
        except _broken() as error:
            raise BrokenPipeError(f"the connection is closed: {error}") from error

    def end(self) -> None:
        try:
            self._channel.shutdown_write()
        except _broken() as error:
            raise BrokenPipeError(f"the connection is closed: {error}") from error

    def read(self) -> bytes:
        # Reading sends, too: it makes room for more.
        with contextlib.suppress(*_broken()):
            return self._channel.recv(_WINDOW)
        return b""

    def read_error(self) -> bytes:
        with contextlib.suppress(*_broken()):
            return self._channel.recv_stderr(_WINDOW)
        return b""

    def returncode(self) -> int | None:
        # paramiko does not tell a signal (exit-signal of RFC 4254) from a broken connection.
        return None if self._channel.exit_status < 0 else self._channel.exit_status

    def alive(self) -> bool:
        return not self._channel.closed and not self._channel.eof_received

    def close(self) -> None:
        with contextlib.suppress(*_broken()):
            self._channel.close()
