# ruff: noqa: F811 - fixtures of another file
"""Grid Engine, for real: over SSH, in a SIF, with the suite of every backend and what only SGE does."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from clustrix import errors, handle
from clustrix.model.job import EndKind, JobId, State, new_ulid
from clustrix.model.paths import SitePaths
from clustrix.model.resources import Resources
from clustrix.schedulers.sge import Sge
from tests.conformance.backends import LONG, Backends
from tests.conformance.desk import Desk

from .sites import Place, cache, desk, line, placed  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from clustrix.transports.ssh import SSH

    from .beds import Bed

pytestmark = pytest.mark.live

ROOT = "/home/alice/a root"


@pytest.fixture(scope="module")
def place(sge_cluster: Bed) -> Place:
    return Place(sge_cluster, Sge(), ROOT)


@pytest.mark.column("sge")
class TestSge(Backends):
    """The suite of every backend."""


REST = "import time\ndef rest(): print('here', flush=True); time.sleep(1000)"
ONE = "def one(x=1): return x"


@pytest.mark.proves("time limit", "sge")
@pytest.mark.proves("memory limit", "sge")
def test_limits_are_kept_and_named(desk: Desk) -> None:
    greedy = """
        import os, time
        def greedy():
            for _ in range(4):
                if os.fork() == 0:
                    block = bytearray(900 * 2**20)
                    time.sleep(60)
                    os._exit(0)
            time.sleep(60)
    """
    # Apptainer itself does not start within less than 2 GB of addresses.
    over = desk.call(greedy, resources=Resources(memory_bytes=3 * 2**30))
    late = desk.call(REST, resources=Resources(time=timedelta(seconds=2)))
    with pytest.raises(errors.TimeLimit, match="h_rt"):
        late.result(LONG)
    with pytest.raises(errors.OutOfMemory):
        over.result(LONG)


@pytest.mark.proves("cores and memory", "sge")
def test_memory_is_divided_among_slots(desk: Desk) -> None:
    source = "import resource\ndef limit(): return resource.getrlimit(resource.RLIMIT_AS)[0]"
    asked = Resources(cores=2, memory_bytes=3 * 2**30 + 1)
    limit = desk.call(source, resources=asked).result(LONG)
    assert asked.memory_bytes <= limit < asked.memory_bytes + 4096


def test_exit_codes_that_mean_something_to_sge(desk: Desk) -> None:
    array = desk.submit("import os\ndef leave(code): os._exit(code)", [(99,), (100,)])
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert [type(error) for error in found] == [errors.Crashed, errors.Crashed]
    ends = desk.site.store.ends(array.record)
    assert [ends[task].exit_code for task in range(2)] == [99, 100]
    assert {status.state for status in desk.site.backend.status([array.record])[array.id].values()} == {State.FAILED}


@pytest.mark.proves("refusal in the scheduler's words", "sge")
@pytest.mark.proves("partition or queue", "sge")
@pytest.mark.proves("account", "sge")
def test_what_sge_refuses(desk: Desk) -> None:
    for resources, words in (
        (Resources(queue="nope"), 'requests unknown queue "nope"'),
        (Resources(account="nope"), 'the requested project "nope" does not exist'),
        (Resources(backend_options={"l": {"nope": 1}}), 'unknown resource "nope"'),
        (Resources(cores=2, backend_options={"parallel_environment": "nope"}), "qconf -spl"),
    ):
        with pytest.raises(errors.SubmitRejected, match=words) as caught:
            desk.call(ONE, resources=resources)
        assert "SGE refused the job" in str(caught.value)
        assert desk.transport.run(f"ls -A '{ROOT}/jobs' | grep -c {desk.sent[-1].id.ulid}").stdout.strip() == b"0"
        desk.sent.pop()


@pytest.mark.proves("modules", "sge")
def test_modules_are_loaded_before_the_container_starts(desk: Desk, sge_cluster: Bed) -> None:
    sge_cluster.root("echo 'module() { echo module \"$@\"; }' >/etc/profile.d/modules.sh")
    try:
        job = desk.call(ONE, resources=Resources(modules=("a/1.0", "$(id)")))
        assert job.result(LONG) == 1
        assert job.logs() == "module load a/1.0 $(id)\n"
    finally:
        sge_cluster.root("rm /etc/profile.d/modules.sh")


@pytest.mark.proves("unsatisfiable request", "sge")
def test_a_job_that_can_never_run_says_why(desk: Desk) -> None:
    job = desk.call(ONE, resources=Resources(backend_options={"l": {"arch": "foo"}}))
    with pytest.raises(errors.Unschedulable, match="offers only hl:arch="):
        job.result(LONG)


@pytest.mark.proves("job in an error state", "sge")
def test_a_job_in_the_error_state_says_why(desk: Desk, sge_cluster: Bed) -> None:
    refuse = "/usr/local/sbin/refuse"
    sge_cluster.root(f"printf '#!/bin/sh\nexit 100\n' >{refuse}; chmod +x {refuse}")
    sge_cluster.root(f". /etc/profile.d/sge.sh; qconf -rattr queue prolog {refuse} all.q")
    try:
        job = desk.call(ONE)
        with pytest.raises(errors.Unschedulable, match="error state Eqw"):
            job.result(LONG)
    finally:
        sge_cluster.root(". /etc/profile.d/sge.sh; qconf -rattr queue prolog NONE all.q")


@pytest.mark.proves("cancel queued", "sge")
@pytest.mark.proves("why it waits", "sge")
@pytest.mark.proves("scheduler's own options", "sge")
def test_cancelled_while_waiting_and_while_running(desk: Desk, line: SSH) -> None:
    array = desk.submit(REST, [()] * 6, max_parallel=1)
    assert next(array.logs(follow=True))
    waiting = desk.call(
        ONE, resources=Resources(backend_options={"hold_jid": array.record.native_id.partition(".")[0]})
    )
    status = waiting.status()
    assert status.state is State.WAITING
    assert "dependencies" in status.reason or "held" in status.reason
    assert waiting.cancel()
    assert waiting.cancelled()
    assert array.cancel()
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert {type(error) for error in found} == {errors.JobCancelled}


@pytest.mark.proves("cancelled by somebody else", "sge")
@pytest.mark.proves("lost job", "sge")
def test_deleted_by_somebody_else(desk: Desk, line: SSH) -> None:
    running = desk.call(REST)
    queued = desk.call(ONE, resources=Resources(backend_options={"hold_jid": running.record.native_id}))
    assert next(running.logs(follow=True))
    line.run(f"qdel {queued.record.native_id} {running.record.native_id}")
    with pytest.raises(errors.JobCancelled, match="failed 100"):
        running.result(LONG)
    # qacct never hears of a job that did not run.
    lost = handle.attach(queued.record, replace(desk.site, grace=0.0)).job()
    with pytest.raises(errors.JobLost):
        lost.result(LONG)


@pytest.mark.proves("array beyond the limit", "sge")
def test_more_tasks_than_an_array_may_have(desk: Desk, sge_cluster: Bed) -> None:
    change = (
        ". /etc/profile.d/sge.sh; cd /tmp; qconf -sconf global | sed -e /^#/d"
        " -e 's/^max_aj_tasks.*/max_aj_tasks {}/' >global; qconf -Mconf global"
    )
    sge_cluster.root(change.format(3))
    try:
        array = desk.submit("def twice(x): return 2 * x", [(x,) for x in range(4)])
        assert len(array.record.native_id.split()) == 2
        assert list(array.results(timeout=LONG)) == [0, 2, 4, 6]
    finally:
        sge_cluster.root(change.format(75000))


@pytest.mark.proves("connection cut after acceptance", "sge")
def test_a_submission_happens_once(desk: Desk, line: SSH) -> None:
    desk.call(ONE).result(LONG)
    note = "def note(path): open(path, 'a').write('x')"
    trace = f"{ROOT}/trace-{new_ulid()}"
    for how in ("before", "after"):
        desk.transport.cut[desk.transport.runs + 1] = how
        desk.call(note, trace).result(LONG)
    assert line.run(f"cat '{trace}'").stdout == b"xx"
    # Accepted, and the connection cut before the id was written down: waiting, or ended, it is found by its name.
    for source, items in ((REST, [()] * 2), ("def two(x): return x", [(1,), (2,)]), (ONE, [()])):
        spec, record, files = desk.prepare(source, items)
        native_id = desk.site.backend.submit(spec, record, files)
        if source is not REST:
            assert handle.attach(record, desk.site).wait(LONG)
            _until(lambda native_id=native_id: line.run(f"qacct -j {native_id.partition('.')[0]}").returncode == 0)
        line.run(f"rm '{SitePaths(ROOT).job(record.id.ulid).native_id}'")
        assert desk.site.backend.submit(spec, record, files) == native_id
        desk.sent.append(replace(record, native_id=native_id))


@pytest.mark.proves("server restart", "sge")
def test_the_master_is_away_for_a_while(desk: Desk, sge_cluster: Bed) -> None:
    source = "import os, time\ndef wait(path):\n    while not os.path.exists(path): time.sleep(0.05)\n    return 5"
    flag = f"{ROOT}/flag-{new_ulid()}"
    job = desk.call(source, flag)
    _until(lambda: job.status().state is State.RUNNING)
    sge_cluster.root(". /etc/profile.d/sge.sh; qconf -km")
    try:
        _until(lambda: sge_cluster.root("pgrep -x sge_qmaster || echo gone").strip() == "gone")
        with pytest.raises(errors.BackendError, match="qmaster"):
            job.status()
        with pytest.raises(errors.BackendError, match="does not answer"):
            desk.call(ONE)
        desk.sent.pop()
        desk.transport.run(f"touch '{flag}'")
        assert job.result(LONG) == 5  # nobody needs the scheduler for it
    finally:
        # Left alone, the execution daemon would notice after half a minute.
        restart = "/usr/sbin/sge_qmaster && pkill -KILL -x sge_execd; sleep 0.5; /usr/sbin/sge_execd"
        sge_cluster.root(f". /etc/profile.d/sge.sh; {restart}")
    assert desk.call(ONE).result(LONG) == 1


def test_jobs_that_nobody_knows_are_left_out(desk: Desk) -> None:
    known = desk.call(ONE)
    assert known.result(LONG) == 1
    stranger = replace(known.record, id=JobId("test", new_ulid()), native_id="999999")
    _until(lambda: known.id in (said := desk.site.backend.status([known.record])) and said[known.id][0].state.ended)
    status = desk.site.backend.status([stranger, known.record])
    assert list(status) == [known.id]
    assert status[known.id][0].state is State.SUCCEEDED
    assert status[known.id][0].end.kind is EndKind.EXITED


def _until(there) -> None:
    deadline = time.monotonic() + LONG
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.1)
