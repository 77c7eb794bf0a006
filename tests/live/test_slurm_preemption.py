# ruff: noqa: F811 - fixtures of another file
"""What user code saves on SLURM before it is ended, through the wrapper and Apptainer; and tasks that start again."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from clustrix import errors
from clustrix.model.job import State
from clustrix.model.resources import Resources
from tests.conformance.backends import LONG

from .test_slurm import cache, desk, line, place, placed  # noqa: F401 - fixtures
from .test_slurm_faults import until

if TYPE_CHECKING:
    from clustrix.handle import Job
    from tests.conformance.desk import Desk

    from .beds import Bed

pytestmark = pytest.mark.live

SOON = "starttime=now+2"
"""SLURM would wait for two minutes. In the second of the end it starts nothing: it has just revoked the credential."""

TRAIN = """
    import time
    def train(trace, saving):
        import clustrix
        if saving:
            @clustrix.on_preempt
            def save():
                with open(trace, "a") as file:
                    file.write("saved ")
                return "step 7"
        with open(trace, "a") as file:
            file.write("began ")
        print("ready", flush=True)
        while not open(trace).read().endswith("go on "):
            time.sleep(0.05)
        return open(trace).read()
"""


def begun(desk: Desk, saving: bool = True, **options: object) -> tuple[Job, str]:
    trace = f"{desk.root}/trace-{time.monotonic_ns()}"
    job = desk.call(TRAIN, trace, saving, **options)
    assert next(job.logs(follow=True)) == "ready\n"
    return job, trace


@pytest.mark.proves("work saved before the end", "slurm")
def test_the_script_asks_for_a_warning_and_slurm_takes_it(desk: Desk) -> None:
    job, _ = begun(desk, resources=Resources(time=timedelta(minutes=10)))
    said = desk.transport.run(f"scontrol --oneliner show job {job.record.native_id}; cat '{desk.path(job)}/script.sh'")
    assert "#SBATCH --signal=B:24@60\n" in said.stdout.decode()
    # What SLURM sends then, now.
    desk.transport.run(f"scancel --batch --signal=XCPU {job.record.native_id}")
    with pytest.raises(errors.TimeLimit, match="its time was nearly over") as caught:
        job.result(LONG)
    assert caught.value.checkpoint == "step 7"


def test_who_saves_nothing_may_go_on_to_the_limit(desk: Desk) -> None:
    job, trace = begun(desk, saving=False)
    desk.transport.run(f"scancel --batch --signal=XCPU {job.record.native_id}; sleep 1; printf 'go on ' >>'{trace}'")
    assert job.result(LONG) == "began go on "


@pytest.mark.proves("work saved before the end", "slurm")
def test_somebody_else_takes_the_place_away(desk: Desk) -> None:
    job, _ = begun(desk)
    desk.transport.run(f"scancel {job.record.native_id}")
    with pytest.raises(errors.Preempted, match="its place was taken away") as caught:
        job.result(LONG)
    assert caught.value.checkpoint == "step 7"


@pytest.mark.proves("queued again", "slurm")
@pytest.mark.proves("node failure", "slurm")
def test_all_nodes_of_a_map_fail(desk: Desk, slurm_cluster: Bed) -> None:
    """Where tasks may be queued again, nothing is lost: what has ended stays, what has not is done again."""
    source = """
        import os, time
        def work(flag, trace, x):
            with open(trace, "a") as file:
                file.write(f"{x} ")
            while x in (1, 5) and not os.path.exists(flag):
                time.sleep(0.05)
            return x
    """
    place = f"{desk.root}/map-{time.monotonic_ns()}"
    asked = Resources(cores=3, backend_options={"requeue": True})  # one task a node
    items = [(f"{place}.flag", f"{place}.trace", x) for x in range(8)]
    array = desk.submit(source, items, workers=2, slices=((0, 4), (4, 8), (8, 8)), resources=asked)
    look = f"cat '{place}.trace' 2>/dev/null; exit 0"
    until(lambda: sorted(desk.transport.run(look).stdout.split()) == [b"0", b"1", b"4", b"5"])
    slurm_cluster.root("scontrol update nodename=ALL state=down reason=test")
    slurm_cluster.root("scontrol update nodename=ALL state=resume")
    number = array.record.native_id
    desk.transport.run(f"touch '{place}.flag'")
    until(lambda: b"PENDING" in desk.transport.run(f"squeue -h -t all -o %T -j {number}").stdout or array.done())
    desk.transport.run(f"scontrol update jobid={number} {SOON}")
    assert list(array.results(timeout=LONG)) == list(range(8))
    ran = sorted(map(int, desk.transport.run(look).stdout.split()))
    assert ran == sorted([*range(8), 1, 5])


@pytest.mark.proves("queued again", "slurm")
@pytest.mark.parametrize("requeue", [True, False])
def test_a_task_that_is_queued_again(desk: Desk, requeue: bool) -> None:
    options = {"requeue": True} if requeue else {}
    job, trace = begun(desk, resources=Resources(backend_options=options))
    said = desk.transport.run(f"scontrol requeue {job.record.native_id}").stderr.decode()
    if not requeue:
        assert "disabled" in said  # SLURM's own word for what was not asked for
        desk.transport.run(f"printf 'go on ' >>'{trace}'")
        assert job.result(LONG) == "began go on "
        return
    end = time.monotonic() + LONG
    while job.status().state is not State.WAITING:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert not job.done()
    desk.transport.run(
        f"scontrol update jobid={job.record.native_id} {SOON};"
        f"until grep -q 'began saved began' '{trace}'; do sleep 0.1; done; printf 'go on ' >>'{trace}'"
    )
    assert job.result(LONG) == "began saved began go on "
