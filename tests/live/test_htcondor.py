# ruff: noqa: F811 - fixtures of another file
"""HTCondor, for real: over SSH, in a SIF, with the suite of every backend and what only HTCondor does."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from clustrix import errors, handle
from clustrix.model.job import EndKind, State, new_ulid
from clustrix.model.paths import SitePaths
from clustrix.model.resources import Resources
from clustrix.schedulers.htcondor import Htcondor
from tests.conformance.backends import LONG, Backends
from tests.conformance.desk import Desk

from . import beds
from .sites import Place, cache, desk, line, placed  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clustrix.transports.ssh import SSH

    from .beds import Bed

pytestmark = pytest.mark.live

ROOT = "/home/alice/a root"
HOSTILE = '/home/alice/it\'s "a" é'


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A log-in node of an HTCondor pool: one partitionable slot of 4 cores and 8000 MB."""
    with beds.bed("htcondor", tmp_path_factory.mktemp("htcondor")) as bed:
        yield bed


@pytest.fixture(scope="module")
def place(pool: Bed) -> Place:
    pool.root(f"install -d -o alice -g alice {shlex.quote(HOSTILE)}")  # a mount must be there
    return Place(pool, Htcondor(), ROOT, mounts=(HOSTILE,))


@pytest.mark.column("htcondor")
class TestHtcondor(Backends):
    """The suite of every backend."""


REST = "import time\ndef rest(): print('here', flush=True); time.sleep(1000)"
ONE = "def one(x=1): return x"


@pytest.mark.proves("time limit", "htcondor")
@pytest.mark.proves("memory limit", "htcondor")
def test_limits_are_kept_and_named(desk: Desk) -> None:
    # More than any slot here has: a job may get one that was made for a larger job, and its limit.
    greedy = "def greedy(): return len(bytearray(2**30))"
    over = desk.call(greedy, resources=Resources(memory_bytes=256 * 2**20))
    late = desk.call(REST, resources=Resources(time=timedelta(seconds=2)))
    with pytest.raises(errors.TimeLimit, match="exceeded allowed job duration"):
        late.result(LONG)
    with pytest.raises(errors.OutOfMemory):
        over.result(LONG)
    # What has ended does not stay in the queue.
    ids = [job.record.native_id.partition(".")[0] for job in (over, late)]
    until(lambda: desk.transport.run(f"condor_q {' '.join(ids)} -af ClusterId").stdout.strip() == b"")
    statuses = desk.site.backend.status([over.record, late.record])
    assert [statuses[job.id][0].end.kind for job in (over, late)] == [EndKind.OUT_OF_MEMORY, EndKind.TIME_LIMIT]


@pytest.mark.proves("cores and memory", "htcondor")
@pytest.mark.proves("account", "htcondor")
@pytest.mark.proves("modules", "htcondor")
@pytest.mark.proves("scheduler's own options", "htcondor")
def test_every_option_arrives(desk: Desk, pool: Bed, line: SSH) -> None:
    pool.root("echo 'module() { echo module \"$@\"; }' >/etc/profile.d/modules.sh")
    options = {
        "priority": 7,
        "request_disk": "3M",
        "requirements": 'OpSys == "LINUX" || Arch == "foo"',
        "attributes": {"Flavour": 'long "#é', "Wanted": True, "Number": 3},
    }
    asked = Resources(
        cores=2, memory_bytes=600 * 2**20 + 1, account="group_a.b", modules=("a/1.0", "$(id)"), backend_options=options
    )
    job = desk.call(ONE, resources=asked)
    assert job.result(LONG) == 1
    assert job.logs().splitlines()[0] == "module load a/1.0 $(id)"
    cluster = job.record.native_id.partition(".")[0]
    names = "RequestCpus RequestMemory AcctGroup JobPrio RequestDisk Flavour Wanted Number"
    until(lambda: line.run(f"condor_history -limit 1 {cluster} -af ClusterId").stdout.strip() == cluster.encode())
    said = line.run(f"condor_history -limit 1 {cluster} -af:,r {names}").stdout.decode()
    assert said.strip() == r'2, 601, "group_a.b", 7, 3072, "long \"#é", true, 3'


@pytest.mark.proves("hostile quoting", "htcondor")
def test_a_root_of_any_name(desk: Desk) -> None:
    assert replace(desk, root=HOSTILE).call(ONE, 5).result(LONG) == 5
    with pytest.raises(errors.ConfigError, match=r"root=.* cannot be said to HTCondor"):
        replace(desk, root="/home/alice/$(id)", sent=[]).call(ONE)


@pytest.mark.proves("refusal in the scheduler's words", "htcondor")
def test_what_htcondor_refuses(desk: Desk, line: SSH) -> None:
    for resources, words in (
        (Resources(account="a b"), "Invalid accounting_group: a b"),
        (Resources(backend_options={"request_disk": "x y"}), "Parse error in expression"),
        (Resources(backend_options={"requirements": "(Arch =="}), "Parse error in expression"),
    ):
        with pytest.raises(errors.SubmitRejected, match=words) as caught:
            desk.call(ONE, resources=resources)
        assert "HTCondor refused the job" in str(caught.value)
        assert line.run(f"ls -A '{ROOT}/jobs' | grep -c {desk.sent[-1].id.ulid}").stdout.strip() == b"0"
        desk.sent.pop()


@pytest.mark.proves("unsatisfiable request", "htcondor")
def test_a_job_that_can_never_run_says_why(desk: Desk) -> None:
    filling = desk.call(REST, resources=Resources(cores=4))
    assert next(filling.logs(follow=True))
    waiting = desk.call(ONE, resources=Resources(cores=3))
    impossible = {
        'Arch == "foo"': Resources(backend_options={"requirements": 'Arch == "foo"'}),
        "RequestMemory = 1048576": Resources(memory_bytes=2**40),
        "RequestGPUs = 1": Resources(gpus=1),
    }
    jobs = {words: desk.call(ONE, resources=asked) for words, asked in impossible.items()}
    for words, job in jobs.items():
        with pytest.raises(errors.Unschedulable, match=words):
            job.result(LONG)
    # It fits, only not now.
    status = desk.site.backend.status([waiting.record])[waiting.id][0]
    assert (status.state, status.reason) == (State.WAITING, "no match found")


@pytest.mark.proves("job in an error state", "htcondor")
def test_a_job_that_the_pool_holds_says_why(desk: Desk, pool: Bed) -> None:
    policy = 'SYSTEM_PERIODIC_HOLD = JobPrio == 13\nSYSTEM_PERIODIC_HOLD_REASON = "not on a Friday"\n'
    pool.root(f"printf '%s' '{policy}' >/etc/condor/config.d/policy.conf; condor_reconfig -schedd")
    try:
        job = desk.call(REST, resources=Resources(backend_options={"priority": 13}))
        with pytest.raises(errors.Unschedulable, match=r"code 26\): not on a Friday"):
            job.result(LONG)
    finally:
        pool.root("rm /etc/condor/config.d/policy.conf; condor_reconfig -schedd")


@pytest.mark.proves("cancel queued", "htcondor")
@pytest.mark.proves("why it waits", "htcondor")
def test_cancelled_while_waiting_and_while_running(desk: Desk) -> None:
    array = desk.submit(REST, [()] * 6, max_parallel=1)
    assert next(array.logs(follow=True))
    waiting = desk.call(ONE, resources=Resources(backend_options={"hold": True}))
    status = waiting.status()
    assert status.state is State.WAITING
    assert status.reason == "it is held: submitted on hold at user's request"
    told = desk.site.backend.status([array.record])[array.id]
    assert [told[task].state for task in range(6)] == [State.RUNNING, *[State.WAITING] * 5]
    assert "max_parallel" in told[5].reason
    assert waiting.cancel()
    assert waiting.cancelled()
    assert array.cancel()
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert {type(error) for error in found} == {errors.JobCancelled}


@pytest.mark.proves("cancelled by somebody else", "htcondor")
@pytest.mark.proves("lost job", "htcondor")
def test_removed_by_somebody_else(desk: Desk, line: SSH, pool: Bed) -> None:
    running = desk.call(REST)
    queued = desk.call(ONE, resources=Resources(backend_options={"hold": True}))
    lost = desk.call(ONE, resources=Resources(backend_options={"hold": True}))
    assert next(running.logs(follow=True))
    line.run(f"condor_rm {' '.join(job.record.native_id.partition('.')[0] for job in (running, queued, lost))}")
    for job in (running, queued):
        with pytest.raises(errors.JobCancelled, match="via condor_rm"):
            job.result(LONG)
    pool.root(": >/var/spool/condor/history")
    with pytest.raises(errors.JobLost):
        handle.attach(lost.record, replace(desk.site, grace=0.0)).job().result(LONG)


@pytest.mark.proves("preemption", "htcondor")
@pytest.mark.proves("queued again", "htcondor")
def test_the_machine_is_taken_away(desk: Desk, line: SSH) -> None:
    source = """
        import os, time
        def wait(flag):
            print("here", flush=True)
            while not os.path.exists(flag):
                time.sleep(0.05)
            return 5
    """
    flag = f"{ROOT}/flag-{new_ulid()}"
    once = desk.call(source, flag)
    again = desk.call(source, flag, resources=Resources(backend_options={"requeue": True}))
    for job in (once, again):
        assert next(job.logs(follow=True))
        line.run(f"condor_vacate_job -fast {job.record.native_id.partition('.')[0]}")
    with pytest.raises(errors.Preempted):
        once.result(LONG)
    line.run(f"touch '{flag}'")
    assert again.result(LONG) == 5


@pytest.mark.proves("array beyond the limit", "htcondor")
def test_more_tasks_than_a_submission_may_have(desk: Desk, pool: Bed) -> None:
    pool.root("echo MAX_JOBS_PER_SUBMISSION = 3 >/etc/condor/config.d/limit.conf; condor_reconfig -schedd")
    try:
        array = desk.submit("def twice(x): return 2 * x", [(x,) for x in range(4)])
        assert len(array.record.native_id.split()) == 2
        assert list(array.results(timeout=LONG)) == [0, 2, 4, 6]
    finally:
        pool.root("rm /etc/condor/config.d/limit.conf; condor_reconfig -schedd")


@pytest.mark.proves("connection cut after acceptance", "htcondor")
def test_a_submission_happens_once(desk: Desk, line: SSH) -> None:
    desk.call(ONE).result(LONG)  # what is asked once has been asked
    note = "def note(path): open(path, 'a').write('x')"
    trace = f"{ROOT}/trace-{new_ulid()}"
    for how in ("before", "after"):
        desk.transport.cut[desk.transport.runs + 1] = how
        desk.call(note, trace).result(LONG)
    assert line.run(f"cat '{trace}'").stdout == b"xx"
    # Accepted, and the connection cut before the id was written down: waiting, or ended, it is found by its name.
    for source, items in ((REST, [()] * 2), ("def two(x): return x", [(1,), (2,)])):
        spec, record, files = desk.prepare(source, items)
        native_id = desk.site.backend.submit(spec, record, files)
        if source is not REST:
            assert handle.attach(record, desk.site).wait(LONG)
        line.run(f"rm '{SitePaths(ROOT).job(record.id.ulid).native_id}'")
        assert desk.site.backend.submit(spec, record, files) == native_id
        desk.sent.append(replace(record, native_id=native_id))


@pytest.mark.proves("server restart", "htcondor")
def test_the_queue_is_away_for_a_while(desk: Desk, pool: Bed) -> None:
    source = "import os, time\ndef wait(path):\n    while not os.path.exists(path): time.sleep(0.05)\n    return 5"
    flag, later = (f"{ROOT}/flag-{new_ulid()}" for _ in range(2))
    job, other = desk.call(source, flag), desk.call(source, later)
    until(lambda: {each.status().state for each in (job, other)} == {State.RUNNING})
    pool.root("condor_off -fast -daemon schedd")
    try:
        until(lambda: pool.root("pgrep -x condor_schedd || echo gone").strip() == "gone")
        with pytest.raises(errors.BackendError, match="HTCondor does not answer"):
            job.status()
        with pytest.raises(errors.BackendError, match="HTCondor does not answer"):
            desk.call(ONE)
        desk.sent.pop()
        desk.transport.run(f"touch '{flag}'")
        assert job.result(LONG) == 5  # nobody needs the scheduler for it
    finally:
        pool.root("condor_on -daemon schedd")
    until(lambda: desk.transport.run("condor_q").returncode == 0)
    assert desk.call(ONE).result(LONG) == 1
    desk.transport.run(f"touch '{later}'")
    assert other.result(LONG) == 5


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.1)
