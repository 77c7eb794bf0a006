"""Where Jobs stand, and what can never start."""

import json

import pytest

from clustrix.kubernetes import fate, names
from clustrix.model.job import End, EndKind, State
from tests.unit.kubernetes.test_pods import ended, pod

NOW = 1_800_000_000.0
OLD = "2026-01-01T00:00:00Z"


def job(*, status=None, annotations=None, spec=None, labels=None):
    metadata = {"name": "j", "annotations": annotations or {}, "labels": labels or {}, "creationTimestamp": OLD}
    return {"metadata": metadata, "spec": {"completions": 7, **(spec or {})}, "status": status or {}}


def pending(words, *, requests=None, selector=None, made="2027-01-15T07:59:00Z"):
    row = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    found = pod("Pending", conditions=[row])
    found["metadata"]["creationTimestamp"] = made
    found["spec"]["containers"] = [{"resources": {"requests": requests or {}}}]
    found["spec"]["nodeSelector"] = selector or {}
    return found


def node(provider="kind://x", labels=None, **allocatable):
    allocatable = {name.replace("_", "."): amount for name, amount in allocatable.items()}
    return {
        "metadata": {"labels": labels or {}},
        "spec": {"providerID": provider},
        "status": {"allocatable": allocatable},
    }


def event(message, when="2027-01-15T07:59:59Z"):
    return {"message": message, "lastTimestamp": when, "firstTimestamp": when, "metadata": {}}


def states(found):
    return [found[task].state for task in sorted(found)]


def test_tasks_of_a_map():
    waits, runs, failed = State.WAITING, State.RUNNING, State.FAILED
    running = pod(main={"running": {}})
    crashed = pod("Failed", main=ended(139))
    crashed["metadata"]["annotations"][names.INDEX] = "5"
    found = fate.tasks(job(status={"completedIndexes": "0-1,6", "failedIndexes": "2"}), [running, crashed])
    assert states(found) == [State.SUCCEEDED, State.SUCCEEDED, failed, runs, waits, failed, State.SUCCEEDED]
    assert found[5].end.signal == 11


def test_the_last_pod_of_a_task_counts():
    first, second = pod("Failed", main=ended(1)), pod(main={"running": {}})
    first["metadata"]["creationTimestamp"], second["metadata"]["creationTimestamp"] = OLD, "2026-01-01T00:00:05Z"
    assert fate.tasks(job(), [second, first])[3].state is State.RUNNING


@pytest.mark.parametrize(
    ("given", "state", "kind"),
    [
        (job(annotations={names.CANCELLED: "true"}), State.CANCELLED, EndKind.CANCELLED),
        (
            # Whoever waited for it has cancelled it since.
            job(
                annotations={
                    names.GIVEN_UP: json.dumps({"kind": "image-unavailable", "message": "no"}),
                    names.CANCELLED: "true",
                }
            ),
            State.FAILED,
            EndKind.IMAGE_UNAVAILABLE,
        ),
        (
            job(status={"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}),
            State.FAILED,
            EndKind.TIME_LIMIT,
        ),
        (job(status={"conditions": [{"type": "Complete", "status": "True"}]}), State.SUCCEEDED, EndKind.EXITED),
    ],
)
def test_jobs_that_have_ended(given, state, kind):
    found = fate.tasks(given, [])
    assert (found[1].state, found[1].end.kind) == (state, kind)
    assert not fate.unfinished(given)


def test_a_cancelled_job_keeps_what_had_succeeded():
    given = job(annotations={names.CANCELLED: "true"}, status={"completedIndexes": "1"})
    found = states(fate.tasks(given, [pod(main={"running": {}})]))
    assert found == [State.CANCELLED, State.SUCCEEDED, *[State.CANCELLED] * 5]


def test_one_of_several_jobs_counts_on_from_its_first_task():
    crashed = pod("Failed", main=ended(1))
    crashed["metadata"]["labels"] = {names.OFFSET: "100"}
    part = job(labels={names.OFFSET: "100"}, status={"completedIndexes": "0", "failedIndexes": "3"})
    found = fate.tasks(part, [crashed])
    assert found.keys() == set(range(100, 107))
    assert [task for task, status in found.items() if status.state is State.FAILED] == [103]
    assert found[103].end.exit_code == 1
    assert found[100].state is State.SUCCEEDED


QUOTA = 'Error creating: pods "x" is forbidden: exceeded quota: q, requested: {}, used: {}, limited: {}'


@pytest.mark.parametrize(
    ("message", "final"),
    [
        (QUOTA.format("pods=1", "pods=0", "pods=0"), True),
        (QUOTA.format("cpu=4,pods=1", "cpu=0,pods=0", "cpu=2,pods=9"), True),
        (QUOTA.format("requests.memory=2Gi", "requests.memory=0", "requests.memory=1500M"), True),
        (QUOTA.format("cpu=500m", "cpu=2", "cpu=2"), False),  # others use it up, for now
        ('Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": x', True),
        ('Error creating: pods "x" is forbidden: error looking up service account n/s: not found', True),
        ('Error creating: admission webhook "no.example" denied the request: no', True),
        ("Error creating: Internal error occurred: failed calling webhook: timeout", False),
    ],
)
def test_refusals(message, final):
    end = fate.refused([event("older", OLD), event(message)], NOW, 300)
    assert (end is not None) is final
    if end:
        assert end == End(kind=EndKind.UNSCHEDULABLE, message=message.removeprefix("Error creating: "))
    assert fate.refused([event(message, OLD)], NOW, 300) is not None  # for too long
    assert fate.refused([], NOW, 0) is None


@pytest.mark.parametrize(
    ("given", "nodes", "doomed"),
    [
        (pending("Insufficient cpu", requests={"cpu": "64"}), [node(cpu="2")], True),
        (pending("Insufficient cpu", requests={"cpu": "1500m"}), [node(cpu="2")], False),
        (pending("Insufficient cpu", requests={"cpu": "64"}), [node("aws://x", cpu="2")], False),  # another may come
        (pending("Insufficient cpu", requests={"cpu": "64"}), None, False),
        (pending("x", requests={"nvidia.com/gpu": "1"}), [node(cpu="2")], True),
        (pending("x", selector={"a": "b"}), [node(labels={"a": "c"})], True),
        (pending("x", selector={"a": "b"}), [node(labels={"a": "b"})], False),
        (pending('persistentvolumeclaim "data" not found'), None, True),
        (pending("x", made=OLD), None, True),
    ],
)
def test_pods_without_a_node(given, nodes, doomed):
    assert fate.stuck([given])
    found = fate.doomed([given], nodes, NOW, 300)
    assert (found is not None) is doomed
    assert found is None or (found.kind, found.message) == (EndKind.UNSCHEDULABLE, fate.pods.unscheduled(given))


def test_a_job_of_which_something_runs_is_not_given_up():
    image = pod("Pending", main={"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
    assert not fate.stuck([image, pod(main={"running": {}})])
    assert fate.doomed([image], None, NOW, 300).kind is EndKind.IMAGE_UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "amount"), [("500m", 0.5), ("2", 2), ("2Gi", 2 << 30), ("1500M", 1.5e9), ("1e3", 1000), ("100n", 1e-7)]
)
def test_quantities(text, amount):
    assert fate.quantity(text) == pytest.approx(amount)
