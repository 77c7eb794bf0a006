"""A tiny job in a target's real runtime, all the way there and back, and what it says of the target."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from clustrix import pipeline
from clustrix import target as targets
from clustrix.errors import ClustrixError, Crashed, JobError, JobLost, Unschedulable
from clustrix.journal import Journal
from clustrix.worker import surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clustrix.handle import Job
    from clustrix.model.job import End
    from clustrix.model.settings import ClusterConfig
    from clustrix.target import Target

Row = tuple[str, str, str, str | None]

_TIME = "00:05:00"
_SKEW = 30.0  # seconds; locks at a site are believed to be stale after a minute
_LITTLE = 1 << 30  # bytes
_NOT_STARTED = {69, 126, 127}  # what shells and the runtimes' own scripts end with when there is nothing to start
_WORDS = "clustrix was here"


def run(settings: ClusterConfig, *, patience: float) -> Iterator[Row]:
    """Submit it and wait for its end, at most ``patience`` seconds; rows as `clustrix doctor` shows them.

    Raises:
        ClustrixError: it could not be submitted; every stage has its own kinds.

    """
    name = f"target {settings.target}"
    limit = {} if settings.time or settings.backend in {"local", "ssh"} else {"time": _TIME}
    began = time.monotonic()
    job = pipeline.submit(surroundings.describe, (_WORDS,), {}, {"target": settings.target, "cores": 1, **limit})
    yield (
        f"{name}: submission",
        "ok",
        f"{job.id} is {job.record.native_id}, after {time.monotonic() - began:.1f} s",
        None,
    )
    target = targets.of_record(job.record)
    try:
        if not job.wait(patience):
            status = job.status()
            why = f": {status.reason}" if status.reason else ""
            start = f", expected to start at {status.expected_start:%c}" if status.expected_start else ""
            yield (
                f"{name}: job",
                "note",
                f"still {status.state.value} after {patience:.0f} s{why}{start}",
                "No fault as far as can be told. Wait longer with --patience, or name a partition that is free.",
            )
            return
        found = job.result()
        yield f"{name}: job", "ok", f"its value came back {time.monotonic() - began:.1f} s after the beginning", None
        yield from _told(name, target, job, found)
    except JobError as error:
        yield _diagnosis(name, target, job, error)
    finally:
        _clear(target, job)


def _told(name: str, target: Target, job: Job, found: Mapping[str, Any]) -> Iterator[Row]:
    """Judge what the job found."""
    runtime = target.runtime_name
    yield f"{name}: node", "ok", f"{found['node']} sees {found['work']} and starts {runtime}", None
    yield f"{name}: python", "ok", f"{found['python']}, {found['executable']}", None
    if not target.on_cluster:  # whose nodes' clocks nothing of ours goes by
        yield _clocks(name, target, job.record.created, float(found["clock"]))
    for kind, what in (("work", "the root"), ("scratch", "TMPDIR")):
        free = int(found[f"{kind}_free"])
        yield (
            f"{name}: {kind}",
            "ok" if free > _LITTLE else "note",
            f"{found[kind]} ({what}, on the node), {free / 2**30:.1f} GB free",
            "Free some: clustrix gc" if kind == "work" else "Files of a job that are large go to a mounted directory.",
        )
    came = _WORDS in job.logs()
    yield f"{name}: output", "ok" if came else "fail", "came back" if came else "did not come back", None


def _clocks(name: str, target: Target, made: float, began: float) -> Row:
    """Compare clocks with this machine's: the job began after it was made, and before now."""
    now = time.time()
    login = float(target.transport.run("date +%s").stdout.split()[-1]) - now
    node = min(0.0, began - made) or max(0.0, began - now)
    far = max(abs(login), abs(node)) > _SKEW
    return (
        f"{name}: clocks",
        "note" if far else "ok",
        f"login node {login:+.0f} s, compute node {node:+.0f} s from this machine's",
        "Ask the site to set its clocks, or set yours: locks and `clustrix gc` go by them.",
    )


def _diagnosis(name: str, target: Target, job: Job, error: JobError) -> Row:
    """Say what it means that the job ended without a value."""
    ends: Mapping[int, End] = {}
    with contextlib.suppress(ClustrixError):
        ends = target.store.ends(job.record)
    if isinstance(error, Unschedulable):
        return f"{name}: job", "fail", error.message, "Ask for less: cores, memory, time, or another partition."
    if isinstance(error, (Crashed, JobLost)) and not ends:
        return (
            f"{name}: root",
            "fail",
            f"the job ran, and wrote nothing below {target.site.root}: {error.message}",
            "Compute nodes must see it and be able to write to it: set `root` to a directory on a shared file system.",
        )
    if ends and ends[0].exit_code in _NOT_STARTED:
        where = f" on {ends[0].node}" if ends[0].node else ""
        return (
            f"{name}: {target.runtime_name}",
            "fail",
            f"it does not start{where}: {(error.log_tail or error.message).strip()}",
            f"Ask your site for {target.runtime_name} on compute nodes, or name the modules that hold it: modules.",
        )
    return f"{name}: job", "fail", str(error), error.remedy


def _clear(target: Target, job: Job) -> None:
    """Leave nothing behind."""
    with contextlib.suppress(ClustrixError):
        job.cancel()
        target.store.remove(job.record)
        Journal().remove(job.id)
