"""A job in the caller's hands: `Job` for a call, `JobArray` for a map; made from a `JobRecord`, in any process."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TextIO, overload

from clustrix import console, watch
from clustrix import status as statuses
from clustrix.course import course_of
from clustrix.errors import ConfigError, JobCancelled, JobError, NotReady, Unschedulable
from clustrix.model.job import State

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Iterator, Mapping

    from clustrix.course import Course, Site
    from clustrix.model.job import JobId, JobRecord, JobStatus
    from clustrix.model.usage import Usage

_ANSWER = 30.0  # seconds that a target may take to say for the first time what has ended


def attach(
    record: JobRecord,
    site: Site,
    *,
    key: bytes | None = None,
    retry: Callable[..., JobArray] | None = None,
    interrupted: Callable[[JobArray], None] | None = None,
) -> JobArray:
    """Take a job up again from its record; ``attach(...).job()`` is the Job of a single call.

    ``retry(array, indices)`` is what `JobArray.retry_failed` calls, ``interrupted(array)`` what Ctrl-C does to whoever
    iterates.
    """
    return JobArray(course_of(record, site, key), retry=retry, interrupted=interrupted)


class _Handle:
    """Hold what a call and a map have in common."""

    _course: Course

    @property
    def id(self) -> JobId:
        """Name the job: ``target/ulid``."""
        return self._course.record.id

    @property
    def record(self) -> JobRecord:
        """Give what the journal remembers."""
        return self._course.record

    def status(self) -> JobStatus:
        """Ask the target where it stands."""
        return statuses.survey(self._course.site, [self.record])[self.id]

    def usage(self) -> Usage:
        """Compare what was asked for with what was used so far, and propose what to ask for next.

        Of the whole map, where this is an item of one. The rules are those of `clustrix.model.usage`.

        Raises:
            Tampered: somebody else wrote or changed an outcome.
            TransportError: the target does not answer.
            BackendError: its scheduler does not, and it is not known yet what became of every item.

        """
        from clustrix import usage

        course = self._course
        if not _known(course, lambda: course.over):  # what has no outcome may never have one, which nobody has asked
            course = statuses.look(course.site, [course.record])[self.id.ulid]
        return usage.of(course)


class Job(_Handle, Future[Any]):
    """Hold a call that runs somewhere else: a `concurrent.futures.Future` that can be awaited and outlives its process.

    Also one item of a `JobArray`, with ``index`` its number.
    """

    def __init__(self, course: Course, index: int = 0) -> None:
        super().__init__()
        self._waiters: list[Any] = _Waiters(course)
        self._course = course
        self.index = index
        self._answer: tuple[object, BaseException | None] | None = None
        course.when_over(index, self._over)

    def result(self, timeout: float | None = None, *, stream_to: TextIO | None = None) -> Any:  # noqa: ANN401
        """Wait for the value, or raise what the function raised.

        ``stream_to`` shows the output meanwhile. TimeoutError after ``timeout`` seconds: the job goes on.

        Raises:
            JobError: it ended without a value; see `clustrix.errors` for the kinds.

        """
        value, error = self._end(timeout, stream_to)
        if error is not None:
            try:
                raise error
            finally:
                del error  # the traceback would hold this frame, and this frame the error
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and give what `result` would raise."""
        return self._end(timeout, None)[1]

    def wait(self, timeout: float | None = None, *, stream_to: TextIO | None = None) -> bool:
        """Wait until it has ended; False when the time is up first. ``stream_to`` shows the output meanwhile."""
        with console.showing(self._course, stream_to) as wait:
            return wait(lambda: self._course.over_at(self.index), timeout)

    def done(self) -> bool:
        """Tell whether it is known to have ended. The first time this asks the target."""
        return _known(self._course, lambda: self._course.over_at(self.index))

    def running(self) -> bool:
        """Tell whether it has started and not ended; asks the target."""
        return not self.done() and self.status().state is State.RUNNING

    def cancelled(self) -> bool:
        """Tell whether it ended because somebody cancelled it."""
        return isinstance(self._course.lost.get(self.index), JobCancelled)

    def cancel(self) -> bool:
        """End every process of the job, or take it out of the queue; False if it had ended, or is an item of a map."""
        if self._course.record.items > 1 or (self.done() and not _is_queued(self._course)):
            return False
        _cancel(self._course)
        return True

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call ``fn(job)`` in another thread once it has ended, or now if it has."""
        super().add_done_callback(fn)
        watch.follow(self._course)

    @overload
    def logs(self, *, follow: Literal[False] = False) -> str: ...
    @overload
    def logs(self, *, follow: Literal[True]) -> Iterator[str]: ...
    def logs(self, *, follow: bool = False) -> str | Iterator[str]:
        """Read the output so far or, with ``follow``, as it comes until the end."""
        course = self._course
        if follow:
            return console.follow(course, lambda: course.over_at(self.index))
        task = 0 if course.record.workers == 1 else course.site.store.owners(course.record).get(self.index)
        return "" if task is None else course.site.store.log(course.record, task).decode(errors="replace")

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait in an event loop. Giving up waiting does not cancel the job."""
        import asyncio

        loop = asyncio.get_running_loop()
        over = loop.create_future()

        def wake(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_set, over)

        self.add_done_callback(wake)
        yield from over
        yield from loop.run_in_executor(None, self.exception)
        return self.result()

    def __repr__(self) -> str:
        course = self._course
        item = f" item {self.index}" if course.record.items > 1 else ""
        return f"<Job {self.id}{item} {'ended' if course.over_at(self.index) else 'not known to have ended'}>"

    def _over(self) -> None:
        self.set_result(None)  # the value is fetched by whoever asks for it

    def _end(self, timeout: float | None, stream_to: TextIO | None) -> tuple[object, BaseException | None]:
        if self._answer is None:
            if not self.wait(timeout, stream_to=stream_to):
                raise FutureTimeout(f"{self.id} has not ended within {timeout} s; it goes on")
            from clustrix import result  # with all that unpickles, which submitting does not need

            self._answer = result.fetch(self._course, self.index)
        return self._answer


class JobArray(_Handle):
    """Hold a map that runs somewhere else. Iterating gives the values in order; ``array[3]`` is the Job of an item.

    Ctrl-C while an iteration waits cancels a map that this process submitted, as it does to a blocking call; a second
    one leaves it running. `results` leaves it running in any case.
    """

    def __init__(
        self,
        course: Course,
        *,
        retry: Callable[..., JobArray] | None = None,
        interrupted: Callable[[JobArray], None] | None = None,
    ) -> None:
        self._course = course
        self._retry = retry
        self._interrupted = interrupted
        self._jobs: dict[int, Job] = {}

    @property
    def jobs(self) -> tuple[Job, ...]:
        """List the items, each a Future."""
        return tuple(self[index] for index in range(len(self)))

    def job(self) -> Job:
        """Give the Job of a call that is no map."""
        return self[0]

    def __len__(self) -> int:
        return self._course.record.items

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Job, ...]: ...

    def __getitem__(self, index: int | slice) -> Job | tuple[Job, ...]:
        place = range(len(self))[index]  # IndexError and negative numbers, as everywhere
        if isinstance(place, range):
            return tuple(self[item] for item in place)
        return self._jobs.get(place) or self._jobs.setdefault(place, Job(self._course, place))

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.results()
        except KeyboardInterrupt:
            if self._interrupted is not None:
                self._interrupted(self)
            raise

    def results(
        self, *, timeout: float | None = None, return_exceptions: bool = False, stream_to: TextIO | None = None
    ) -> Iterator[Any]:
        """Give the values in order, as they become known.

        What an item raised is raised in its place or, with ``return_exceptions``, given. TimeoutError when ``timeout``
        seconds after this call an item has not ended. ``stream_to`` shows the output of all items meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        watch.follow(self._course)

        def values() -> Iterator[Any]:
            with console.showing(self._course, stream_to) as wait:
                for index in range(len(self)):
                    job = self[index]
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    if not wait(partial(self._course.over_at, index), left):
                        raise FutureTimeout(f"item {index} of {self.id} has not ended within {timeout} s; it goes on")
                    error = job.exception() if return_exceptions else None
                    yield error if error is not None else job.result()
                    # Values of a long map shall not pile up here.
                    self._jobs.pop(index, None)

        return values()

    def as_completed(self, *, timeout: float | None = None) -> Iterator[Job]:
        """Give the items as they end; ``job.index`` tells which."""
        deadline = None if timeout is None else time.monotonic() + timeout
        course, given = self._course, set[int]()
        watch.follow(course)
        while len(given) < len(self):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not course.wait(lambda: len(course.ended) + len(course.lost) > len(given), left):
                raise FutureTimeout(f"{len(self) - len(given)} items of {self.id} have not ended within {timeout} s")
            for index in sorted({*course.ended, *course.lost} - given):
                given.add(index)
                yield self[index]

    def wait(self, timeout: float | None = None, *, stream_to: TextIO | None = None) -> bool:
        """Wait until all items have ended; False when the time is up first."""
        with console.showing(self._course, stream_to) as wait:
            return wait(lambda: self._course.over, timeout)

    def done(self) -> bool:
        """Tell whether all items are known to have ended. The first time this asks the target."""
        return _known(self._course, lambda: self._course.over)

    @property
    def failed(self) -> Mapping[int, BaseException]:
        """Give the items that have ended without a value so far: number -> error."""
        course = self._course
        self.done()
        outcomes = course.site.store.failures([course.record])[self.id.ulid] if course.ended else frozenset()
        errors = {index: self[index].exception() for index in sorted({*outcomes, *course.lost})}
        return {index: error for index, error in errors.items() if error is not None}

    def retry_failed(self) -> JobArray:
        """Submit the items that failed once more, as a map of their own in the order of their numbers.

        Raises:
            NotReady: the map has not ended.
            ConfigError: this process does not have what was submitted.

        """
        if not self.done():
            raise NotReady(f"{self.id} has not ended", remedy="Wait for it first: array.wait()")
        if self._retry is None:
            raise ConfigError(
                f"the arguments of {self.id} are not in this process", remedy="Retry where it was submitted."
            )
        return self._retry(self, tuple(self.failed))

    def cancel(self) -> bool:
        """End every process of the map, and take what waits out of the queue; False if it had ended."""
        if self.done() and not _is_queued(self._course):
            return False
        _cancel(self._course)
        return True

    @overload
    def logs(self, *, task: int = ..., follow: Literal[False] = False) -> str: ...
    @overload
    def logs(self, *, follow: Literal[True]) -> Iterator[str]: ...
    def logs(self, *, task: int = 0, follow: bool = False) -> str | Iterator[str]:
        """Read the output of one task so far or, with ``follow``, that of all as it comes, line by line."""
        course = self._course
        if follow:
            return console.follow(course, lambda: course.over)
        return course.site.store.log(course.record, task).decode(errors="replace")

    def __repr__(self) -> str:
        over = len(self._course.ended) + len(self._course.lost)
        return f"<JobArray {self.id}: {over} of {len(self)} items are known to have ended>"


def _known(course: Course, over: Callable[[], bool]) -> bool:
    """Tell whether it is over, once the target has said what has ended."""
    watch.follow(course)
    course.wait(lambda: course.caught_up or over(), _ANSWER)
    return over()


def _is_queued(course: Course) -> bool:
    """Tell whether a job that can never start may wait for ever."""
    return any(isinstance(error, Unschedulable) for error in course.lost.values())


def _cancel(course: Course) -> None:
    course.site.backend.cancel([course.record])
    watch.follow(course)
    with contextlib.suppress(JobError):
        course.wait(lambda: course.over, course.site.grace)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Waiters(list[Any]):
    """Notice that somebody waits: `concurrent.futures.wait` and `as_completed` call no method of a Future."""

    def __init__(self, course: Course) -> None:
        super().__init__()
        self._course = course

    def append(self, waiter: Any, /) -> None:  # noqa: ANN401 - private to concurrent.futures
        """Take a waiter, and follow the job for it."""
        super().append(waiter)
        watch.follow(self._course)
