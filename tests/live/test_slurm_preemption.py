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

if TYPE_CHECKING:
    from clustrix.handle import Job
    from tests.conformance.desk import Desk

pytestmark = pytest.mark.live

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
    # SLURM starts it again no sooner than after two minutes.
    end = time.monotonic() + LONG
    while job.status().state is not State.WAITING:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert not job.done()
    desk.transport.run(
        f"scontrol update jobid={job.record.native_id} starttime=now;"
        f"until grep -q 'began saved began' '{trace}'; do sleep 0.1; done; printf 'go on ' >>'{trace}'"
    )
    assert job.result(LONG) == "began saved began go on "
