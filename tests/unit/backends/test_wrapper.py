"""What runs one task and writes down how it ended: a real shell, real processes, real signals."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clustrix.backends import wrapper
from clustrix.model.job import EndKind, JobId, JobSpec, new_ulid
from clustrix.model.paths import SitePaths
from clustrix.model.record import load_end

if TYPE_CHECKING:
    from clustrix.model.job import End
    from clustrix.model.paths import JobPaths


_UNDO_NOHUP = """\
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Task:
    """Hold one task and its wrapper."""

    def __init__(self, root: Path, *argv: str) -> None:
        job = JobId("t", new_ulid())
        self.paths: JobPaths = SitePaths(str(root / "a 'root'")).job(job.ulid)
        for place in (self.paths.ends, self.paths.logs, self.paths.work):
            Path(place).mkdir(parents=True)
        spec = JobSpec(id=job, name="n", items=1, slices=((0, 1),), workers=1, argv=argv)
        Path(self.paths.wrapper).write_text(wrapper.text(spec, self.paths, native_id="${SCHEDULER:-none}"))

    def start(self, **options: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "SCHEDULER": "4711"}
        # Under nohup a shell cannot trap HUP; schedulers start jobs with it as it was at birth.
        argv = ["python3", "-c", _UNDO_NOHUP, "sh", self.paths.wrapper, "3"]
        return subprocess.Popen(argv, env=environment, **options)

    def run(self) -> int:
        with self.start() as process:
            return process.wait(60)

    @property
    def end(self) -> End:
        return load_end(Path(self.paths.end(3)).read_bytes())

    @property
    def log(self) -> str:
        return Path(self.paths.log(3)).read_text()


def python(code: str) -> tuple[str, ...]:
    return ("python3", "-c", code)


@pytest.mark.parametrize(
    ("argv", "status", "expected"),
    [
        (("true",), 0, (EndKind.EXITED, 0, None)),
        (("sh", "-c", "exit 5"), 5, (EndKind.EXITED, 5, None)),
        (("sh", "-c", "kill -9 $$"), 137, (EndKind.SIGNALLED, None, 9)),
        (("no such command",), 127, (EndKind.EXITED, 127, None)),
        # A runtime whose processes are elsewhere says what it saw there, whatever the exit status.
        (("sh", "-c", 'echo out-of-memory >"$CLUSTRIX_NOTE"'), 0, (EndKind.OUT_OF_MEMORY, 0, None)),
    ],
)
def test_ends(tmp_path: Path, argv: tuple[str, ...], status: int, expected: tuple[object, ...]) -> None:
    task = Task(tmp_path, *argv)
    assert task.run() == status
    assert (task.end.kind, task.end.exit_code, task.end.signal) == expected
    assert task.end.node == os.uname().nodename
    assert [path.name for path in Path(task.paths.ends).iterdir()] == ["3.json"]
    assert Path(task.paths.end(3)).stat().st_mode & 0o777 == 0o600


def test_arguments_environment_and_output(tmp_path: Path) -> None:
    hostile = "a b\n'\"$HOME `x` \\ é"
    task = Task(tmp_path, "sh", "-c", 'printf "%s|" "$@" "$CLUSTRIX_NATIVE_ID"; pwd; cat; echo err >&2', "sh", hostile)
    assert task.run() == 0
    assert task.log == f"{hostile}|3|4711|{task.paths.work}\nerr\n"
    task.run()
    assert task.log.count("err") == 2  # a second start does not wipe out what the first one printed


def wait_for(task: Task, word: str) -> None:
    deadline = time.monotonic() + 60
    while not Path(task.paths.log(3)).exists() or word not in task.log:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_are_passed_on_and_waited_for(tmp_path: Path, number: signal.Signals) -> None:
    code = """
import signal, sys, time
def told(number, frame):
    time.sleep(0.3); print("told", number, flush=True); sys.exit(7)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, told)
print("ready", flush=True); time.sleep(100)
"""
    task = Task(tmp_path, *python(code))
    with task.start() as process:
        wait_for(task, "ready")
        process.send_signal(number)
        assert process.wait(60) == 7
    expected = number if number in {signal.SIGUSR1, signal.SIGUSR2} else signal.SIGTERM
    assert f"told {expected.value}\n" in task.log
    assert (task.end.kind, task.end.exit_code) == (EndKind.EXITED, 7)


def test_a_signal_reaches_a_command_that_is_just_started(tmp_path: Path) -> None:
    task = Task(tmp_path, "sh", "-c", "echo ready; sleep 100 & wait")
    text, known = Path(task.paths.wrapper).read_text(), "\nchild=$!\n"
    assert known in text
    Path(task.paths.wrapper).write_text(text.replace(known, f"\nsleep 0.5{known}"))
    with task.start() as process:
        wait_for(task, "ready")
        process.terminate()
        process.wait(60)
    assert (task.end.kind, task.end.signal) == (EndKind.SIGNALLED, signal.SIGTERM)


def test_what_was_cancelled_says_so(tmp_path: Path) -> None:
    task = Task(tmp_path, "sh", "-c", "echo ready; sleep 100 & wait")
    Path(task.paths.cancelled).touch()
    with task.start() as process:
        wait_for(task, "ready")
        process.terminate()
        process.wait(60)
    assert task.end.kind is EndKind.CANCELLED
    # Work that was done before anybody could stop it was not cancelled.
    done = Task(tmp_path, "true")
    Path(done.paths.cancelled).touch()
    assert done.run() == 0
    assert done.end.kind is EndKind.EXITED


def test_a_number_is_needed(tmp_path: Path) -> None:
    task = Task(tmp_path, "true")
    for argument in ("", "x", "../1"):
        assert subprocess.run(["sh", task.paths.wrapper, argument], capture_output=True, check=False).returncode == 64


def test_it_is_plain_posix_sh(tmp_path: Path) -> None:
    text = Path(Task(tmp_path, "true").paths.wrapper)
    for shell in ("dash", "bash --posix", "sh"):
        if subprocess.run(["sh", "-c", f"command -v {shell}"], capture_output=True, check=False).returncode == 0:
            assert subprocess.run([*shlex.split(shell), "-n", str(text)], check=False).returncode == 0
