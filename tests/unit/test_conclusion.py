"""What is asked of a target when a whole map ends without outcomes."""

from __future__ import annotations

import time
from concurrent.futures import TimeoutError as FutureTimeout
from types import SimpleNamespace

import pytest

from clustrix import conclusion, errors
from clustrix.course import Course
from clustrix.errors import Crashed, JobCancelled
from clustrix.model.job import End, EndKind, JobId, JobRecord, State, TaskStatus
from clustrix.stores.base import Ended

from .sites import FakeSite, attach


def test_a_few_tasks_tell_of_thousands():
    """Their last lines are read one by one."""
    asked = []
    record = JobRecord(
        id=JobId("k8s", "0" * 26), name="f", function="f", created=0.0, items=3000, workers=3000, root="/r", target={}
    )
    store = SimpleNamespace(
        read=lambda *_: (),
        owners=lambda _: {index: index for index in range(3000)},
        cancelled=lambda _: True,
        log=lambda _, task, **__: asked.append(task) or b"last words",
    )
    course = Course(record, SimpleNamespace(store=store, backend=None, grace=0.0))
    gone = TaskStatus(state=State.CANCELLED, end=End(kind=EndKind.CANCELLED))
    course.said = dict.fromkeys(range(3000), gone)
    conclusion.conclude(course, patience=0.0)
    assert {type(error) for error in course.lost.values()} == {JobCancelled}
    assert len(course.lost) == 3000
    assert (len(asked), course.lost[0].log_tail, course.lost[2999].log_tail) == (20, "last words", None)


def test_what_was_killed_before_its_wrapper_began_was_cancelled_if_somebody_did():
    """PBS says "failed, exit status 265" of a subjob that it was told to delete while it started it."""
    record = JobRecord(
        id=JobId("hpc", "0" * 26), name="f", function="f", created=0.0, items=2, workers=2, root="/r", target={}
    )
    killed = End(kind=EndKind.SIGNALLED, signal=9)
    kinds = {}
    for cancelled in (True, False):
        store = SimpleNamespace(
            read=lambda *_: (),
            ends=lambda _: {1: killed},
            owners=lambda _: {1: 1},
            cancelled=lambda _, cancelled=cancelled: cancelled,
            log=lambda *_, **__: b"",
        )
        course = Course(record, SimpleNamespace(store=store, backend=None, grace=0.0))
        course.ends = {1: killed}  # this one had begun, and its wrapper saw how it ended
        course.said = dict.fromkeys(range(2), TaskStatus(state=State.FAILED, end=killed))
        conclusion.conclude(course, patience=0.0)
        kinds[cancelled] = [type(course.lost[index]) for index in range(2)]
    assert kinds == {True: [JobCancelled, Crashed], False: [Crashed, Crashed]}


def test_the_end_of_an_earlier_start_is_not_the_last(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is queued again and runs again has removed what its wrapper wrote."""
    monkeypatch.setattr(conclusion, "_SETTLE", 0.0)
    monkeypatch.setattr(site, "ends", lambda job: {})
    job = attach(site).job()
    site.news.append(Ended(job.id.ulid, task=0, end=End(kind=EndKind.SIGNALLED, signal=15)))
    with pytest.raises(FutureTimeout):
        job.result(1.5)
    site.finish(0, "again", job.record)
    assert job.result(60) == "again"


def test_unknown_everywhere_is_lost_only_after_a_while(site: FakeSite) -> None:
    job = attach(site, grace=1.5).job()
    site.statuses = None
    started = time.monotonic()
    with pytest.raises(errors.JobLost):
        job.result(60)
    assert time.monotonic() - started >= 1.5


def test_a_late_outcome_counts(site: FakeSite) -> None:
    """The task's end is seen before its outcome: file systems show new files late."""
    job = attach(site).job()
    site.statuses = None
    site.values[0] = "late"
    site.news.append(Ended(job.id.ulid, task=0, end=End(kind=EndKind.SIGNALLED, signal=9)))
    assert job.result(60) == "late"


def test_a_dead_task_takes_its_own_items_alone(site: FakeSite) -> None:
    array = attach(site, items=3, workers=2)
    site.owned = {0: 0, 1: 1}
    site.statuses = {1: TaskStatus(state=State.RUNNING)}
    site.news.append(Ended(array.id.ulid, task=0, end=End(kind=EndKind.OUT_OF_MEMORY, signal=9)))
    with pytest.raises(errors.OutOfMemory, match="item 0"):
        array[0].result(60)
    assert not array[1].done()
    site.finish(1, "one", array.record)
    site.finish(2, "two", array.record)
    assert list(array.results(timeout=60, return_exceptions=True))[1:] == ["one", "two"]
    assert list(array.failed) == [0]
