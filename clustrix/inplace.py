"""Calls that run in this process: no target is configured, or this is a job already. They look like jobs that ended."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal, overload

from clustrix.model.job import JobStatus, State

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from typing import TextIO


def inside_a_job() -> bool:
    """Tell whether this process is a job: the worker says so."""
    return bool(os.environ.get("CLUSTRIX_IN_JOB"))


class InPlaceJob(Future[Any]):
    """Hold a call that was made in this process; what `clustrix.handle.Job` offers a caller, without a target."""

    id = None

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], index: int = 0
    ) -> None:
        super().__init__()
        self.index = index
        self.set_running_or_notify_cancel()
        try:
            self.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - raised again by result(), as a Future does
            self.set_exception(error)

    def result(self, timeout: float | None = None, *, stream_to: TextIO | None = None) -> Any:  # noqa: ANN401, ARG002
        """Give the value, or raise what the function raised; its output has been seen."""
        return super().result(timeout)

    def wait(self, timeout: float | None = None, *, stream_to: TextIO | None = None) -> bool:  # noqa: ARG002
        """Say that it has ended."""
        return True

    def status(self) -> JobStatus:
        """Say how it ended."""
        return _status([self])

    @overload
    def logs(self, *, follow: Literal[False] = False) -> str: ...
    @overload
    def logs(self, *, follow: Literal[True]) -> Iterator[str]: ...
    def logs(self, *, follow: bool = False) -> str | Iterator[str]:
        """Give nothing: its output has been seen."""
        return iter(()) if follow else ""

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self.result()


class InPlaceArray:
    """Hold a map that was made in this process; what `clustrix.handle.JobArray` offers a caller, without a target."""

    id = None

    def __init__(
        self, function: Callable[..., Any], calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]
    ) -> None:
        self._function = function
        self._calls = calls
        self.jobs = tuple(InPlaceJob(function, args, kwargs, index) for index, (args, kwargs) in enumerate(calls))

    def __len__(self) -> int:
        return len(self.jobs)

    @overload
    def __getitem__(self, index: int) -> InPlaceJob: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[InPlaceJob, ...]: ...

    def __getitem__(self, index: int | slice) -> InPlaceJob | tuple[InPlaceJob, ...]:
        return self.jobs[index]

    def __iter__(self) -> Iterator[Any]:
        return self.results()

    def results(
        self,
        *,
        timeout: float | None = None,  # noqa: ARG002
        return_exceptions: bool = False,
        stream_to: TextIO | None = None,  # noqa: ARG002
    ) -> Iterator[Any]:
        """Give the values in order; what an item raised is raised or, with ``return_exceptions``, given."""
        for job in self.jobs:
            error = job.exception()
            yield error if return_exceptions and error is not None else job.result()

    def as_completed(self, *, timeout: float | None = None) -> Iterator[InPlaceJob]:  # noqa: ARG002
        """Give the items."""
        return iter(self.jobs)

    def wait(self, timeout: float | None = None, *, stream_to: TextIO | None = None) -> bool:  # noqa: ARG002
        """Say that all have ended."""
        return True

    def done(self) -> bool:
        """Say that all have ended."""
        return True

    def status(self) -> JobStatus:
        """Say how they ended."""
        return _status(self.jobs)

    @overload
    def logs(self, *, task: int = ..., follow: Literal[False] = False) -> str: ...
    @overload
    def logs(self, *, follow: Literal[True]) -> Iterator[str]: ...
    def logs(self, *, task: int = 0, follow: bool = False) -> str | Iterator[str]:  # noqa: ARG002
        """Give nothing: their output has been seen."""
        return iter(()) if follow else ""

    def cancel(self) -> bool:
        """Cancel nothing: all have ended."""
        return False

    @property
    def failed(self) -> Mapping[int, BaseException]:
        """Give the items that have no value: number -> error."""
        errors = {job.index: job.exception() for job in self.jobs}
        return {index: error for index, error in errors.items() if error is not None}

    def retry_failed(self) -> InPlaceArray:
        """Call the failed items once more."""
        return InPlaceArray(self._function, [self._calls[index] for index in self.failed])


def _status(jobs: Sequence[InPlaceJob]) -> JobStatus:
    failed = sum(job.exception() is not None for job in jobs)
    state = State.FAILED if failed else State.SUCCEEDED
    return JobStatus(id=None, state=state, items=len(jobs), finished=len(jobs), failed=failed)
