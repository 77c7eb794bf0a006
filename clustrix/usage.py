"""Read what the items of a job measured, and compare it with what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clustrix.errors import ConnectionLost, OutOfMemory, TimeLimit
from clustrix.model import usage
from clustrix.model.job import EndKind
from clustrix.model.outcome import OutcomeStatus
from clustrix.worker import outcome as outcomes

if TYPE_CHECKING:
    from clustrix.course import Course
    from clustrix.model.usage import Usage


def of(course: Course) -> Usage:
    """Compare, as far as it is known what has ended; outcomes are verified, and no value is loaded.

    Raises:
        Tampered: somebody else wrote or changed an outcome.
        ConnectionLost: one that was there is not.

    """
    record, ended, lost = course.record, sorted(course.ended), list(course.lost.values())
    texts = dict(course.site.store.metadata(record, ended))
    if missing := set(ended) - texts.keys():
        raise ConnectionLost(f"the outcomes of {len(missing)} items of {record.id} could not be read")
    found = [outcomes.verify(text, course.key(), index=index) for index, text in texts.items()]
    failed = lost or any(outcome.status is not OutcomeStatus.SUCCESS for outcome in found)
    # What ended a process that user code had started, its wrapper alone knows.
    kinds = {end.kind for end in course.site.store.ends(record).values()} if failed else set()
    return usage.measure(
        found,
        usage.asked(record.target),
        items=record.items,
        lost=len(lost),
        ranks=usage.ranks(record.target),
        out_of_memory=EndKind.OUT_OF_MEMORY in kinds or any(isinstance(error, OutOfMemory) for error in lost),
        out_of_time=EndKind.TIME_LIMIT in kinds or any(isinstance(error, TimeLimit) for error in lost),
    )
