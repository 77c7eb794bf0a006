"""The task survives its file."""

from __future__ import annotations

import pytest

from clustrix import errors
from clustrix.worker import task

TASK = task.Task(
    job_id="hpc/01J",
    function_name="f",
    items=3,
    slices=((0, 2), (2, 3)),
    workers=2,
    python="3.11",
    implementation="cpython",
    abi="cp311",
    fingerprint="sha256:1",
    distributions={"numpy": "2"},
    code=("sha256:3",),
    cores=4,
)


def test_it_is_read_as_it_was_written():
    assert vars(task.read(task.write(TASK))) == vars(TASK)


def test_a_hundred_thousand_slices_are_few_bytes():
    many = task.read(task.write(TASK))
    many.slices = (*((at, at + 2) for at in range(0, 200_000, 2)), (200_000, 200_001), *[(200_001, 200_001)] * 2)
    text = task.write(many)
    assert len(text) < 2 * len(task.write(TASK))
    assert task.read(text).slices == many.slices


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", task.write(TASK).replace(b"workers", b"laborers"), b"\xff"])
def test_anything_else_is_refused(text):
    with pytest.raises(errors.StoreError, match=r"task\.json"):
        task.read(text)
