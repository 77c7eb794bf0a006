"""capture -> lock -> build -> place -> submit -> collect: the only file that knows the order."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix import artifacts, config
from clustrix import target as targets
from clustrix.bundle import code, worker
from clustrix.errors import (
    ClustrixError,
    ConfigError,
    EnvironmentMismatch,
    ImageUnavailable,
    JobCancelled,
    JobLost,
    NodeFailure,
    Preempted,
    RegistryError,
    SubmitRejected,
    UnknownJob,
    UnsupportedResource,
)
from clustrix.handle import Job, JobArray, JobStatus, attach, survey
from clustrix.inplace import InPlaceArray
from clustrix.journal import Journal
from clustrix.model import fingerprint
from clustrix.model.image import BuiltImage, Image, ImageSource
from clustrix.model.job import JobId, JobRecord, JobSpec, Placed, State, new_ulid
from clustrix.model.progress import SILENT
from clustrix.model.resources import Mount, Resources
from clustrix.model.slices import share
from clustrix.publish import registry_of
from clustrix.runtimes.base import Artifact, Need
from clustrix.worker import installed, payload
from clustrix.worker import task as tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from clustrix.model.lock import LockResult
    from clustrix.model.progress import Progress
    from clustrix.model.settings import ClusterConfig
    from clustrix.target import Target

    Options = Mapping[str, object]
    Call = tuple[tuple[Any, ...], Mapping[str, Any]]
    Slices = tuple[tuple[int, int], ...]

_RESOURCES = (
    "cores",
    "time",
    "gpus",
    "gpu_type",
    "nodes",
    "partition",
    "queue",
    "account",
    "qos",
    "constraint",
    "modules",
    "backend_options",
)
_SECOND_THOUGHT = 1.5  # seconds in which a second Ctrl-C leaves a job running

progress: Progress = SILENT
"""What draws the progress of this process; the command line sets it."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Hold a target with an environment in place; jobs may be submitted to it at once and often.

    ``prints`` are the fingerprints of the locked packages by name, as far as they are known here.
    """

    target: Target
    settings: ClusterConfig
    placed: Placed
    image: BuiltImage | None = None
    lock: LockResult | None = None
    prints: Mapping[str, str] | None = None


def resolve(options: Options) -> ClusterConfig:
    """Give all settings of a call."""
    given = {name: value for name, value in options.items() if value is not None and name != "parallel"}
    current = config.load()
    name = given.pop("target", None) or current.default_target() or config.LOCAL
    return current.resolve(str(name), given)


def _say_what_is_not_enforced(target: Target, settings: ClusterConfig) -> None:
    """A request that can be met and not enforced is no error, and no secret (decision 5)."""
    if settings.memory is not None and target.plain and not target.runtime.enforces_memory:
        _say(f"memory={settings.memory} bytes is not enforced by runtime {target.runtime_name} on target {target.name}")


def prepare(settings: ClusterConfig) -> Prepared:
    """Capture, lock, build and place what calls with these settings run in; unchanged, it costs milliseconds.

    Raises:
        ClustrixError: every stage has its own kinds; see `clustrix.errors`.

    """
    target = targets.of(settings)
    if target.chosen_by_itself:
        _say(f"target {target.name} uses {target.runtime_name}: {target.why}")
    _say_what_is_not_enforced(target, settings)
    try:
        return _placed(target, settings)
    except (ImageUnavailable, RegistryError) as error:
        # Only where the choice was ours: what somebody configured is never swapped.
        if not (target.chosen_by_itself and target.runtime.needs is Need.OCI) or settings.base or settings.image:
            raise
        targets.avoid_containers(f"no base image can be had ({error.message})")
        return prepare(settings)


def _placed(target: Target, settings: ClusterConfig) -> Prepared:
    image = artifacts.described(settings)
    if isinstance(image, str):
        artifact, result = Artifact(sif=image), None
        if target.runtime.needs is not Need.SIF:
            raise ConfigError(f"runtime {target.runtime_name!r} does not start {image}", remedy="Use apptainer.")
    elif target.runtime.needs is Need.LOCK:
        result = _lock_of_host(target, image)
        artifact = Artifact(lock=result.lock, wheels=artifacts.Wheels(result.lock, progress))
    else:
        result, built = _image(target, image, settings)
        _refuse_other_python(built)
        artifact = Artifact(image=built, layout=artifacts.layout().path, lock=result.lock if result else None)
    standing = _ensured(target, artifact)
    return Prepared(
        target=target,
        settings=settings,
        placed=standing,
        image=artifact.image,
        lock=result,
        prints=artifacts.fingerprints(result.lock) if result else None,
    )


def _ensured(target: Target, artifact: Artifact) -> Placed:
    try:
        return target.runtime.ensure(artifact, target.transport, target.site, progress=progress)
    except ImageUnavailable:
        built_here = artifact.image is not None and artifact.layout is not None and artifact.image.reference is None
        if target.runtime.needs is not Need.OCI or not built_here or artifact.image is None:
            raise
    artifacts.load_into_engine(artifact.image, target.runtime_name, target.transport, progress=progress)
    return target.runtime.ensure(artifact, target.transport, target.site, progress=progress)


def _lock_of_host(target: Target, image: Image) -> LockResult:
    if image.source is ImageSource.REGISTRY or image.base or image.files or image.variables:
        raise ConfigError(
            f"target {target.name}: runtime {target.runtime_name!r} makes and starts no images",
            remedy="Use runtime: docker, podman or apptainer; variables may go into environment_variables.",
        )
    found = artifacts.source(image, Path.cwd())
    here = installed.interpreter()
    python = here.version if target.here else here.minor
    result = artifacts.lock(found, target.platform, python, requirements=image.requirements)
    if artifacts.fingerprints(result.lock) is None:
        artifacts.fetch(result.lock, progress)
    return result


def _image(target: Target, image: Image, settings: ClusterConfig) -> tuple[LockResult | None, BuiltImage]:
    own = settings.registry or (image.location if image.source is ImageSource.REGISTRY else image.base or settings.base)
    host = registry_of(own) if own and settings.insecure_registry else None
    insecure = (host,) if host else ()
    minor = installed.interpreter().minor
    if image.source is ImageSource.REGISTRY:
        found = artifacts.existing(image.location or "", minor=minor, machine=target.machine, insecure=insecure)
        return None, found
    base = artifacts.base(
        image.base or settings.base, minor=minor, machine=target.machine, insecure=insecure, progress=progress
    )
    source = artifacts.source(image, Path.cwd())
    result = artifacts.lock(source, base.platform, base.python(minor)[1].version, requirements=image.requirements)
    built = artifacts.build(artifacts.recipe(image, result.lock, base), progress=progress).image
    if settings.registry:
        built = artifacts.pushed(built, settings.registry, insecure=insecure, progress=progress)
    return result, built


def _refuse_other_python(image: BuiltImage) -> None:
    """Refuse before anything is queued what the worker would refuse (FEATURES A4)."""
    here = installed.interpreter().minor
    if image.python is not None and image.python != here:
        raise EnvironmentMismatch(
            f"the image {image.reference or image.config_digest} has Python {image.python}, and this is {here}",
            remedy="Call from the same minor version, or let clustrix build the image.",
        )


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
            _say(f"{error.message}; started again ({left} retries left)")
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
    slices, workers = _shares(ready, len(calls), chunksize)

    def again(_: JobArray, indices: Sequence[int]) -> JobArray:
        return submit_many(function, [calls[index] for index in indices], options)  # type: ignore[return-value]

    array = _submit(ready, function, calls, workers=workers, slices=slices, retry=again)
    if progress is not SILENT:
        _count(array)
    return array


def _count(array: JobArray) -> None:
    """Draw how many items of a map have ended."""
    bar = progress.start(f"map {array.record.function}", len(array))
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
    ready = Prepared(target=target, settings=settings, placed=placed)
    spec = spec_of(ready, "CALL", JobId(target.name, "0" * 26), slices=((0, 1),), workers=1, bundle="sha256:WORKER")
    return target.backend.preview(spec)


def _without_retries(settings: ClusterConfig) -> ClusterConfig:
    if settings.retries:
        raise ConfigError(
            "retries= works for calls that are waited for, not for .submit, .map and executors",
            remedy="Leave it out; JobArray.retry_failed() starts failed items again.",
        )
    return settings


def _shares(ready: Prepared, items: int, chunksize: int | None) -> tuple[tuple[tuple[int, int], ...], int]:
    most = ready.settings.max_parallel or ready.target.room(ready.settings.cores)
    if chunksize is None:
        workers = min(items, most)
        return share(items, workers), workers
    slices = share(items, most, chunksize)
    return slices, len(slices)


def spec_of(ready: Prepared, name: str, job: JobId, *, slices: Slices, workers: int, bundle: str) -> JobSpec:
    """Say everything that a backend must know of a job."""
    target, settings, placed = ready.target, ready.settings, ready.placed
    paths = target.site.job(job.ulid)
    own = (Mount(target.site.bundles, target.site.bundles), Mount(paths.directory, paths.directory))
    mounts = (*own, *settings.mounts)
    argv = target.runtime.wrap(
        placed,
        (placed.interpreter, "-I", target.site.bundle(bundle), paths.directory),
        mounts=mounts,
        variables={},
        gpus=settings.gpus,
        memory_bytes=settings.memory,
        cores=settings.cores,
    )
    return JobSpec(
        id=job,
        name=name,
        items=slices[-1][1],
        slices=slices,
        workers=workers,
        max_parallel=settings.max_parallel or (target.room(settings.cores) if target.plain else None),
        resources=Resources(memory_bytes=settings.memory, **{row: getattr(settings, row) for row in _RESOURCES}),
        argv=argv,
        image=ready.image,
        lock_digest=_lock_digest(ready),
        mounts=mounts,
    )


def _lock_digest(ready: Prepared) -> str | None:
    return ready.lock.lock.digest if ready.lock else ready.image.lock_digest if ready.image else None


def _fingerprint(ready: Prepared) -> str | None:
    """Say what the worker must find; None for images whose environment nobody has measured."""
    if ready.image is not None:
        return ready.image.fingerprint
    if ready.prints is None:
        return None
    here = installed.interpreter()
    return fingerprint.environment(here.implementation, here.minor, here.abi, ready.prints.items())


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
        record = _record(ready, spec, name)
        key = os.urandom(32)
        files: dict[str, bytes | Path] = {
            paths.task: tasks.write(_task(ready, spec, name, tuple(bundle.digest for bundle in bundles[1:]))),
            paths.payload: packed,
            paths.key: key,
            **{target.site.bundle(bundle.digest): bundle.path for bundle in bundles},
        }
        journal = Journal()
        journal.write(record)
        try:
            native_id = target.backend.submit(spec, record, files)
        except (SubmitRejected, ConfigError, UnsupportedResource):
            journal.remove(job)  # it was never accepted
            raise
    record = journal.update(job, native_id=native_id)
    return attach(record, target.jobs, key=key, retry=retry)


def _record(ready: Prepared, spec: JobSpec, name: str) -> JobRecord:
    return JobRecord(
        id=spec.id,
        name=spec.name,
        function=name,
        created=time.time(),
        items=spec.items,
        workers=spec.workers,
        root=ready.target.site.root,
        target=config.public(ready.settings),
        image=ready.image.config_digest if ready.image else None,
        lock_digest=spec.lock_digest,
        fingerprint=_fingerprint(ready),
    )


def _task(ready: Prepared, spec: JobSpec, name: str, bundles: tuple[str, ...]) -> tasks.Task:
    here = installed.interpreter()
    return tasks.Task(
        job_id=str(spec.id),
        function_name=name,
        items=spec.items,
        slices=spec.slices,
        workers=spec.workers,
        python=here.minor,
        implementation=here.implementation,
        abi=here.abi,
        fingerprint=_fingerprint(ready),
        distributions=ready.prints or {},
        lock_digest=spec.lock_digest,
        image_digest=ready.image.config_digest if ready.image else None,
        code=bundles,
        cores=ready.settings.cores,
    )


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
    state = State.FAILED
    try:
        value = job.result(stream_to=sys.stdout)
        state = State.SUCCEEDED
    except KeyboardInterrupt:
        state = State.CANCELLED
        _interrupted(job)
        raise
    except (JobCancelled, JobLost) as error:
        state = State.LOST if isinstance(error, JobLost) else State.CANCELLED
        raise
    finally:
        if Future.done(job):  # as far as this process knows: nobody is asked again
            Journal().update(job.id, state=state)
    return value


def _interrupted(job: Job) -> None:
    try:
        _say(f"cancelling {job.id}; Ctrl-C once more leaves it running")
        time.sleep(_SECOND_THOUGHT)
        job.cancel()
        _say(f"{job.id} is cancelled")
    except KeyboardInterrupt:
        _say(f"{job.id} goes on; its value: clustrix result {job.id}")


def job(name: str) -> Job | JobArray:
    """Take up a job by its id, or the beginning of it; of this machine's journal, or of a configured target.

    Raises:
        UnknownJob: nobody knows it.

    """
    array = array_of(name)
    return array if len(array) > 1 else array.job()


def array_of(name: str) -> JobArray:
    """Take up any job as an array; a call is a map of one item."""
    record = find(name)
    return attach(record, targets.of_record(record).jobs)


def find(name: str) -> JobRecord:
    """Find the record of a job: in the journal, or beside the job at its target."""
    try:
        return Journal().find(name)
    except UnknownJob:
        # Submitted from elsewhere: whoever reaches the target finds the record beside the job.
        with contextlib.suppress(UnknownJob):
            whole = JobId.parse(name)
            if whole.target in config.load().target_names:
                return targets.of(config.load().resolve(whole.target)).store.record(whole.ulid)
        raise


def jobs() -> list[Job | JobArray]:
    """List the jobs of this machine's journal, the newest first; nobody is asked."""
    found: list[Job | JobArray] = []
    for record in Journal().list():
        array = attach(record, targets.of_record(record).jobs)
        found.append(array if record.items > 1 else array.job())
    return found


def statuses(records: Sequence[JobRecord]) -> Mapping[JobId, JobStatus | ClustrixError]:
    """Ask every target once where its jobs stand; the error in the place of those that do not answer."""
    groups: dict[Target, list[JobRecord]] = defaultdict(list)
    for record in records:
        groups[targets.of_record(record)].append(record)
    found: dict[JobId, JobStatus | ClustrixError] = {}
    journal = Journal()
    for target, group in groups.items():
        try:
            said = survey(target.jobs, group)
        except ClustrixError as error:
            found.update(dict.fromkeys((record.id for record in group), error))
            continue
        found.update(said)
        for status in said.values():
            if status.state.ended:
                with contextlib.suppress(UnknownJob):  # found at its target, not submitted from here
                    journal.update(status.id, state=status.state)
    return found


_said: set[str] = set()


def _say(text: str) -> None:
    """Tell whoever watches, once."""
    if text not in _said:
        _said.add(text)
        print(f"clustrix: {text}", file=sys.stderr, flush=True)
