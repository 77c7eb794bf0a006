"""What the backend asks a cluster for, and that it can be cut anywhere: against objects in memory."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from clustrix.backends import kubernetes
from clustrix.errors import BackendError, ConfigError, ConnectionLost, SubmitRejected, UnsupportedResource
from clustrix.kubernetes import manifest, names
from clustrix.kubernetes.place import Place
from clustrix.model.image import BuiltImage
from clustrix.model.job import EndKind, JobId, JobRecord, JobSpec, State
from clustrix.model.paths import SitePaths
from clustrix.model.resources import Resources
from clustrix.model.settings import ClusterConfig
from clustrix.worker.message import derive
from tests.unit.kubernetes.test_pods import pod

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
NAME = names.job_name(ULID)
DIGEST = f"sha256:{'ab' * 32}"
SITE = SitePaths(names.ROOT)
FILES = {
    SITE.job(ULID).task: b"{}",
    SITE.job(ULID).payload: b"payload",
    SITE.job(ULID).key: b"k" * 32,
    SITE.bundle(DIGEST): b"worker",
}
SPEC = JobSpec(
    id=JobId("k8s", ULID),
    name="fit",
    items=1,
    slices=((0, 1),),
    workers=1,
    argv=("python", "-I", names.bundle_path(DIGEST), "--pod", names.ROOT, ULID),
    image=BuiltImage(
        config_digest=DIGEST,
        manifest_digest=DIGEST,
        platform="linux/amd64",
        reference=f"localhost:5000/me/jobs@{DIGEST}",
    ),
)
RECORD = JobRecord(
    id=SPEC.id,
    name="fit",
    function="fit",
    created=0.0,
    items=1,
    workers=1,
    root=names.ROOT,
    target={"backend": "kubernetes"},
)


class Memory:
    """Hold objects as a namespace does; ``trouble`` is raised at the n-th request."""

    space, mark = "ns", "mark"

    def __init__(self):
        self.things = {}
        self.asked = []
        self.trouble = {}
        self.found = {"pods": [], "events": [], "nodes": []}

    def path(self, kind, name=""):
        return f"{kind}/{name}".rstrip("/")

    def _ask(self, verb, path):
        self.asked.append((verb, path))
        when, error = self.trouble.pop(len(self.asked), (None, None))
        if error and when == "before":
            raise error
        return (lambda: (_ for _ in ()).throw(error)) if error else lambda: None

    def get(self, path, **_):
        after = self._ask("get", path)
        after()
        return self.things.get(path)

    def create(self, path, body):
        after = self._ask("create", path)
        key = f"{path}/{body['metadata']['name']}"
        fresh = key not in self.things
        if fresh:
            self.things[key] = json.loads(json.dumps(body))
            self.things[key]["metadata"]["uid"] = f"uid-{len(self.things)}"
        after()
        return self.things[key] if fresh else None

    def patch(self, path, body):
        after = self._ask("patch", path)
        thing = self.things.get(path)
        if thing:
            thing["spec"] |= body.get("spec", {})
            thing["metadata"]["annotations"] |= body.get("metadata", {}).get("annotations", {})
        after()
        return thing

    def delete(self, path, *_, **query):
        self._ask("delete", f"{path}{'?' + query['fieldSelector'] if query else ''}")
        if path == "pods":
            self.found["pods"] = []
        self.things.pop(path, None)

    def jobs(self, selector):
        jobs = [thing for key, thing in self.things.items() if key.startswith("jobs/")]
        return [job for job in jobs if job["metadata"]["labels"][names.JOB] in selector or not selector]

    def listing(self, path, **_):
        self._ask("list", path)
        return self.found[path.rpartition("/")[2]], "1"


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(kubernetes, "_PAUSE", 0.0)
    monkeypatch.setattr(kubernetes, "_LOOK", 0.0)
    return Memory()


def backend(memory, **config):
    settings = {"registry": "localhost:5000/me/jobs", "insecure_registry": True, **config}
    return kubernetes.Kubernetes(Place(memory, ClusterConfig(backend="kubernetes", **settings)))


def test_the_order_of_requests(memory):
    driver = backend(memory)
    assert driver.submit(SPEC, RECORD, FILES) == f"ns/{NAME}"
    bundle = names.bundle_name(DIGEST)
    assert memory.asked == [
        ("get", "configmaps/clustrix-defaults"),
        ("create", "jobs"),
        ("get", f"configmaps/{bundle}"),
        ("create", "configmaps"),
        ("create", "secrets"),
        ("patch", f"jobs/{NAME}"),
    ]
    job, secret = memory.things[f"jobs/{NAME}"], memory.things[f"secrets/{NAME}"]
    assert job["spec"]["suspend"] is False
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    held = {name: base64.b64decode(data) for name, data in secret["data"].items()}
    assert held.keys() == {"task.json", "payload", "key", "registry.json"}
    assert json.loads(held["registry.json"]) == {
        "repository": "localhost:5000/me/jobs", "insecure": True, "namespace": "mark"
    }  # fmt: skip
    memory.asked.clear()
    driver.submit(replace(SPEC, id=JobId("k8s", ULID[::-1])), replace(RECORD, id=JobId("k8s", ULID[::-1])), {
        path.replace(ULID, ULID[::-1]): content for path, content in FILES.items()
    })  # fmt: skip
    assert [verb for verb, _ in memory.asked] == ["create", "create", "patch"]  # the next call costs three


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", range(2, 7))
def test_a_cut_anywhere_makes_one_job(memory, when, request_number):
    memory.trouble = {request_number: (when, ConnectionLost("cut"))}
    backend(memory).submit(SPEC, RECORD, FILES)
    assert memory.things[f"jobs/{NAME}"]["spec"]["suspend"] is False
    assert len(memory.jobs("")) == 1
    assert f"secrets/{NAME}" in memory.things


def test_no_answer_at_all_leaves_what_may_be_there(memory):
    memory.trouble = {number: ("after", ConnectionLost("cut")) for number in range(2, 99)}
    with pytest.raises(ConnectionLost):
        backend(memory).submit(SPEC, RECORD, FILES)
    assert len(memory.jobs("")) == 1


@pytest.mark.parametrize("error", [SubmitRejected("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("request_number", range(2, 7))
def test_what_is_refused_or_interrupted_leaves_nothing(memory, error, request_number):
    memory.trouble = {request_number: ("after", error)}
    with pytest.raises(type(error)):
        backend(memory).submit(SPEC, RECORD, FILES)
    assert memory.jobs("") == []  # and with the Job goes its Secret


def test_pods_know_the_registry_by_another_name(memory):
    backend(memory, pod_registry="registry.ns:5000/me/jobs").submit(SPEC, RECORD, FILES)
    (container,) = memory.things[f"jobs/{NAME}"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.ns:5000/me/jobs@{DIGEST}"
    held = memory.things[f"secrets/{NAME}"]["data"]["registry.json"]
    assert json.loads(base64.b64decode(held))["repository"] == "registry.ns:5000/me/jobs"


def test_a_courier_has_a_key_that_user_code_has_not(memory):
    backend(memory, courier=True).submit(SPEC, RECORD, FILES)
    held = memory.things[f"secrets/{NAME}"]["data"]
    assert base64.b64decode(held["own-key"]) == derive(b"k" * 32)
    (volume,) = [
        row for row in memory.things[f"jobs/{NAME}"]["spec"]["template"]["spec"]["volumes"] if row["name"] == "job"
    ]
    assert {item["key"] for item in volume["secret"]["items"]} == {"task.json", "payload", "own-key"}


def test_results_need_somewhere_to_go(memory):
    with pytest.raises(ConfigError, match="nothing says where its images and results go"):
        backend(memory, registry=None).submit(SPEC, RECORD, FILES)
    backend(memory, registry=None, store="podlog").submit(SPEC, RECORD, FILES)
    assert "registry.json" not in memory.things[f"secrets/{NAME}"]["data"]


def test_a_large_payload_comes_from_a_registry_whatever_way_results_go(memory, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        kubernetes.cargo, "push", lambda client, repository, ulid, blobs, mark: pushed.append((repository, ulid, mark))
    )
    load = kubernetes.cargo.Cargo(
        secret={"task.json": b"{}", "key": b"k", "remote.json": b"{}"}, bundles={DIGEST: b"w"}, blobs={DIGEST: b"p"}
    )
    monkeypatch.setattr(kubernetes.cargo, "load", lambda *_: load)
    backend(memory, store="podlog").submit(SPEC, RECORD, FILES)
    assert pushed == [("localhost:5000/me/jobs", ULID, "mark")]
    assert "registry.json" in memory.things[f"secrets/{NAME}"]["data"]
    with pytest.raises(ConfigError, match="nothing says where"):
        backend(memory, store="podlog", registry=None).submit(SPEC, RECORD, FILES)


def test_policy_is_asked_before_anything_is_made(memory):
    text = "policy: {max: {cores: 2}, courier: true}"
    memory.things["configmaps/clustrix-defaults"] = {"data": {"defaults.yaml": text}}
    greedy = replace(SPEC, resources=Resources(cores=3))
    with pytest.raises(UnsupportedResource, match="cores=3: at most 2, by the policy of namespace ns"):
        backend(memory).submit(greedy, RECORD, FILES)
    with pytest.raises(UnsupportedResource, match="courier=False: required"):
        backend(memory, courier=False).submit(SPEC, RECORD, FILES)
    assert memory.jobs("") == []


def test_kueue_says_when_its_jobs_begin(memory):
    driver = backend(memory)
    queued = replace(SPEC, resources=Resources(queue="team"))
    driver.submit(queued, RECORD, FILES)
    assert memory.things[f"jobs/{NAME}"]["spec"]["suspend"] is True
    driver.cancel([RECORD])  # or Kueue would start it again
    assert memory.jobs("") == []
    assert driver.status([RECORD])[RECORD.id][0].state is State.CANCELLED


def test_what_can_never_start_is_suspended_and_says_why(memory):
    driver = backend(memory)
    driver.submit(SPEC, RECORD, FILES)
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    memory.found["pods"] = [pod("Pending", main=waiting)]
    memory.found["pods"][0]["metadata"] |= {"labels": names.labels(ULID), "creationTimestamp": "2026-01-01T00:00:00Z"}
    memory.found["pods"][0]["metadata"]["annotations"][names.INDEX] = "0"
    for _ in range(2):  # the second time from what was left on the Job
        found = driver.status([RECORD])[RECORD.id][0]
        assert (found.state, found.end.kind) == (State.FAILED, EndKind.IMAGE_UNAVAILABLE)
        assert found.end.message == "ImagePullBackOff: no such image"
        memory.found["pods"] = []
    assert memory.things[f"jobs/{NAME}"]["spec"]["suspend"] is True


@pytest.mark.parametrize(
    ("generation", "made", "ended"), [(1, "2026-01-01", True), (1, "2999-01-01", False), (2, "2026-01-01", False)]
)
def test_what_a_client_left_that_died_while_it_submitted_never_starts(memory, generation, made, ended):
    driver = backend(memory)
    driver.submit(SPEC, RECORD, FILES)
    job = memory.things[f"jobs/{NAME}"]
    job["spec"]["suspend"] = True
    job["metadata"] |= {"generation": generation, "creationTimestamp": f"{made}T00:00:00Z"}
    found = driver.status([RECORD])[RECORD.id][0]
    assert (found.state is State.FAILED and "its client died" in found.end.message) is ended
    assert (found.state is State.WAITING) is not ended


def test_what_cannot_be_mounted_is_told_and_given_up_after_a_while(memory):
    """A pod's status says ContainerCreating, whatever the reason."""
    driver = backend(memory)
    driver.submit(SPEC, RECORD, FILES)
    memory.found["pods"] = [pod("Pending", main={"waiting": {"reason": "ContainerCreating"}})]
    memory.found["pods"][0]["metadata"] |= {"labels": names.labels(ULID), "creationTimestamp": "2026-01-01T00:00:00Z"}
    memory.found["pods"][0]["metadata"]["annotations"][names.INDEX] = "0"
    memory.found["pods"][0]["metadata"]["name"] = f"{NAME}-0-abcde"
    failed = {"reason": "FailedMount", "message": "no such volume", "metadata": {}}

    def status(*events):
        memory.found["events"] = list(events)
        return driver.status([RECORD])[RECORD.id][0]

    now = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    young = failed | {"firstTimestamp": now, "lastTimestamp": now}
    old = failed | {"firstTimestamp": "2026-01-01T00:00:05Z", "lastTimestamp": "2026-01-01T01:00:00Z"}
    pulling = {"reason": "Pulling", "message": "", "lastTimestamp": "2026-01-01T02:00:00Z", "metadata": {}}
    assert (status(young).state, status(young).reason) == (State.WAITING, "no such volume")
    assert (status(old, pulling).state, status(old, pulling).reason) == (State.WAITING, "ContainerCreating")
    assert (status(old).state, status(old).end.message) == (State.FAILED, "no such volume")
    assert memory.things[f"jobs/{NAME}"]["spec"]["suspend"] is True


def test_cancelled_pods_are_gone_when_it_returns(memory):
    driver = backend(memory)
    driver.submit(SPEC, RECORD, FILES)
    memory.found["pods"] = [pod()]
    driver.cancel([RECORD])
    job = memory.things[f"jobs/{NAME}"]
    assert (job["spec"]["suspend"], job["metadata"]["annotations"][names.CANCELLED]) == (True, "true")
    assert ("delete", "pods?status.phase!=Succeeded,status.phase!=Failed") in memory.asked
    assert driver.status([RECORD])[RECORD.id][0].state is State.CANCELLED


def test_many_jobs_are_cancelled_and_no_others(memory, monkeypatch):
    selectors = []
    monkeypatch.setattr(memory, "delete", lambda *_, **query: selectors.append(query["labelSelector"]))
    jobs = [replace(RECORD, id=JobId("k8s", f"{n:026}")) for n in range(250)]
    backend(memory).cancel(jobs)
    assert len(selectors) == 3
    named = [ulid for selector in selectors for ulid in selector.partition("(")[2].rstrip(")").split(",")]
    assert named == [job.id.ulid for job in jobs]


def test_a_job_nobody_knows_is_left_out(memory):
    assert backend(memory).status([RECORD]) == {}
    backend(memory).cancel([RECORD])


def test_read_jobs_may_go_after_a_while(memory):
    driver = backend(memory)
    driver.submit(SPEC, RECORD, FILES)
    assert "ttlSecondsAfterFinished" not in memory.things[f"jobs/{NAME}"]["spec"]
    driver.settle(replace(RECORD, target={"backend_options": {"ttl_seconds": 60}}))
    assert memory.things[f"jobs/{NAME}"]["spec"]["ttlSecondsAfterFinished"] == 60


@pytest.fixture
def parts(monkeypatch):
    """A map of seven tasks in three Jobs."""
    monkeypatch.setattr(manifest, "TASKS", 3)
    slices = tuple((n, n + 1) for n in range(7))
    return replace(SPEC, items=7, slices=slices, workers=7), replace(RECORD, items=7, workers=7)


def test_a_map_beyond_the_limit_is_several_jobs(memory, monkeypatch, parts):
    spec, record = parts
    driver = backend(memory)
    assert driver.submit(spec, record, FILES) == f"ns/{NAME} ns/{NAME}-3 ns/{NAME}-6"
    jobs = {names.offset_of(job): job for job in memory.jobs("")}
    assert [(at, job["spec"]["completions"], job["spec"]["parallelism"]) for at, job in jobs.items()] == [
        (0, 3, 2), (3, 3, 2), (6, 1, 1)
    ]  # fmt: skip
    variables = [job["spec"]["template"]["spec"]["containers"][0]["env"] for job in jobs.values()]
    offsets = [[row["value"] for row in rows if row["name"] == "CLUSTRIX_OFFSET"] for rows in variables]
    assert offsets == [[], ["3"], ["6"]]
    assert [key for key in memory.things if key.startswith("secrets/")] == [f"secrets/{NAME}"]
    owners = memory.things[f"secrets/{NAME}"]["metadata"]["ownerReferences"]
    assert [row["uid"] for row in owners] == [job["metadata"]["uid"] for job in jobs.values()]
    # Who comes later knows no limit.
    monkeypatch.undo()
    jobs[3]["status"] = {"completedIndexes": "0,2"}
    jobs[6]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    found = backend(memory).status([record])[record.id]
    assert [task for task, status in found.items() if status.state is State.SUCCEEDED] == [3, 5, 6]
    assert {status.state for task, status in found.items() if task < 3} == {State.WAITING}
    backend(memory).settle(record)
    assert {job["spec"]["ttlSecondsAfterFinished"] for job in jobs.values()} == {3600}
    backend(memory).cancel([record])
    assert all(job["spec"]["suspend"] for job in jobs.values())
    del memory.things[f"jobs/{NAME}-3"]
    found = backend(memory).status([record])[record.id]
    assert [task for task, status in found.items() if status.state is State.LOST] == [3, 4, 5]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", range(2, 11))
def test_a_cut_between_jobs_finds_what_is_there(memory, parts, when, request_number):
    memory.trouble = {request_number: (when, ConnectionLost("cut"))}
    backend(memory).submit(*parts, FILES)
    assert [job["spec"]["suspend"] for job in memory.jobs("")] == [False] * 3
    assert len(memory.things[f"secrets/{NAME}"]["metadata"]["ownerReferences"]) == 3


def test_one_job_that_cannot_be_removed_keeps_no_other(memory, parts):
    memory.trouble = {3: ("after", SubmitRejected("no")), 4: ("before", BackendError("busy"))}
    with pytest.raises(SubmitRejected):
        backend(memory).submit(*parts, FILES)
    assert len(memory.jobs("")) == 1


def test_jobs_that_may_not_run_side_by_side_are_refused(memory, parts):
    spec, record = parts
    with pytest.raises(UnsupportedResource, match="max_parallel=2: 7 tasks make 3 Jobs"):
        backend(memory).submit(replace(spec, max_parallel=2), record, FILES)
    assert memory.jobs("") == []
    memory.trouble = {5: ("after", SubmitRejected("no"))}
    with pytest.raises(SubmitRejected):
        backend(memory).submit(spec, record, FILES)
    assert memory.jobs("") == []
