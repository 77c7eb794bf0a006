"""What a pod's status says: pure functions over the JSON of the API.

- phases, conditions, container states: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
- disruptions: https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
- reasons of the kubelet: pkg/kubelet/images/types.go and pkg/kubelet/container/sync_result.go of kubernetes
"""

from __future__ import annotations

import signal
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from clustrix.kubernetes import names
from clustrix.model.job import End, EndKind, State, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    Pod = Mapping[str, Any]

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_IMAGE |= {"RegistryUnavailable", "SignatureValidationFailed"}
_BROKEN = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CreatePodSandboxError"}
_LOOP = "CrashLoopBackOff"
_SIGNALLED = 128
_HIGHEST_SIGNAL = 64
_ABORTED = {"StartError", "ContainerCannotRun"}
_UNKNOWN = "ContainerStatusUnknown"  # what a kubelet says of a container that it cannot find any more
_PRESSURE = "The node was low on resource"  # else a pod was evicted for a limit of its own: eviction/helpers.go
_REASONS = {
    "DeadlineExceeded": EndKind.TIME_LIMIT,
    "Evicted": EndKind.PREEMPTED,
    "Preempting": EndKind.PREEMPTED,
    "NodeLost": EndKind.NODE_FAILURE,
    "NodeShutdown": EndKind.NODE_FAILURE,
    "Terminated": EndKind.NODE_FAILURE,  # by a node that was shut down in good order
}


def task_of(pod: Pod) -> int:
    """Give the number of the task that a pod runs."""
    metadata = pod["metadata"]
    for table in ("annotations", "labels"):
        number = (metadata.get(table) or {}).get(names.INDEX)
        if number is not None:
            return names.offset_of(pod) + int(number)
    return names.offset_of(pod)


def node_of(pod: Pod) -> str | None:
    """Name the node that a pod was given."""
    name: str | None = pod["spec"].get("nodeName")
    return name


def terminated(pod: Pod, container: str = names.MAIN) -> Mapping[str, Any] | None:
    """Give the state of a container that has ended; None as long as it has not."""
    state: Mapping[str, Any] | None = _state(pod, container).get("terminated")
    return state


def message_of(pod: Pod) -> str | None:
    """Give what the worker left as its termination message; None as long as it has not ended, or left none."""
    state = terminated(pod)
    return None if state is None or state.get("reason") in {*_ABORTED, _UNKNOWN} else state.get("message") or None


def succeeded(pod: Pod) -> bool:
    """Tell whether the worker ended as it should."""
    state = terminated(pod)
    return state is not None and state["exitCode"] == 0


def disrupted(pod: Pod) -> str | None:
    """Say why the cluster took the pod away; None if it did not. The Job starts such a task again."""
    found = _condition(pod, "DisruptionTarget")
    return f"{found.get('reason')}: {found.get('message')}" if found and found.get("status") == "True" else None


def ended(pod: Pod) -> bool:
    """Tell whether nothing of a pod's work goes on; a courier may send what the worker left."""
    if pod["status"].get("phase") in {"Failed", "Succeeded"}:
        return True
    return terminated(pod) is not None and "running" not in _state(pod, names.COURIER)


def deleted(pod: Pod) -> bool:
    """Tell whether somebody deleted a pod before it ended."""
    metadata, state = pod["metadata"], terminated(pod) or {}
    by = metadata.get("deletionTimestamp")
    if not by:
        return False
    asked = _time(by) - timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    finished = state.get("finishedAt")
    return not finished or _time(finished) >= asked


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def end_of(pod: Pod) -> End | None:
    """Say how a pod ended; None if it did not, or if the cluster took it away and the Job starts its task again."""
    if not ended(pod) or disrupted(pod):
        return None
    told, why, node = pod["status"].get("message") or "", pod["status"].get("reason"), node_of(pod)
    state = terminated(pod)
    if why == "Evicted" and "exceed" in told and not told.startswith(_PRESSURE):
        return End(kind=EndKind.SIGNALLED, signal=signal.SIGKILL, message=told.strip(), node=node)
    if why in _REASONS:
        return End(kind=_REASONS[why], message=told, node=node)
    if state is None or state.get("reason") == _UNKNOWN:
        return End(kind=EndKind.NODE_FAILURE, message=told or str((state or {}).get("message") or ""), node=node)
    code, reason = int(state["exitCode"]), state.get("reason")
    if reason in _ABORTED:
        return End(kind=EndKind.UNSCHEDULABLE, exit_code=code, message=str(state.get("message") or reason), node=node)
    number = code - _SIGNALLED if _SIGNALLED < code <= _SIGNALLED + _HIGHEST_SIGNAL else None
    kind = EndKind.EXITED if number is None else EndKind.SIGNALLED
    kind = EndKind.OUT_OF_MEMORY if reason == "OOMKilled" else kind
    return End(kind=kind, exit_code=code, signal=number, node=node)


def obstacle_of(pod: Pod) -> End | None:
    """Say why a pod that has not started never will, in the cluster's words; None if nothing is known against it."""
    if ended(pod):
        return None
    for name in (names.COURIER, names.MAIN):
        state = _state(pod, name)
        waiting = state.get("waiting") or {}
        reason = waiting.get("reason")
        words = f"{reason}: {waiting['message']}" if waiting.get("message") else str(reason)
        if reason in _IMAGE:
            return End(kind=EndKind.IMAGE_UNAVAILABLE, message=words, node=node_of(pod))
        if reason in _BROKEN or (reason == _LOOP and name == names.COURIER):
            return End(kind=EndKind.UNSCHEDULABLE, message=words, node=node_of(pod))
    return None


def is_starting(pod: Pod) -> bool:
    """Tell whether a node has a pod, and none of its containers yet: it fetches images, and mounts volumes."""
    reasons = {(_state(pod, name).get("waiting") or {}).get("reason") for name in (names.COURIER, names.MAIN)}
    return bool(node_of(pod)) and bool(reasons & {"ContainerCreating", "PodInitializing"})


def unscheduled(pod: Pod) -> str | None:
    """Give the scheduler's words about a pod that it finds no node for; None if it has one."""
    found = _condition(pod, "PodScheduled")
    if not found or found.get("status") != "False" or found.get("reason") not in {"Unschedulable", "SchedulingGated"}:
        return None
    return str(found.get("message") or found.get("reason"))


def status_of(pod: Pod) -> TaskStatus:
    """Say where the task of a pod stands."""
    node, end = node_of(pod), end_of(pod)
    if end is not None:
        good = end.kind is EndKind.EXITED and end.exit_code == 0
        return TaskStatus(state=State.SUCCEEDED if good else State.FAILED, reason=end.message, node=node, end=end)
    obstacle = obstacle_of(pod)
    if obstacle is not None:
        return TaskStatus(state=State.WAITING, reason=obstacle.message, node=node)
    if "running" in _state(pod, names.MAIN) and not disrupted(pod):
        return TaskStatus(state=State.RUNNING, node=node)
    waiting = _state(pod, names.MAIN).get("waiting") or {}
    reason = unscheduled(pod) or disrupted(pod) or str(waiting.get("reason") or "")
    return TaskStatus(state=State.WAITING, reason=reason, node=node)


def _state(pod: Pod, container: str) -> Mapping[str, Any]:
    status = pod["status"]
    for table in ("containerStatuses", "initContainerStatuses"):
        for row in status.get(table) or ():
            if row["name"] == container:
                state: Mapping[str, Any] = row.get("state") or {}
                return state
    return {}


def _condition(pod: Pod, kind: str) -> Mapping[str, Any] | None:
    return next((row for row in pod["status"].get("conditions") or () if row["type"] == kind), None)
