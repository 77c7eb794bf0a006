"""What an item of a job gave: its value, or the error in its place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from clustrix.errors import OutOfMemory
from clustrix.model import verdict
from clustrix.model.job import EndKind
from clustrix.model.outcome import OutcomeStatus
from clustrix.worker import outcome as outcomes

if TYPE_CHECKING:
    from clustrix.course import Course
    from clustrix.model.outcome import Outcome

_AFTERMATH = 2.0  # seconds that a wrapper may take to say that memory ran out, after user code failed of it


def fetch(course: Course, index: int) -> tuple[object, BaseException | None]:
    """Fetch, verify and unpickle one item's outcome: its value, or the error in its place."""
    lost = course.lost.get(index)
    if lost is not None:
        return None, lost
    raw = course.raw(index)
    outcome = outcomes.verify(raw.metadata, course.key(), index=index)
    task = outcome.metadata.get("task")
    tail = course.tail(task) if outcome.status is not OutcomeStatus.SUCCESS and isinstance(task, int) else None
    try:
        return outcomes.load(outcome, raw.value, job_id=str(course.record.id), log_tail=tail), None
    except Exception as error:  # noqa: BLE001 - user code raised it, or it cannot be rebuilt
        memory = _memory_error(course, outcome, task, tail) if outcome.status is OutcomeStatus.ERROR else None
        if memory is not None:
            memory.__cause__ = error
            return None, memory
        return None, error


def _memory_error(course: Course, outcome: Outcome, task: object, tail: str | None) -> OutOfMemory | None:
    """Tell whether a process that user code had started was killed for its memory: the cause of what it raised."""
    record = course.record
    if record.workers < record.items or not isinstance(task, int):
        return None  # the task goes on with other items, which may be those that used too much
    end = course.ends.get(task)
    deadline = time.monotonic() + _AFTERMATH
    while end is None and time.monotonic() < deadline:  # its process is about to end
        end = course.site.store.ends(record).get(task)
        if end is None:
            time.sleep(0.05)
    if end is None or end.kind is not EndKind.OUT_OF_MEMORY:
        return None
    index = outcome.index if record.items > 1 else None
    error = verdict.error(end, record.id, index=index, log_tail=tail)
    return error if isinstance(error, OutOfMemory) else None
