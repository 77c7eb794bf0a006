"""The first process of a pod: what it makes of every end of its children."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
import time
from pathlib import Path

import actions
import endings
import pytest
from pod_site import KEY, Pod

from clustrix import errors
from clustrix.worker import message
from clustrix.worker.delivery import layers_of
from clustrix.worker.outcome import read, verify
from clustrix.worker.payload import table_of

from ..oci.fake import FakeRegistry, digest  # noqa: TID252 - tests are no package of the path


@pytest.fixture
def pod(tmp_path, bundle_cache):
    def make(function, items, **fields):
        directory = tmp_path / os.urandom(4).hex()
        directory.mkdir()
        return Pod(directory, bundle_cache, function, items, **fields)

    return make


def error_of(pod, index=0):
    with pytest.raises(Exception) as caught:
        pod.value(index)
    return caught.value


def ended(process, seconds=60):
    process.communicate(timeout=seconds)
    return process.returncode


def wait_for(path):
    deadline = time.monotonic() + 60
    while not Path(path).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_small_value_comes_in_the_termination_message(pod):
    one = pod(actions.value, [()])
    assert one.run() == (0, "")
    assert one.said  # to whoever follows the output
    assert one.value() == actions.value()
    assert len(one.log.read_text()) < message.LIMIT
    metadata = verify(one.message.inline[0][0], KEY, index=0).metadata
    assert metadata["native_job_id"] == "pod-1"
    assert metadata["task"] == 0
    assert Path(one.paths.key).stat().st_mode & 0o777 == 0o600


def test_what_user_code_raises_comes_as_it_is(pod):
    one = pod(actions.own_error, [()])
    assert one.run()[0] == 0
    assert type(error_of(one)) is actions.OwnError
    assert one.message.statuses == {0: "error"}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("os._exit", "ended with exit code 5 and left no outcome"),
        ("kill -9", "was killed by SIGKILL"),
        ("SIGTERM", "was killed by SIGTERM"),
        ("segmentation fault", "was killed by SIGSEGV"),
    ],
)
def test_a_child_that_dies_is_a_typed_end(pod, how, words):
    one = pod(actions.leave, [(how,)])
    code, output = one.run()
    assert code == 0
    error = error_of(one)
    assert type(error) is errors.Crashed
    assert words in str(error)
    assert "node-1" in str(error)
    assert "leaving" in output
    assert ("Segmentation fault" in output) == (how == "segmentation fault")


def test_after_a_death_what_was_not_begun_is_done(pod):
    one = pod(endings.dies_at_three, [(number,) for number in range(7)])
    assert one.run()[0] == 0
    assert type(error_of(one, 3)) is errors.Crashed
    assert "item 3 of" in str(error_of(one, 3))
    assert [one.value(index) for index in range(7) if index != 3] == [0, 1, 2, 4, 5, 6]


def test_a_pod_does_the_items_of_its_own_number(pod):
    one = pod(
        endings.dies_at_three,
        [(number,) for number in range(7)],
        slices=((0, 2), (2, 3), (3, 5), (5, 7)),
        workers=2,
        number=1,
    )
    assert one.run()[0] == 0
    assert sorted(one.message.statuses) == [2, 5, 6]


def test_one_of_several_jobs_counts_on(pod):
    one = pod(len, [(b"x" * number,) for number in range(4)], slices=((0, 1), (1, 2), (2, 3), (3, 4)), workers=4)
    assert one.run(JOB_COMPLETION_INDEX=1, CLUSTRIX_OFFSET=2)[0] == 0
    assert (one.value(3), list(one.message.statuses)) == (3, [3])


def test_variables_that_need_a_new_process_have_one(pod):
    one = pod(actions.surroundings, [("PYTHONHASHSEED", "HOME", "TMPDIR")], environment={"PYTHONHASHSEED": "7"})
    assert one.run()[0] == 0
    assert one.value() == {"PYTHONHASHSEED": "7", "HOME": f"{one.root}/home", "TMPDIR": f"{one.root}/tmp"}


def test_the_function_starts_in_its_directory_with_what_modules_it_had(pod):
    one = pod(actions.interpreter_state, [()])
    assert one.run()[0] == 0
    state = one.value()
    assert state["directory"] == one.paths.work
    assert state["path"][0] == str(one.worker)


@pytest.mark.parametrize("ignored", [(), (signal.SIGTERM,)])
def test_the_time_limit_ends_a_child_by_force_if_need_be(pod, tmp_path, ignored):
    one = pod(endings.sleeps, [(str(tmp_path), *ignored), (str(tmp_path),)])
    assert one.run(CLUSTRIX_TIME_SECONDS="1.5")[0] == 0
    error = error_of(one, 0)
    assert type(error) is errors.TimeLimit
    assert "ran into its time limit" in str(error)
    assert "time=" in str(error)
    other = error_of(one, 1)
    assert type(other) is errors.TimeLimit
    assert "has no outcome: its task ran into its time limit" in str(other)


def test_a_hook_saves_before_the_limit(pod, tmp_path):
    for seconds in (3, 30):  # a machine that is busy may not have come to the hook in three
        one = pod(endings.saves, [(str(tmp_path),)])
        assert one.run(CLUSTRIX_TIME_SECONDS=seconds)[0] == 0
        if Path(tmp_path, "begun").exists():
            break
    error = error_of(one)
    assert type(error) is errors.TimeLimit
    assert error.checkpoint == "saved"


def test_a_hook_saves_when_the_pod_is_told_to_go(pod, tmp_path):
    """What it saved is in the registry, too: the pod's status may go with the pod."""
    fake = FakeRegistry()
    one = pod(endings.saves, [(str(tmp_path),)], registry=registry(fake))
    process = one.start()
    wait_for(tmp_path / "begun")
    process.terminate()
    assert ended(process) == 0
    error = error_of(one)
    assert type(error) is errors.Preempted
    assert error.checkpoint == "saved"
    assert one.message.told == (0,)
    (layer,) = layers_of(fake.manifests["pods", f"{one.ulid.lower()}-0-uid-1"][0])
    assert unpack(fake.blobs["pods", layer.digest])["0.json"] == one.message.inline[0][0]
    fake.close()


def test_a_pod_that_is_told_to_go_leaves_what_had_ended_and_says_so(pod, tmp_path):
    one = pod(endings.first_then_sleep, [(str(tmp_path), number) for number in range(3)])
    process = one.start()
    wait_for(tmp_path / "begun")
    process.terminate()
    assert ended(process) == 128 + signal.SIGTERM
    assert one.message.statuses == {0: "success"}
    assert one.message.told == ()
    assert one.value(0) == 0


def test_children_of_user_code_end_with_it(pod, tmp_path):
    one = pod(endings.leaves_a_child, [(str(tmp_path),)])
    assert one.run()[0] == 0
    pid = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_result_that_cannot_be_sent_says_why(pod):
    fake = FakeRegistry("basic")
    one = pod(endings.large, [(1 << 20,)], registry=registry(fake))
    code, output = one.run()
    fake.close()
    assert code == 1
    error = error_of(one)
    assert type(error) is errors.RegistryError
    assert f"could not be brought out of its pod: {fake.host} answered 401" in str(error)
    assert f"{fake.host} answered 401" in output


def test_what_is_large_goes_to_the_registry_under_the_name_of_the_pod(pod):
    fake = FakeRegistry()
    one = pod(endings.large, [(10,), (1 << 20,), (6 << 20,)], registry=registry(fake))
    assert one.run() == (0, "")
    said = one.message
    assert one.said
    assert (said.statuses, said.inline) == (dict.fromkeys(range(3), "success"), {})
    tag = f"{one.ulid.lower()}-0-uid-1"
    text, _ = fake.manifests["pods", tag]
    assert digest(text) == said.manifest
    assert layers_of(text) == said.layers
    found = {}
    for layer in said.layers:
        found |= unpack(fake.blobs["pods", layer.digest])
    assert sorted(found) == sorted(f"{index}.{kind}" for index in range(3) for kind in ("json", "pkl"))
    values = [read(found[f"{index}.json"], found[f"{index}.pkl"], KEY, index=index) for index in range(3)]
    assert list(map(len, values)) == [10, 1 << 20, 6 << 20]
    fake.close()


def unpack(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def registry(fake):
    return json.dumps({"repository": f"{fake.host}/pods", "insecure": True})


def test_what_has_ended_is_sent_while_others_run(pod, tmp_path):
    fake = FakeRegistry()
    one = pod(endings.large_then_wait, [(str(tmp_path), n) for n in range(3)], registry=registry(fake))
    process = one.start()
    tag = f"{one.ulid.lower()}-0-uid-1"
    deadline = time.monotonic() + 60
    while ("pods", tag) not in fake.manifests:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sent = {item for layer in layers_of(fake.manifests["pods", tag][0]) for item in layer.items}
    assert sent
    assert not one.log.exists()
    (tmp_path / "go").touch()
    assert ended(process) == 0
    layers = one.message.layers
    assert len(layers) > 1
    assert sorted(item for layer in layers for item in layer.items) == [0, 1, 2]
    fake.close()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_payload_in_the_registry_is_read_as_far_as_it_is_needed(pod, ranges):
    fake = FakeRegistry()
    one = pod(
        len, [(os.urandom(1 << 20),) for _ in range(6)], registry=registry(fake), slices=((0, 3), (3, 6)), workers=2
    )
    stage(one, fake)
    sizes = []

    def answer(handler):
        first, last = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        data = fake.blobs["pods", handler.path.rpartition("/")[2]]
        sizes.append(last + 1 - first)
        handler.answer(206, data[first : last + 1]) if ranges else handler.answer(200, data)

    fake.fail("GET", "blobs", answer, times=99)
    assert one.run() == (0, "")
    assert [one.value(index) for index in range(3)] == [1 << 20] * 3
    assert sum(sizes) < 3.2 * (1 << 20)
    fake.close()


def stage(one, fake, **wrong):
    """Put the payload into the registry in place of the Secret."""
    place = one.secret / "payload"
    data = place.read_bytes()
    table, sha256 = table_of(io.BytesIO(data))
    place.unlink()
    payload = {"digest": fake.put_blob("pods", data), "size": len(data), "table": table, "table_sha256": sha256}
    (one.secret / "remote.json").write_text(json.dumps({"payload": {**payload, **wrong}, "bundles": {}}))


def test_another_payload_in_the_registry_is_refused(pod):
    fake = FakeRegistry()
    one = pod(actions.value, [()], registry=registry(fake))
    stage(one, fake, table_sha256="0" * 64)
    assert one.run()[0] == 0
    error = error_of(one)
    assert type(error) is errors.StoreError
    assert "not the one that was put there" in str(error)
    fake.close()


def test_a_missing_payload_is_refused(pod):
    one = pod(actions.value, [()])
    (one.secret / "payload").unlink()
    assert one.run()[0] == 0
    assert one.message.statuses == {0: "refused"}
