"""A job of clustrix's own: an sh script on a compute node, where login nodes may not do what it does (make a SIF).

It is submitted, watched and cancelled as every job is. It is not in the journal, for it has no value that anybody could
fetch: whoever needs what it makes finds that, and `clustrix gc` its directory, should this process be killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from clustrix import config, watch
from clustrix.course import course_of
from clustrix.errors import ClustrixError, JobError
from clustrix.model.job import End, EndKind, JobId, JobRecord, JobSpec, State, new_ulid
from clustrix.model.resources import Resources
from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from collections.abc import Callable

    from clustrix.course import Course
    from clustrix.model.settings import ClusterConfig
    from clustrix.target import Target

_NAME = "sif"
_CORES, _MEMORY_BYTES = 2, 2 << 30  # packing a SIF; its time limit is what the partition gives by itself
_WHERE = ("partition", "queue", "account", "qos", "constraint")
_LOOK = 5.0  # seconds between two looks at why it waits


def run(target: Target, settings: ClusterConfig, script: str, *, what: str, say: Callable[[str], None]) -> Completed:
    """Run an sh script as a job and wait for its end; standard output and error are one. Ctrl-C cancels it.

    ``settings`` say where it may run and who pays. ``say`` is told that job NUMBER does ``what``, and why it waits.

    Raises:
        JobError: it never ran to its end; with the last lines of its output.
        SubmitRejected: the scheduler's own words.

    """
    job = JobId(target.name, new_ulid())
    paths = target.site.job(job.ulid)
    where = {name: getattr(settings, name) for name in _WHERE}
    asked = Resources(cores=_CORES, memory_bytes=_MEMORY_BYTES, **where)
    argv = ("sh", "-c", script, _NAME)
    spec = JobSpec(id=job, name=_NAME, items=1, slices=((0, 1),), workers=1, resources=asked, argv=argv)
    record = JobRecord(
        id=job,
        name=_NAME,
        function=_NAME,
        created=time.time(),
        items=1,
        workers=1,
        root=target.site.root,
        target=config.public(settings),
    )
    course = course_of(record, target.jobs)
    try:
        native_id = target.backend.submit(spec, record, {paths.key: os.urandom(32)})
        say(f"job {native_id} on {target.name} {what}")
        end = _wait(course, lambda why: say(f"job {native_id} waits: {why}"))
        said = target.store.log(record, 0)
    except BaseException:  # Ctrl-C, or it can never start, or nobody can tell how it goes on
        with contextlib.suppress(ClustrixError):
            target.backend.cancel([record])
        raise
    finally:
        course.settle(0, JobError("it has no value"))  # nobody follows it any more
        with contextlib.suppress(ClustrixError):
            target.store.remove(record)
    return Completed(end.exit_code if end.exit_code is not None else 1, said, said)


def _wait(course: Course, tell: Callable[[str], None]) -> End:
    """Give the end of its process, as the wrapper saw it; JobError where it had none or was ended by somebody."""
    watch.follow(course)
    while not course.wait(lambda: course.over or 0 in course.ends, _LOOK):
        status = (course.said or {}).get(0)
        if status is not None and status.state is State.WAITING and status.reason:
            tell(status.reason)
    end = course.ends.get(0)
    if end is not None and end.kind is EndKind.EXITED:
        return end
    course.wait(lambda: course.over)
    raise course.lost[0]
