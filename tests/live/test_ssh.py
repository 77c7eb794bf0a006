"""SSH against OpenSSH's own server: logins, host keys, jump hosts, cuts, full disks, start-up files that talk."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import re
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from clustrix.errors import AuthenticationFailed, ConnectionLost, DiskFull, HostKeyError, TransportError
from clustrix.transports.openssh import OpenSSH
from clustrix.transports.ssh import SSH

from .proxies import proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .beds import Bed

    Connect = Callable[..., SSH]

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", autouse=True)
def _patience(ssh_host: Bed) -> None:
    """Let the server forgive: it shuts out addresses that fail often, and all of these logins come from one."""
    ssh_host.root(
        "echo 'PerSourcePenalties no' >/etc/ssh/sshd_config.d/forgive.conf && pid=$(cat /run/sshd.pid) &&"
        "rm /run/sshd.pid && kill -HUP $pid &&"  # it writes the file anew once it listens again
        "for i in $(seq 300); do sleep 0.1; [ ! -e /run/sshd.pid ] || exit 0; done; exit 1"
    )


@pytest.fixture
def config(ssh_host: Bed, tmp_path: Path) -> Path:
    """An ssh_config of the user's: the host is called `node`."""
    path = tmp_path / "ssh_config"
    path.write_text(
        f"Host node\n  HostName {ssh_host.host}\n  Port {ssh_host.port}\n  User {ssh_host.user}\n"
        f"  IdentityFile {ssh_host.key}\n"
        f"Host *\n  IdentitiesOnly yes\n  UserKnownHostsFile {tmp_path}/known_hosts\n  GlobalKnownHostsFile none\n"
    )
    (tmp_path / "known_hosts").write_text(ssh_host.known_hosts.read_text())
    return path


@pytest.fixture
def connect(config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with contextlib.ExitStack() as stack:

        def transport(host: str = "node", **options: object) -> SSH:
            ssh = SSH(host, config_file=str(config), **options)
            stack.callback(ssh.close)
            return ssh

        yield transport


@pytest.fixture(params=[SSH, OpenSSH])
def reach(request: pytest.FixtureRequest, config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Each of both clients, for what they promise alike."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(dir="/tmp") as sockets:
        monkeypatch.setattr(tempfile, "tempdir", sockets)  # connections of our own

        def transport(host: str = "node", **options: object) -> SSH | OpenSSH:
            opened = request.param(host, config_file=str(config), **options)
            stack.callback(opened.close)
            return opened

        yield transport


@pytest.fixture
def home(ssh_host: Bed) -> Iterator[None]:
    """Let a test write start-up files, and take them back."""
    ssh_host.root("cp -a /home/alice /home/alice.before")
    yield
    ssh_host.root("rm -rf /home/alice && mv /home/alice.before /home/alice")


def second_daemon(bed: Bed, port: int, *options: str) -> str:
    """Start another sshd inside, and give its host key."""
    listens = f"bash -c ': </dev/tcp/127.0.0.1/{port}' 2>/dev/null"  # it goes into the background before it does
    bed.root(
        f"/usr/sbin/sshd -p {port} -o ListenAddress=127.0.0.1 {' '.join(options)};"
        f"for i in $(seq 300); do {listens} && exit 0; sleep 0.1; done; exit 1"
    )
    return bed.root("cat /etc/ssh/ssh_host_ed25519_key.pub").strip()


def test_runs_scripts_and_reuses_one_connection(reach: Connect, ssh_host: Bed) -> None:
    with proxy((ssh_host.host, ssh_host.port)) as line:
        ssh = reach("node", port=line.port)
        with pytest.raises(HostKeyError):  # the proxy's port is another name in known_hosts
            ssh.run("true")
    ssh = reach()
    done = ssh.run("printf 'a\\0b'; echo oops >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"a\0b", b"oops\n")
    data = os.urandom(20_000_000)
    assert ssh.run("cat", stdin=data).stdout == data
    assert ssh.run("head -c 5", stdin=data).stdout == data[:5]
    assert ssh.run("head -c 20000000 /dev/zero >&2").stderr.count(b"\0") == 20_000_000
    assert ssh.run("sleep 100 & echo started").stdout == b"started\n"
    with pytest.raises(ConnectionLost, match=r"0\.5 s"):
        ssh.run("sleep 100", timeout=0.5)
    assert ssh.run("exit 255").returncode == 255
    assert ssh.address == f"ssh://alice@127.0.0.1:{ssh_host.port}"
    # Those of whoever was here before may be on their way out.
    until(lambda: ssh_host.root("pgrep -fc '^sshd(-session)?: alice@notty'").strip() == "1")


def test_start_up_files_may_talk_and_set_the_path(reach: Connect, ssh_host: Bed, home: None) -> None:
    ssh_host.root(
        "printf 'echo welcome; echo noise >&2\\n%s\\n' \"$(cat /home/alice/.bashrc)\" >/home/alice/.bashrc;"
        "echo 'echo hello; PATH=$PATH:/opt/site/bin; export NOISE=\"\nPATH=/wrong\n\"' >>/home/alice/.profile"
    )
    done = reach().run("echo $PATH")
    assert done.stdout.endswith(b"/bin:/opt/site/bin\n") or b"/opt/site/bin" in done.stdout
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""
    ssh_host.root("echo 'exit 0' >/home/alice/.bashrc")
    with pytest.raises(TransportError, match="login shell ended at once"):
        reach().run("true")


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/bash"])
def test_any_login_shell(reach: Connect, ssh_host: Bed, shell: str) -> None:
    ssh_host.root(f"usermod -s {shell} alice")
    try:
        assert reach().run('echo $0 "it\'s"').stdout == b"sh it's\n"
    finally:
        ssh_host.root("usermod -s /bin/bash alice")


@pytest.mark.proves("key, agent, password", "ssh host")
def test_logins(connect: Connect, ssh_host: Bed, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect().run("id -un").stdout == b"alice\n"
    without = tmp_path / "without_key"
    without.write_text(re.sub(r"IdentityFile.*", "IdentityFile none", config.read_text()))

    def other(**options: object) -> bytes:
        ssh = SSH("node", config_file=str(without), **options)
        with contextlib.closing(ssh):
            return ssh.run("id -un").stdout

    assert other(key_file=str(ssh_host.key)) == b"alice\n"
    assert other(password=ssh_host.password) == b"alice\n"
    asked: list[str] = []
    assert other(ask=lambda prompt: asked.append(prompt) or ssh_host.password) == b"alice\n"
    assert "assword" in asked[0]

    locked = tmp_path / "locked"
    locked.write_bytes(ssh_host.key.read_bytes())
    locked.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(locked)], check=True)
    assert other(key_file=str(locked), ask=lambda prompt: "open sesame") == b"alice\n"

    agent = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
    socket_name, pid = re.search(r"SSH_AUTH_SOCK=([^;]+)", agent)[1], re.search(r"SSH_AGENT_PID=(\d+)", agent)[1]
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket_name)
        subprocess.run(["ssh-add", "-q", str(ssh_host.key)], check=True)
        without.write_text(without.read_text().replace("IdentitiesOnly yes", "IdentitiesOnly no"))
        assert other() == b"alice\n"
    finally:
        os.kill(int(pid), 15)


@pytest.mark.proves("two factors", "ssh host")
def test_two_factors(connect: Connect, ssh_host: Bed, config: Path, tmp_path: Path) -> None:
    key = second_daemon(
        ssh_host,
        2030,
        "-o UsePAM=yes",
        "-o KbdInteractiveAuthentication=yes",
        "-o AuthenticationMethods=publickey,keyboard-interactive",
    )
    config.write_text("Host strict\n  HostName 127.0.0.1\n  Port 2030\n  ProxyJump node\n" + config.read_text())
    config.write_text(config.read_text() + f"  User alice\n  IdentityFile {ssh_host.key}\n")
    with (tmp_path / "known_hosts").open("a") as file:
        file.write(f"[127.0.0.1]:2030 {key}\n")
    assert connect("strict", ask=lambda prompt: ssh_host.password).run("id -un").stdout == b"alice\n"
    with pytest.raises(AuthenticationFailed, match="nobody is there to answer"):
        connect("strict").run("true")


@pytest.mark.proves("jump host", "ssh host")
def test_jump_hosts(connect: Connect, ssh_host: Bed, config: Path, tmp_path: Path) -> None:
    key = second_daemon(ssh_host, 2022)
    config.write_text("Host inner\n  HostName 127.0.0.1\n  Port 2022\n  ProxyJump node\n" + config.read_text())
    config.write_text(config.read_text() + f"  User alice\n  IdentityFile {ssh_host.key}\n")
    with pytest.raises(HostKeyError, match=r"\[127.0.0.1\]:2022 has not been seen"):
        connect("inner").run("true")
    with (tmp_path / "known_hosts").open("a") as file:
        file.write(f"[127.0.0.1]:2022 {key}\n")
    assert connect("inner").run("echo ${SSH_CONNECTION##* }").stdout == b"2022\n"
    with pytest.raises(TransportError, match="jump host does not reach"):
        connect("inner", port=2999).run("true")


@pytest.mark.proves("strict host keys", "ssh host", refused="HostKeyError")
def test_refusals(connect: Connect, ssh_host: Bed, config: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    right = config.read_text()
    config.write_text(right.replace(str(ssh_host.key), str(stranger)))
    with pytest.raises(AuthenticationFailed, match="stranger"):
        connect().run("true")
    config.write_text(right)

    known_hosts = tmp_path / "known_hosts"
    published = known_hosts.read_text()
    known_hosts.write_text("")
    with pytest.raises(HostKeyError, match=r"ssh-ed25519 SHA256:\S{43}") as unknown:
        connect().run("true")
    # The remedy is a command that works.
    subprocess.run(["sh", "-c", unknown.value.remedy.partition("with: ")[2]], check=True, stderr=subprocess.DEVNULL)
    assert connect().run("echo in").stdout == b"in\n"

    known_hosts.write_text(re.sub(r"ssh-ed25519 .*", (tmp_path / "stranger.pub").read_text().strip(), published))
    with pytest.raises(HostKeyError, match="has changed") as changed:
        connect().run("true")
    assert f"ssh-keygen -R '[127.0.0.1]:{ssh_host.port}'" in changed.value.remedy
    known_hosts.write_text(published + f"@revoked * {' '.join(published.split()[1:3])}\n")
    with pytest.raises(HostKeyError, match="revoked"):
        connect().run("true")

    with contextlib.closing(OpenSSH("node", config_file=str(config))) as system:
        with pytest.raises(HostKeyError):
            system.run("true")
        known_hosts.write_text("")
        with pytest.raises(HostKeyError):
            system.run("true")
        known_hosts.write_text(published)
        config.write_text(right.replace(str(ssh_host.key), str(stranger)))
        with pytest.raises(AuthenticationFailed, match="Permission denied"):
            system.run("true")
        config.write_text(right)

    with pytest.raises(TransportError, match="cannot be reached"):
        connect(port=1).run("true")
    with pytest.raises(TransportError, match="no host"):
        SSH("no-such-host.invalid", config_file=str(config)).run("true")


@pytest.mark.parametrize("sessions", [10, 2])
def test_more_scripts_than_sessions(reach: Connect, ssh_host: Bed, config: Path, tmp_path: Path, sessions: int) -> None:
    port = 2040 + sessions
    key = second_daemon(ssh_host, port, f"-o MaxSessions={sessions}")
    config.write_text(f"Host few\n  HostName 127.0.0.1\n  Port {port}\n  ProxyJump node\n" + config.read_text())
    config.write_text(config.read_text() + f"  User alice\n  IdentityFile {ssh_host.key}\n")
    with (tmp_path / "known_hosts").open("a") as file:
        file.write(f"[127.0.0.1]:{port} {key}\n")
    ssh = reach("few")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: ssh.run(f"sleep 0.1; echo {n}").stdout, range(24)))
    assert answers == [b"%d\n" % n for n in range(24)]


@pytest.mark.proves("connection lost and opened again", "ssh host")
def test_a_lost_connection_is_told_and_replaced(reach: Connect, ssh_host: Bed) -> None:
    ssh = reach()
    pid = ssh.run("echo $PPID").stdout.decode().strip()
    with ssh.stream("echo begun; while :; do sleep 1; done") as output:
        assert next(output) == b"begun\n"
        ssh_host.root(f"kill -9 {pid}; pkill -9 -f '^sshd(-session)?: alice'; true")
        with pytest.raises(ConnectionLost):
            list(output)
    assert recovered(ssh, "echo again") == b"again\n"
    ssh_host.root("pkill -9 -f '^sshd(-session)?: alice'")
    assert recovered(ssh, "echo and again") == b"and again\n"


def until(come_true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not come_true():
        assert time.monotonic() < end
        time.sleep(0.1)


def recovered(ssh: SSH | OpenSSH, script: str) -> bytes:
    """Run a script; it may be told that the connection is lost for as long as the news travels, and no longer."""
    end = time.monotonic() + 30
    while True:
        try:
            return ssh.run(script).stdout
        except TransportError:  # noqa: PERF203 - one attempt is one round trip
            assert time.monotonic() < end
            time.sleep(0.1)


def test_a_server_that_falls_silent_is_told(connect: Connect, ssh_host: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustrix.transports.ssh._KEEPALIVE", 0.5)
    monkeypatch.setattr("clustrix.transports.ssh._SILENCE", 5.0)
    ssh = connect()
    ssh.run("sleep 7")  # is not silence
    ssh_host.container.pause()
    try:
        with pytest.raises(ConnectionLost):
            ssh.run("true")
    finally:
        ssh_host.container.unpause()
    assert recovered(ssh, "echo again") == b"again\n"


def test_leaving_a_stream_ends_its_script(reach: Connect, ssh_host: Bed) -> None:
    ssh = reach()
    with ssh.stream("echo one; sleep 4321; echo two") as output:
        assert next(output) == b"one\n"
        until(lambda: ssh_host.root("pgrep -fc 'sleep 432[1]' || true").strip() == "1")
    until(lambda: ssh_host.root("pgrep -fc 'sleep 432[1]' || true").strip() == "0")
    with ssh.stream("printf 'all'; exit 3") as output:
        assert b"".join(output) == b"all"


@pytest.mark.proves("copies go on after a cut", "ssh host")
@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_cut_copy_goes_on_where_it_stopped(reach: Connect, ssh_host: Bed, tmp_path: Path, verb: str) -> None:
    size = 24_000_000
    original, copy, there = tmp_path / "original", tmp_path / "copy", f"/home/alice/it's {verb}/file"
    original.write_bytes(os.urandom(size))
    if verb == "get":
        reach().put(original, there)
    with proxy((ssh_host.host, ssh_host.port)) as line:
        known = tmp_path / "known_hosts"
        known.write_text(known.read_text() + known.read_text().replace(str(ssh_host.port), str(line.port)))
        cuts: list[int] = []

        def cut(direction: str, data: bytes) -> bool:
            passed = line.up + line.down
            if passed > size * 2 // 3 and not cuts:
                cuts.append(passed)
                return True
            return False

        line.cut_when = cut
        ssh = reach(port=line.port)
        if verb == "put":
            ssh.put(original, there, mode=0o640)
            digest = hashlib.sha256(original.read_bytes()).hexdigest()
            script = 'cd "$HOME/it\'s put" && sha256sum <file && stat -c %a file'
            assert ssh.run(script).stdout.decode().split() == [digest, "-", "640"]
        else:
            ssh.get(there, copy)
            assert copy.read_bytes() == original.read_bytes()
        assert cuts
        assert line.connections == 2
        assert line.up + line.down < size * 1.5
        assert ssh.run(f'ls -A "$HOME/it\'s {verb}"').stdout == b"file\n"
        assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_two_clients_put_one_file_to_one_place(reach: Connect, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_bytes(os.urandom(8_000_000))
    clients = [reach() for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda client: client.put(original, "/home/alice/both/file"), clients))
    clients[0].get("/home/alice/both/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()
    assert clients[0].run("ls -A ~/both").stdout == b"file\n"


def test_copies_that_cannot_be(reach: Connect, ssh_host: Bed, tmp_path: Path) -> None:
    ssh = reach()
    original = tmp_path / "original"
    original.write_bytes(bytes(3_000_000))
    ssh_host.root("mkdir -p /small && mount -t tmpfs -o size=1m,mode=777 tmpfs /small")
    with pytest.raises(DiskFull, match="/small/file"):
        ssh.put(original, "/small/file")
    assert ssh.run("ls -A /small").stdout == b""
    with pytest.raises(TransportError, match="can't cd to /root"):
        ssh.put(original, "/root/file")
    with pytest.raises(TransportError, match="No such file"):
        ssh.get("/home/alice/nothing", tmp_path / "copy")
    with pytest.raises(TransportError, match="cannot be read"):
        ssh.put(tmp_path / "nothing", "/home/alice/file")
    original.write_bytes(b"")
    ssh.put(original, "/home/alice/empty")
    ssh.get("/home/alice/empty", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""
    assert ssh.run("echo still here").stdout == b"still here\n"
