"""What a pod's status says, in the words that real kubelets and controllers have used."""

import pytest

from clustrix.kubernetes import pods
from clustrix.model.job import EndKind, State


def pod(phase="Running", *, main=None, courier=None, conditions=(), reason=None, message=None):
    """Make a pod; ``main`` and ``courier`` are the states of its containers."""
    rows = {"containerStatuses": main, "initContainerStatuses": courier}
    names = {"containerStatuses": "main", "initContainerStatuses": "courier"}
    status = {key: [{"name": names[key], "state": state}] for key, state in rows.items() if state}
    status |= {"phase": phase, "conditions": list(conditions)}
    status |= {key: value for key, value in (("reason", reason), ("message", message)) if value}
    return {
        "metadata": {"annotations": {"batch.kubernetes.io/job-completion-index": "3"}},
        "spec": {"nodeName": "node7"},
        "status": status,
    }


def ended(code, reason="Error", **more):
    return {"terminated": {"exitCode": code, "reason": reason, **more}}


LOW = "The node was low on resource: memory. Container main was using 2Gi, which exceeds its request of 0."
FULL = "Pod ephemeral local storage usage exceeds the total limit of containers 20971520. "


@pytest.mark.parametrize(
    ("given", "kind", "signal"),
    [
        (pod("Succeeded", main=ended(0, "Completed")), EndKind.EXITED, None),
        (pod("Failed", main=ended(1)), EndKind.EXITED, None),
        (pod("Failed", main=ended(139)), EndKind.SIGNALLED, 11),
        (pod("Failed", main=ended(137, "OOMKilled")), EndKind.OUT_OF_MEMORY, 9),
        (pod("Failed", main=ended(143), reason="DeadlineExceeded", message="Pod was active"), EndKind.TIME_LIMIT, None),
        (pod("Failed", main=ended(137), reason="Evicted", message=LOW), EndKind.PREEMPTED, None),
        (pod("Failed", main=ended(137), reason="Evicted", message=FULL), EndKind.SIGNALLED, 9),
        (pod("Failed", main=ended(137, "ContainerStatusUnknown", message="where?")), EndKind.NODE_FAILURE, None),
        (pod("Failed", reason="NodeShutdown", message="Pod was terminated"), EndKind.NODE_FAILURE, None),
        (pod("Failed"), EndKind.NODE_FAILURE, None),
        (pod("Failed", main=ended(128, "StartError", message="exec: no such file")), EndKind.UNSCHEDULABLE, None),
    ],
)
def test_ends(given, kind, signal):
    end = pods.end_of(given)
    assert (end.kind, end.signal, end.node) == (kind, signal, "node7")
    assert pods.status_of(given).state is (State.SUCCEEDED if end.exit_code == 0 else State.FAILED)


def test_what_the_cluster_took_away_is_started_again():
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
    given = pod("Failed", main=ended(137), conditions=[taken])
    assert pods.end_of(given) is None
    assert pods.status_of(given).state is State.WAITING
    assert "EvictionByEvictionAPI" in pods.status_of(given).reason


def test_a_pod_has_not_ended_while_its_courier_sends():
    given = pod(main=ended(0, "Completed", message="clustrix/1 x"), courier={"running": {}})
    assert pods.end_of(given) is None
    assert pods.message_of(given) == "clustrix/1 x"
    assert pods.end_of(pod("Succeeded", main=ended(0), courier=ended(0))).exit_code == 0


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("ErrImagePull", EndKind.IMAGE_UNAVAILABLE),
        ("ImagePullBackOff", EndKind.IMAGE_UNAVAILABLE),
        ("InvalidImageName", EndKind.IMAGE_UNAVAILABLE),
        ("CreateContainerConfigError", EndKind.UNSCHEDULABLE),
        ("ContainerCreating", None),
        ("PodInitializing", None),
    ],
)
@pytest.mark.parametrize("where", ["main", "courier"])
def test_obstacles(reason, kind, where):
    given = pod("Pending", **{where: {"waiting": {"reason": reason, "message": "said so"}}})
    found = pods.obstacle_of(given)
    assert (found and found.kind) == kind
    assert found is None or found.message == f"{reason}: said so"
    assert pods.status_of(given).state is State.WAITING


def test_a_courier_that_does_not_start_keeps_the_worker_from_starting():
    loop = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}}
    given = pod("Pending", main={"waiting": {"reason": "PodInitializing"}}, courier=loop)
    assert pods.obstacle_of(given).message.startswith("CrashLoopBackOff: back-off")


def test_messages_of_runtimes_are_not_the_worker_s():
    assert pods.message_of(pod("Failed", main=ended(128, "StartError", message="exec: x"))) is None
    assert pods.task_of(pod()) == 3


def test_a_pod_without_a_node_says_why():
    row = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    given = pod("Pending", conditions=[row])
    assert pods.unscheduled(given) == pods.status_of(given).reason == "0/1 nodes"
    assert pods.unscheduled(pod("Pending")) is None
