"""Every name that objects of a job carry on Kubernetes: nobody else spells one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
OURS: Final = "clustrix"
JOB: Final = "clustrix.dev/job"
"""The label that holds a job's ulid, in lower case."""
OFFSET: Final = "clustrix.dev/offset"
"""The label of all but the first of a job's Jobs, and of their pods: the number of the first task."""
BUNDLE: Final = "clustrix.dev/bundle"
INDEX: Final = "batch.kubernetes.io/job-completion-index"  # an annotation, and since 1.28 a label
QUEUE: Final = "kueue.x-k8s.io/queue-name"

# Annotations of a Job.
RECORD: Final = "clustrix.dev/record"
"""The `JobRecord`, for whoever reattaches from another machine."""
BUNDLES: Final = "clustrix.dev/bundles"
"""The bundles that its pods mount: the first 40 digits of each, parted by commas."""
CANCELLED: Final = "clustrix.dev/cancelled"
GIVEN_UP: Final = "clustrix.dev/given-up"
"""Why its pods can never start, as JSON: ``kind`` (`EndKind`) and ``message``."""

MAIN: Final = "main"
COURIER: Final = "courier"
DEFAULTS: Final = "clustrix-defaults"
"""The ConfigMap that the chart writes."""

ROOT: Final = "/clustrix"
"""The root of `SitePaths` inside pods: an emptyDir."""
SECRET_DIRECTORY: Final = "/clustrix-job"  # noqa: S105 - where a Secret is mounted
BUNDLES_DIRECTORY: Final = "/clustrix-bundles"

SELECTED: Final = 100
"""Jobs that are named one by one: 27 characters each, of the about 8000 that a URL may have."""
_BUNDLE_DIGITS = 40


def job_name(ulid: str, offset: int = 0) -> str:
    """Name the Job of a job that begins with a task; the Secret has the name of the first."""
    return f"clustrix-{ulid.lower()}{f'-{offset}' if offset else ''}"


def bundle_key(digest: str) -> str:
    """Shorten the digest of a bundle to what labels and names may hold."""
    return digest.removeprefix("sha256:").lower()[:_BUNDLE_DIGITS]


def bundle_name(digest: str) -> str:
    """Name the ConfigMap of a bundle."""
    return f"clustrix-bundle-{bundle_key(digest)}"


def bundle_path(digest: str) -> str:
    """Place a bundle inside pods."""
    return f"{BUNDLES_DIRECTORY}/{digest.removeprefix('sha256:').lower()}/bundle.zip"


def labels(ulid: str, offset: int = 0) -> dict[str, str]:
    """Give what every object of a job is labelled with."""
    return {MANAGED_BY: OURS, JOB: ulid.lower(), **({OFFSET: str(offset)} if offset else {})}


def selector(ulids: Collection[str]) -> str:
    """Select what belongs to these jobs; all of clustrix where they are more than `SELECTED`."""
    if len(ulids) > SELECTED:
        return f"{MANAGED_BY}={OURS}"
    return f"{JOB} in ({','.join(sorted(ulid.lower() for ulid in ulids))})"


def ulid_of(thing: Mapping[str, Any]) -> str | None:
    """Tell which job an object belongs to."""
    found = (thing["metadata"].get("labels") or {}).get(JOB)
    return str(found).upper() if found else None


def offset_of(thing: Mapping[str, Any]) -> int:
    """Tell which task is the first of a Job, its own or the one that a pod belongs to."""
    return int((thing["metadata"].get("labels") or {}).get(OFFSET, 0))
