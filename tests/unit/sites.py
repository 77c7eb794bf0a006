"""A made-up site: backend and store at once, of which tests say what happens."""

from __future__ import annotations

import hashlib
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

from clustrix import errors, handle
from clustrix.course import Site
from clustrix.model.job import End, EndKind, JobId, JobRecord, State, TaskStatus, new_ulid
from clustrix.model.outcome import Outcome, OutcomeStatus
from clustrix.stores.base import Ended, Output, RawOutcome
from clustrix.worker.outcome import seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

KEY = b"k" * 32


class FakeSite:
    """Be the backend and the store at once."""

    def __init__(self) -> None:
        self.values: dict[int, object] = {}
        self.news: list[Ended | Output] = []
        self.statuses: Mapping[int, TaskStatus] | None = {0: TaskStatus(state=State.RUNNING)}
        self.broken: Exception | None = None
        self.watches = 0
        self.reads: list[list[int]] = []
        self.looks: list[list[int]] = []
        self.signs = KEY
        self.cancelled_jobs: list[JobRecord] = []
        self.settled: list[JobId] = []
        self.owned: dict[int, int] = {}
        self.asked = 0

    def status(self, jobs: Sequence[JobRecord]) -> Mapping[JobId, Mapping[int, TaskStatus]]:
        self.asked += 1
        if isinstance(self.broken, errors.BackendError):
            raise self.broken
        return {} if self.statuses is None else {job.id: self.statuses for job in jobs}

    def cancel(self, jobs: Sequence[JobRecord]) -> None:
        self.cancelled_jobs += jobs
        self.statuses = None

    def settle(self, job: JobRecord) -> None:
        self.settled.append(job.id)

    def watch(self, jobs: Sequence[JobRecord], *, output: Any = None) -> Watch:
        self.watches += 1
        if isinstance(self.broken, errors.TransportError):
            raise self.broken
        return Watch(self, [job.id.ulid for job in jobs])

    def read(self, job: JobRecord, indices: Sequence[int]) -> Iterator[RawOutcome]:
        self.reads.append(list(indices))
        for index in indices:
            if index in self.values:
                value = self.values[index]
                status = OutcomeStatus.ERROR if isinstance(value, Exception) else OutcomeStatus.SUCCESS
                data = pickle.dumps(value)
                outcome = Outcome(
                    index=index,
                    function_name="f",
                    status=status,
                    value_sha256=hashlib.sha256(data).hexdigest(),
                    value_bytes=len(data),
                    metadata={"task": 0},
                )
                yield RawOutcome(index, seal(outcome, KEY), data)

    def metadata(self, job: JobRecord, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        self.looks.append(list(indices))
        used = {"task": 0, "started": 0.0, "ended": 10.0, "cpu_seconds": 10.0, "peak_memory_bytes": 2**30}
        for index in indices:
            status = OutcomeStatus.ERROR if isinstance(self.values[index], Exception) else OutcomeStatus.SUCCESS
            yield index, seal(Outcome(index=index, function_name="f", status=status, metadata=used), self.signs)

    def failures(self, jobs: Sequence[JobRecord]) -> Mapping[str, frozenset[int]]:
        failed = frozenset(index for index, value in self.values.items() if isinstance(value, Exception))
        return {job.id.ulid: failed for job in jobs}

    def ends(self, job: JobRecord) -> Mapping[int, End]:
        return {0: End(kind=EndKind.EXITED, exit_code=0)}

    def owners(self, job: JobRecord) -> Mapping[int, int]:
        return self.owned

    def cancelled(self, job: JobRecord) -> bool:
        return job in self.cancelled_jobs

    def key(self, job: JobRecord) -> bytes:
        return KEY

    def log(self, job: JobRecord, task: int, *, last_bytes: int | None = None) -> bytes:
        return b"tail of %d" % task

    def finish(self, index: int, value: object, job: JobRecord) -> None:
        self.values[index] = value
        self.news.append(Ended(job.id.ulid, index=index))


class Watch:
    def __init__(self, site: FakeSite, ulids: Sequence[str]) -> None:
        self.site = site
        self.ulids = ulids
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()

    def __iter__(self) -> Iterator[Ended | Output | None]:
        told = 0
        while True:
            if isinstance(self.site.broken, errors.TransportError):
                raise self.site.broken
            if self.closed.wait(0.01):
                raise errors.ConnectionLost("gone")
            news = self.site.news[told:]  # more may come while these are told
            told += len(news)
            yield from (event for event in news if event.ulid in self.ulids)
            yield None


def attach(
    site: FakeSite, items: int = 1, workers: int = 1, grace: float = 0.0, asked: Any = None, **options: Any
) -> handle.JobArray:
    record = JobRecord(
        id=JobId("t", new_ulid()),
        name="n",
        function="f",
        created=time.time(),
        items=items,
        workers=workers,
        root="/r",
        target=asked or {},
    )
    return handle.attach(record, Site(site, site, grace), **options)  # type: ignore[arg-type]


def until(over: Callable[[], object]) -> None:
    """Wait for what a thread of ours does."""
    deadline = time.monotonic() + 60
    while not over():
        assert time.monotonic() < deadline
        time.sleep(0.01)
