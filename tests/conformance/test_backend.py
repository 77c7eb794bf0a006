"""Processes of this machine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clustrix import errors, handle
from clustrix.journal import Journal
from clustrix.model.job import EndKind, State
from clustrix.model.resources import Resources
from clustrix.schedulers.process import Process
from clustrix.transports.local import Local

from .backends import LONG, Backends
from .desk import Desk, Unreliable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture
def desk(tmp_path: Path, cache: Path) -> Iterator[Desk]:
    desk = Desk(Process(), Unreliable(Local()), str(tmp_path / "a root"), cache)
    yield desk
    desk.transport.dead = False
    desk.clear()


@pytest.mark.column("local venv")
class TestProcess(Backends):
    """The suite of every backend."""


NOTE = "def note(path): open(path, 'a').write('x')"


@pytest.mark.proves("one round trip a submission", "local venv")
def test_a_warm_submission_is_one_round_trip(desk: Desk) -> None:
    desk.call("def one(): return 1")
    cold = desk.transport.runs
    desk.call("def one(): return 1")
    assert cold == 2  # the worker's bundle had to travel
    assert desk.transport.runs - cold == 1


@pytest.mark.proves("connection cut after acceptance", "local venv")
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_cut_submission_happens_once(desk: Desk, how: str, tmp_path: Path) -> None:
    desk.call("def one(): return 1").result(LONG)
    trace = tmp_path / "trace"
    desk.transport.cut[desk.transport.runs + 1] = how
    job = desk.call(NOTE, str(trace))
    job.result(LONG)
    assert trace.read_text() == "x"


def test_submitting_again_finds_what_was_done(desk: Desk, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    spec, record, files = desk.prepare(NOTE, [(str(trace),)])
    first = desk.site.backend.submit(spec, record, files)
    assert desk.site.backend.submit(spec, record, files) == first
    handle.attach(record, desk.site).job().result(LONG)
    assert trace.read_text() == "x"


def test_a_submission_that_died_before_it_wrote_the_id_is_found_by_name(desk: Desk, tmp_path: Path) -> None:
    spec, record, files = desk.prepare("import time\ndef rest(): time.sleep(1000)")
    native_id = desk.site.backend.submit(spec, record, files)
    Path(desk.root, "jobs", record.id.ulid, "native-id").unlink()
    desk.sent.append(record)
    assert desk.site.backend.submit(spec, record, files) == native_id
    assert len(desk.site.backend.status([dataclasses.replace(record, native_id=native_id)])[record.id]) == 1


def test_an_upload_that_was_cut_starts_nothing(desk: Desk, tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_bytes(b"x" * 5_000_000)
    spec, record, files = desk.prepare(NOTE, [(str(tmp_path / "trace"),)])

    class Shrinking(type(payload)):  # the file is shorter than its size said
        def stat(self, **options):
            found = super().stat(**options)
            return os.stat_result((*found[:6], found.st_size + 1000, *found[7:]))

    files = {name: Shrinking(payload) if name.endswith("/payload") else content for name, content in files.items()}
    with pytest.raises(errors.StoreError, match="cut short"):
        desk.site.backend.submit(spec, record, files)
    assert not desk.site.backend.status([record])
    assert not (tmp_path / "trace").exists()


@pytest.mark.proves("lost job", "local venv")
def test_a_lost_job_is_said_to_be_lost(desk: Desk) -> None:
    desk.site = dataclasses.replace(desk.site, grace=1.0)
    job = desk.call("import time\ndef rest(): print('here', flush=True); time.sleep(1000)")
    assert next(job.logs(follow=True)) == "here\n"
    # The power goes off, everywhere at once: nobody can write anything down.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if job.id.ulid.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                    os.kill(int(path.parent.name), number)
    with pytest.raises(errors.JobLost, match="here"):
        job.result(LONG)
    assert job.status().state is State.LOST


@pytest.mark.proves("connection cut while it runs", "local venv")
def test_no_answer_is_no_end(desk: Desk, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    desk.site = dataclasses.replace(desk.site, grace=0.0)
    flag = tmp_path / "flag"
    source = "import os, time\ndef wait(flag):\n    while not os.path.exists(flag): time.sleep(0.02)\n    return 5"
    job = desk.call(source, str(flag))
    assert not job.done()
    with caplog.at_level(logging.WARNING, "clustrix"):
        desk.transport.dead = True
        with pytest.raises(concurrent.futures.TimeoutError):
            job.result(4)
        assert not flag.exists()
        said = [record.getMessage() for record in caplog.records]
        assert [text for text in said if "still trying" in text] == said[:1]
        desk.transport.dead = False
        flag.touch()
        assert job.result(LONG) == 5
    assert "answers again" in caplog.records[-1].getMessage()


def test_a_forged_outcome_is_not_unpickled(desk: Desk, tmp_path: Path) -> None:
    job = desk.call("def one(): return 1")
    job.wait(LONG)
    value = Path(desk.path(job, "outcomes", "0.pkl"))
    value.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "pwned").encode() + b"'\ntR.")
    with pytest.raises(errors.Tampered):
        job.result(LONG)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.proves("time limit", "local venv")
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_time_limit_is_kept(desk: Desk, stubborn: bool) -> None:
    source = "import signal, time\ndef rest():\n"
    source += "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    source += "    while True: time.sleep(1000)"
    job = desk.call(source, resources=Resources(time=timedelta(seconds=1)))
    with pytest.raises(errors.TimeLimit):
        job.result(LONG)
    assert desk.call("def one(): return 1", resources=Resources(time=timedelta(seconds=60))).result(LONG) == 1


@pytest.mark.proves("work saved before the end", "local venv")
def test_what_a_hook_saves_before_the_time_limit_arrives(desk: Desk, tmp_path: Path) -> None:
    source = """
        import pathlib, time
        def train(place, begun):
            import clustrix
            clustrix.on_preempt(lambda: place)
            pathlib.Path(begun).touch()
            time.sleep(1000)
    """
    begun = tmp_path / "begun"
    for seconds in (2, 30):  # a machine that is busy may not have begun in two
        job = desk.call(source, "step 7", str(begun), resources=Resources(time=timedelta(seconds=seconds)))
        with pytest.raises(errors.TimeLimit) as caught:
            job.result(LONG)
        if begun.exists():
            break
    assert "on_preempt hook returned 'step 7'" in str(caught.value)
    assert caught.value.checkpoint == "step 7"
    deadline = time.monotonic() + LONG
    while not (ends := desk.site.store.ends(job.record)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ends[0].kind is EndKind.TIME_LIMIT


@pytest.mark.proves("partition or queue", "local venv", refused="UnsupportedResource")
@pytest.mark.proves("account", "local venv", refused="UnsupportedResource")
@pytest.mark.proves("several nodes", "local venv", refused="UnsupportedResource")
@pytest.mark.proves("modules", "local venv", refused="UnsupportedResource")
@pytest.mark.proves("scheduler's own options", "local venv", refused="UnknownOption")
@pytest.mark.parametrize(
    ("resources", "kind", "word"),
    [
        (Resources(partition="gpu"), errors.UnsupportedResource, "partition"),
        (Resources(account="physics"), errors.UnsupportedResource, "account"),
        (Resources(nodes=2), errors.UnsupportedResource, "nodes"),
        (Resources(modules=("cuda",)), errors.UnsupportedResource, "modules"),
        (Resources(backend_options={"exclusive": True}), errors.UnknownOption, "exclusive"),
    ],
)
def test_what_only_a_scheduler_can_give_is_refused(
    desk: Desk, resources: Resources, kind: type[errors.ClustrixError], word: str
) -> None:
    with pytest.raises(kind, match=word):
        desk.call("def one(): return 1", resources=resources)
    assert not Path(desk.root).exists()


def test_a_job_that_was_removed_has_no_empty_output(desk: Desk) -> None:
    job = desk.call("def one(): print('said'); return 1")
    assert job.result(LONG) == 1
    assert job.logs() == "said\n"
    desk.site.store.remove(job.record)
    with pytest.raises(errors.UnknownJob, match="no directory"):
        job.logs()


def test_a_job_directory_belongs_to_its_owner_alone(desk: Desk) -> None:
    job = desk.call("def one(): return 1")
    job.wait(LONG)
    found = {path.name: path.stat().st_mode & 0o777 for path in Path(desk.path(job)).iterdir()}
    assert found["key"] == 0o600
    assert set(found.values()) <= {0o600, 0o700}
    assert Path(desk.path(job)).stat().st_mode & 0o777 == 0o700
    deadline = time.monotonic() + LONG
    while not (ends := desk.site.store.ends(job.record)):  # its process ends after its outcome
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (ends[0].kind, ends[0].exit_code) == (EndKind.EXITED, 0)


CLIENT = """
import sys
from pathlib import Path
from clustrix.journal import Journal
from clustrix.schedulers.process import Process
from clustrix.transports.local import Local
from {package}.desk import Desk, handle_record

desk = Desk(Process(), Local(), sys.argv[1], Path(sys.argv[2]))
spec, record, files = desk.prepare("import time\\ndef slow(path):\\n    while not __import__('os').path.exists(path): "
                                   "time.sleep(0.02)\\n    return [1, 2, 3]", [(sys.argv[3],)])
journal = Journal()
journal.write(record)
journal.write(handle_record(record, desk.site.backend.submit(spec, record, files)))
print(record.id, flush=True)
from clustrix import handle
handle.attach(record, desk.site).job().result()
"""


@pytest.mark.proves("reattach from another home", "local venv")
def test_a_job_outlives_its_client_and_is_read_by_another(tmp_path: Path, cache: Path) -> None:
    """`kill -9` the client; a process with another home, and no journal, gets the result."""
    root, flag = str(tmp_path / "root"), tmp_path / "flag"
    package = __name__.rpartition(".")[0]
    project = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(project), "CLUSTRIX_STATE_DIR": str(tmp_path / "state")}
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT.format(package=package), root, str(cache), str(flag)],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    with client:
        assert client.stdout is not None
        job = client.stdout.readline().strip()
        time.sleep(0.2)  # it waits for the result
        client.send_signal(signal.SIGKILL)
    flag.touch()
    reader = (
        "import sys; from pathlib import Path; from clustrix import handle\n"
        f"from {package}.desk import Desk\n"
        "from clustrix.schedulers.process import Process; from clustrix.transports.local import Local\n"
        "desk = Desk(Process(), Local(), sys.argv[1], Path('.'))\n"
        "print(handle.attach(desk.site.store.record(sys.argv[2]), desk.site).job().result(100))\n"
    )
    elsewhere = {**environment, "HOME": str(tmp_path / "other"), "CLUSTRIX_STATE_DIR": str(tmp_path / "other")}
    ulid = job.rpartition("/")[2]
    done = subprocess.run(
        [sys.executable, "-c", reader, root, ulid], env=elsewhere, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[1, 2, 3]\n", done.stderr
    # And from the journal of the one that died.
    assert str(Journal(tmp_path / "state" / "jobs").find(ulid[:24]).id) == job
