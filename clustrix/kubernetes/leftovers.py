"""What jobs left in a namespace, and what of it nobody needs any more."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clustrix.kubernetes import fate, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clustrix.kubernetes.connection import Cluster

JOBS, BUNDLES = "jobs", "bundles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Name what is there: ``jobs`` that have ended and are old (ulid -> bytes), old ``bundles`` that no job mounts.

    ``there`` are the ulids of all jobs, ``kept`` says of other old jobs why they stay.
    """

    there: frozenset[str]
    jobs: Mapping[str, int]
    bundles: Mapping[str, int]
    kept: Mapping[str, str]


def look(cluster: Cluster, before: float) -> Leftovers:
    """Look for what is older than ``before``, in seconds since the epoch; two requests, and one for each in a queue."""
    ours = f"{names.MANAGED_BY}={names.OURS}"
    found: dict[str, list[Mapping[str, Any]]] = {}
    for job in cluster.jobs(ours):
        found.setdefault(names.ulid_of(job) or "", []).append(job)
    old = {ulid: parts for ulid, parts in found.items() if max(map(fate.changed, parts)) < before}
    ended = {
        ulid: len(json.dumps(parts))
        for ulid, parts in old.items()
        if not any(_may_go_on(cluster, part) for part in parts)
    }
    needed = {
        key
        for ulid, parts in found.items()
        if ulid not in ended
        for key in _notes(parts[0]).get(names.BUNDLES, "").split(",")
    }
    bundles = cluster.listing(cluster.path("configmaps"), only_metadata=True, labelSelector=f"{ours},{names.BUNDLE}")[0]
    return Leftovers(
        there=frozenset(found),
        jobs=ended,
        bundles={
            thing["metadata"]["name"]: 0
            for thing in bundles
            if thing["metadata"]["labels"][names.BUNDLE] not in needed and fate.made(thing) < before
        },
        kept=dict.fromkeys(old.keys() - ended.keys(), "it has not ended"),
    )


def remove(cluster: Cluster, jobs: Iterable[str], bundles: Iterable[str]) -> list[tuple[str, str]]:
    """Remove jobs with all that belongs to them, and bundles that still no job mounts; give the kinds and names."""
    gone = [(JOBS, ulid) for ulid in jobs]
    for start in range(0, len(gone), names.SELECTED):
        for job in cluster.jobs(names.selector([ulid for _, ulid in gone[start : start + names.SELECTED]])):
            cluster.delete(cluster.path("jobs", job["metadata"]["name"]), {"propagationPolicy": "Background"})
    left = list(bundles)
    if left:
        used = {key for job in cluster.jobs(f"{names.MANAGED_BY}={names.OURS}") for key in _mounted(job)}
        for name in left:
            if name.removeprefix(names.bundle_name("")) not in used:
                cluster.delete(cluster.path("configmaps", name))
                gone.append((BUNDLES, name))
    return gone


def _may_go_on(cluster: Cluster, job: Mapping[str, Any]) -> bool:
    """Tell whether a Job may still begin or end; one that Kueue begins never will without its Secret."""
    if not fate.unfinished(job) or fate.forsaken(job, time.time()):
        return False
    if names.QUEUE not in job["metadata"]["labels"] or time.time() - fate.made(job) < fate.SUBMITTING:
        return True
    return (
        cluster.get(cluster.path("secrets", names.job_name(names.ulid_of(job) or "")), only_metadata=True) is not None
    )


def _mounted(job: Mapping[str, Any]) -> list[str]:
    """Name the bundles of a Job that is not being removed."""
    return [] if job["metadata"].get("deletionTimestamp") else _notes(job).get(names.BUNDLES, "").split(",")


def _notes(job: Mapping[str, Any]) -> Mapping[str, str]:
    notes: Mapping[str, str] = job["metadata"].get("annotations") or {}
    return notes
