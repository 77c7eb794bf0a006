# ruff: noqa: F811 - fixtures of another file
"""Maps of more tasks than one Job may have: several Jobs behind one handle, with a limit that a test can reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from clustrix import errors
from clustrix.errors import ConnectionLost
from clustrix.kubernetes import manifest, names
from clustrix.kubernetes.connection import Cluster

from .test_kubernetes import LONG, Place, clustrix, k8s, until  # noqa: F401 - fixture

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.live, pytest.mark.column("kubernetes"), pytest.mark.timeout(600)]

SMALL = {"pod_template": {"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "50m"}}}]}}}
AGAIN = """
import sys, clustrix
job = clustrix.job(sys.argv[1])
print([type(one).__name__ if isinstance(one, Exception) else one for one in job.results(return_exceptions=True)])
"""


def own(k8s: Place, kind: str, handle: Any) -> list[dict[str, Any]]:
    return [thing for thing in k8s.get(kind) if names.ulid_of(thing) == handle.id.ulid]


def phase(pod: dict[str, Any]) -> str:
    found: str = pod["status"]["phase"]
    return found


def test_the_limit_is_the_one_of_the_api(k8s: Place) -> None:
    main = {"name": "main", "image": "x"}
    spec = {
        "completionMode": "Indexed",
        "backoffLimitPerIndex": 0,
        "parallelism": 10,
        "template": {"spec": {"restartPolicy": "Never", "containers": [main]}},
    }

    def make(completions: int) -> str:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "many"}}
        text = json.dumps({**job, "spec": {**spec, "completions": completions}})
        argv = ("--namespace", k8s.namespace, "create", "--dry-run=server", "--filename=-")
        return k8s.cluster.kubectl(*argv, stdin=text)

    assert "created (server dry run)" in make(manifest.TASKS)
    with pytest.raises(RuntimeError, match="maxFailedIndexes: Required value"):
        make(manifest.TASKS + 1)


@pytest.mark.proves("array beyond the limit")
def test_seven_tasks_in_three_jobs(k8s: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through a cut while they are made; and a process that was not there, and knows no limit, finds all of it."""
    cuts = []

    def create(self: Cluster, path: str, body: Any) -> Any:
        made = whole(self, path, body)
        if not cuts and body["metadata"]["name"].endswith("-3"):
            cuts.append(path)
            raise ConnectionLost("cut")
        return made

    whole = Cluster.create
    source = """
        def f(x):
            print("task of", x)
            if x == 4: raise LookupError(x)
            return x * x if x < 6 else str(x) * 10_000
    """
    options = {**SMALL, "ttl_seconds": 0}
    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "create", create)
        patch.setattr(manifest, "TASKS", 3)
        array = k8s.far(source, max_parallel=7, backend_options=options).map(range(7), chunksize=1)
    assert cuts
    assert {job["metadata"]["name"]: job["spec"]["completions"] for job in own(k8s, "jobs", array)} == {
        names.job_name(array.id.ulid): 3,
        names.job_name(array.id.ulid, 3): 3,
        names.job_name(array.id.ulid, 6): 1,
    }
    (secret,) = own(k8s, "secrets", array)
    assert len(secret["metadata"]["ownerReferences"]) == 3
    array.wait(LONG)
    assert "task of 5" in clustrix("logs", str(array.id))
    (tmp_path / "clustrix.yml").write_text(yaml.safe_dump({"targets": {"k8s": k8s.settings}}))
    elsewhere = {**os.environ, "CLUSTRIX_STATE_DIR": str(tmp_path / "state")}
    argv = [sys.executable, "-c", AGAIN, str(array.id)]
    done = subprocess.run(argv, cwd=tmp_path, env=elsewhere, capture_output=True, text=True, timeout=LONG, check=True)
    assert done.stdout.strip() == str([0, 1, 4, 9, "LookupError", 25, "6" * 10_000])
    until(lambda: not [thing for kind in ("jobs", "pods", "secrets") for thing in own(k8s, kind, array)])


def test_all_of_it_is_cancelled_and_removed(k8s: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import time\ndef rest(x):\n    print('ready', flush=True)\n    time.sleep(1000)"
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "TASKS", 3)
        with pytest.raises(errors.UnsupportedResource, match="7 tasks make 3 Jobs"):
            k8s.far(source, max_parallel=2, backend_options=SMALL).map(range(7), chunksize=1)
        array = k8s.far(source, max_parallel=7, backend_options=SMALL).map(range(7), chunksize=1)
    until(lambda: {names.offset_of(pod) for pod in own(k8s, "pods", array) if phase(pod) == "Running"} == {0, 3, 6})
    array.cancel()
    assert own(k8s, "pods", array) == []
    assert [job["spec"]["suspend"] for job in own(k8s, "jobs", array)] == [True] * 3
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert [type(one) for one in found] == [errors.JobCancelled] * 7
    time.sleep(2)
    (told,) = json.loads(clustrix("gc", "--target", "k8s", "--older", "1s", "--json"))["targets"]
    assert str(array.id) in told["jobs"]
    until(lambda: not [thing for kind in ("jobs", "secrets") for thing in own(k8s, kind, array)])
