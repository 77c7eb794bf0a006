"""The order of things between a call and its value, on a target that is a list."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from clustrix import catalogue, config, handle, pipeline, placement
from clustrix.course import Course
from clustrix.errors import (
    AuthenticationFailed,
    BackendError,
    ClustrixError,
    ConfigError,
    ConnectionLost,
    DiskFull,
    EnvironmentMismatch,
    NodeFailure,
    OutOfMemory,
    SubmitRejected,
    UnknownJob,
    Unschedulable,
    UnsupportedResource,
)
from clustrix.executor import ClusterExecutor
from clustrix.handle import JobArray
from clustrix.journal import Journal
from clustrix.model.image import BuiltImage
from clustrix.model.job import EndKind, State
from clustrix.worker import installed, task

from . import fakes


def double(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return 2 * number


def test_a_call_is_recorded_before_it_is_submitted_and_its_value_comes_back(backend: fakes.FakeBackend) -> None:
    assert pipeline.call(double, (4,), {}, {"environment_variables": {"HF_TOKEN": "hush"}}) == 8
    ((spec, record, files),) = backend.submitted
    assert record.native_id is None
    known = Journal().find(str(spec.id))
    assert (known.native_id, known.state, known.function) == ("native-1", State.SUCCEEDED, "double")
    paths = fakes.SitePaths(record.root).job(spec.id.ulid)
    assert spec.argv[:3] == ("run", "/env/bin/python", "-I")
    assert spec.argv[-1] == paths.directory
    said = task.read(files[paths.task])
    assert said.workdir == paths.work
    assert (said.slices, said.workers, said.distributions) == (((0, 1),), 1, {"numpy": "1"})
    assert said.fingerprint is not None
    assert len(files[paths.key]) == 32
    assert sum(name.startswith(fakes.SitePaths(record.root).bundles) for name in files) == 2  # the worker, and our code
    # A secret travels in the payload alone, and the payload does not stay here.
    assert b"hush" in files[paths.payload]
    assert "hush" not in f"{spec}{record}" + repr({k: v for k, v in files.items() if k != paths.payload})
    assert not list((config.cache_directory() / "payloads").iterdir())


def test_what_the_function_raises_is_raised_and_not_tried_again(backend: fakes.FakeBackend) -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        pipeline.call(double, (-1,), {}, {"retries": 3})
    assert len(backend.submitted) == 1
    assert Journal().list()[0].state is State.FAILED


def test_a_failed_machine_is_tried_again_as_often_as_asked(
    backend: fakes.FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.ends = [EndKind.NODE_FAILURE, EndKind.PREEMPTED]
    assert pipeline.call(double, (1,), {}, {"retries": 2}) == 2
    assert len({spec.id for spec, *_ in backend.submitted}) == 3
    assert capsys.readouterr().err.count("started again") == 2
    backend.ends = [EndKind.NODE_FAILURE]
    with pytest.raises(NodeFailure):
        pipeline.call(double, (1,), {}, {})
    backend.ends = [EndKind.OUT_OF_MEMORY]
    with pytest.raises(OutOfMemory):
        pipeline.call(double, (1,), {}, {"retries": 2})


def test_retries_are_refused_where_nobody_waits(backend: fakes.FakeBackend) -> None:
    for call in (
        lambda: pipeline.submit(double, (1,), {}, {"retries": 1}),
        lambda: pipeline.submit_many(double, [((1,), {})], {"retries": 1}),
    ):
        with pytest.raises(ConfigError, match="retries="):
            call()
    assert not backend.submitted


@pytest.mark.parametrize("kind", [SubmitRejected, UnsupportedResource, AuthenticationFailed, DiskFull])
def test_a_refused_job_leaves_no_record(backend: fakes.FakeBackend, kind: type[ClustrixError]) -> None:
    backend.refusal = kind("no")
    with pytest.raises(kind):
        pipeline.submit(double, (1,), {}, {})
    assert Journal().list() == []


@pytest.mark.parametrize("kind", [BackendError, ConnectionLost])
def test_a_job_that_may_have_been_accepted_stays_recorded(
    backend: fakes.FakeBackend, kind: type[ClustrixError]
) -> None:
    backend.refusal = kind("no answer")
    with pytest.raises(kind) as caught:
        pipeline.submit(double, (1,), {}, {})
    (record,) = Journal().list()
    assert record.native_id is None
    assert f"clustrix status {record.id}" in str(caught.value)


@pytest.mark.parametrize("answers", [True, False])
def test_ctrl_c_while_a_job_is_submitted_takes_it_back(
    backend: fakes.FakeBackend, answers: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mute(*_: object) -> None:
        raise ConnectionLost("no answer")

    backend.refusal = KeyboardInterrupt()
    if not answers:
        monkeypatch.setattr(backend, "cancel", mute)
    with pytest.raises(KeyboardInterrupt):
        pipeline.submit(double, (1,), {}, {})
    assert len(backend.cancelled) == answers
    assert len(Journal().list()) == (not answers)
    assert ("go on: clustrix cancel" in capsys.readouterr().err) is not answers


@pytest.mark.parametrize(
    ("items", "chunksize", "options", "shares"),
    [
        (100, None, {}, (8, None)),
        (100, None, {"cores": 4}, (2, None)),
        (100, None, {"max_parallel": 3}, (3, None)),
        (3, None, {}, (3, 3)),
        (10, 1, {"max_parallel": 2}, (10, 10)),
        (10, 4, {}, (3, 3)),
    ],
)
def test_a_map_is_one_submission(
    backend: fakes.FakeBackend,
    items: int,
    chunksize: int | None,
    options: dict[str, Any],
    shares: tuple[int, int | None],
) -> None:
    workers, ranges = shares
    array = pipeline.submit_many(double, [((n,), {}) for n in range(items)], options, chunksize=chunksize)
    assert list(array) == [2 * n for n in range(items)]
    ((spec, _, _),) = backend.submitted
    assert (spec.items, spec.workers) == (items, workers)
    assert spec.max_parallel == options.get("max_parallel", 8 // options.get("cores", 1))
    if ranges is not None:
        assert len(spec.slices) == ranges


def test_failed_items_of_a_map_are_started_again_alone(backend: fakes.FakeBackend) -> None:
    calls: list[Any] = [((n,), {}) for n in (1, -1, 2)]
    array = pipeline.submit_many(double, calls, {})
    assert isinstance(array, JobArray)
    values = list(array.results(return_exceptions=True))
    assert (values[0], str(values[1]), values[2]) == (2, "-1 is negative", 4)
    calls[1] = ((5,), {})  # what made it fail is gone
    backend.states.clear()
    again = array._retry(array, [1])
    assert list(again) == [10]
    assert len(pipeline.submit_many(double, [], {})) == 0


class Interrupted:
    """A job whose wait is interrupted."""

    id = "fake/1"

    def __init__(self) -> None:
        self.cancelled = False

    def result(self, **_: object) -> None:
        raise KeyboardInterrupt

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_cancels_and_twice_leaves_it_running(
    twice: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sleep(_: float) -> None:
        if twice:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(Future, "done", lambda _: False)
    job: Any = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        pipeline.collect(job)
    assert job.cancelled is not twice
    assert ("clustrix result fake/1" in capsys.readouterr().err) is twice


@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_in_the_iteration_of_a_map(
    backend: fakes.FakeBackend, twice: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for a call; whoever asks for results() has a handle in hand, and it goes on."""

    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", press if twice else lambda _: None)
    array = pipeline.submit_many(double, [((n,), {}) for n in range(3)], {})
    monkeypatch.setattr(JobArray, "done", lambda _: False)
    values = iter(array)
    assert next(values) == 0
    monkeypatch.setattr(Course, "wait", press)
    with pytest.raises(KeyboardInterrupt):
        next(array.results())
    assert backend.cancelled == []
    monkeypatch.setattr(handle, "_cancel", lambda course: backend.cancelled.append(course.record.id))
    with pytest.raises(KeyboardInterrupt):
        next(values)
    assert backend.cancelled == ([] if twice else [array.id])
    assert (f"clustrix result {array.id}" in capsys.readouterr().err) is twice


def test_a_call_that_can_never_start_is_cancelled(backend: fakes.FakeBackend) -> None:
    backend.ends = [EndKind.UNSCHEDULABLE] * 2
    with pytest.raises(Unschedulable, match="It has been cancelled"):
        pipeline.call(double, (3,), {}, {})
    assert backend.cancelled == [record.id for _, record, _ in backend.submitted]
    job = pipeline.submit(double, (3,), {}, {})
    with pytest.raises(Unschedulable):
        job.result()
    assert len(backend.cancelled) == 1
    assert job.cancel()
    assert backend.cancelled[1:] == [job.id]


def test_another_minor_version_is_refused_before_anything_is_queued() -> None:
    image = BuiltImage(config_digest="sha256:1", manifest_digest="sha256:2", platform="linux/amd64", python="3.2")
    with pytest.raises(EnvironmentMismatch, match=r"has Python 3\.2, and this is"):
        placement._refuse_other_python(image)


def test_async_submit_gives_the_job(backend: fakes.FakeBackend) -> None:
    assert pipeline.call(double, (3,), {}, {"async_submit": True}).result() == 6


def test_jobs_are_found_again_and_who_does_not_answer_is_not_said_to_have_ended(backend: fakes.FakeBackend) -> None:
    job = pipeline.submit(double, (3,), {}, {})
    assert catalogue.job(str(job.id)).result() == 6
    assert [found.id for found in catalogue.jobs()] == [job.id]
    backend.silence = BackendError("no answer")
    assert catalogue.statuses([job.record])[job.id] is backend.silence
    assert Journal().find(str(job.id)).state is State.SUBMITTED
    backend.silence = None
    status = catalogue.statuses([job.record])[job.id]
    assert not isinstance(status, Exception)
    assert Journal().find(str(job.id)).state is status.state is State.SUCCEEDED
    with pytest.raises(UnknownJob):
        catalogue.job("local/" + "7" * 26)


def test_an_executor_is_the_pipeline(backend: fakes.FakeBackend) -> None:
    with ClusterExecutor(cores=2) as pool:
        future = pool.submit(double, 4)
        assert future.result(timeout=60) == 8
        assert list(pool.map(double, range(5))) == [0, 2, 4, 6, 8]
        assert list(pool.map(max, [1, 5], [4, 2], chunksize=1)) == [4, 5]
    assert [spec.resources.cores for spec, *_ in backend.submitted] == [2, 2, 2]
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(double, 1)
    with pytest.raises(ConfigError, match="corse"):
        ClusterExecutor(corse=1)


def test_an_executor_inside_a_job_runs_in_place(backend: fakes.FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTRIX_IN_JOB", "1")
    with ClusterExecutor() as pool:
        assert pool.submit(double, 4).result() == 8
        assert list(pool.map(double, range(3))) == [0, 2, 4]
    assert backend.submitted == []


def test_a_script_travels_with_the_modules_beside_it(backend: fakes.FakeBackend, tmp_path: Path) -> None:
    (tmp_path / "nearby.py").write_text("FACTOR = 3\n")
    script = tmp_path / "script.py"
    script.write_text("import sys\ndef f():\n    import nearby\nsys.exit(0 if sys.argv == ['script.py', 'a'] else 9)\n")
    pipeline.submit_script(script, ["a"], pipeline.resolve({}))
    ((_, record, files),) = backend.submitted
    assert record.function == "script.py"
    bundles = [data for name, data in files.items() if name.startswith(fakes.SitePaths(record.root).bundles)]
    assert any(b"nearby.py" in data for data in bundles)
    assert installed.interpreter().minor
