"""The stores of Kubernetes, with pods as the API shows them; real ones are in tests/live."""

from __future__ import annotations

import hashlib
import pickle
import queue
import time

import pytest

from clustrix.errors import ConnectionLost, Tampered, UnknownJob
from clustrix.kubernetes import names
from clustrix.model import record as records
from clustrix.model.job import End, EndKind, JobId, JobRecord, new_ulid
from clustrix.model.outcome import Outcome, OutcomeStatus
from clustrix.stores.base import Ended, Output
from clustrix.stores.podlog import PodLog
from clustrix.stores.registry import RegistryStore
from clustrix.worker import delivery, podlog
from clustrix.worker.artifacts import Login, Repository
from clustrix.worker.message import Message, derive, encode, sign
from clustrix.worker.outcome import seal, verify
from clustrix.worker.task import Task, write

from ..oci.fake import FakeRegistry  # noqa: TID252 - tests are no package of the path

KEY = b"k" * 32


class Cluster:
    """One namespace, in this process."""

    space, server = "team", "https://cluster"

    def __init__(self):
        self.there, self.made, self.logs, self.deleted = {}, {}, {}, []
        self.requests = []
        self.events = queue.SimpleQueue()
        self.secrets = {}

    def pods(self, selector):
        self.requests.append(selector)
        return list(self.there.values())

    def watch_pods(self, selector):
        self.requests.append(selector)
        return Watch(self)

    def job(self, name):
        return self.made.get(name)

    def jobs(self, selector):
        return [job for job in self.made.values() if job["metadata"]["labels"][names.JOB] in selector]

    def secret(self, name):
        return self.secrets.get(name)

    def log(self, pod, container, *, follow=False, tail_lines=None):
        self.requests.append(f"log {pod}")
        found = self.logs.get((pod, container))
        return None if found is None else Log(found, follow=follow)

    def path(self, kind, name):
        return f"{kind}/{name}"

    def delete(self, path, body=None):
        self.deleted.append(path)

    def show(self, pod, kind="MODIFIED"):
        self.there[pod["metadata"]["uid"]] = pod
        self.events.put((kind, pod))


class Watch:
    def __init__(self, cluster):
        self.cluster, self.closed = cluster, False

    def __iter__(self):
        yield from [("ADDED", pod) for pod in self.cluster.there.values()]
        yield "SYNCED", {}
        while not self.closed:
            event = self.cluster.events.get()
            if isinstance(event, Exception):
                raise event
            yield event

    def close(self):
        self.closed = True
        self.cluster.events.put(("BOOKMARK", {}))


class Log:
    def __init__(self, data, *, follow):
        self.data, self.follow = data, follow

    def __iter__(self):
        if self.follow and b"clustrix/1" in self.data:
            yield from (self.data[place : place + 7] for place in range(0, len(self.data), 7))
        else:
            yield self.data[:5] if self.follow else self.data

    def close(self):
        pass


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def fake():
    fake = FakeRegistry()
    yield fake
    fake.close()


@pytest.fixture
def store(cluster, fake):
    return RegistryStore(cluster, repository=f"{fake.host}/pods", insecure=True)


@pytest.fixture
def job(cluster):
    return make_job(cluster)


def make_job(cluster, items=4, workers=4):
    ulid = new_ulid()
    job = JobRecord(
        id=JobId("k8s", ulid),
        name="f",
        function="f",
        created=0.0,
        items=items,
        workers=workers,
        root="/clustrix",
        target={},
    )
    step = items // workers
    task = Task(
        job_id=str(job.id),
        function_name="f",
        items=items,
        slices=tuple((start, start + step) for start in range(0, items, step)),
        workers=workers,
        python="3",
        implementation="cpython",
        abi="cp3",
    )
    cluster.secrets[names.job_name(ulid)] = {"key": KEY, "task.json": write(task)}
    cluster.made[names.job_name(ulid)] = {
        "metadata": {
            "name": names.job_name(ulid),
            "labels": names.labels(ulid),
            "annotations": {names.RECORD: records.dump(job).decode()},
        },
        "spec": {"suspend": False},
    }
    return job


def make_pod(job, task=0, *, message=None, code=0, uid=None, phase="Running", running=False, reason="", courier=False):
    uid = uid or f"uid-{task}"
    state = (
        {"running": {}}
        if running
        else {"terminated": {"exitCode": code, "reason": reason, "finishedAt": f"2026-{uid}"}}
    )
    if message is not None:
        state["terminated"]["message"] = message if isinstance(message, str) else encode(message)
    return {
        "metadata": {
            "name": f"pod-{uid}",
            "uid": uid,
            "labels": names.labels(job.id.ulid),
            "annotations": {names.INDEX: str(task)},
            "creationTimestamp": f"2026-{uid}",
        },
        "spec": {"nodeName": "node-1", "initContainers": [{"name": names.COURIER}] if courier else []},
        "status": {"phase": phase, "containerStatuses": [{"name": names.MAIN, "state": state}]},
    }


def outcome(index, value=None, *, key=KEY, status=OutcomeStatus.SUCCESS):
    data = pickle.dumps(value)
    made = Outcome(
        index=index,
        function_name="f",
        status=status,
        value_sha256=hashlib.sha256(data).hexdigest(),
        value_bytes=len(data),
    )
    return seal(made, key), data


def small(index, value=None, *, key=KEY, status=OutcomeStatus.SUCCESS, **fields):
    return Message(
        statuses={index: status.value}, inline={index: outcome(index, value, key=key, status=status)}, **fields
    )


def first(watch):
    """What had ended when the watch began."""
    found = []
    for event in watch:
        if event is None:
            return found
        found.append(event)
    raise AssertionError


def until(watch, wanted):
    found = []
    deadline = time.monotonic() + 30
    for event in watch:
        assert time.monotonic() < deadline
        if event is not None:
            found.append(event)
        if event == wanted:
            return found
    raise AssertionError


def send(fake, pod, rows, tmp_path):
    """Bring outcomes to the registry as a pod does: its message."""
    ulid, task, uid = names.ulid_of(pod), int(pod["metadata"]["annotations"][names.INDEX]), pod["metadata"]["uid"]
    repository = Repository(Login(f"{fake.host}/pods", insecure=True))
    sent = delivery.Delivery(repository, delivery.tag(ulid, task, uid))
    for number, batch in enumerate(rows):
        written = []
        for index, (text, value) in batch.items():
            place = tmp_path / f"{uid}-{number}-{index}.pkl"
            place.write_bytes(value)
            written.append((index, text, str(place)))
        sent.push(written)
    repository.close()
    items = [index for batch in rows for index in batch]
    return Message(statuses=dict.fromkeys(items, "success"), manifest=sent.manifest, layers=tuple(sent.layers))


def value_of(raw):
    assert verify(raw.metadata, KEY, index=raw.index)
    return pickle.loads(raw.value)


def test_what_had_ended_comes_first_then_news_each_once(cluster, store, job):
    cluster.there["a"] = make_pod(job, 0, message=small(0, "zero"))
    watch = store.watch([job])
    events = iter(watch)
    assert first(events) == [Ended(job.id.ulid, index=0)]
    cluster.show(make_pod(job, 1, running=True))
    for _ in range(3):
        cluster.show(make_pod(job, 1, message=small(1, "one")))
    cluster.show(make_pod(job, 2, message=small(2, "two")))
    assert until(events, Ended(job.id.ulid, index=2)) == [Ended(job.id.ulid, index=1), Ended(job.id.ulid, index=2)]
    requests = len(cluster.requests)
    assert {raw.index: value_of(raw) for raw in store.read(job, [0, 1, 2])} == {0: "zero", 1: "one", 2: "two"}
    assert len(cluster.requests) == requests  # what it saw it knows
    assert [raw.index for raw in store.read(job, [3])] == []
    texts = dict(store.metadata(job, [0, 1, 2, 3]))
    assert texts == {raw.index: raw.metadata for raw in store.read(job, [0, 1, 2])}
    watch.close()
    with pytest.raises(ConnectionLost):
        list(events)


def test_other_peoples_pods_and_words_are_nobodys_business(cluster, store, job, caplog):
    cluster.there["x"] = make_pod(make_job(cluster), 0, message=small(0))
    cluster.there["y"] = make_pod(job, 0, message="Traceback: no message of ours", uid="y")
    watch = store.watch([job])
    assert first(watch) == []
    assert "not one of clustrix" in caplog.text
    watch.close()


@pytest.mark.parametrize(
    "died",
    [(137, "OOMKilled", EndKind.OUT_OF_MEMORY), (1, "Error", EndKind.EXITED), (143, "Error", EndKind.PREEMPTED)],
)
def test_a_pod_without_outcomes_tells_how_it_ended(cluster, store, job, died):
    code, reason, kind = died
    cluster.there["a"] = make_pod(job, 2, code=code, reason=reason)
    watch = store.watch([job])
    (event,) = first(watch)
    assert (event.task, event.end.kind, event.end.node) == (2, kind, "node-1")
    assert store.ends(job)[2].kind is kind
    watch.close()


def test_memory_that_ran_out_for_a_process_of_user_code_is_told(cluster, store, job):
    cluster.there["a"] = make_pod(job, 0, message=small(0, status=OutcomeStatus.ERROR, memory=True))
    watch = store.watch([job])
    end = End(kind=EndKind.OUT_OF_MEMORY, exit_code=0, node="node-1")
    assert first(watch) == [Ended(job.id.ulid, index=0), Ended(job.id.ulid, task=0, end=end)]
    watch.close()


def test_of_two_pods_of_a_task_the_first_good_one_counts(cluster, store, job):
    cluster.there["1"] = make_pod(job, 0, message=small(0, "killed"), code=143, uid="1")
    cluster.there["2"] = make_pod(job, 0, message=small(0, "good"), uid="2")
    cluster.there["3"] = make_pod(job, 0, message=small(0, "late"), uid="3")
    assert [value_of(raw) for raw in store.read(job, [0])] == ["good"]


def test_what_a_main_container_signed_with_its_own_key_is_checked_and_signed_anew(cluster, store, job):
    cluster.there["a"] = make_pod(job, 0, message=small(0, "own", key=derive(KEY), derived=True))
    assert [value_of(raw) for raw in store.read(job, [0])] == ["own"]
    cluster.there["b"] = make_pod(job, 1, message=small(1, "forged", key=b"x" * 32, derived=True))
    with pytest.raises(Tampered):
        list(store.read(job, [1]))


def test_output_comes_whole_and_before_the_end(cluster, store, job):
    for task in (0, 1):
        cluster.logs[f"pod-uid-{task}", names.MAIN] = b"line one\nline two\n"
    cluster.there["a"] = make_pod(job, 0, message=small(0))
    watch = store.watch([job], output={job.id.ulid: {0: 5}})
    events = iter(watch)
    assert first(events) == [Output(job.id.ulid, 0, b"one\nline two\n"), Ended(job.id.ulid, index=0)]
    cluster.show(make_pod(job, 1, running=True))
    assert until(events, Output(job.id.ulid, 1, b"line "))
    cluster.show(make_pod(job, 1, message=small(1)))
    last = until(events, Ended(job.id.ulid, index=1))
    assert last == [Output(job.id.ulid, 1, b"one\nline two\n"), Ended(job.id.ulid, index=1)]
    watch.close()


def test_a_message_at_the_end_of_the_output_is_news_and_not_shown(cluster, store, job):
    said = encode(small(0, "early")).encode()
    cluster.logs["pod-uid-0", names.MAIN] = b"clustrix/1 is our format\nclust" + said + b"\n"
    cluster.there["a"] = make_pod(job, 0, running=True)
    watch = store.watch([job], output={job.id.ulid: {}})
    shown = b"".join(
        event.data for event in until(iter(watch), Ended(job.id.ulid, index=0)) if isinstance(event, Output)
    )
    assert shown == b"clustrix/1 is our format\nclust"
    assert [value_of(raw) for raw in store.read(job, [0])] == ["early"]
    assert store.log(job, 0) == b"clustrix/1 is our format\nclust"
    watch.close()


@pytest.mark.parametrize("key", [KEY, b"x" * 32], ids=["own", "another"])
def test_a_signed_message_at_the_end_of_the_output_says_what_is_elsewhere(cluster, store, job, key):
    said = sign(encode(Message(statuses={0: "success"}, manifest=f"sha256:{'0' * 64}")), key).encode()
    cluster.logs["pod-uid-0", names.MAIN] = b"before\n" + said + b"\n"
    cluster.there["a"] = make_pod(job, 0, running=True)
    watch = store.watch([job], output={job.id.ulid: {}})
    shown = b""
    for event in watch:
        if isinstance(event, Ended):
            assert (key, event, shown) == (KEY, Ended(job.id.ulid, index=0), b"before\n")
            break
        shown += event.data if event else b""
        if shown.endswith(said + b"\n"):
            assert key != KEY
            break
    watch.close()


@pytest.mark.parametrize("key", [KEY, derive(KEY), b"x" * 32], ids=["derived", "own", "none"])
def test_what_another_job_said_is_output(cluster, store, job, key):
    said = encode(small(0, "forged", key=key, derived=key == KEY)).encode() + b"\n"
    cluster.logs["pod-uid-0", names.MAIN] = said
    cluster.there["a"] = make_pod(job, 0, running=True)
    watch = store.watch([job], output={job.id.ulid: {}})
    shown = b""
    for event in watch:
        assert event is None or isinstance(event, Output)
        shown += event.data if event else b""
        if shown == said:
            break
    watch.close()


def test_a_log_that_the_kubelet_deleted_is_none(cluster, store, job):
    words = b'failed to try resolving symlinks in path "/var/log/pods/x": no such file'
    cluster.logs["pod-uid-0", names.MAIN] = words
    cluster.there["a"] = make_pod(job, 0, message=small(0))
    assert store.log(job, 0) == b""
    watch = store.watch([job], output={job.id.ulid: {}})
    assert first(watch) == [Ended(job.id.ulid, index=0)]
    watch.close()


def test_logs_of_a_task(cluster, store, job):
    assert store.log(job, 0) == b""
    cluster.there["a"] = make_pod(job, 0, running=True)
    cluster.logs["pod-uid-0", names.MAIN] = b"0123456789"
    assert store.log(job, 0) == b"0123456789"
    assert store.log(job, 0, last_bytes=4) == b"6789"
    del cluster.there["a"]
    cluster.made.clear()
    with pytest.raises(UnknownJob):
        store.log(job, 0)


@pytest.mark.parametrize(
    ("finished", "reason", "kind"),
    [
        ("2026-01-01T00:00:05Z", "Error", EndKind.PREEMPTED),
        ("2026-01-01T00:00:01Z", "Error", EndKind.SIGNALLED),  # it was dead before
        ("2026-01-01T00:00:05Z", "OOMKilled", EndKind.OUT_OF_MEMORY),
        (None, "ContainerStatusUnknown", EndKind.PREEMPTED),  # deleted while it started
    ],
)
def test_a_pod_that_was_deleted_and_then_killed(store, job, finished, reason, kind):
    pod = make_pod(job, 0, code=137, phase="Failed", reason=reason)
    pod["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:08Z", "deletionGracePeriodSeconds": 5}
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = finished
    store.cluster.there["a"] = pod
    assert store.ends(job)[0].kind is kind


def test_what_was_saved_in_a_cancelled_job_does_not_count(cluster, store, job):
    saved = small(0, "saved", status=OutcomeStatus.ERROR, told=(0,))
    cluster.there["a"] = make_pod(job, 0, message=saved)
    assert [raw.index for raw in store.read(job, [0])] == [0]
    cluster.made[names.job_name(job.id.ulid)]["metadata"]["annotations"][names.CANCELLED] = "true"
    assert store.cancelled(job)
    assert list(store.read(job, [0])) == []
    cluster.there["b"] = make_pod(job, 1, message=small(1, "done", told=(1,)))
    assert [value_of(raw) for raw in store.read(job, [1])] == ["done"]


def test_large_outcomes_come_from_the_registry(cluster, store, job, fake, tmp_path):
    rows = [{0: outcome(0, "a" * 9_000_000), 1: outcome(1, "b")}, {2: outcome(2, "c")}]
    said = send(fake, make_pod(job, 0, uid="u"), rows, tmp_path)
    cluster.there["a"] = make_pod(job, 0, message=said, uid="u")
    assert {raw.index: len(value_of(raw)) for raw in store.read(job, [0, 1, 2, 3])} == {0: 9_000_000, 1: 1, 2: 1}
    assert not [path for path in fake.requests("GET") if "manifests" in path]
    # Where a message has room for less, the manifest tells.
    less = said.but(layers=(), statuses={})
    cluster.there["b"] = make_pod(job, 1, message=less, uid="v")
    del cluster.there["a"]
    again = RegistryStore(cluster, repository=f"{fake.host}/pods", insecure=True)
    assert [value_of(raw) for raw in again.read(job, [2])] == ["c"]
    assert len([path for path in fake.requests("GET") if "manifests" in path]) == 1


def test_what_a_killed_pod_had_sent_is_found_by_its_name(cluster, store, job, fake, tmp_path):
    send(fake, make_pod(job, 1), [{1: outcome(1, "kept")}], tmp_path)
    cluster.there["a"] = make_pod(job, 1, code=137, reason="OOMKilled")
    cluster.there["b"] = make_pod(job, 2, code=137, reason="OOMKilled")
    watch = store.watch([job])
    told = first(watch)
    assert [event.index for event in told if event.index is not None] == [1]
    assert sorted(event.task for event in told if event.end) == [1, 2]
    assert [value_of(raw) for raw in store.read(job, [1, 2])] == ["kept"]
    watch.close()


def test_what_a_pod_had_sent_that_is_gone_is_found_by_the_job(cluster, store, job, fake, tmp_path):
    send(fake, make_pod(job, 0, uid="gone"), [{0: outcome(0, "kept")}], tmp_path)
    send(fake, make_pod(job, 1, uid="runs"), [{1: outcome(1, "not yet")}], tmp_path)
    cluster.there["b"] = make_pod(job, 1, uid="runs", running=True)
    cluster.made[names.job_name(job.id.ulid)]["spec"]["suspend"] = True  # it was stopped
    assert list(store.read(job, [0, 1, 2])) == []
    cluster.made[names.job_name(job.id.ulid)]["spec"]["suspend"] = False
    assert [value_of(raw) for raw in store.read(job, [0, 1, 2])] == ["kept"]


def test_a_registry_that_does_not_answer_is_no_end(cluster, store, job, fake):
    fake.fail("GET", "manifests", lambda handler: handler.refuse(403, "DENIED"), times=1)
    cluster.there["a"] = make_pod(job, 1, code=137, reason="OOMKilled")
    watch = store.watch([job])
    with pytest.raises(Exception, match="DENIED"):
        first(watch)
    watch.close()


def test_a_courier_may_still_send(cluster, store, job):
    killed = make_pod(job, 1, code=137, reason="OOMKilled", courier=True)
    cluster.there["a"] = killed
    watch = store.watch([job])
    events = iter(watch)
    assert first(events) == []
    killed = make_pod(job, 1, code=137, reason="OOMKilled", courier=True, phase="Failed")
    cluster.show(killed)
    event = next(event for event in events if event is not None)
    assert event.end.kind is EndKind.OUT_OF_MEMORY
    watch.close()


def test_a_broken_watch_says_so(cluster, store, job):
    watch = store.watch([job])
    events = iter(watch)
    assert first(events) == []
    cluster.events.put(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost, match="gone"):
        list(events)
    watch.close()


def test_what_is_beside_a_job(cluster, store):
    job = make_job(cluster, items=6, workers=3)
    assert store.key(job) == KEY
    assert store.record(job.id.ulid) == job
    assert store.owners(job) == {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2}
    cluster.there["a"] = make_pod(job, 0, message=Message(statuses={0: "success", 1: "error"}))
    cluster.there["b"] = make_pod(job, 1, message=Message(statuses={2: "refused"}))
    assert store.failures([job]) == {job.id.ulid: frozenset({1, 2})}
    cluster.secrets.clear()
    cluster.made.clear()
    again = PodLog(cluster)
    for ask in (lambda: again.owners(job), lambda: again.key(job), lambda: again.record(job.id.ulid)):
        with pytest.raises(UnknownJob):
            ask()


def test_removal_takes_what_is_in_the_registry(cluster, store, job, fake, tmp_path):
    said = send(fake, make_pod(job, 0, uid="u"), [{0: outcome(0, "a")}], tmp_path)
    send(fake, make_pod(job, 1), [{1: outcome(1, "b")}], tmp_path)
    cluster.there["a"] = make_pod(job, 0, message=said, uid="u")
    cluster.there["b"] = make_pod(job, 1, code=1)
    store.remove(job)
    assert cluster.deleted == [f"jobs/{names.job_name(job.id.ulid)}"]
    assert len(fake.requests("DELETE")) == 2


def test_a_registry_that_refuses_removal_is_told_of(cluster, store, fake, tmp_path, caplog):
    job = make_job(cluster)
    said = send(fake, make_pod(job, 0, uid="u"), [{0: outcome(0, "a")}], tmp_path)
    cluster.there["a"] = make_pod(job, 0, message=said, uid="u")
    fake.fail("DELETE", "manifests", lambda handler: handler.refuse(405, "UNSUPPORTED"), times=9)
    store.remove(job)
    assert "stays there" in caplog.text
    assert cluster.deleted


def test_outcomes_in_a_log(cluster, job, tmp_path):
    store = PodLog(cluster)
    text, value = outcome(0, "x" * 20_000)
    place = tmp_path / "0.pkl"
    place.write_bytes(value)
    packed = podlog.pack(delivery.archive([(0, text, str(place))])[1], podlog.LIMIT)
    cluster.logs["pod-uid-0", names.COURIER] = b"noise\n" + b"".join(podlog.lines(0, packed))
    cluster.there["a"] = make_pod(job, 0, message=Message(statuses={0: "success"}, log=True))
    assert [len(value_of(raw)) for raw in store.read(job, [0])] == [20_000]
    # Of one that was killed the log tells.
    cluster.there["a"] = make_pod(job, 0, code=137, reason="OOMKilled")
    again = PodLog(cluster)
    watch = again.watch([job])
    assert Ended(job.id.ulid, index=0) in first(watch)
    watch.close()
