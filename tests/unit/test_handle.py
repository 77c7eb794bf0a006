"""Handles over a made-up site: what a caller sees when the target answers late, wrongly or not at all."""

from __future__ import annotations

import hashlib
import io
import pickle
import queue
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import conclusion, errors, handle, watch
from clustrix.model.job import End, EndKind, JobId, JobRecord, State, TaskStatus, new_ulid
from clustrix.model.outcome import Outcome, OutcomeStatus
from clustrix.stores.base import Ended, Output, RawOutcome
from clustrix.worker.outcome import seal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

KEY = b"k" * 32


class Site:
    """Be the backend and the store at once; tests say what happens."""

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
    def __init__(self, site: Site, ulids: Sequence[str]) -> None:
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
            yield from (event for event in self.site.news[told:] if event.ulid in self.ulids)
            told = len(self.site.news)
            yield None


@pytest.fixture
def site() -> Site:
    return Site()


def attach(
    site: Site, items: int = 1, workers: int = 1, grace: float = 0.0, asked: Any = None, **options: Any
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
    return handle.attach(record, handle.Site(site, site, grace), **options)  # type: ignore[arg-type]


def test_results_come_in_order_whatever_ends_first(site: Site) -> None:
    array = attach(site, items=3)
    results = array.results(timeout=60)
    for index in (2, 0):
        site.finish(index, index * 10, array.record)
    assert next(results) == 0
    threading.Timer(0.1, site.finish, (1, 10, array.record)).start()
    assert list(results) == [10, 20]
    assert [job.index for job in array.as_completed(timeout=60)] == [0, 1, 2]
    assert len(array) == 3
    with pytest.raises(IndexError):
        array[3]


def test_outcomes_that_are_there_come_in_one_round_trip(site: Site) -> None:
    array = attach(site, items=50)
    for index in range(50):
        site.finish(index, 1, array.record)
    assert sum(array) == 50
    assert len(site.reads) == 1


def test_a_target_is_told_once_that_all_has_been_read(site: Site) -> None:
    array = attach(site, items=3)
    for index in range(3):
        site.finish(index, 1, array.record)
    results = array.results(timeout=60)
    assert [next(results), next(results)] == [1, 1]
    assert not site.settled
    assert list(results) == [1]
    assert list(array) == [1, 1, 1]
    deadline = time.monotonic() + 60
    while not site.settled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert site.settled == [array.id]


def test_a_timeout_leaves_the_job_running(site: Site) -> None:
    job = attach(site).job()
    with pytest.raises(FutureTimeout, match="goes on"):
        job.result(0.05)
    assert not job.wait(0.05)
    site.finish(0, 1, job.record)
    assert job.result(60) == 1


def test_callbacks_are_called_once_it_ended_and_at_once_after(site: Site) -> None:
    job = attach(site).job()
    called: queue.Queue[object] = queue.Queue()
    job.add_done_callback(called.put)
    site.finish(0, ValueError("no"), job.record)
    assert called.get(timeout=60) is job
    job.add_done_callback(called.put)
    assert called.get(timeout=60) is job
    assert isinstance(job.exception(), ValueError)
    assert "tail of 0" in str(job.exception().__cause__)  # type: ignore[union-attr]


def test_a_login_that_is_refused_is_told_and_may_work_later(site: Site) -> None:
    job = attach(site).job()
    site.broken = errors.AuthenticationFailed("the password is wrong now")
    with pytest.raises(errors.AuthenticationFailed):
        job.result(60)
    site.broken = None
    site.finish(0, 7, job.record)
    assert job.result(60) == 7


def test_everybody_who_waits_is_told_of_it(site: Site) -> None:
    array = attach(site, items=3)
    told: queue.Queue[object] = queue.Queue()

    def wait(index: int) -> None:
        try:
            told.put(array[index].result(60))
        except errors.AuthenticationFailed as error:
            told.put(error)

    threads = [threading.Thread(target=wait, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    site.broken = errors.AuthenticationFailed("the password is wrong now")
    assert all(isinstance(told.get(timeout=30), errors.AuthenticationFailed) for _ in threads)


def test_two_handles_of_one_job_know_the_same(site: Site) -> None:
    first = attach(site)
    second = handle.attach(first.record, handle.Site(site, site, 0.0))  # type: ignore[arg-type]
    called: queue.Queue[object] = queue.Queue()
    for array in (first, second):
        array.job().add_done_callback(called.put)
    site.finish(0, 5, first.record)
    assert {called.get(timeout=60), called.get(timeout=60)} == {first.job(), second.job()}
    assert first.job().result() == second.job().result() == 5


def test_a_scheduler_that_does_not_answer_loses_no_job(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    job = attach(site).job()
    site.broken = errors.BackendError("slurmctld is down")
    site.news.append(Ended(job.id.ulid, task=0, end=End(kind=EndKind.EXITED, exit_code=1)))
    with pytest.raises(FutureTimeout):
        job.result(1.5)
    assert [record.getMessage() for record in caplog.records if "slurmctld is down" in record.getMessage()]
    site.broken = None
    site.statuses = None
    with pytest.raises(errors.Crashed, match="exit code 1"):
        job.result(60)


def test_the_end_of_an_earlier_start_is_not_the_last(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is queued again and runs again has removed what its wrapper wrote."""
    monkeypatch.setattr(conclusion, "_SETTLE", 0.0)
    monkeypatch.setattr(site, "ends", lambda job: {})
    job = attach(site).job()
    site.news.append(Ended(job.id.ulid, task=0, end=End(kind=EndKind.SIGNALLED, signal=15)))
    with pytest.raises(FutureTimeout):
        job.result(1.5)
    site.finish(0, "again", job.record)
    assert job.result(60) == "again"


def test_outcomes_come_while_the_scheduler_is_silent(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    array = attach(site, items=2)
    site.broken = errors.BackendError("slurmctld is down")
    with pytest.raises(FutureTimeout):
        array[1].result(3)  # it is asked twice in that time
    site.finish(0, 5, array.record)
    assert array[0].result(60) == 5
    assert [record.getMessage().partition(" does not answer")[0] for record in caplog.records] == [
        f"the scheduler of {array.id}"
    ]
    assert site.watches == 1
    site.broken = None
    site.finish(1, 6, array.record)
    assert array[1].result(60) == 6


def test_unknown_everywhere_is_lost_only_after_a_while(site: Site) -> None:
    job = attach(site, grace=1.5).job()
    site.statuses = None
    started = time.monotonic()
    with pytest.raises(errors.JobLost):
        job.result(60)
    assert time.monotonic() - started >= 1.5


def test_a_late_outcome_counts(site: Site) -> None:
    """The task's end is seen before its outcome: file systems show new files late."""
    job = attach(site).job()
    site.statuses = None
    site.values[0] = "late"
    site.news.append(Ended(job.id.ulid, task=0, end=End(kind=EndKind.SIGNALLED, signal=9)))
    assert job.result(60) == "late"


def test_a_dead_task_takes_its_own_items_alone(site: Site) -> None:
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


def test_failed_items_are_retried_alone(site: Site) -> None:
    asked: list[object] = []
    array = attach(site, items=3, retry=lambda array, indices: asked.append((array, indices)))
    site.finish(0, "fine", array.record)
    with pytest.raises(errors.NotReady):
        array.retry_failed()
    site.finish(1, KeyError("x"), array.record)
    site.finish(2, ValueError("y"), array.record)
    array.wait(60)
    array.retry_failed()
    assert asked == [(array, (1, 2))]
    elsewhere = handle.attach(array.record, handle.Site(site, site))  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="not in this process"):
        elsewhere.retry_failed()


def test_cancelled_before_it_started(site: Site) -> None:
    array = attach(site, items=2, workers=2, grace=30.0)
    assert not array[0].cancel()  # an item of a map cannot be cancelled by itself
    assert array.cancel()
    assert array[1].cancelled()
    with pytest.raises(errors.JobCancelled):
        list(array)
    assert not array.cancel()


def test_output_of_several_tasks_comes_in_whole_lines(site: Site) -> None:
    array = attach(site, items=2, workers=2)
    screen = io.StringIO()

    def talk() -> None:
        time.sleep(0.2)
        ulid = array.id.ulid
        for task, data in [(0, b"a"), (1, b"one\nt\xc3"), (0, b"b\n"), (1, b"\xa9wo"), (0, b"\xff\n")]:
            site.news.append(Output(ulid, task, data))
        site.finish(0, 1, array.record)

    threading.Thread(target=talk).start()
    results = array.results(timeout=60, stream_to=screen)
    assert next(results) == 1  # the second is waited for separately, and nothing is shown twice
    site.finish(1, 2, array.record)
    assert list(results) == [2]
    assert screen.getvalue() == "[1] one\n[0] ab\n[0] \ufffd\n[1] t\u00e9wo\n"


def test_many_jobs_of_one_target_are_followed_together(site: Site) -> None:
    before = set(threading.enumerate())
    shared = handle.Site(site, site, 0.0)  # type: ignore[arg-type]
    jobs = [handle.attach(attach(site).record, shared).job() for _ in range(20)]
    for job in jobs:
        job.add_done_callback(lambda _: None)
    assert len(set(threading.enumerate()) - before) == 1
    for job in jobs:
        site.finish(0, 1, job.record)
    assert [job.result(60) for job in jobs] == [1] * 20


def test_the_scheduler_is_asked_of_tasks_that_ended_badly_and_not_of_each(site: Site, monkeypatch) -> None:
    monkeypatch.setattr(watch, "_STATUS", (1000.0, 1000.0))  # as if a map were quick
    array = attach(site, items=3, workers=3)
    site.owned = {2: 2}
    array._course.follow()
    assert array._course.wait(lambda: array._course.caught_up, 60)
    site.news.append(Ended(array.id.ulid, task=0, end=End(kind=EndKind.EXITED, exit_code=0)))
    for task in range(2):
        site.finish(task, task, array.record)
    assert [array.jobs[task].result(timeout=60) for task in range(2)] == [0, 1]
    asked = site.asked
    site.news.append(Ended(array.id.ulid, task=2, end=End(kind=EndKind.SIGNALLED, signal=9)))
    with pytest.raises(errors.Crashed):
        array.jobs[2].result(timeout=60)
    assert (asked, site.asked) == (0, 1)


def test_usage_is_of_what_has_ended_and_reads_no_value(site: Site) -> None:
    array = attach(site, items=100, asked={"cores": 2, "time": 60.0})
    for index in range(99):
        site.finish(index, ValueError("no") if index == 7 else index, array.record)
    assert array.wait(0.1) is False
    found = array.usage()
    assert (found.items, found.measured, found.failed, found.open) == (100, 98, 1, 1)
    assert (found.busy_cores, found.decorator) == (1.0, None)
    site.finish(99, 1, array.record)
    assert array.wait(60)
    assert array[3].usage().decorator == '@cluster(cores=1, time="00:02:00")'
    assert [len(look) for look in site.looks] == [99, 100]  # one round trip each
    assert not site.reads
    assert not site.settled
    site.signs = b"another" * 5
    with pytest.raises(errors.Tampered):
        array.usage()


def test_usage_is_no_guess_where_nobody_answers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "_ANSWER", 0.05)
    site.broken = errors.ConnectionLost("the line is dead")
    with pytest.raises(errors.ConnectionLost, match="the line is dead"):
        attach(site).job().usage()


def test_usage_of_what_was_killed_asks_for_more(site: Site) -> None:
    array = attach(site, items=2, workers=2, asked={"memory": 2**30, "time": 600.0})
    site.owned = {0: 0, 1: 1}
    site.finish(0, 1, array.record)
    site.statuses = {
        0: TaskStatus(state=State.SUCCEEDED, end=End(kind=EndKind.EXITED, exit_code=0)),
        1: TaskStatus(state=State.FAILED, end=End(kind=EndKind.OUT_OF_MEMORY)),
    }
    found = array.usage()  # before anybody has asked what became of the other
    assert (found.failed, found.out_of_memory, found.out_of_time) == (1, True, False)
    assert found.decorator == '@cluster(cores=1, memory="2GB", time="00:10:00")'
