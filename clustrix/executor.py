"""``ClusterExecutor``: the target as a pool of the standard library (`concurrent.futures.Executor`)."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

from clustrix.decorator import RemoteFunction
from clustrix.errors import ConfigError
from clustrix.inplace import InPlaceArray, InPlaceJob, inside_a_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from clustrix.handle import Job


class ClusterExecutor(Executor):
    """Run functions at a target: ``ClusterExecutor("hpc", cores=4)``.

    ``submit`` is one job a call; ``map`` is one submission whatever the number of items. Without any configured target
    it is the built-in ``local``: an executor never runs a function in the calling process, except inside a job.
    """

    def __init__(self, target: str | None = None, **options: object) -> None:
        from clustrix import config

        config.check_call(options)
        self._options: dict[str, object] = {
            **options,
            "target": target or config.load().default_target() or config.LOCAL,
        }
        self._jobs: list[Future[Any]] = []
        self._down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job | InPlaceJob:  # noqa: ANN401
        """Start one call; the Job is a Future."""
        self._refuse_when_down()
        if inside_a_job():
            return InPlaceJob(fn, args, kwargs)
        from clustrix import pipeline

        job = pipeline.submit(_undecorated(fn), args, kwargs, self._options)
        self._jobs.append(job)
        return job

    def map(
        self, fn: Callable[..., Any], /, *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 0
    ) -> Iterator[Any]:
        """Call ``fn`` once per tuple of items, in ONE submission; values come in order.

        ``chunksize`` 0 shares the items out by itself.
        """
        self._refuse_when_down()
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [(args, {}) for args in zip(*iterables, strict=False)]
        if inside_a_job():
            return InPlaceArray(_undecorated(fn), calls).results()
        from clustrix import pipeline

        array = pipeline.submit_many(_undecorated(fn), calls, self._options, chunksize=chunksize or None)
        self._jobs.extend(array.jobs)
        return array.results(timeout=timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's
        """Take no more calls; cancel what has not ended, or wait for it, as told."""
        self._down = True
        if cancel_futures:
            for job in self._jobs:
                job.cancel()
        if wait:
            for job in self._jobs:
                job.exception()

    def _refuse_when_down(self) -> None:
        if self._down:
            raise RuntimeError("cannot schedule new futures after shutdown")


def _undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take a function out of @cluster: here the executor says where it runs."""
    if not callable(function):
        raise ConfigError(f"an executor runs functions, not {function!r}")
    return function.local if isinstance(function, RemoteFunction) else function
