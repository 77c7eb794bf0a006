"""What an SSH configuration and known_hosts files say; the rest of SSH is in tests/live/test_ssh.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from clustrix.errors import ConfigError, HostKeyError
from clustrix.transports import login, sshconfig
from clustrix.transports.ssh import SSH

KEY, OTHER = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()
HERE = sshconfig.Login(alias="hpc", hostname="login.example.org", port=2222, username="me")


def line(names: str, key: paramiko.PKey, marker: str = "") -> str:
    return f"{marker} {names} {key.get_name()} {key.get_base64()} comment\n".lstrip()


class Server:
    """The one thing that is asked of a connection when its key is compared."""

    def get_remote_server_key(self) -> paramiko.PKey:
        return KEY


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "more").write_text("Host hpc\n  Port 2200\n")
    path = tmp_path / "config"
    path.write_text(
        "Host hpc\n  HostName login.example.org\n  User me\n  IdentityFile ~/.ssh/hpc\n  IdentitiesOnly yes\n"
        "  UserKnownHostsFile /a /b\n  ProxyJump you@gate:23,inner\n  ConnectTimeout 7\n"
        "Host gate\n  HostName gate.example.org\n  ProxyJump outer\n"
    )
    return path


@pytest.mark.parametrize("ssh", [True, False], ids=["ssh -G", "paramiko"])
def test_configuration(config: Path, monkeypatch: pytest.MonkeyPatch, ssh: bool) -> None:
    if not ssh:
        monkeypatch.setattr("shutil.which", lambda name: None)
    found = sshconfig.resolve("hpc", config_file=str(config))
    assert (found.hostname, found.port, found.username, found.connect_timeout) == ("login.example.org", 22, "me", 7)
    assert found.keys == (Path("~/.ssh/hpc").expanduser(),)
    assert found.keys_alone
    assert found.known_hosts[:2] == (Path("/a"), Path("/b"))
    assert found.proxy_jump == "you@gate:23,inner"
    assert found.known_as == "login.example.org"
    asked = sshconfig.resolve("hpc", port=9, username="him", key_file="/k", config_file=str(config))
    assert (asked.port, asked.username, asked.keys[0]) == (9, "him", Path("/k"))
    assert asked.known_as == "[login.example.org]:9"
    plain = sshconfig.resolve("elsewhere", config_file=str(config))
    assert (plain.hostname, plain.proxy_jump) == ("elsewhere", None)
    assert plain.keys


def test_include(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(f"Include {config.parent}/more\n{config.read_text()}")
    assert sshconfig.resolve("hpc", config_file=str(config)).port == 2200
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match="Include"):
        sshconfig.resolve("hpc", config_file=str(config))


@pytest.mark.parametrize("host", ["", "-oProxyCommand=touch pwned"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(ConfigError, match="not a host"):
        SSH(host).run("true")


def test_the_route_through_jump_hosts(config: Path) -> None:
    ssh = SSH("hpc", config_file=str(config))
    route = [(hop.hostname, hop.username, hop.port) for hop in ssh._route(ssh._login)]
    assert [name for name, _, _ in route] == ["outer", "gate.example.org", "inner", "login.example.org"]
    assert route[1][1:] == ("you", 23)


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ("[login.example.org]:2222", True),
        ("other,[login.example.org]:2222,10.0.0.1", True),
        ("[*.example.org]:2222", True),
        ("[*.example.org]:2222,![login.example.org]:2222", False),
        ("login.example.org", False),
        (paramiko.HostKeys.hash_host("[login.example.org]:2222"), True),
        (paramiko.HostKeys.hash_host("login.example.org"), False),
    ],
    ids=["plain", "one of many", "pattern", "negated", "other port", "hash", "other hash"],
)
def test_known_hosts(tmp_path: Path, names: str, known: bool) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"# a comment\n\nrubbish\n[login.example.org]:2222 ssh-new AAAA\n{line(names, KEY)}")
    here = replace(HERE, known_hosts=(tmp_path / "absent", file))
    found, revoked = login.known_keys(here)
    assert (found, revoked) == ([KEY] if known else [], [])
    if known:
        login.check_host(here, Server(), found, revoked)
    else:
        with pytest.raises(HostKeyError, match=r"\[login\.example\.org\]:2222 has not been seen"):
            login.check_host(here, Server(), found, revoked)


def test_host_keys_that_are_wrong(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    here = replace(HERE, known_hosts=(file,))
    file.write_text(line(HERE.known_as, OTHER) + line(HERE.known_as, OTHER, "@cert-authority"))
    with pytest.raises(HostKeyError, match="has changed") as changed:
        login.check_host(here, Server(), *login.known_keys(here))
    assert KEY.fingerprint in changed.value.message
    assert OTHER.fingerprint in changed.value.message
    assert f"ssh-keygen -R '{HERE.known_as}' -f {file}" in str(changed.value.remedy)
    file.write_text(line(HERE.known_as, KEY) + line("*", KEY, "@revoked"))
    with pytest.raises(HostKeyError, match="revoked"):
        login.check_host(here, Server(), *login.known_keys(here))


def test_paramiko_is_imported_when_it_is_needed() -> None:
    code = "import sys, clustrix.transports.ssh; print({'paramiko', 'cryptography'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
