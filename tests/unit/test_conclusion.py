"""What is asked of a target when a whole map ends without outcomes."""

from __future__ import annotations

from types import SimpleNamespace

from clustrix import conclusion
from clustrix.errors import Crashed, JobCancelled
from clustrix.model.job import End, EndKind, JobId, JobRecord, State, TaskStatus
from clustrix.watch import Course


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
