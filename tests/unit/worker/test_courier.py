"""The sidecar: what user code leaves, signed with the key of the job, in a registry or in a log."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import actions
import endings
import pytest
from pod_site import KEY, Pod

from clustrix import errors
from clustrix.worker import message, podlog
from clustrix.worker.delivery import layers_of
from clustrix.worker.outcome import read
from clustrix.worker.payload import table_of

from ..oci.fake import FakeRegistry  # noqa: TID252 - tests are no package of the path

OWN = message.derive(KEY)


@pytest.fixture
def fake():
    fake = FakeRegistry("basic")
    yield fake
    fake.close()


class Sidecar:
    """The two containers of a pod: one directory is theirs, the Secret of the main one has less in it."""

    def __init__(self, directory, cache, function, items, registry=None, **fields):
        self.main = Pod(directory, cache, function, items, **fields)
        (directory / "courier").mkdir()
        self.secret = directory / "courier" / "clustrix-job"
        self.main.secret.rename(self.secret)
        self.main.secret.mkdir()
        for name in ("task.json", "payload"):
            (self.main.secret / name).write_bytes((self.secret / name).read_bytes())
        (self.main.secret / "key").write_bytes(OWN)
        if registry:
            login = {"username": "me", "password": "s3cret"}
            document = {"repository": f"{registry.host}/pods", "insecure": True, **login}
            (self.secret / "registry.json").write_text(json.dumps(document))
        (directory / "courier" / "clustrix").symlink_to(self.main.root)
        self.root = directory / "courier" / "clustrix"
        self.log = directory / "courier.log"

    def courier(self, sink):
        root, self.main.root = self.main.root, self.root
        with self.log.open("w") as log:
            process = self.main.start("--courier", output=log, CLUSTRIX_SINK=sink)
        self.main.root = root
        deadline = time.monotonic() + 60
        while not caught(process.pid) >> (signal.SIGTERM - 1) & 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    def run(self, sink):
        """Run both as Kubernetes does; give the exit code of the main one, its output, and the courier's log."""
        courier = self.courier(sink)
        try:
            code, output = self.main.run(CLUSTRIX_SINK="courier")
        finally:
            said = self.end(courier)
        return code, output, said

    def end(self, courier):
        courier.terminate()
        assert courier.wait(60) == 0, self.log.read_text()
        return self.log.read_text()


def caught(pid):
    """The signals that a process handles, as bits."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("SigCgt:")[2].split()[0], 16)


@pytest.fixture
def pair(tmp_path, bundle_cache):
    return lambda function, items, **fields: Sidecar(tmp_path, bundle_cache, function, items, **fields)


def outcomes_of(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}


def test_a_small_outcome_needs_no_courier_and_has_a_key_of_its_own(pair, fake):
    both = pair(actions.value, [()], registry=fake)
    assert both.run("registry") == (0, "", "")
    assert both.main.message.derived
    assert both.main.value(key=OWN) == actions.value()
    with pytest.raises(errors.Tampered):
        both.main.value(key=KEY)
    assert not fake.seen


def test_a_large_one_is_signed_with_the_key_of_the_job(pair, fake):
    both = pair(endings.large, [(1 << 20,), (100,)], registry=fake)
    assert both.run("registry") == (0, "", "")
    said = both.main.message
    assert said.statuses == {0: "success", 1: "success"}
    assert not said.derived
    found = {}
    for layer in said.layers:
        found |= outcomes_of(fake.blobs["pods", layer.digest])
    assert len(read(found["0.json"], found["0.pkl"], KEY, index=0)) == 1 << 20


def test_what_a_killed_main_container_had_ended_is_sent(pair, fake, tmp_path):
    both = pair(endings.first_then_sleep, [(str(tmp_path), number) for number in range(3)], registry=fake)
    courier, main = both.courier("registry"), both.main.start(output=subprocess.DEVNULL, CLUSTRIX_SINK="courier")
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child = int(Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text())
    main.kill()
    os.kill(child, signal.SIGKILL)
    main.wait(60)
    both.end(courier)
    tag = f"{both.main.ulid.lower()}-0-uid-1"
    assert [layer.items for layer in layers_of(fake.manifests["pods", tag][0])] == [(0,)]


def test_what_user_code_forged_is_refused(pair, fake):
    both = pair(forger(), [(1 << 20,)], registry=fake)
    assert both.run("registry")[0] == 0
    assert both.main.message.statuses == {0: "refused"}


def forger():
    return endings.large_and_forged


def test_what_user_code_finds_of_secrets(pair, fake):
    both = pair(endings.secrets_in_sight, [((KEY, b"s3cret"),)], registry=fake)
    assert both.run("registry")[0] == 0
    assert both.main.value(key=OWN) == []


def test_a_payload_that_the_courier_fetches(pair, fake):
    both = pair(len, [(os.urandom(1 << 20),)], registry=fake)
    data = (both.secret / "payload").read_bytes()
    table, sha256 = table_of(io.BytesIO(data))
    payload = {"digest": fake.put_blob("pods", data), "size": len(data), "table": table, "table_sha256": sha256}
    for secret in (both.secret, both.main.secret):
        (secret / "payload").unlink()
        (secret / "remote.json").write_text(json.dumps({"payload": payload}))
    assert both.run("registry") == (0, "", "")
    assert both.main.value(key=OWN) == 1 << 20


def test_a_payload_that_the_courier_cannot_fetch(pair, fake):
    both = pair(len, [(b"",)], registry=fake)
    payload = {"digest": "sha256:" + "0" * 64, "size": 9, "table": 5, "table_sha256": ""}
    for secret in (both.secret, both.main.secret):
        (secret / "payload").unlink()
        (secret / "remote.json").write_text(json.dumps({"payload": payload}))
    code, output, _ = both.run("registry")
    assert code == 0
    assert both.main.message.statuses == {0: "refused"}
    assert "answered 404" in output


def test_a_log_takes_outcomes_and_says_which_are_too_large(pair):
    both = pair(endings.large, [(1 << 20,), (10 << 20,), (100,)])
    code, output, log = both.run("podlog")
    assert (code, output) == (0, "")
    assert len(log) <= podlog.LIMIT
    said = both.main.message
    assert said.log
    assert said.statuses == {0: "success", 1: "refused", 2: "success"}
    found = podlog.read(log.encode())
    files = outcomes_of(found[0])
    assert len(read(files["0.json"], files["0.pkl"], KEY, index=0)) == 1 << 20
    with pytest.raises(errors.ResultTooLarge, match="item 1 has 104857"):
        read(outcomes_of(found[1])["1.json"], b"", KEY, index=1)


def test_lines_of_a_log_there_and_back_and_damaged():
    packed = podlog.pack(lambda: io.BytesIO(os.urandom(20_000)), podlog.LIMIT)
    lines = list(podlog.lines(7, packed))
    assert len(lines) > 2
    assert sum(map(len, lines)) <= podlog.length(packed)
    noisy = b"noise\n" + b"clustrix-outcome/1 what\n" + b"".join(reversed(lines)) + lines[0] + b"\xff\n"
    assert list(podlog.read(noisy)) == [7]
    assert podlog.read(b"".join(lines[1:])) == {}
    assert podlog.read(b"".join(lines).replace(lines[1][40:60], b"A" * 20)) == {}


def test_what_is_too_large_is_not_held_in_memory():
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size=-1):
            self.given += size
            assert self.given < 64 << 20
            return os.urandom(size)

    assert podlog.pack(Endless, podlog.LIMIT) is None
