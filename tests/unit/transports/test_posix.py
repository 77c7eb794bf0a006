"""Scripts and copies over pipes that talk too much, give one byte at a time, or break."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from clustrix.errors import ConnectionLost, TransportError
from clustrix.transports.openssh import _Process
from clustrix.transports.posix import PosixTransport
from clustrix.transports.shell import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Line(_Process):
    """A pipe to a shell of this machine, with what is wrong with it."""

    def __init__(self, argv: list[str], host: Host) -> None:
        super().__init__(argv)
        self._host = host
        self._asked = False  # the shell that waits ahead is let alone

    def write(self, data: bytes) -> None:
        self._asked = True
        if self._host.budget is not None:
            allowed, self._host.budget = data[: self._host.budget], self._host.budget - len(data)
            if self._host.budget < 0:
                super().write(allowed)
                self._host.budget = None
                self.kill()
                raise BrokenPipeError("cut")
        super().write(data)

    def read(self) -> bytes:
        if self._host.receive is not None and self._asked:
            data = self._stdout.read(1 << 16)
            self._host.receive -= len(data)
            if self._host.receive < 0:
                self._host.receive = None
                self.kill()
                return b""
            return data
        return self._stdout.read(1) if self._host.slowly else super().read()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        # A real client is one process; here the other side's are ours as well. TERM first: streams end by it.
        if self.alive():
            self.end()
            try:
                self._process.wait(self._host.patience)
            except subprocess.TimeoutExpired:
                self.kill()
        super().close()

    def returncode(self) -> int | None:
        status = super().returncode()
        return None if status == -9 else status  # killed by us: the connection broke


class Host(PosixTransport):
    """This machine, reached over such pipes."""

    address = "here"

    def __init__(self, *, before: str = "", slowly: bool = False) -> None:
        super().__init__()
        self.before = before
        self.slowly = slowly
        self.budget: int | None = None  # bytes to the other side until the line breaks, once
        self.receive: int | None = None  # and from there
        self.opened = 0
        self.patience = 0.2  # seconds in which a shell may end by itself once its input has ended

    def _open(self, command: str) -> Pipe:
        self.opened += 1
        return Line(["sh", "-c", self.before + command], self)

    def _disconnect(self) -> None:
        pass


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    opened: list[Host] = []

    def make(**options: object) -> Host:
        opened.append(Host(**options))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_streams_and_status(host: Callable[..., Host]) -> None:
    here = host()
    done = here.run("cat; echo oops >&2; exit 3", stdin=b"a\0b\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"a\0b\n", b"oops\n")
    assert here.run("echo \"it's\" '$HOME'\n# a comment at the end").stdout == b"it's $HOME\n"
    large = os.urandom(3_000_000)
    assert here.run("cat", stdin=large).stdout == large
    assert here.run("head -c 3", stdin=large).stdout == large[:3]
    assert here.run("head -c 3000000 /dev/zero >&2; echo x").stdout == b"x\n"
    assert here.run("sleep 60 >/dev/null 2>&1 & echo y").stdout == b"y\n"


def test_a_call_takes_a_shell_that_waits_already(host: Callable[..., Host]) -> None:
    here = host()
    for _ in range(5):
        here.run("true")
    here.close()
    assert here.opened <= 7  # one for the PATH, one a call, one ahead


@pytest.mark.parametrize("slowly", [False, True])
def test_what_start_up_files_print_is_no_answer(host: Callable[..., Host], slowly: bool) -> None:
    here = host(before="echo ==welcome==; echo noise >&2; ", slowly=slowly)
    done = here.run("echo =; echo ==; printf ===; echo told >&2")
    assert (done.stdout, done.stderr) == (b"=\n==\n===", b"told\n")


def test_a_shell_that_does_not_come_up(host: Callable[..., Host]) -> None:
    with pytest.raises(TransportError, match="ended at once; it said: This account is closed"):
        host(before="echo This account is closed; exit 1; ").run("true")


def test_half_a_script_does_not_run(host: Callable[..., Host], tmp_path: Path) -> None:
    here = host()
    here.run("true")
    here.budget = 60
    mark = tmp_path / "mark"
    here.run(f"touch {mark}; echo {'x' * 1000} >/dev/null")  # what did not arrive whole is sent again
    assert mark.exists()
    mark.unlink()
    here.close()
    here.budget = 60
    with pytest.raises(ConnectionLost):
        here.run(f"touch {mark}; echo {'x' * 1000} >/dev/null")
    assert not mark.exists()


def test_a_line_that_breaks_while_a_script_runs(host: Callable[..., Host]) -> None:
    here = host()
    here.run("true")
    here.receive = 100_000
    with pytest.raises(ConnectionLost, match="may have run"):
        here.run("head -c 1000000 /dev/zero")
    assert here.run("echo again").stdout == b"again\n"
    with pytest.raises(ConnectionLost, match=r"no end within 0\.2 s"):
        here.run("sleep 60", timeout=0.2)


def test_an_input_that_breaks_is_told(host: Callable[..., Host]) -> None:
    class Broken:
        def __init__(self) -> None:
            self.left = 3

        def read(self, size: int) -> bytes:
            self.left -= 1
            if not self.left:
                raise OSError("unreadable")
            return b"x" * size

    with pytest.raises(OSError, match="unreadable"):
        host().run("cat >/dev/null", stdin=Broken())


def test_streams_come_as_they_are_written_and_end_with_their_reader(host: Callable[..., Host], tmp_path: Path) -> None:
    here = host()
    here.patience = 30
    with here.stream(f"echo one; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo two") as output:
        assert next(output) == b"one\n"
        (tmp_path / "go").touch()
        assert b"".join(output) == b"two\n"
    with here.stream(f"trap 'touch {tmp_path}/ended; exit' TERM; echo $$; while :; do sleep 0.05; done") as output:
        next(output)
    done = threading.Event()
    for _ in range(600):
        if (tmp_path / "ended").exists():
            break
        done.wait(0.05)
    assert (tmp_path / "ended").exists()


@pytest.fixture(params=[1 << 20, 1 << 26], ids=["segments", "one-segment"])
def segment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustrix.transports.copying._SEGMENT", request.param)


@pytest.mark.usefixtures("segment")
@pytest.mark.parametrize("size", [0, 1, 4 << 20, 5_000_000])
def test_copies(host: Callable[..., Host], tmp_path: Path, size: int) -> None:
    here, original, there, back = host(), tmp_path / "a", tmp_path / "made here" / "it's" / "b", tmp_path / "c"
    original.write_bytes(os.urandom(size))
    here.put(original, str(there), mode=0o640)
    assert there.read_bytes() == original.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o640
    assert there.parent.stat().st_mode & 0o777 == 0o700
    here.get(str(there), back)
    assert back.read_bytes() == original.read_bytes()
    assert [path.name for path in there.parent.iterdir()] == ["b"]


class Meter:
    """Collect what a bar is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def start(self, stage: str, total: int | None) -> Meter:
        return self

    def advance(self, amount: int) -> None:
        self.steps.append(amount)

    def close(self) -> None:
        pass


@pytest.mark.usefixtures("segment")
def test_a_cut_copy_goes_on(host: Callable[..., Host], tmp_path: Path) -> None:
    here, original, there, back = host(), tmp_path / "a", tmp_path / "b", tmp_path / "c"
    original.write_bytes(os.urandom(8_000_000))
    here.run("true")
    here.budget = 5_000_000
    bar = Meter()
    here.put(original, str(there), progress=bar)
    assert here.budget is None
    assert there.read_bytes() == original.read_bytes()
    assert sum(bar.steps) == 8_000_000
    here.receive = 5_000_000
    here.get(str(there), back)
    assert here.receive is None
    assert back.read_bytes() == original.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.usefixtures("segment")
def test_a_part_that_somebody_left_is_taken_over_or_thrown_away(host: Callable[..., Host], tmp_path: Path) -> None:
    here, original, there = host(), tmp_path / "a", tmp_path / "b"
    original.write_bytes(os.urandom(4_000_000))
    for damage in (False, True):
        here.run("true")
        here.budget = 3_000_000
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("clustrix.transports.copying._ATTEMPTS", 1)
            with pytest.raises(ConnectionLost):
                here.put(original, str(there))
        (left,) = tmp_path.glob(".*.part")
        assert 0 < left.stat().st_size < 4_000_000
        if damage:
            data = bytearray(left.read_bytes())
            data[len(data) // 2] ^= 1
            left.write_bytes(data)
        os.utime(left, (0, 0))
        here.put(original, str(there))
        assert there.read_bytes() == original.read_bytes()
        assert not list(tmp_path.glob(".*.part"))
        there.unlink()


def test_copies_that_cannot_be(host: Callable[..., Host], tmp_path: Path) -> None:
    here = host()
    with pytest.raises(TransportError, match="No such file"):
        here.get(str(tmp_path / "nothing"), tmp_path / "x")
    with pytest.raises(TransportError, match="cannot be read"):
        here.put(tmp_path / "nothing", str(tmp_path / "x"))
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(TransportError, match="cannot create directory"):
        here.put(tmp_path / "file", str(tmp_path / "file" / "below"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
