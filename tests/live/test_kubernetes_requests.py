# ruff: noqa: F811 - fixtures of another file
"""What jobs on Kubernetes may ask for and see, how they wait, and who else may end them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from clustrix import errors
from clustrix.kubernetes import names

from .test_kubernetes import LONG, Place, k8s, until  # noqa: F401 - fixture
from .test_kubernetes_bed import node  # noqa: F401 - fixture
from .test_kubernetes_faults import QUEUE, changed, running, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .cluster import Node

pytestmark = [pytest.mark.live, pytest.mark.column("kubernetes"), pytest.mark.timeout(600)]

REST = "import time\ndef rest():\n    print('ready', flush=True)\n    time.sleep(1000)"


@pytest.mark.proves("cores and memory")
@pytest.mark.proves("scheduler's own options")
def test_amounts_and_options_are_in_the_pod(k8s: Place) -> None:
    options = {
        "labels": {"team": "a"},
        "annotations": {"note": "b"},
        "empty_dirs": {"/scratch": "10MB"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "ephemeral_storage": "1GB",
    }
    source = """
        import os
        def look():
            open("/scratch/x", "w").close()
            limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"
            return int(open(next(filter(os.path.exists, limit))).read())
    """
    job = k8s.far(source, cores=2, memory="256MiB", backend_options=options).submit()
    assert job.result(LONG) == 256 << 20
    (pod,) = [one for one in k8s.get("pods") if names.ulid_of(one) == job.id.ulid]
    amounts = {"cpu": "2", "memory": str(256 << 20), "ephemeral-storage": str(1 << 30)}
    assert pod["spec"]["containers"][0]["resources"] == {"requests": amounts, "limits": amounts}
    assert (pod["metadata"]["labels"]["team"], pod["metadata"]["annotations"]["note"]) == ("a", "b")
    assert "spot" in {row.get("key") for row in pod["spec"]["tolerations"]}


@pytest.fixture
def gpus(k8s: Place, node: Node) -> Iterator[str]:
    """A resource of which the node has two, as its API counts them: no device is behind it."""
    name = f"test.clustrix.dev/gpu-{secrets.token_hex(2)}"
    path = f"/status/capacity/{name.replace('/', '~1')}"
    (there,) = k8s.get("nodes")

    def patch(*argv: str) -> None:
        k8s.cluster.kubectl("patch", "node", there["metadata"]["name"], *argv)

    patch("--subresource=status", "--type=json", f'--patch=[{{"op":"add","path":"{path}","value":"2"}}]')
    patch('--patch={"metadata":{"labels":{"nvidia.com/gpu.product":"H100"}}}')
    until(lambda: k8s.get("nodes")[0]["status"]["allocatable"].get(name) == "2")
    yield name
    patch("--subresource=status", "--type=json", f'--patch=[{{"op":"remove","path":"{path}"}}]')
    patch('--patch={"metadata":{"labels":{"nvidia.com/gpu.product":null}}}')


@pytest.mark.proves("GPU")
def test_a_gpu_of_a_kind(k8s: Place, gpus: str) -> None:
    asked = {"gpus": 1, "backend_options": {"gpu_resource": gpus}}
    job = k8s.far("def f(): return 1", gpu_type="H100", **asked).submit()
    assert job.result(LONG) == 1
    (pod,) = [one for one in k8s.get("pods") if names.ulid_of(one) == job.id.ulid]
    assert pod["spec"]["containers"][0]["resources"]["limits"][gpus] == "1"
    with pytest.raises(errors.Unschedulable, match="node affinity/selector"):
        k8s.far("def f(): pass", gpu_type="A100", **asked)()
    with pytest.raises(errors.Unschedulable, match=f"Insufficient {gpus}"):
        k8s.far("def f(): pass", **{**asked, "gpus": 3})()


@pytest.mark.proves("several nodes", refused="UnsupportedResource")
@pytest.mark.proves("account", refused="UnsupportedResource")
@pytest.mark.proves("modules", refused="UnsupportedResource")
def test_what_kubernetes_does_not_have(k8s: Place) -> None:
    before = len(k8s.get("jobs"))
    asked: dict[str, Any] = {"nodes": 2, "account": "me", "modules": ["gcc"], "partition": "p", "mounts": ["/data"]}
    for name, value in asked.items():
        with pytest.raises(errors.UnsupportedResource, match=name if name != "mounts" else "/data") as caught:
            k8s.far("def f(): pass", **{name: value})()
        assert caught.value.remedy
    assert len(k8s.get("jobs")) == before


@pytest.mark.proves("partition or queue")
@pytest.mark.proves("why it waits")
@pytest.mark.proves("cancel queued")
def test_a_queue_holds_a_job_until_its_turn(k8s: Place) -> None:
    """Kueue is not there: this test does what it does, and what is cancelled is gone before it could."""
    job, other = (k8s.far("def f(): return 1", queue=QUEUE).submit() for _ in range(2))
    label = k8s.job(job)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    status = job.status()
    assert (label, status.state.value, status.reason) == (QUEUE, "waiting", f"waits in the queue {QUEUE}")
    start(k8s, job)
    assert job.result(LONG) == 1
    assert other.cancel()
    with pytest.raises(errors.JobCancelled):
        other.result(LONG)
    until(lambda: other.id.ulid not in map(names.ulid_of, k8s.get("jobs")))


@pytest.mark.proves("why it waits")
def test_a_job_waits_for_cores_in_the_scheduler_s_words(k8s: Place) -> None:
    allocatable = k8s.get("nodes")[0]["status"]["allocatable"]["cpu"]
    first = k8s.far(REST, cores=int(allocatable)).submit()
    running(k8s, first)
    second = k8s.far("def f(): return 1", cores=1).submit()
    reason = until(lambda: second.status().reason)
    assert "Insufficient cpu" in reason
    assert not second.done()
    assert first.cancel()
    assert second.result(LONG) == 1


@pytest.mark.proves("preemption")
@pytest.mark.proves("queued again")
def test_a_job_of_a_higher_priority_takes_the_place(k8s: Place) -> None:
    high = f"high-{secrets.token_hex(4)}"
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": high}, "value": 1000}
    allocatable = int(k8s.get("nodes")[0]["status"]["allocatable"]["cpu"])
    k8s.cluster.create(kind, namespace=k8s.namespace)
    try:
        low = k8s.far(REST, cores=allocatable).submit()
        first = running(k8s, low)
        urgent = k8s.far("def f(): return 1", cores=allocatable, backend_options={"priority_class": high})
        assert urgent() == 1
        running(k8s, low, but=first["metadata"]["name"])
        assert not low.done()
        assert low.cancel()
    finally:
        k8s.cluster.kubectl("delete", "priorityclass", high)


@pytest.mark.proves("cancelled by somebody else")
def test_somebody_else_cancels(k8s: Place, tmp_path: Path) -> None:
    job = k8s.far(REST).submit()
    running(k8s, job)
    (tmp_path / "clustrix.yml").write_text(yaml.safe_dump({"targets": {"k8s": k8s.settings}}))
    elsewhere = {**os.environ, "CLUSTRIX_STATE_DIR": str(tmp_path / "state")}
    argv = [sys.executable, "-m", "clustrix", "cancel", str(job.id)]
    subprocess.run(argv, cwd=tmp_path, env=elsewhere, check=True, capture_output=True, timeout=LONG)
    with pytest.raises(errors.JobCancelled):
        job.result(LONG)


@pytest.mark.proves("lost job")
def test_somebody_deletes_the_job(k8s: Place) -> None:
    job = k8s.far(REST).submit()
    running(k8s, job)
    k8s.cluster.kubectl("--namespace", k8s.namespace, "delete", "job", names.job_name(job.id.ulid), "--wait=false")
    with pytest.raises((errors.JobLost, errors.Preempted)) as caught:
        job.result(LONG)
    assert caught.value.remedy


@pytest.mark.proves("job in an error state", refused="Unschedulable")
def test_a_pod_that_cannot_be_made(k8s: Place) -> None:
    """Its container wants a key of a Secret that is not there."""
    wants = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "nothing", "key": "x"}}}
    options = {"pod_template": {"spec": {"containers": [{"name": "main", "env": [wants]}]}}}
    with pytest.raises(errors.Unschedulable, match='secret "nothing" not found'):
        k8s.far("def f(): pass", backend_options=options)()


@pytest.fixture
def claim(k8s: Place, node: Node, tmp_path: Path) -> Iterator[Path]:
    """A PersistentVolumeClaim ``data``; what it holds is a directory of this machine."""
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o777)
    (tmp_path / "below").mkdir(mode=0o777)
    (tmp_path / "below").chmod(0o777)
    volume = f"{k8s.namespace}-data"
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    k8s.cluster.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {**common, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(tmp_path)}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data"},
            "spec": {**common, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": volume},
        },
        namespace=k8s.namespace,
    )
    yield tmp_path
    k8s.cluster.kubectl("--namespace", k8s.namespace, "delete", "persistentvolumeclaim", "data", "--wait=false")
    k8s.cluster.kubectl("delete", "persistentvolume", volume, "--wait=false")


@pytest.mark.proves("mounts")
@pytest.mark.proves("mounts at another path, or read-only")
@pytest.mark.proves("failed items run again alone")
def test_a_claim_is_mounted_and_failed_items_run_again(k8s: Place, claim: Path) -> None:
    source = """
        import pathlib
        def work(x):
            with open("/data/ran", "a") as file:
                file.write(f"{x} ")
            if x in (1, 3) and not pathlib.Path("/seen/mended").exists():
                raise ValueError(x)
            try:
                pathlib.Path("/seen/mine").touch()
            except OSError:
                return x
    """
    array = k8s.far(source, mounts=["data:/data", "data/below:/seen:ro"], max_parallel=2).map(range(5))
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert [type(value) for value in found] == [int, ValueError, int, ValueError, int]
    (claim / "below" / "mended").touch()
    assert list(array.retry_failed().results(timeout=LONG)) == [1, 3]
    assert sorted((claim / "ran").read_text().split()) == ["0", "1", "1", "2", "3", "3", "4"]


@pytest.mark.proves("other environment", refused="EnvironmentMismatch")
def test_an_image_that_holds_something_else_than_it_says(k8s: Place, base_layout: Path, tmp_path: Path) -> None:
    labels = {"dev.clustrix.fingerprint": f"sha256:{'0' * 64}", "dev.clustrix.python": "3.11"}
    link = "opt/clustrix/venv/bin/python", "/usr/bin/python3"
    here = changed(base_layout, tmp_path, link=link, Labels=labels)
    image = k8s.cluster.load(here, f"other-{os.getpid()}:1")
    with pytest.raises(errors.EnvironmentMismatch):
        k8s.far("def f(): print('ran')", image=image)()
