"""Decide how items end that left no outcome: as the wrapper says, else the scheduler, else as nobody knows."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from clustrix.model import verdict
from clustrix.model.job import End, EndKind, State

if TYPE_CHECKING:
    from clustrix.course import Course

_SETTLE = 5.0  # seconds that a scheduler may take to say why a task ended, where it did not end it itself
_TAILS = 20  # tasks whose last lines errors show: each costs requests, and thousands may be cancelled at once


def conclude(course: Course, *, patience: float) -> None:
    """Decide about items without an outcome: the wrapper, then the scheduler, then nobody (decision 4).

    What nobody knows is lost after ``patience`` seconds.
    """
    record, store, now = course.record, course.site.store, time.monotonic()
    unsure = course.said is None or any(status.state is State.LOST for status in course.said.values())
    course.unknown_since = (course.unknown_since or now) if unsure else None
    course.seen_since = {task: course.seen_since.get(task, now) for task in course.ends}
    _forget_old_ends(course)
    settling = {task: max(_SETTLE, patience) if _was_told(end) else _SETTLE for task, end in course.ends.items()}
    ends = {
        task: verdict.end_of(
            task,
            course.ends,
            course.said,
            patient=now - course.seen_since.get(task, now) < settling.get(task, _SETTLE),
        )
        for task in range(record.workers)
    }
    if not any(over for over, _ in ends.values()):
        return
    without = [index for index in range(record.items) if not course.over_at(index)]
    owners = dict.fromkeys(without, 0) if record.workers == 1 else store.owners(record)
    condemned = verdict.condemned(without, ends, owners)
    # A scheduler that is told to end what it just starts may say no more than that it killed it.
    untold = [
        index
        for index, (end, task) in condemned.items()
        if end is None or (end.kind is EndKind.SIGNALLED and task not in course.ends)
    ]
    if untold and store.cancelled(record):
        condemned |= {index: (End(kind=EndKind.CANCELLED), condemned[index][1]) for index in untold}
    elif course.unknown_since is not None and now - course.unknown_since < patience:
        condemned = {index: how for index, how in condemned.items() if how[0] is not None}
    if condemned:
        _condemn(course, condemned)


def _was_told(end: End) -> bool:
    """Tell whether somebody ended the process: a scheduler, perhaps, that is about to say why, or to start it again."""
    return end.signal == signal.SIGTERM


def _forget_old_ends(course: Course) -> None:
    """See to tasks that have failed and run all the same: they may have been started again, which removes their end."""
    running = {task for task, status in (course.said or {}).items() if status.state is State.RUNNING}
    doubtful = {task for task in running & course.ends.keys() if course.ends[task].exit_code != 0}
    if doubtful:
        for task in doubtful - course.site.store.ends(course.record).keys():
            del course.ends[task]


def _condemn(course: Course, condemned: dict[int, tuple[End | None, int | None]]) -> None:
    """Take down why items have no outcome, after a last look: a file system may show new files late."""
    for outcome in course.site.store.read(course.record, list(condemned)):
        del condemned[outcome.index]
        course.settle(outcome.index)
    tails: dict[int | None, str | None] = {None: None}
    for index, (end, task) in condemned.items():
        if task is not None and task not in tails:
            tails[task] = course.tail(task) if len(tails) <= _TAILS else None
        where = index if course.record.items > 1 else None
        shared = course.record.workers < course.record.items
        error = verdict.error(end, course.record.id, index=where, shared=shared, log_tail=tails[task])
        course.settle(index, error)
