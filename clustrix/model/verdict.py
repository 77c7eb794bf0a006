"""How a task without an outcome ended: what its wrapper saw, what the scheduler says, and the error of it."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from clustrix import errors
from clustrix.model.job import End, EndKind, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.model.job import JobId, TaskStatus

_VAGUE = {EndKind.EXITED, EndKind.SIGNALLED}
"""What a wrapper sees when a scheduler ends a task; the scheduler knows why."""

_OF_STATE = {State.CANCELLED: EndKind.CANCELLED, State.FAILED: EndKind.EXITED, State.SUCCEEDED: EndKind.EXITED}


def end_of(
    task: int, seen: Mapping[int, End], said: Mapping[int, TaskStatus] | None, *, patient: bool
) -> tuple[bool, End | None]:
    """Tell whether a task is over and, as far as anybody knows, how.

    ``seen`` is what wrappers wrote, ``said`` what the scheduler says (None: it does not know the job). ``patient``:
    wait for the scheduler's reason while it still counts a task as running whose wrapper saw it die.
    """
    status = None if said is None else said.get(task)
    own = seen.get(task)
    if status is not None and status.state is State.WAITING:
        return False, None  # it was queued again
    reason = None if status is None else status.end
    if reason is None and status is not None and status.state in _OF_STATE:
        reason = End(kind=_OF_STATE[status.state], message=status.reason, node=status.node)
    if own is not None:
        if own.kind not in _VAGUE:
            return True, own
        if reason is not None and reason.kind not in _VAGUE:
            return True, replace(reason, node=reason.node or own.node)
        waiting = status is not None and not status.state.ended and own.exit_code != 0
        return (False, None) if waiting and patient else (True, own)
    if status is not None:
        return status.state.ended, reason
    return said is None, None


def condemned(
    items: Sequence[int], ends: Mapping[int, tuple[bool, End | None]], owners: Mapping[int, int]
) -> dict[int, tuple[End | None, int | None]]:
    """Tell which items without an outcome will never have one: item -> how, and the task that claimed it.

    ``ends`` is `end_of` for every task. What nobody claimed waits for all tasks, and shares the worst of their ends.
    """
    all_over = all(over for over, _ in ends.values())
    worst = next((end for _, end in ends.values() if end is not None and end.exit_code != 0), None)
    found: dict[int, tuple[End | None, int | None]] = {}
    for index in items:
        task = owners.get(index)
        over, end = (all_over, worst) if task is None else ends[task]
        if over:
            found[index] = end, task
    return found


def error(
    end: End | None, job: JobId, *, index: int | None = None, shared: bool = False, log_tail: str | None = None
) -> errors.JobError:
    """Make the typed error of an end; None is the end that nobody saw.

    ``shared``: the task had other items too, and may have ended in one of them.
    """
    kind, text, remedy = _LOST if end is None else _describe(end)
    if shared:
        text = f"has no outcome: its task {text}"
    where = f" on {end.node}" if end is not None and end.node else ""
    which = f"item {index} of {job}" if index is not None else str(job)
    more = f": {end.message}" if end is not None and end.message else ""
    return kind(f"{which} {text}{where}{more}", remedy=remedy, job_id=str(job), index=index, log_tail=log_tail or None)


_Description = tuple[type[errors.JobError], str, "str | None"]
_LOST: _Description = (
    errors.JobLost,
    "is not known to the scheduler any more and left no outcome",
    "Its output may say why; `retries=` starts such a job again.",
)
_KINDS: Mapping[EndKind, _Description] = {
    EndKind.OUT_OF_MEMORY: (errors.OutOfMemory, "ran out of memory", "Ask for more with memory=."),
    EndKind.TIME_LIMIT: (errors.TimeLimit, "ran into its time limit", "Ask for more with time=."),
    EndKind.NODE_FAILURE: (errors.NodeFailure, "lost the machine under it", "`retries=` starts such a job again."),
    EndKind.PREEMPTED: (errors.Preempted, "was preempted", "`retries=` starts such a job again."),
    EndKind.CANCELLED: (errors.JobCancelled, "was cancelled", None),
    EndKind.UNSCHEDULABLE: (errors.Unschedulable, "can never start as it was asked", None),
    EndKind.IMAGE_UNAVAILABLE: (
        errors.ImagePullFailed,
        "did not start, since its image cannot be had",
        "See that the nodes reach the registry and may read from it.",
    ),
}


def _describe(end: End) -> _Description:
    if end.kind is EndKind.SIGNALLED and end.signal is not None:
        try:
            name = f"{signal.Signals(end.signal).name} ({signal.strsignal(end.signal)})"
        except ValueError:
            name = f"signal {end.signal}"
        return errors.Crashed, f"was killed by {name}", None
    if end.kind in _VAGUE:
        return errors.Crashed, f"ended with exit code {end.exit_code} and left no outcome", None
    return _KINDS[end.kind]
