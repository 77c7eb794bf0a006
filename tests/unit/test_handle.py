"""Handles over a made-up site: what a caller sees when the target answers late, wrongly or not at all."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import TimeoutError as FutureTimeout

import pytest

from clustrix import errors, handle
from clustrix.course import Site

from .sites import FakeSite, attach, until


def test_results_come_in_order_whatever_ends_first(site: FakeSite) -> None:
    array = attach(site, items=3)
    results = array.results(timeout=60)
    for index in (2, 0):
        site.finish(index, index * 10, array.record)
    assert next(results) == 0
    threading.Timer(0.1, site.finish, (1, 10, array.record)).start()
    assert list(results) == [10, 20]
    assert [job.index for job in array.as_completed(timeout=60)] == [0, 1, 2]
    assert len(array) == 3
    assert array[1:] == (array[1], array[-1])
    with pytest.raises(IndexError):
        array[3]


def test_outcomes_that_are_there_come_in_one_round_trip(site: FakeSite) -> None:
    array = attach(site, items=50)
    for index in range(50):
        site.finish(index, 1, array.record)
    assert sum(array) == 50
    assert len(site.reads) == 1


def test_a_target_is_told_once_that_all_has_been_read(site: FakeSite) -> None:
    array = attach(site, items=3)
    for index in range(3):
        site.finish(index, 1, array.record)
    results = array.results(timeout=60)
    assert [next(results), next(results)] == [1, 1]
    assert not site.settled
    assert list(results) == [1]
    assert list(array) == [1, 1, 1]
    until(lambda: site.settled)
    assert site.settled == [array.id]


def test_a_timeout_leaves_the_job_running(site: FakeSite) -> None:
    job = attach(site).job()
    with pytest.raises(FutureTimeout, match="goes on"):
        job.result(0.05)
    assert not job.wait(0.05)
    site.finish(0, 1, job.record)
    assert job.result(60) == 1


def test_callbacks_are_called_once_it_ended_and_at_once_after(site: FakeSite) -> None:
    job = attach(site).job()
    called: queue.Queue[object] = queue.Queue()
    job.add_done_callback(called.put)
    site.finish(0, ValueError("no"), job.record)
    assert called.get(timeout=60) is job
    job.add_done_callback(called.put)
    assert called.get(timeout=60) is job
    assert isinstance(job.exception(), ValueError)
    assert "tail of 0" in str(job.exception().__cause__)  # type: ignore[union-attr]


def test_two_handles_of_one_job_know_the_same(site: FakeSite) -> None:
    first = attach(site)
    second = handle.attach(first.record, Site(site, site, 0.0))  # type: ignore[arg-type]
    called: queue.Queue[object] = queue.Queue()
    for array in (first, second):
        array.job().add_done_callback(called.put)
    site.finish(0, 5, first.record)
    assert {called.get(timeout=60), called.get(timeout=60)} == {first.job(), second.job()}
    assert first.job().result() == second.job().result() == 5


def test_failed_items_are_retried_alone(site: FakeSite) -> None:
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
    elsewhere = handle.attach(array.record, Site(site, site))  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="not in this process"):
        elsewhere.retry_failed()


def test_cancelled_before_it_started(site: FakeSite) -> None:
    array = attach(site, items=2, workers=2, grace=30.0)
    assert not array[0].cancel()  # an item of a map cannot be cancelled by itself
    assert array.cancel()
    assert array[1].cancelled()
    with pytest.raises(errors.JobCancelled):
        list(array)
    assert not array.cancel()
