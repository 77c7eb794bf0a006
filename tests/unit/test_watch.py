"""Jobs of a made-up site, followed: whoever does not answer loses none."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeout

import pytest

from clustrix import errors, handle, watch
from clustrix.course import Site
from clustrix.model.job import End, EndKind
from clustrix.stores.base import Ended

from .sites import FakeSite, attach, until


def test_a_login_that_is_refused_is_told_and_may_work_later(site: FakeSite) -> None:
    job = attach(site).job()
    site.broken = errors.AuthenticationFailed("the password is wrong now")
    with pytest.raises(errors.AuthenticationFailed):
        job.result(60)
    site.broken = None
    site.finish(0, 7, job.record)
    assert job.result(60) == 7


def test_everybody_who_waits_is_told_of_it(site: FakeSite) -> None:
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


def test_a_scheduler_that_does_not_answer_loses_no_job(site: FakeSite, caplog: pytest.LogCaptureFixture) -> None:
    job = attach(site).job()
    job.add_done_callback(lambda _: None)
    site.broken = errors.BackendError("slurmctld is down")
    site.news.append(Ended(job.id.ulid, task=0, end=End(kind=EndKind.EXITED, exit_code=1)))
    until(lambda: "slurmctld is down" in caplog.text)
    with pytest.raises(FutureTimeout):
        job.result(0.5)
    site.broken = None
    site.statuses = None
    with pytest.raises(errors.Crashed, match="exit code 1"):
        job.result(60)


def test_outcomes_come_while_the_scheduler_is_silent(site: FakeSite, caplog: pytest.LogCaptureFixture) -> None:
    array = attach(site, items=2)
    site.broken = errors.BackendError("slurmctld is down")
    array[1].add_done_callback(lambda _: None)
    until(lambda: site.asked >= 2)
    site.finish(0, 5, array.record)
    assert array[0].result(60) == 5
    said = [record.getMessage() for record in caplog.records if str(array.id) in record.getMessage()]
    assert [text.partition(" does not answer")[0] for text in said] == [f"the scheduler of {array.id}"]
    assert site.watches == 1
    site.broken = None
    site.finish(1, 6, array.record)
    assert array[1].result(60) == 6


def test_many_jobs_of_one_target_are_followed_together(site: FakeSite) -> None:
    before = set(threading.enumerate())
    shared = Site(site, site, 0.0)  # type: ignore[arg-type]
    jobs = [handle.attach(attach(site).record, shared).job() for _ in range(20)]
    for job in jobs:
        job.add_done_callback(lambda _: None)
    assert len(set(threading.enumerate()) - before) == 1
    for job in jobs:
        site.finish(0, 1, job.record)
    assert [job.result(60) for job in jobs] == [1] * 20


def test_the_scheduler_is_asked_of_tasks_that_ended_badly_and_not_of_each(site: FakeSite, monkeypatch) -> None:
    monkeypatch.setattr(watch, "_STATUS", (1000.0, 1000.0))  # as if a map were quick
    array = attach(site, items=3, workers=3)
    site.owned = {2: 2}
    watch.follow(array._course)
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
