"""One job as several submissions: a made-up scheduler, a real shell."""

from __future__ import annotations

import contextlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import errors
from clustrix.backends.batch import BatchBackend, join, split
from clustrix.model.job import JobId, JobRecord, JobSpec, State, TaskStatus, new_ulid
from clustrix.schedulers.base import Limits, job_name
from clustrix.schedulers.process import Process
from clustrix.transports.local import Local

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.model.paths import JobPaths
    from clustrix.transports.base import Completed

# The scheduler: a directory with a file a job, which it numbers; it takes as many as ``room`` says.
SUBMIT = """
cd "$1" && n=$(($(ls queue | wc -l) + 1)) && [ $n -le "$(cat room)" ] && sed -n 2p "$2" >queue/$n && echo $n
"""


class Toy(Process):
    """Submit to that directory."""

    def __init__(self, place: Path, highest: int | None) -> None:
        self.place = place
        self.highest = highest
        self.cancelled: list[str] = []

    def script(self, spec: JobSpec, paths: JobPaths, *, offset: int = 0, tasks: int = 1) -> str:
        return f"#!/bin/sh\n# {json.dumps([job_name(spec), offset, tasks, spec.max_parallel])}\n"

    def submit_argv(self, spec: JobSpec, script: str) -> tuple[str, ...]:
        return ("sh", "-c", SUBMIT, "sh", str(self.place), script)

    def parse_submit(self, completed: Completed) -> str:
        if completed.returncode != 0:
            raise errors.SubmitRejected("the queue is full")
        return completed.stdout.decode().strip()

    def find_argv(self, spec: JobSpec) -> tuple[str, ...]:
        return ("sh", "-c", 'cd "$1/queue" && grep -l "$2" *', "sh", str(self.place), spec.id.ulid)

    def parse_find(self, completed: Completed) -> str | None:
        return (completed.stdout.decode().split() or [None])[-1]

    def status_argv(self, native_ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        return (("ls", str(self.place / "queue")),)

    def parse_status(
        self, native_ids: Sequence[str], answers: Sequence[Completed]
    ) -> Mapping[str, Mapping[int, TaskStatus]]:
        there = answers[0].stdout.decode().split()
        return {job: {0: TaskStatus(state=State.WAITING)} for job in native_ids if job in there}

    def cancel_argv(self, native_ids: Sequence[str]) -> tuple[str, ...]:
        self.cancelled += native_ids
        return ("rm", "-f", *(f"{self.place}/queue/{job}" for job in native_ids))

    def limits_argv(self) -> tuple[str, ...] | None:
        return ("true",)

    def parse_limits(self, completed: Completed) -> Limits:
        return Limits(max_array_index=self.highest)


class Counting(Local):
    """Count round trips."""

    runs = 0

    def run(self, script: str, **options: Any) -> Completed:
        self.runs += 1
        return super().run(script, **options)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "queue").mkdir()
    (tmp_path / "room").write_text("100\n")
    return tmp_path


def job(workers: int, place: Path, **fields: Any) -> tuple[JobSpec, JobRecord]:
    name = JobId("toy", new_ulid())
    slices = tuple((n, n + 1) for n in range(workers))
    spec = JobSpec(id=name, name="a job", items=workers, slices=slices, workers=workers, argv=("true",), **fields)
    root = str(place / "root")
    record = JobRecord(
        id=name, name="a job", function="f", created=0.0, items=workers, workers=workers, root=root, target={}
    )
    return spec, record


def queued(place: Path) -> list[list[object]]:
    return [json.loads(path.read_text()[2:])[1:] for path in sorted((place / "queue").iterdir())]


def test_more_tasks_than_an_array_may_have(place: Path) -> None:
    toy = Toy(place, highest=9)
    transport = Counting()
    backend = BatchBackend(toy, transport, str(place / "root"))
    spec, record = job(25, place, max_parallel=7)
    native_id = backend.submit(spec, record, {})
    assert native_id == "1 2@10 3@20"
    assert transport.runs == 2  # the site's limits, and all of it
    assert queued(place) == [[0, 10, 2], [10, 10, 2], [20, 5, 2]]
    found = backend.status([replace(record, native_id=native_id)])[record.id]
    assert sorted(found) == [0, 10, 20]  # numbered through
    # From another process, which has the record alone.
    elsewhere = BatchBackend(toy, Local(), str(place / "root"))
    assert sorted(elsewhere.status([record])[record.id]) == [0, 10, 20]
    elsewhere.cancel([record])
    assert toy.cancelled == ["1", "2", "3"]
    assert elsewhere.status([record]) == {}
    assert (place / "root/jobs" / record.id.ulid / "cancelled").exists()


def test_parallelism_that_the_site_cannot_keep_is_refused(place: Path) -> None:
    backend = BatchBackend(Toy(place, highest=0), Local(), str(place / "root"))
    with pytest.raises(errors.UnsupportedResource, match="max_parallel=2"):
        backend.submit(*job(3, place, max_parallel=2), {})
    assert queued(place) == []


def test_what_is_refused_leaves_nothing_behind(place: Path) -> None:
    (place / "room").write_text("2\n")
    toy = Toy(place, highest=1)
    backend = BatchBackend(toy, Local(), str(place / "root"))
    with pytest.raises(errors.SubmitRejected, match="the queue is full"):
        backend.submit(*job(6, place), {})
    assert toy.cancelled == ["1", "2"]
    assert queued(place) == []
    assert list((place / "root/jobs").iterdir()) == []


def test_who_cancels_a_job_that_is_being_submitted_waits_for_its_id(place: Path) -> None:
    toy = Toy(place, highest=None)
    backend = BatchBackend(toy, Local(), str(place / "root"))
    spec, record = job(1, place)
    os.mkfifo(place / "slow")
    toy.submit_argv = lambda spec, script: ("sh", "-c", f'read go <"$1/slow"; {SUBMIT}', "sh", str(place), script)  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        submission = pool.submit(backend.submit, spec, record, {})
        submitter = place / "root/jobs" / record.id.ulid / "submitter"
        while not submitter.exists():
            time.sleep(0.01)
        cancellation = pool.submit(BatchBackend(toy, Local(), str(place / "root")).cancel, [record])
        with contextlib.suppress(FutureTimeout):
            cancellation.result(0.5)
        (place / "slow").write_text("\n")
        assert submission.result() == "1"
        cancellation.result()
    assert toy.cancelled == ["1"]


def test_an_accepted_job_whose_id_was_not_written_down_is_asked_for(place: Path) -> None:
    backend = BatchBackend(Toy(place, highest=None), Local(), str(place / "root"))
    spec, record = job(1, place)
    native_id = backend.submit(spec, record, {})
    (place / "root/jobs" / record.id.ulid / "native-id").unlink()
    assert BatchBackend(Toy(place, highest=None), Local(), str(place / "root")).submit(spec, record, {}) == native_id
    assert len(queued(place)) == 1
    # And one that was never accepted is submitted.
    (place / "queue" / native_id).unlink()
    assert backend.submit(spec, record, {}) == "1"
    assert len(queued(place)) == 1


def test_a_root_that_cannot_be_written_to(place: Path) -> None:
    (place / "root").write_text("a file")
    backend = BatchBackend(Toy(place, highest=None), Local(), str(place / "root"))
    with pytest.raises(errors.StoreError, match="cannot be brought to local") as caught:
        backend.submit(*job(1, place), {})
    assert "root" in str(caught.value.remedy)


@pytest.mark.parametrize("ids", [[("4711", 0)], [("1[].server", 0), ("2[].server", 1001)], [("vm:01J", 0)]])
def test_ids_of_several_submissions_are_one(ids: list[tuple[str, int]]) -> None:
    assert split(join(ids)) == ids


def test_a_preview_shows_both_scripts(place: Path) -> None:
    shown = BatchBackend(Process(), Local(), "/r").preview(job(1, place)[0])
    assert "exec sh /r/jobs/" in shown
    assert "# Runs task $1" in shown
