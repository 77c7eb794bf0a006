"""A claim is one mkdir or one link: what a listing shows may be old."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clustrix.model.paths import JobPaths
from clustrix.worker.claims import claim
from clustrix.worker.task import Task

SLICES = ((0, 2), (2, 3), (3, 7))


def task(workers):
    return Task(
        job_id="t/1",
        function_name="f",
        items=7,
        slices=SLICES,
        workers=workers,
        python="3.11",
        implementation="cpython",
        abi="cp311",
    )


def take(claims, count):
    return [next(claims) for _ in range(count)]


@pytest.mark.parametrize("blind", [True, False])
def test_two_share_everything_and_nothing_twice(tmp_path, monkeypatch, blind):
    """Also as on NFS, where a directory listing may be seconds old."""
    paths = JobPaths(str(tmp_path))
    if blind:
        monkeypatch.setattr(os, "listdir", lambda path: [])
    first, second = claim(task(2), paths, 0), claim(task(2), paths, 1)
    assert take(first, 1) == [0]
    assert take(second, 2) == [2, 3]
    # The first has ended its own before the second, and takes over what that has not begun, from the end.
    assert take(first, 3) == [1, 6, 5]
    assert (list(second), list(first)) == ([4], [])
    assert [Path(paths.claimant(place, number)).exists() for place, number in ((0, 0), (1, 1), (2, 1))] == [True] * 3


def test_what_the_dead_have_not_begun_is_taken_over(tmp_path):
    paths = JobPaths(str(tmp_path))
    dead = claim(task(2), paths, 0)
    assert take(dead, 4) == [0, 1, 2, 3]
    assert sorted(claim(task(2), paths, 1)) == [4, 5, 6]
    assert str(Path(paths.mark(2, 3)).readlink()) == "0"
    assert str(Path(paths.mark(2, 5)).readlink()) == "1"


def test_one_slice_each_means_its_own(tmp_path):
    paths = JobPaths(str(tmp_path))
    assert take(claim(task(3), paths, 2), 2) == [3, 4]
    assert list(claim(task(3), paths, 1)) == [2]
    assert list(claim(task(3), paths, 1)) == []
    assert list(claim(task(3), paths, 5)) == []


@pytest.mark.parametrize(("workers", "number", "again"), [(2, 1, [1, 2, 3, 4, 5, 6]), (3, 2, [4, 5, 6])])
def test_a_task_that_is_queued_again_begins_again_what_it_had_not_ended(tmp_path, workers, number, again):
    asked = task(workers)
    asked.requeue = True
    paths = JobPaths(str(tmp_path))
    Path(paths.outcomes).mkdir()
    ended, _ = take(claim(asked, paths, number), 2)
    Path(paths.outcome(ended)).touch()
    assert list(claim(asked, paths, number)) == again


def test_what_else_lies_there_does_not_matter(tmp_path):
    paths = JobPaths(str(tmp_path))
    Path(paths.claims, ".nfs0001").mkdir(parents=True)
    assert list(claim(task(1), paths, 0)) == list(range(7))
