"""Who is believed about how a task ended."""

from __future__ import annotations

import signal

import pytest

from clustrix import errors
from clustrix.model import verdict
from clustrix.model.job import End, EndKind, JobId, State, TaskStatus

KILLED = End(kind=EndKind.SIGNALLED, signal=15, node="n1")
CLEAN = End(kind=EndKind.EXITED, exit_code=0)
MEMORY = End(kind=EndKind.OUT_OF_MEMORY, signal=9)
LIMIT = End(kind=EndKind.TIME_LIMIT, message="TIMEOUT")
RUNNING, WAITING = TaskStatus(state=State.RUNNING), TaskStatus(state=State.WAITING)


def said(end: End | None, state: State = State.FAILED) -> TaskStatus:
    return TaskStatus(state=state, end=end)


@pytest.mark.parametrize(
    ("own", "status", "patient", "over", "kind"),
    [
        # The wrapper saw it, and knows.
        (MEMORY, {}, True, True, EndKind.OUT_OF_MEMORY),
        (MEMORY, {0: RUNNING}, True, True, EndKind.OUT_OF_MEMORY),
        (MEMORY, {0: said(LIMIT)}, True, True, EndKind.OUT_OF_MEMORY),
        # It saw a signal; the scheduler knows whose.
        (KILLED, {0: said(LIMIT)}, True, True, EndKind.TIME_LIMIT),
        (KILLED, {0: said(KILLED)}, True, True, EndKind.SIGNALLED),
        (KILLED, {0: TaskStatus(state=State.CANCELLED)}, True, True, EndKind.CANCELLED),
        # The scheduler may still be thinking, but not for ever.
        (KILLED, {0: RUNNING}, True, False, None),
        (KILLED, {0: RUNNING}, False, True, EndKind.SIGNALLED),
        (CLEAN, {0: RUNNING}, True, True, EndKind.EXITED),
        # It was queued again: that end is not the last.
        (KILLED, {0: WAITING}, False, False, None),
        # Nobody wrote anything down.
        (None, {0: RUNNING}, False, False, None),
        (None, {0: said(LIMIT)}, False, True, EndKind.TIME_LIMIT),
        (None, {0: said(None, State.LOST)}, False, True, None),
        (None, {1: RUNNING}, False, False, None),  # nothing is said of this task yet
        (None, None, False, True, None),  # the whole job is not known
    ],
)
def test_end_of_a_task(
    own: End | None, status: dict[int, TaskStatus] | None, patient: bool, over: bool, kind: EndKind | None
) -> None:
    found = verdict.end_of(0, {} if own is None else {0: own}, status, patient=patient)
    assert (found[0], found[1] and found[1].kind) == (over, kind)


def test_the_node_comes_from_whoever_knows_it() -> None:
    assert verdict.end_of(0, {0: KILLED}, {0: said(LIMIT)}, patient=False)[1] == End(
        kind=EndKind.TIME_LIMIT, message="TIMEOUT", node="n1"
    )


def test_items_share_the_end_of_the_task_that_claimed_them() -> None:
    ends = {0: (True, MEMORY), 1: (False, None)}
    assert verdict.condemned([0, 1, 2], ends, {0: 0, 1: 1}) == {0: (MEMORY, 0)}
    # What nobody claimed waits for every task, and learns of the worst.
    ends[1] = True, CLEAN
    assert verdict.condemned([2], ends, {}) == {2: (MEMORY, None)}


@pytest.mark.parametrize("kind", EndKind)
def test_every_end_has_a_typed_error(kind: EndKind) -> None:
    error = verdict.error(End(kind=kind, node="n7", message="why"), JobId("hpc", "0" * 26), index=4, log_tail="tail")
    assert type(error) is not errors.JobError
    assert (error.job_id, error.index, error.log_tail) == ("hpc/" + "0" * 26, 4, "tail")
    assert "item 4 of hpc/" in error.message
    assert error.message.endswith("on n7: why")


def test_a_task_of_several_items_may_have_ended_in_another() -> None:
    text = verdict.error(MEMORY, JobId("hpc", "0" * 26), index=4, shared=True).message
    assert "item 4 of hpc/" in text
    assert text.endswith("has no outcome: its task ran out of memory")


def test_signals_have_names_and_lost_jobs_an_error() -> None:
    job = JobId("hpc", "0" * 26)
    number = signal.SIGSEGV.value
    assert "SIGSEGV" in verdict.error(End(kind=EndKind.SIGNALLED, signal=number), job).message
    assert "signal 64" in verdict.error(End(kind=EndKind.SIGNALLED, signal=64), job).message.replace(
        "SIGRTMAX", "signal 64"
    )
    assert isinstance(verdict.error(None, job), errors.JobLost)
