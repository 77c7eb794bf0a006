"""A claim is one mkdir: what a listing shows may be old."""

from __future__ import annotations

import os
from pathlib import Path

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


def test_two_that_see_nothing_of_each_other_still_share(tmp_path, monkeypatch):
    """As on NFS, where a directory listing may be seconds old."""
    paths = JobPaths(str(tmp_path))
    monkeypatch.setattr(os, "listdir", lambda path: [])
    first, second = claim(task(2), paths, 0), claim(task(2), paths, 1)
    taken = [next(first), next(second), next(first)]
    assert taken == list(SLICES)
    assert list(first) == list(second) == []
    assert [Path(paths.claimant(place, number)).exists() for place, number in ((0, 0), (1, 1), (2, 0))] == [True] * 3


def test_one_slice_each_means_its_own(tmp_path):
    paths = JobPaths(str(tmp_path))
    assert list(claim(task(3), paths, 1)) == [(2, 3)]
    assert list(claim(task(3), paths, 1)) == []
    assert list(claim(task(3), paths, 5)) == []


def test_what_else_lies_there_does_not_matter(tmp_path):
    paths = JobPaths(str(tmp_path))
    Path(paths.claims, ".nfs0001").mkdir(parents=True)
    assert list(claim(task(1), paths, 0)) == list(SLICES)
