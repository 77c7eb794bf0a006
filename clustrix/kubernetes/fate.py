"""Where a Job and its pods stand, and whether anything of it can still start. Pure.

A Job that waits for what may come (a place, a quota that others use up) waits; what can never be is told at once, in
the words of the scheduler, the kubelet or whoever refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from clustrix.kubernetes import names, pods
from clustrix.model.job import End, EndKind, State, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Document = Mapping[str, Any]

_QUOTA = re.compile(r"exceeded quota: .*?requested: (?P<requested>.*), used: .*, limited: (?P<limited>\S+)")
_QUANTITY = re.compile(r"(?P<number>[0-9.]+(?:e[0-9]+)?)(?P<suffix>[a-zA-Z]*)")
_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SUFFIXES |= {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)}
SUBMITTING = 900.0  # seconds that a submission takes at most, whatever is asked again
_SLOW = 10.0  # seconds after which it is asked what keeps containers from being made
_HINDRANCES = {"FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox"}
_FINAL = ("forbidden", "denied", "invalid", "not found")
_FIXED = ("kind://", "k3s://")
"""Beginnings of a node's providerID where no cloud can add another one."""


def unfinished(job: Document) -> bool:
    """Tell whether anything of a Job may still happen."""
    told = _notes(job).keys() & {names.CANCELLED, names.GIVEN_UP}
    return not (told or _condition(job, "Complete") or _condition(job, "Failed"))


def forsaken(job: Document, now: float) -> End | None:
    """Say that nobody will ever begin a Job, since its client died before it did; None of any other.

    Nothing but beginning it changes what was created: its generation is the first.
    """
    queued = names.QUEUE in (job["metadata"].get("labels") or {})
    untouched = job["spec"].get("suspend") and job["metadata"].get("generation") == 1
    if queued or not untouched or now - made(job) < SUBMITTING:
        return None
    return End(kind=EndKind.UNSCHEDULABLE, message="its client died while it was submitting it")


def made(thing: Document) -> float:
    """Say when an object was made, in seconds since the epoch."""
    return _seconds(thing["metadata"].get("creationTimestamp"), 0.0)


def changed(job: Document) -> float:
    """Say when something last happened to a Job, in seconds since the epoch."""
    rows = (job.get("status") or {}).get("conditions") or ()
    return max([made(job), *(_seconds(row.get("lastTransitionTime"), 0.0) for row in rows)])


def tasks(job: Document, there: Sequence[Document]) -> dict[int, TaskStatus]:
    """Say where every task of a Job stands; ``there`` are its pods that have not succeeded."""
    status, first = job.get("status") or {}, names.offset_of(job)
    good = TaskStatus(state=State.SUCCEEDED, end=End(kind=EndKind.EXITED, exit_code=0))
    rest = _rest(job)
    found = dict.fromkeys(range(first, first + job["spec"]["completions"]), rest)
    gone = _failed(End(kind=EndKind.EXITED, message="its pod is gone"))
    found |= dict.fromkeys((first + index for index in _indexes(status.get("failedIndexes"))), gone)
    if not rest.state.ended or _condition(job, "Failed"):
        # Of a task that was started again the last pod counts.
        for pod in sorted(there, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))):
            found[pods.task_of(pod)] = pods.status_of(pod)
    return found | dict.fromkeys((first + index for index in _indexes(status.get("completedIndexes"))), good)


def _rest(job: Document) -> TaskStatus:
    """Say where tasks without a pod stand."""
    notes, failed, given_up = _notes(job), _condition(job, "Failed"), _notes(job).get(names.GIVEN_UP)
    if given_up:
        document = json.loads(given_up)
        return _failed(End(kind=EndKind(document["kind"]), message=document["message"]))
    if names.CANCELLED in notes:
        return TaskStatus(state=State.CANCELLED, end=End(kind=EndKind.CANCELLED))
    if failed:
        kind = EndKind.TIME_LIMIT if failed.get("reason") == "DeadlineExceeded" else EndKind.EXITED
        return _failed(End(kind=kind, message=str(failed.get("message") or failed.get("reason"))))
    if _condition(job, "Complete"):
        return TaskStatus(state=State.SUCCEEDED, end=End(kind=EndKind.EXITED, exit_code=0))
    queue = job["metadata"].get("labels", {}).get(names.QUEUE)
    suspended = f"waits in the queue {queue}" if queue else "suspended"
    return TaskStatus(state=State.WAITING, reason=suspended if job["spec"].get("suspend") else "")


def waiting(told: Mapping[int, TaskStatus], reason: str) -> dict[int, TaskStatus]:
    """Say of all tasks that wait why they do."""
    return {
        task: replace(status, reason=reason) if status.state is State.WAITING else status
        for task, status in told.items()
    }


def given_up(told: Mapping[int, TaskStatus], end: End) -> dict[int, TaskStatus]:
    """Say of all tasks that have not ended that they never will start."""
    return {task: status if status.state.ended else _failed(end) for task, status in told.items()}


def _failed(end: End) -> TaskStatus:
    return TaskStatus(state=State.FAILED, reason=end.message, end=end)


def waits_for_pods(job: Document) -> bool:
    """Tell whether pods should be there."""
    return not job["spec"].get("suspend") and not (job.get("status") or {}).get("active")


def refused(events: Iterable[Document], now: float, patience: int) -> End | None:
    """Say why no pod of a Job is ever made, by its FailedCreate events; None as long as one may be."""
    newest = max(events, key=lambda event: str(_when(event)), default=None)
    if newest is None:
        return None
    text = str(newest.get("message", ""))
    quota = _QUOTA.search(text)
    final = _exceeds(quota["requested"], quota["limited"]) if quota else any(word in text for word in _FINAL)
    if final or now - _seconds(newest.get("firstTimestamp") or _when(newest), now) > patience:
        return End(kind=EndKind.UNSCHEDULABLE, message=text.removeprefix("Error creating: "))
    return None


def stuck(there: Sequence[Document]) -> bool:
    """Tell whether all pods of a Job that have not ended are kept from starting."""
    live = [pod for pod in there if not pods.ended(pod)]
    return bool(live) and all(pods.obstacle_of(pod) or pods.unscheduled(pod) for pod in live)


def starting(there: Sequence[Document], now: float) -> Document | None:
    """Give the first of the pods whose containers are long in the making; None where those of others are there."""
    live = [pod for pod in there if not pods.ended(pod)]
    slow = [pod for pod in live if pods.is_starting(pod) and now - made(pod) > _SLOW]
    return min(slow, key=made) if slow and len(slow) == len(live) else None


def hindered(events: Iterable[Document]) -> tuple[str, float] | None:
    """Say what keeps a pod's containers from being made, and since when; None where the last event is no such thing."""
    newest = max(events, key=lambda event: str(_when(event)), default=None)
    if newest is None or newest.get("reason") not in _HINDRANCES:
        return None
    return str(newest.get("message", "")), _seconds(newest.get("firstTimestamp") or _when(newest), 0.0)


def doomed(there: Sequence[Document], nodes: Sequence[Document] | None, now: float, patience: int) -> End | None:
    """Say why pods that are kept from starting never will; None as long as one may.

    ``nodes`` are those of the cluster, None where nobody may list them; ``patience`` is in seconds.
    """
    live = [pod for pod in there if not pods.ended(pod)]
    obstacle = next(filter(None, map(pods.obstacle_of, live)), None)
    if obstacle is not None:
        return obstacle
    for pod in live:
        words = pods.unscheduled(pod) or ""
        age = now - _seconds(pod["metadata"].get("creationTimestamp"), now)
        missing = "persistentvolumeclaim" in words and "not found" in words
        if missing or age > patience or _fits_nowhere(pod, nodes):
            return End(kind=EndKind.UNSCHEDULABLE, message=words)
    return None


def _fits_nowhere(pod: Document, nodes: Sequence[Document] | None) -> bool:
    """Tell whether no node, were it empty, has what a pod asks for, and none can be added."""
    if not nodes or any(not str(node["spec"].get("providerID", "kind://")).startswith(_FIXED) for node in nodes):
        return False
    wanted: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        for name, amount in (container.get("resources", {}).get("requests") or {}).items():
            wanted[name] = wanted.get(name, 0.0) + quantity(amount)
    labels = (pod["spec"].get("nodeSelector") or {}).items()
    return not any(
        labels <= (node["metadata"].get("labels") or {}).items()
        and all(quantity(node["status"]["allocatable"].get(name, "0")) >= amount for name, amount in wanted.items())
        for node in nodes
    )


def quantity(text: object) -> float:
    """Read an amount as the API writes it: ``500m``, ``2Gi``, ``1e3``.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = _QUANTITY.fullmatch(str(text))
    return float(match["number"]) * _SUFFIXES[match["suffix"]] if match else 0.0


def _exceeds(requested: str, limited: str) -> bool:
    """Compare ``cpu=4,pods=1`` with ``cpu=2,pods=10``: more than there would be with nothing else running."""
    most = dict(row.partition("=")[::2] for row in limited.split(","))
    asked = dict(row.partition("=")[::2] for row in requested.split(","))
    return any(quantity(amount) > quantity(most[name]) for name, amount in asked.items() if name in most)


def _indexes(text: str | None) -> list[int]:
    """Read ``1,3-5``."""
    found: list[int] = []
    for part in filter(None, (text or "").split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _notes(job: Document) -> Mapping[str, str]:
    notes: Mapping[str, str] = job["metadata"].get("annotations") or {}
    return notes


def _condition(job: Document, kind: str) -> Document | None:
    rows = (job.get("status") or {}).get("conditions") or ()
    return next((row for row in rows if row["type"] == kind and row["status"] == "True"), None)


def _when(event: Document) -> str | None:
    found: str | None = (
        event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
    )
    return found


def _seconds(text: str | None, now: float) -> float:
    """Read a time of the API (RFC 3339) as seconds since the epoch; ``now`` where there is none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else now
