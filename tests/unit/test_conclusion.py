"""What is asked of a target when a whole map ends without outcomes."""

from __future__ import annotations

from types import SimpleNamespace

from clustrix import conclusion
from clustrix.errors import JobCancelled
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
