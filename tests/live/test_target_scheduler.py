# ruff: noqa: F811 - fixtures of another file
"""The scheduler of your own target: limits, refusals, queues, cuts, and what others do to jobs, with no more rights.

What only administrators can bring about (a server that restarts, a node that fails) is proven on the test beds alone.
"""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import errors, handle
from clustrix.model.job import JobId, State, new_ulid
from clustrix.schedulers.base import Limits
from tests.conformance.backends import LONG

from .test_target import desk, ready, root, settings  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Callable

    from clustrix import placement
    from tests.conformance.desk import Desk

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

REST = "import time\ndef rest(): print('here', flush=True); time.sleep(1000)"
ONE = "def one(x=1): return x"
HELD = {"pbs": {"h": True}, "torque": {"h": True}, "slurm": {"hold": True}, "htcondor": {"hold": True}}
QUEUE = {"pbs": "queue", "torque": "queue", "sge": "queue", "slurm": "partition"}
WARNS = {"pbs", "torque", "slurm"}


@pytest.fixture(autouse=True)
def name(ready: placement.Prepared) -> str:
    if ready.target.plain:
        pytest.skip(f"target {ready.target.name} has no scheduler")
    return str(ready.target.config.backend)


def ask(desk: Desk, **changes: Any) -> Any:
    """Ask for what the target needs, and this besides."""
    return replace(desk.resources, **changes)


def test_time_limit_and_what_is_saved_before(desk: Desk, name: str) -> None:
    saving = """
        import clustrix, time
        def train():
            @clustrix.on_preempt
            def save():
                return "step 7"
            time.sleep(1000)
    """
    late = desk.call(REST, resources=ask(desk, time=timedelta(seconds=5)))
    saves = desk.call(saving, resources=ask(desk, time=timedelta(seconds=20)))
    for job, checkpoint in ((late, None), (saves, "step 7" if name in WARNS else None)):
        with pytest.raises(errors.TimeLimit) as caught:
            job.result(3 * LONG)  # SLURM knows minutes alone, and looks twice in one
        assert caught.value.checkpoint == checkpoint


def test_memory_limit(desk: Desk) -> None:
    greedy = "import time\ndef greedy():\n    block = bytearray(4 * 2**30)\n    time.sleep(45)"
    # Where a limit is one of addresses Apptainer itself does not start within less than 2 GB.
    job = desk.call(greedy, resources=ask(desk, memory_bytes=3 * 2**30))
    error = job.exception(2 * LONG)
    if error is None:
        pytest.skip("this site lets jobs have more memory than they asked for")
    assert isinstance(error, (errors.OutOfMemory, MemoryError))  # the latter where addresses are limited


def test_refused_in_its_own_words(desk: Desk, name: str) -> None:
    if name not in QUEUE:
        pytest.skip(f"{name} has no queues to name")
    with pytest.raises(errors.SubmitRejected, match="refused the job"):
        desk.call(ONE, resources=ask(desk, **{QUEUE[name]: "nope-nope"}))
    assert desk.remains(handle.attach(desk.sent.pop(), desk.site).job()) == ""


def test_what_can_never_run(desk: Desk) -> None:
    try:
        job = desk.call(ONE, resources=ask(desk, cores=100_000))
    except (errors.SubmitRejected, errors.UnsupportedResource):
        desk.sent.pop()
    else:
        with pytest.raises(errors.Unschedulable):
            job.result(LONG)


def test_cancelled_while_waiting_and_while_running(desk: Desk, name: str) -> None:
    array = desk.submit(REST, [()] * 6, max_parallel=1)
    assert next(array.logs(follow=True)) == "[0] here\n"
    held = HELD.get(name) or {"hold_jid": str(array.record.native_id).partition(".")[0]}
    waiting = desk.call(ONE, resources=ask(desk, backend_options={**dict(desk.resources.backend_options), **held}))
    until(lambda: waiting.status().reason)
    assert waiting.status().state is State.WAITING
    assert waiting.cancel()
    assert waiting.cancelled()
    status = array.status()
    assert (status.state, status.finished) == (State.RUNNING, 0)
    assert array.cancel()
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert {type(error) for error in found} == {errors.JobCancelled}


def test_deleted_by_somebody_else(desk: Desk) -> None:
    job = desk.call(REST)
    assert next(job.logs(follow=True)) == "here\n"
    desk.transport.run(desk.site.backend._exports() + shlex.join(desk.dialect.cancel_argv([str(job.record.native_id)])))
    with pytest.raises(errors.JobCancelled):
        job.result(LONG)


def test_more_tasks_than_an_array_may_have(desk: Desk) -> None:
    desk.site.backend._known_limits = Limits(max_array_index=2)
    array = desk.submit("def invert(x): return 12 // (x - 4)", [(x,) for x in range(7)], max_parallel=3)
    assert len(str(array.record.native_id).split()) == 3
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert isinstance(found.pop(4), ZeroDivisionError)
    assert found == [-3, -4, -6, -12, 12, 6]
    resting = desk.submit(REST, [()] * 4)
    until(lambda: resting.status().state is State.RUNNING)
    assert resting.cancel()
    assert [type(error) for error in resting.failed.values()] == [errors.JobCancelled] * 4


def test_a_submission_happens_once(desk: Desk) -> None:
    desk.call(ONE).result(LONG)
    note = "def note(path): open(path, 'a').write('x')"
    trace = f"{desk.root}/trace-{new_ulid()}"
    for how in ("before", "after"):
        desk.transport.cut[desk.transport.runs + 1] = how
        desk.call(note, trace).result(LONG)
    assert desk.transport.run(f"cat '{trace}'").stdout == b"xx"
    # Accepted, and the connection cut before the id was written down: waiting, or ended, it is found by its name.
    for source, items in ((REST, [()] * 2), ("def two(x): return x", [(1,), (2,)]), (ONE, [()])):
        spec, record, files = desk.prepare(source, items)
        native_id = desk.site.backend.submit(spec, record, files)
        known = replace(record, native_id=native_id)
        desk.sent.append(known)
        if source is not REST:
            assert handle.attach(record, desk.site).wait(LONG)
            until(lambda known=known: said_to_have_ended(desk, known))
        desk.transport.run(f"rm '{desk.paths.job(record.id.ulid).native_id}'")
        assert desk.site.backend.submit(spec, record, files) == native_id


def test_jobs_that_nobody_knows_are_lost(desk: Desk) -> None:
    known = desk.call(ONE)
    assert known.result(LONG) == 1
    nobody = re.sub(r"^\d+", "9999999", str(known.record.native_id))
    stranger = replace(known.record, id=JobId("test", new_ulid()), native_id=nobody)
    until(lambda: said_to_have_ended(desk, known.record))
    for asked in ([stranger, known.record], [known.record, stranger]):
        status = desk.site.backend.status(asked)
        assert list(status) == [known.id]
        assert status[known.id][0].state is State.SUCCEEDED
    with pytest.raises(errors.JobLost):
        handle.attach(stranger, replace(desk.site, grace=0.0)).job().result(LONG)


def said_to_have_ended(desk: Desk, record: Any) -> bool:
    tasks = desk.site.backend.status([record]).get(record.id, {})
    return bool(tasks) and all(status.state.ended for status in tasks.values())


def until(there: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.5)
