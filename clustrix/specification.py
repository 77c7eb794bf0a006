"""What is said of a job: to its backend, to its worker, and to the journal. Nothing is made or sent here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from clustrix import config
from clustrix.bundle import worker
from clustrix.errors import UnsupportedResource
from clustrix.model import fingerprint
from clustrix.model.job import JobRecord, JobSpec
from clustrix.model.resources import Mount, Resources
from clustrix.model.slices import share
from clustrix.worker import installed
from clustrix.worker.task import Task

if TYPE_CHECKING:
    from clustrix.model.job import JobId
    from clustrix.placement import Prepared

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


def shares(ready: Prepared, items: int, chunksize: int | None) -> tuple[Slices, int]:
    """Divide the items of a map: (where the slices begin and end, how many tasks do them)."""
    most = ready.settings.max_parallel or ready.target.room(ready.settings.cores)
    if Resources(nodes=ready.settings.nodes, backend_options=ready.settings.backend_options).ranks > 1:
        # Ranks do the same items in the same order: nobody else may take one away.
        if chunksize not in {None, 1}:
            raise UnsupportedResource(
                f"chunksize={chunksize}: a task of several ranks has one item", remedy="Leave chunksize out."
            )
        chunksize = 1
    if chunksize is None:
        workers = min(items, most)
        return share(items, workers), workers
    slices = share(items, most, chunksize)
    return slices, len(slices)


def spec_of(ready: Prepared, name: str, job: JobId, *, slices: Slices, workers: int, bundle: str) -> JobSpec:
    """Say everything that a backend must know of a job."""
    target, settings, placed = ready.target, ready.settings, ready.placed
    paths = target.site.job(job.ulid)
    # Pods see nothing of a site: what travels comes by the cluster's own means.
    places = () if target.on_cluster else (target.site.bundles, paths.directory)
    mounts = (*(Mount(place, place) for place in places), *settings.mounts)
    asked = Resources(memory_bytes=settings.memory, **{row: getattr(settings, row) for row in _RESOURCES})
    rank = ("--rank",) if asked.ranks > 1 else ()
    argv = target.runtime.wrap(
        placed,
        (*worker.argv(placed.interpreter, target.site.bundle(bundle)), *rank, paths.directory),
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
        resources=asked,
        argv=argv,
        mpi=ready.mpi,
        image=ready.image,
        lock_digest=_lock_digest(ready),
        mounts=mounts,
    )


def record_of(ready: Prepared, spec: JobSpec, name: str) -> JobRecord:
    """Say what the journal remembers of a job; ``name`` is its function's."""
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
        unenforced=ready.unenforced,
    )


def task_of(ready: Prepared, spec: JobSpec, name: str, bundles: tuple[str, ...]) -> Task:
    """Say what the worker must know; ``name`` is the function's, ``bundles`` the digests of the caller's code."""
    here = installed.interpreter()
    return Task(
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
        requeue=spec.resources.requeue,
        workdir=ready.target.site.job(spec.id.ulid).work,  # containers start elsewhere
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
