"""What the user's SSH configuration says of a host, before it is reached.

The system's ``ssh -G`` reads it, with Match and Include as ssh_config(5) has them; where there is no ssh, paramiko
reads what it knows of it.
"""

from __future__ import annotations

import getpass
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Hold what is known of one host before it is reached."""

    alias: str
    hostname: str
    port: int
    username: str
    keys: tuple[Path, ...] = ()
    keys_alone: bool = False  # IdentitiesOnly: what else an agent holds is not offered
    known_hosts: tuple[Path, ...] = ()
    host_key_alias: str | None = None
    proxy_jump: str | None = None
    proxy_command: str | None = None
    connect_timeout: float = 20.0

    @property
    def known_as(self) -> str:
        """Name the host as known_hosts files do."""
        name = self.host_key_alias or self.hostname
        return name if self.port == 22 or self.host_key_alias else f"[{name}]:{self.port}"  # noqa: PLR2004 - ssh's port


def resolve(
    host: str,
    *,
    port: int | None = None,
    username: str | None = None,
    key_file: str | None = None,
    config_file: str | None = None,
) -> Login:
    """Read what the user's SSH configuration says of a host; arguments come before it.

    Raises:
        ConfigError: the configuration cannot be read.

    """
    if not host or host.startswith("-"):
        raise ConfigError(f"not a host: {host!r}")
    said = effective(host, username, port, config_file)
    files = [Path(name).expanduser() for name in said.get("identityfile", [])]
    own = [Path(key_file).expanduser()] if key_file else []
    known = [*said.get("userknownhostsfile", []), *said.get("globalknownhostsfile", [])]

    def first(key: str) -> str | None:
        found = said.get(key, [])
        return found[0] if found and found[0].lower() != "none" else None

    timeout = first("connecttimeout")
    return Login(
        alias=host,
        hostname=first("hostname") or host,
        port=port or int(first("port") or 22),
        username=username or first("user") or getpass.getuser(),
        keys=tuple(dict.fromkeys([*own, *files])),
        keys_alone=first("identitiesonly") == "yes",
        known_hosts=tuple(Path(word).expanduser() for line in known for word in shlex.split(line)),
        host_key_alias=first("hostkeyalias"),
        proxy_jump=first("proxyjump"),
        proxy_command=first("proxycommand"),
        connect_timeout=float(timeout) if timeout else 20.0,
    )


def effective(
    host: str, username: str | None, port: int | None, config_file: str | None
) -> Mapping[str, Sequence[str]]:
    """Give every value that ssh would use, by its lower-case key (``ssh -G``)."""
    ssh = shutil.which("ssh")
    if ssh is None:
        return _from_paramiko(host, config_file)
    argv = [ssh, "-G"]
    argv += ["-F", config_file] if config_file else []
    argv += ["-l", username] if username else []
    argv += ["-p", str(port)] if port else []
    done = subprocess.run([*argv, "--", host], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise ConfigError(f"the SSH configuration cannot be read for {host}: {done.stderr.strip()}")
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        said.setdefault(key, []).append(value)
    return said


def _from_paramiko(host: str, config_file: str | None) -> Mapping[str, Sequence[str]]:
    import paramiko

    home = Path.home() / ".ssh"
    file = Path(config_file) if config_file else home / "config"
    try:
        # Lists for some keys, whatever the stubs say.
        found: Mapping[str, Any] = paramiko.SSHConfig.from_path(str(file)).lookup(host) if file.exists() else {}
    except (OSError, paramiko.ConfigParseError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if file.exists() and any(line.split()[:1] == ["include"] for line in file.read_text().lower().splitlines()):
        raise ConfigError(f"{file} uses Include, which needs the system's ssh", remedy="Install an OpenSSH client.")
    said = {key: value if isinstance(value, list) else [value] for key, value in found.items()}
    said.setdefault("identityfile", [str(home / name) for name in _DEFAULT_KEYS])
    said.setdefault("userknownhostsfile", [str(home / "known_hosts")])
    said.setdefault("globalknownhostsfile", ["/etc/ssh/ssh_known_hosts"])
    return said
