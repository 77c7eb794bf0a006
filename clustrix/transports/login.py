"""Log in to an SSH server: whether it is the right one, and who we are."""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import getpass
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.errors import AuthenticationFailed, HostKeyError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import paramiko

    from clustrix.transports.sshconfig import Login

    Ask = Callable[[str], str]

_ROUNDS = 3  # prompts for one secret


def known_keys(login: Login) -> tuple[list[paramiko.PKey], list[str]]:
    """Read the host's keys, and those that are revoked (base64), from its known_hosts files (sshd(8)).

    Lines that nobody can read are passed over, as ssh does it; so are certificate authorities, which paramiko lacks.
    """
    import paramiko

    known: list[paramiko.PKey] = []
    revoked: list[str] = []
    for path in login.known_hosts:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            marker, *rest = line.split() if line.startswith("@") else ["", *line.split()]
            if len(rest) < 3 or rest[0].startswith("#") or not _names(rest[0], login.known_as):  # noqa: PLR2004
                continue
            _, kind, blob = rest[:3]
            if marker == "@revoked":
                revoked.append(blob)
            elif not marker:
                with contextlib.suppress(paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError):
                    known.append(paramiko.PKey.from_type_string(kind, base64.b64decode(blob)))
    return known, revoked


def _names(field: str, host: str) -> bool:
    """Tell whether the first field of a known_hosts line, patterns or a hash, names a host."""
    if field.startswith("|1|"):
        import paramiko

        return paramiko.HostKeys.hash_host(host, field) == field
    patterns = [pattern.replace("[", "[[]") for pattern in field.split(",")]
    if any(fnmatch.fnmatchcase(host, pattern[1:]) for pattern in patterns if pattern.startswith("!")):
        return False
    return any(fnmatch.fnmatchcase(host, pattern) for pattern in patterns)


def check_host(
    login: Login, transport: paramiko.Transport, known: Sequence[paramiko.PKey], revoked: Sequence[str]
) -> None:
    """Compare the key that a server proved to have with the known ones; HostKeyError."""
    key = transport.get_remote_server_key()
    offered = f"{key.get_name()} {key.fingerprint}"
    if key.get_base64() in revoked:
        raise HostKeyError(f"the host key of {login.known_as} is revoked: {offered}")
    if key in known:
        return
    where = f"-p {login.port} {login.hostname}" if login.port != 22 else login.hostname  # noqa: PLR2004 - ssh's port
    file = login.known_hosts[0] if login.known_hosts else Path("~/.ssh/known_hosts")
    if not known:
        raise HostKeyError(
            f"{login.known_as} has not been seen before; its host key is {offered}",
            remedy="If that is the fingerprint that the site publishes, accept the key with: "
            f"ssh-keyscan -t {key.get_name().removeprefix('ssh-').partition('-')[0]} {where} >> {file}",
        )
    have = ", ".join(f"{old.get_name()} {old.fingerprint}" for old in known)
    raise HostKeyError(
        f"the host key of {login.known_as} has changed: known is {have}, offered was {offered}. "
        "Somebody may be between you and the host, or it was installed anew",
        remedy=f"Ask the site. If it confirms the new key: ssh-keygen -R {shlex.quote(login.known_as)} -f {file}",
    )


def authenticate(login: Login, transport: paramiko.Transport, password: str | None, ask: Ask | None) -> None:
    """Offer what the server accepts: keys, then answers to its questions, then the password; several if it wants so.

    Raises:
        AuthenticationFailed: names what was tried.

    """
    import paramiko

    tried: list[str] = []
    try:
        transport.auth_none(login.username)
    except paramiko.BadAuthenticationType as error:
        allowed = list(error.allowed_types)
    except paramiko.AuthenticationException:
        allowed = ["publickey", "keyboard-interactive", "password"]
    else:
        return
    ways: dict[str, Callable[[], list[str] | None]] = {
        "publickey": lambda: _with_keys(login, transport, ask, tried),
        "keyboard-interactive": lambda: _with_answers(login, transport, password, ask, tried),
        "password": lambda: _with_password(login, transport, password, ask, tried),
    }
    passed: set[str] = set()
    while not transport.is_authenticated():
        for name, way in ways.items():
            # A server may want several: it answers each but the last with what it wants next.
            if name in allowed and name not in passed and (after := way()) is not None:
                passed.add(name)
                allowed = after
                break
        else:
            raise AuthenticationFailed(
                f"{login.username}@{login.hostname} accepts {', '.join(allowed) or 'nothing'}; "
                f"tried: {', '.join(tried) or 'nothing'}",
                remedy="Name a key (key_file) or load it into the agent (ssh-add); "
                "for one-time passwords log in once with ssh and use `transport: openssh`.",
            )


def _with_keys(login: Login, transport: paramiko.Transport, ask: Ask | None, tried: list[str]) -> list[str] | None:
    import paramiko

    with contextlib.ExitStack() as stack:
        held: dict[bytes, paramiko.PKey] = {}
        with contextlib.suppress(paramiko.SSHException, OSError):
            agent = stack.enter_context(contextlib.closing(paramiko.Agent()))
            held = {key.asbytes(): key for key in agent.get_keys()}
        for name, key in _keys(login, held, ask, tried):
            try:
                return transport.auth_publickey(login.username, key)
            except paramiko.AuthenticationException:  # noqa: PERF203 - one attempt is one round trip
                tried.append(f"key {name}")
            except paramiko.SSHException as error:
                tried.append(f"key {name} ({error})")
                if not transport.is_active():
                    raise AuthenticationFailed(
                        f"{login.username}@{login.hostname} hung up after: {', '.join(tried)}",
                        remedy="Servers allow few attempts: set IdentitiesOnly and IdentityFile for this host.",
                    ) from error
    return None


def _keys(
    login: Login, held: dict[bytes, paramiko.PKey], ask: Ask | None, tried: list[str]
) -> Iterator[tuple[str, paramiko.PKey]]:
    """Give the keys to try: those of the agent that are named, what else the agent holds, then the files."""
    files = [path for path in login.keys if path.is_file()]
    rest = []
    for path in files:
        public = _public_blob(path)
        if public in held:
            yield f"{path} (agent)", held.pop(public)
        else:
            rest.append(path)
    if not login.keys_alone:
        yield from ((f"{key.get_name()} {key.fingerprint} (agent)", key) for key in held.values())
    for path in rest:
        key = _load(path, ask, tried)
        if key is not None:
            certificate = path.with_name(path.name + "-cert.pub")
            if certificate.is_file():
                key.load_certificate(str(certificate))
            yield str(path), key


def _public_blob(path: Path) -> bytes:
    try:
        return base64.b64decode(path.with_name(path.name + ".pub").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return b""


def _load(path: Path, ask: Ask | None, tried: list[str]) -> paramiko.PKey | None:
    import paramiko

    passphrase: Any = None  # bytes, which the stubs do not accept
    for _ in range(_ROUNDS + 1):
        try:
            return paramiko.PKey.from_path(path, passphrase)
        except (paramiko.PasswordRequiredException, TypeError):
            # cryptography says TypeError where paramiko has its own exception.
            pass
        except (paramiko.SSHException, ValueError, OSError) as error:
            if passphrase is None:
                tried.append(f"key {path} ({error})")
                return None
        if ask is None:
            break
        passphrase = ask(f"Passphrase of {path}: ").encode()
    tried.append(f"key {path} (locked with a passphrase)")
    return None


def _with_answers(
    login: Login, transport: paramiko.Transport, password: str | None, ask: Ask | None, tried: list[str]
) -> list[str] | None:
    import paramiko

    spent = False

    def answer(title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
        nonlocal spent
        answers = []
        for text, _echo in prompts:
            if password is not None and not spent and "password" in text.lower():
                spent = True
                answers.append(password)
            elif ask is None:
                raise AuthenticationFailed(
                    f"{login.username}@{login.hostname} asks {text.strip()!r} and nobody is there to answer",
                    remedy="Run this in a terminal, or log in with ssh first and use `transport: openssh`.",
                )
            else:
                answers.append(ask(" ".join(filter(None, (title, instructions, f"({login.hostname})", text)))))
        return answers

    for _ in range(_ROUNDS if ask else 1):
        if ask is None and password is None:
            tried.append("keyboard-interactive (nobody is there to answer)")
            break
        try:
            return transport.auth_interactive(login.username, answer)
        except paramiko.AuthenticationException:
            tried.append("keyboard-interactive")
    return None


def _with_password(
    login: Login, transport: paramiko.Transport, password: str | None, ask: Ask | None, tried: list[str]
) -> list[str] | None:
    import paramiko

    for _ in range(_ROUNDS if ask else 1):
        secret = password
        if secret is None and ask is not None:
            secret = ask(f"Password of {login.username}@{login.hostname}: ")
        if secret is None:
            break
        try:
            return transport.auth_password(login.username, secret, fallback=False)
        except paramiko.AuthenticationException:
            tried.append("password")
            password = None
    return None


def terminal() -> Ask | None:
    """Give what asks whoever sits at the terminal, if somebody does."""
    return getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None


def reach(login: Login) -> socket.socket:
    """Connect; a peer that is gone is noticed within half a minute, also while nobody sends. TransportError."""
    try:
        connection = socket.create_connection((login.hostname, login.port), timeout=login.connect_timeout)
    except socket.gaierror as error:
        raise TransportError(
            f"there is no host {login.hostname!r}: {error.strerror}",
            remedy="Check `host`, or its Host entry in ~/.ssh/config.",
        ) from error
    except OSError as error:
        raise TransportError(f"{login.hostname}:{login.port} cannot be reached: {error}") from error
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Names differ between systems; what one lacks, its own defaults do more slowly.
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        if (option := getattr(socket, name, None)) is not None and os.name == "posix":
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection
