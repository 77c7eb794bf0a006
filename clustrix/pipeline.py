"""From a call to its value: `clustrix.placement` (capture -> lock -> build -> place), then submit -> collect."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix import artifacts, config, placement
from clustrix import target as targets
from clustrix.bundle import code, worker
from clustrix.errors import (
    AuthenticationFailed,
    BackendError,
    ClustrixError,
    ConfigError,
    DiskFull,
    HostKeyError,
    JobCancelled,
    JobLost,
    NodeFailure,
    Preempted,
    StoreError,
    SubmitRejected,
    TransportError,
    Unschedulable,
    UnsupportedResource,
)
from clustrix.inplace import InPlaceArray
from clustrix.journal import Journal
from clustrix.model.job import JobId, Placed, State, new_ulid
from clustrix.model.progress import SILENT
from clustrix.placement import Prepared, prepare, say
from clustrix.specification import record_of, shares, spec_of, task_of
from clustrix.worker import payload
from clustrix.worker import task as tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from clustrix.handle import Job, JobArray
    from clustrix.model.job import JobRecord
    from clustrix.model.settings import ClusterConfig
    from clustrix.specification import Slices
    from clustrix.target import Target

    Options = Mapping[str, object]
    Call = tuple[tuple[Any, ...], Mapping[str, Any]]

_NOT_ACCEPTED = (
    SubmitRejected,
    UnsupportedResource,
    ConfigError,
    StoreError,
    DiskFull,
    AuthenticationFailed,
    HostKeyError,
)
"""Errors after which a job cannot be at its target; after any other it may be."""
_SECOND_THOUGHT = 1.5  # seconds in which a second Ctrl-C leaves a job running


def resolve(options: Options) -> ClusterConfig:
    """Give all settings of a call."""
    given = {name: value for name, value in options.items() if value is not None and name != "parallel"}
    current = config.load()
    name = given.pop("target", None) or current.default_target() or config.LOCAL
    return current.resolve(str(name), given)


def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> Any:  # noqa: ANN401
    """Make one call and wait for it, streaming its output; a Job at once where ``async_submit`` says so."""
    settings = resolve(options)
    ready = prepare(settings)
    if settings.async_submit:
        return _submit(ready, function, [(args, kwargs)], workers=1, slices=((0, 1),)).job()
    for left in range(settings.retries, -1, -1):
        job = _submit(ready, function, [(args, kwargs)], workers=1, slices=((0, 1),)).job()
        try:
            return collect(job)
        except (NodeFailure, Preempted, JobLost) as error:
            if left == 0:
                raise
            say(f"{error.message}; started again ({left} retries left)")
    raise AssertionError  # the loop returns or raises


def submit(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> Job:
    """Make one call, and do not wait for it."""
    ready = prepare(_without_retries(resolve(options)))
    return _submit(ready, function, [(args, kwargs)], workers=1, slices=((0, 1),)).job()


def submit_many(
    function: Callable[..., Any], calls: Sequence[Call], options: Options, *, chunksize: int | None = None
) -> JobArray | InPlaceArray:
    """Make many calls in one submission."""
    if not calls:
        return InPlaceArray(function, [])
    ready = prepare(_without_retries(resolve(options)))
    slices, workers = shares(ready, len(calls), chunksize)

    def again(_: JobArray, indices: Sequence[int]) -> JobArray:
        return submit_many(function, [calls[index] for index in indices], options)  # type: ignore[return-value]

    array = _submit(ready, function, calls, workers=workers, slices=slices, retry=again)
    if placement.progress is not SILENT:
        _count(array)
    return array


def _count(array: JobArray) -> None:
    """Draw how many items of a map have ended."""
    bar = placement.progress.start(f"map {array.record.function}", len(array))
    left = iter(range(len(array) - 1, -1, -1))

    def ended(_: Future[Any]) -> None:
        bar.advance(1)
        if next(left) == 0:
            bar.close()

    for item in array.jobs:
        item.add_done_callback(ended)


def submit_script(script: Path, arguments: Sequence[str], settings: ClusterConfig) -> Job:
    """Run a whole script as one job: its text travels, and the modules that it imports and that lie beside it."""
    from clustrix.worker import script as scripts

    text = script.read_text("utf-8")
    imports = scripts.imports(text, str(script))
    sys.path.insert(0, str(script.parent.absolute()))
    try:
        call: Call = ((script.name, text, tuple(arguments)), {})
        ready = prepare(_without_retries(settings))
        return _submit(ready, scripts.run, [call], workers=1, slices=((0, 1),), imports=imports, name=script.name).job()
    finally:
        sys.path.pop(0)


def preview(settings: ClusterConfig) -> str:
    """Show what would be submitted for one call, without making or placing what it runs in."""
    target = targets.of(settings)
    # What only placing would tell stands for itself.
    facts = (("user", "UID:GID"), ("cpus", str(settings.cores)), ("swap", "true"))
    placed = Placed(runtime=target.runtime_name, location="IMAGE", interpreter="PYTHON", options=facts)
    ready = Prepared(target=target, settings=settings, placed=placed, mpi="INTERFACE")
    spec = spec_of(ready, "CALL", JobId(target.name, "0" * 26), slices=((0, 1),), workers=1, bundle="sha256:WORKER")
    return target.backend.preview(spec)


def _without_retries(settings: ClusterConfig) -> ClusterConfig:
    if settings.retries:
        raise ConfigError(
            "retries= works for calls that are waited for, not for .submit, .map and executors",
            remedy="Leave it out; JobArray.retry_failed() starts failed items again.",
        )
    return settings


def _submit(
    ready: Prepared,
    function: Callable[..., Any],
    calls: Sequence[Call],
    *,
    workers: int,
    slices: Slices,
    retry: Callable[..., JobArray] | None = None,
    imports: frozenset[str] = frozenset(),
    name: str | None = None,
) -> JobArray:
    """Pack, record, and hand over; whatever happens after the record is written, the job can be found again."""
    target, settings = ready.target, ready.settings
    cache = config.cache_directory()
    name = name or payload.name_of(function)
    job = JobId(target.name, new_ulid())
    paths = target.site.job(job.ulid)
    with _temporary(cache / "payloads") as packed:
        with packed.open("wb") as file:
            written = payload.pack(file, function, calls, settings.environment_variables)
        travelling = ready.lock.travelling if ready.lock else ()
        own = code.collect(written.modules | imports, travelling, cache)
        bundles = [worker.build(cache), *([own] if own else [])]
        spec = spec_of(ready, name, job, slices=slices, workers=workers, bundle=bundles[0].digest)
        record = record_of(ready, spec, name)
        key = os.urandom(32)
        files: dict[str, bytes | Path] = {
            paths.task: tasks.write(task_of(ready, spec, name, tuple(bundle.digest for bundle in bundles[1:]))),
            paths.payload: packed,
            paths.key: key,
            **{target.site.bundle(bundle.digest): bundle.path for bundle in bundles},
        }
        journal = Journal()
        journal.write(record)
        try:
            native_id = target.backend.submit(spec, record, files)
        except _NOT_ACCEPTED:
            journal.remove(job)
            raise
        except (TransportError, BackendError) as error:
            error.remedy = error.remedy or f"It may have been accepted all the same. See: clustrix status {job}"
            raise
        except KeyboardInterrupt:
            _withdraw(target, record, journal)
            raise
    from clustrix.handle import attach  # while the job starts

    record = journal.update(job, native_id=native_id)
    return attach(record, target.jobs, key=key, retry=retry, interrupted=_interrupted)


def _withdraw(target: Target, record: JobRecord, journal: Journal) -> None:
    """Take back a job whose submission somebody has interrupted with Ctrl-C: nobody holds it."""
    say(f"taking {record.id} back")
    try:
        target.backend.cancel([record])
        target.store.remove(record)
        journal.remove(record.id)
    except (ClustrixError, KeyboardInterrupt) as error:
        say(f"{record.id} may have been accepted and go on: clustrix cancel {record.id} ({error!r})")
    else:
        say(f"{record.id} is cancelled")


@contextlib.contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=directory)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def collect(job: Job) -> Any:  # noqa: ANN401 - the remote value
    """Wait for a call, showing its output; Ctrl-C cancels it, a second one leaves it running."""
    from concurrent.futures import Future

    state: State | None = State.FAILED
    try:
        value = job.result(stream_to=sys.stdout)
        state = State.SUCCEEDED
    except BrokenPipeError as error:
        if error.__cause__ is None:  # nobody reads our output any more; what user code raises has a cause
            state = None
            say(f"nobody reads the output of {job.id}; its value: clustrix result {job.id}")
        raise
    except KeyboardInterrupt:
        state = State.CANCELLED
        _interrupted(job)
        raise
    except Unschedulable as error:  # whoever waited for it waits no more
        with contextlib.suppress(TransportError, BackendError):
            job.cancel()
            error.remedy = "It has been cancelled."
        raise
    except (JobCancelled, JobLost) as error:
        state = State.LOST if isinstance(error, JobLost) else State.CANCELLED
        raise
    finally:
        if state is not None and Future.done(job):  # as far as this process knows: nobody is asked again
            Journal().update(job.id, state=state)
    if job.record.image is not None and job.record.fingerprint is None:
        _measure(job.record, job.record.image)
    return value


def _measure(record: JobRecord, image: str) -> None:
    """Remember what a job found installed in an image that nobody had measured."""
    from clustrix.worker import outcome

    store = targets.of_record(record).store
    for _, text in store.metadata(record, [0]):
        found = outcome.verify(text, store.key(record), index=0).metadata.get("fingerprint")
        if isinstance(found, str):
            artifacts.measured(image, found)


def _interrupted(job: Job | JobArray) -> None:
    """Cancel what somebody waited for who has pressed Ctrl-C, unless it comes again."""
    try:
        say(f"cancelling {job.id}; Ctrl-C once more leaves it running")
        time.sleep(_SECOND_THOUGHT)
        job.cancel()
        say(f"{job.id} is cancelled")
    except KeyboardInterrupt:
        say(f"{job.id} goes on; its value: clustrix result {job.id}")
