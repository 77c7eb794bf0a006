# ruff: noqa: F811 - fixtures of another file
"""SLURM, for real: over SSH, in a SIF, with the suite of every backend and what only SLURM does."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from clustrix import errors, handle
from clustrix.model.job import State
from clustrix.model.resources import Resources
from clustrix.schedulers.slurm import Slurm
from tests.conformance.backends import LONG, Backends
from tests.conformance.desk import Desk

from .sites import Place, cache, desk, line, placed  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from .beds import Bed

pytestmark = pytest.mark.live

ROOT = "/home/alice/a root"


@pytest.fixture(scope="module")
def place(slurm_cluster: Bed) -> Place:
    return Place(slurm_cluster, Slurm(), ROOT)


@pytest.mark.column("slurm")
class TestSlurm(Backends):
    """The suite of every backend."""


HOLD = """
    import os, time
    def hold(flag):
        print("ready", flush=True)
        while not os.path.exists(flag):
            time.sleep(0.05)
        return os.environ["CLUSTRIX_NATIVE_ID"]
"""


def running(desk: Desk, **resources: object) -> handle.Job:
    """Submit a job that waits for a file, and wait until it runs."""
    job = desk.call(HOLD, f"{ROOT}/never", resources=Resources(**resources))
    assert next(job.logs(follow=True)) == "ready\n"
    return job


def native(desk: Desk) -> str:
    """Give SLURM's number of the last job."""
    return str(desk.sent[-1].native_id)


@pytest.mark.proves("memory limit", "slurm")
@pytest.mark.parametrize(
    "source",
    [
        "def eat(): return len(bytearray(600 * 2**20))",
        """
        import subprocess, sys
        def feed():
            subprocess.run([sys.executable, "-c", "bytearray(600 * 2**20)"], check=True)
        """,
    ],
    ids=["itself", "a child"],
)
def test_memory(desk: Desk, source: str) -> None:
    job = desk.call(source, resources=Resources(memory_bytes=160 * 2**20))
    with pytest.raises(errors.OutOfMemory):
        job.result(LONG)
    assert job.usage().next.memory_bytes == 320 * 2**20


@pytest.mark.proves("time limit", "slurm")
def test_time_limit(desk: Desk, slurm_cluster: Bed) -> None:
    job = running(desk, time=timedelta(minutes=1))
    slurm_cluster.root(f"scontrol update jobid={native(desk)} EndTime=now")  # SLURM itself looks twice a minute
    with pytest.raises(errors.TimeLimit):
        job.result(LONG)


@pytest.mark.proves("cancelled by somebody else", "slurm")
def test_cancelled_by_somebody_else(desk: Desk, slurm_cluster: Bed) -> None:
    job = running(desk)
    slurm_cluster.root(f"scancel {native(desk)}")
    with pytest.raises(errors.JobCancelled):
        job.result(LONG)


@pytest.mark.proves("node failure", "slurm")
def test_node_failure(desk: Desk, slurm_cluster: Bed) -> None:
    job = running(desk)
    (node,) = job.status().nodes
    slurm_cluster.root(f"scontrol update nodename={node} state=down reason=test")
    try:
        with pytest.raises(errors.NodeFailure):
            job.result(LONG)
    finally:
        slurm_cluster.root(f"scontrol update nodename={node} state=resume || true")


@pytest.mark.proves("unsatisfiable request", "slurm")
@pytest.mark.proves("partition or queue", "slurm")
def test_a_job_that_can_never_run(desk: Desk) -> None:
    asked = Resources(partition="short", time=timedelta(minutes=30))
    with pytest.raises(errors.Unschedulable, match="more time than its partition gives"):
        desk.call("def one(): return 1", resources=asked).result(LONG)


@pytest.mark.proves("why it waits", "slurm")
@pytest.mark.proves("cancel queued", "slurm")
def test_why_it_waits(desk: Desk) -> None:
    first = running(desk, memory_bytes=3900 * 2**20, time=timedelta(minutes=5))
    second = running(desk, memory_bytes=3900 * 2**20, time=timedelta(minutes=5))
    waiting = desk.call("def one(): return 1", resources=Resources(memory_bytes=3900 * 2**20))
    deadline = time.monotonic() + LONG
    while not (status := waiting.status()).reason or status.expected_start is None:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert status.state is State.WAITING
    assert status.reason == "the resources that it asks for are not free"
    assert 0 < status.expected_start.timestamp() - time.time() < 600
    assert waiting.cancel()
    first.cancel()
    second.cancel()


@pytest.mark.proves("refusal in the scheduler's words", "slurm")
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Resources(partition="nope"), "invalid partition specified: nope"),
        (Resources(account="nope"), "Invalid account"),
        (Resources(memory_bytes=2**40), "Memory specification can not be satisfied"),
        (Resources(gpus=1), "gres"),
    ],
    ids=["partition", "account", "memory", "gpus"],
)
def test_refusals_are_in_the_words_of_slurm(desk: Desk, asked: Resources, words: str) -> None:
    with pytest.raises(errors.SubmitRejected, match=words):
        desk.call("def one(): return 1", resources=asked)
    assert desk.transport.run(f"[ -e '{desk.path(handle.attach(desk.sent[-1], desk.site))}' ]").returncode == 1


def test_usage_proposes_what_was_used(desk: Desk) -> None:
    source = """
        import time
        def work():
            held = bytearray(200 * 2**20)
            while time.process_time() < 0.5:
                pass
            return len(held)
    """
    asked = Resources(cores=2, memory_bytes=800 * 2**20, time=timedelta(minutes=30))
    job = desk.call(source, resources=asked)
    assert job.result(LONG) == 200 * 2**20
    found = job.usage()
    assert found.cpu_seconds is not None
    assert found.peak_memory_bytes is not None
    assert 0.3 < found.cpu_seconds < 5
    assert 200 * 2**20 < found.peak_memory_bytes < 400 * 2**20
    assert found.next.cores == 1
    assert found.next.memory_bytes in {256 * 2**20, 320 * 2**20, 384 * 2**20, 448 * 2**20, 512 * 2**20}
    assert found.next.time is not None
    assert timedelta(minutes=2) <= found.next.time < asked.time


@pytest.mark.proves("scheduler's own options", "slurm")
@pytest.mark.proves("cores and memory", "slurm")
@pytest.mark.proves("account", "slurm")
def test_every_option_arrives(desk: Desk) -> None:
    comment = 'it\'s "fine"; rm -rf ~ $HOME `id` \\ #é'
    options = {"comment": comment, "mail_type": "NONE", "nice": 7, "exclusive": False, "requeue": True}
    asked = Resources(
        cores=2,
        memory_bytes=300 * 2**20,
        time=timedelta(minutes=3),
        partition="main",
        account="users",
        backend_options=options,
    )
    job = running(
        desk,
        **{
            name: getattr(asked, name)
            for name in ("cores", "memory_bytes", "time", "partition", "account", "backend_options")
        },
    )
    said = desk.transport.run(f"scontrol show job {native(desk)}").stdout.decode()
    for words in (
        f"Comment={comment}",
        "TimeLimit=00:03:00",
        "CPUs/Task=2",
        "MinMemoryNode=300M",
        "Nice=7",
        "Requeue=1",
        "Account=users",
    ):
        assert words in said
    job.cancel()


@pytest.mark.proves("modules", "slurm")
def test_modules_are_loaded_before_the_container_starts(desk: Desk, slurm_cluster: Bed) -> None:
    slurm_cluster.root("echo 'module() { echo module \"$@\"; }' >/etc/profile.d/modules.sh")
    try:
        job = desk.call("def one(): return 1", resources=Resources(modules=("a/1.0", "$(id)")))
        assert job.result(LONG) == 1
        assert job.logs() == "module load a/1.0 $(id)\n"
    finally:
        slurm_cluster.root("rm /etc/profile.d/modules.sh")


@pytest.mark.proves("connection cut after acceptance", "slurm")
def test_a_cut_after_sbatch_accepted(desk: Desk) -> None:
    desk.call("def one(): return 1").result(LONG)
    desk.transport.cut[desk.transport.runs + 1] = "after"
    job = desk.call("def one(): return 1", name="cut")
    assert job.result(LONG) == 1
    found = desk.transport.run(f"squeue -h -t all -o %i --name cut-{job.id.ulid}").stdout.split()
    assert found == [native(desk).encode()]


@pytest.mark.proves("one round trip a submission", "slurm")
def test_a_warm_submission_is_one_round_trip(desk: Desk) -> None:
    desk.call("def one(): return 1")
    before = desk.transport.runs
    desk.call("def one(): return 1")
    assert desk.transport.runs - before == 1


@pytest.mark.proves("connection cut while it runs", "slurm")
def test_the_line_breaks_while_a_job_runs(desk: Desk, slurm_cluster: Bed) -> None:
    flag = f"{ROOT}/after the break"
    job = desk.call(HOLD, flag)
    assert next(job.logs(follow=True)) == "ready\n"
    slurm_cluster.root("pkill -9 -f '^sshd(-session)?: alice'")
    slurm_cluster.root(f"touch '{flag}'")
    assert job.result(LONG) == native(desk)


@pytest.mark.proves("server restart", "slurm")
@pytest.mark.proves("array beyond the limit", "slurm")
def test_the_controller_restarts_during_a_map_longer_than_its_limit(desk: Desk, slurm_cluster: Bed) -> None:
    def restart(limit: int) -> None:
        slurm_cluster.root(
            f"sed -i 's/^MaxArraySize=.*/MaxArraySize={limit}/' /etc/slurm/slurm.conf; pkill -x slurmctld; sleep 1"
        )
        slurm_cluster.root("slurmctld; for i in $(seq 100); do scontrol ping | grep -q UP && break; sleep 0.1; done")

    source = "import time\ndef slow(x):\n    time.sleep(1)\n    if x == 7: raise KeyError(x)\n    return x * x"
    restart(4)
    try:
        array = desk.submit(source, [(x,) for x in range(10)])
        assert native(desk).count("@") == 2  # three submissions, behind one handle
        restart(4)
        found = list(array.results(timeout=LONG, return_exceptions=True))
    finally:
        restart(1001)
    assert [value for value in found if isinstance(value, int)] == [x * x for x in range(10) if x != 7]
    assert isinstance(found[7], KeyError)
    assert list(array.failed) == [7]
