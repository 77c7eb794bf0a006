"""Where jobs stand, for whoever asks once and does not follow them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from clustrix.conclusion import conclude
from clustrix.course import Course
from clustrix.errors import JobCancelled, JobLost
from clustrix.model.job import JobStatus, State
from clustrix.stores.base import Ended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.course import Site
    from clustrix.model.job import JobId, JobRecord


def survey(site: Site, records: Sequence[JobRecord]) -> Mapping[JobId, JobStatus]:
    """Ask where jobs stand: one status query, one look at what ended, one at what failed, whatever their number."""
    courses = look(site, records)
    failed = site.store.failures(records) if records else {}
    return {course.record.id: _status(course, failed[ulid]) for ulid, course in courses.items()}


def look(site: Site, records: Sequence[JobRecord]) -> Mapping[str, Course]:
    """Ask once how jobs stand now, by ulid, for whoever does not follow them."""
    courses = {record.id.ulid: Course(record, site) for record in records}
    if not courses:
        return {}
    said = site.backend.status(records)
    watch = site.store.watch(records)
    try:
        for event in watch:
            if event is None:
                break
            if isinstance(event, Ended):
                courses[event.ulid].take(event)
    finally:
        watch.close()
    for course in courses.values():
        course.said = said.get(course.record.id)
        if not course.over:
            conclude(course, patience=max(0.0, site.grace - (time.time() - course.record.created)))
    return courses


def _status(course: Course, failed: frozenset[int]) -> JobStatus:
    said = (course.said or {}).values()
    waiting = [status for status in said if status.state is State.WAITING]
    starts = [status.expected_start for status in waiting if status.expected_start is not None]
    return JobStatus(
        id=course.record.id,
        state=_state(course, failed),
        items=course.record.items,
        finished=len(course.ended) + len(course.lost),
        failed=len(failed) + len(course.lost),
        reason=next((status.reason for status in (*waiting, *said) if status.reason), ""),
        expected_start=min(starts, default=None),
        nodes=tuple(sorted({status.node for status in said if status.node})),
    )


def _state(course: Course, failed: frozenset[int]) -> State:
    """Say in which state a job is; ``failed`` are items whose outcome is an error."""
    if course.over:
        if any(isinstance(error, JobCancelled) for error in course.lost.values()):
            return State.CANCELLED
        if any(isinstance(error, JobLost) for error in course.lost.values()):
            return State.LOST
        return State.FAILED if course.lost or failed else State.SUCCEEDED
    states = {status.state for status in (course.said or {}).values()}
    if State.RUNNING in states or course.ended:
        return State.RUNNING
    return State.WAITING if course.said is not None else State.SUBMITTED
