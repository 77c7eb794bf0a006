"""Which way the files of a job take."""

import hashlib
import json

from clustrix.kubernetes import cargo
from clustrix.model.paths import SitePaths
from clustrix.worker.payload import pack

SITE = SitePaths("/clustrix")
PATHS = SITE.job("0" * 26)
WORKER, CODE = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def files(payload, code=b"code"):
    return {
        PATHS.task: b"{}",
        PATHS.payload: payload,
        PATHS.key: b"k" * 32,
        SITE.bundle(WORKER): b"worker",
        SITE.bundle(CODE): code,
    }


def test_small_jobs_need_no_registry(tmp_path):
    payload = tmp_path / "payload"
    payload.write_bytes(b"p")
    found = cargo.load(PATHS, files(payload))
    assert found.secret == {"task.json": b"{}", "payload": b"p", "key": b"k" * 32}
    assert found.bundles == {WORKER: b"worker", CODE: b"code"}
    assert found.blobs == {}


def test_large_payloads_and_code_go_there(tmp_path):
    payload, code = tmp_path / "payload", tmp_path / "code.zip"
    with payload.open("wb") as file:
        size = pack(file, len, [((bytes(cargo.LIMIT),), {})]).size
    code.write_bytes(b"c" * (cargo.LIMIT + 1))
    found = cargo.load(PATHS, files(payload, code))
    assert "payload" not in found.secret
    assert list(found.bundles) == [WORKER]
    remote = json.loads(found.secret["remote.json"])
    digest = remote["payload"]["digest"]
    assert remote["payload"]["size"] == size
    table = payload.read_bytes()[remote["payload"]["table"] :]
    assert remote["payload"]["table_sha256"] == hashlib.sha256(table).hexdigest()
    assert remote["bundles"] == {"b" * 64: {"digest": CODE, "size": cargo.LIMIT + 1}}
    assert found.blobs == {CODE: code, digest: payload}
