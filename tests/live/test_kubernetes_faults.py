# ruff: noqa: F811 - fixtures of another file
"""What goes wrong on Kubernetes, for real: registry, API server, node, clients; sizes; images that do not fit.

How pods end is in test_kubernetes_outcomes.py, what an account and a namespace refuse in test_kubernetes.py.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from clustrix import errors
from clustrix.backends.kubernetes import Kubernetes as Backend
from clustrix.kubernetes import names
from clustrix.kubernetes.connection import Cluster
from clustrix.kubernetes.place import Place as Site
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import ImageConfig
from clustrix.oci.upload import Upload
from tests.unit.build.bases import DEBIAN, make_base

from .test_kubernetes import LONG, Place, k8s, until  # noqa: F401 - fixtures
from .test_kubernetes_bed import node  # noqa: F401 - fixture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clustrix.handle import Job

    from .cluster import Node

pytestmark = [pytest.mark.live, pytest.mark.column("kubernetes"), pytest.mark.timeout(600)]

WAIT = """
    import os, time
    def wait(size=0):
        print("ready", flush=True)
        while not os.path.exists("/tmp/go"):
            time.sleep(0.02)
        return os.urandom(size) if size else os.environ["CLUSTRIX_POD_NAME"]
"""
SAVE = """
    import time
    def train():
        import clustrix
        clustrix.on_preempt(lambda: "step 7")
        print("ready", flush=True)
        time.sleep(1000)
"""
QUEUE = "not-there"
"""Nobody serves it: a job of this queue waits until a test starts it, as Kueue would."""


def running(place: Place, job: Any, *, but: str = "") -> dict[str, Any]:
    """Wait for a pod whose function has begun, another one than ``but``."""

    def begun() -> dict[str, Any] | None:
        for pod in place.get("pods"):
            name, live = pod["metadata"]["name"], pod["status"]["phase"] == "Running"
            gone = name == but or "deletionTimestamp" in pod["metadata"]
            if names.ulid_of(pod) == job.id.ulid and live and not gone and "ready" in log(place, name):
                return pod
        return None

    found: dict[str, Any] = until(begun)
    return found


def log(place: Place, pod: str) -> str:
    return place.cluster.kubectl("--namespace", place.namespace, "logs", pod, "--container=main", "--ignore-errors")


def go(node: Node, pod: dict[str, Any]) -> None:
    """Let the function in a pod end, whether or not the API server is there."""
    volumes = f"/var/lib/kubelet/pods/{pod['metadata']['uid']}/volumes"
    node.run("touch", f"{volumes}/kubernetes.io~empty-dir/scratch/go")


def start(place: Place, job: Job) -> None:
    """Take a job out of its queue."""
    change = '{"spec": {"suspend": false}}'
    name = names.job_name(job.id.ulid)
    place.cluster.kubectl("--namespace", place.namespace, "patch", "job", name, "--patch", change)


# --- the registry ---------------------------------------------------------------------------------


def test_the_registry_dies_during_a_push(k8s: Place, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = node.state / "registry"
    payload = os.urandom(64 << 20)
    hash_of = k8s.far("import hashlib\ndef hash_of(data): return hashlib.sha256(data).hexdigest()")
    before = set(uploads.rglob("_uploads/*"))
    killed = threading.Event()

    def kill() -> None:
        until(lambda: {path for path in uploads.rglob("_uploads/*/data") if path.stat().st_size} - before)
        node.kill("registry")
        killed.set()

    def pieces(upload: Upload, start: int, end: int) -> Iterator[bytes]:
        for number, piece in enumerate(all_pieces(upload, start, end)):
            if number == 1:
                assert killed.wait(LONG)  # or it might be over before
            yield piece

    all_pieces = Upload._pieces
    monkeypatch.setattr(Upload, "_pieces", pieces)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    job = hash_of.submit(payload)
    assert killed.is_set()
    assert job.result(LONG) == hashlib.sha256(payload).hexdigest()


@pytest.mark.proves("image unavailable")
def test_the_registry_is_away_when_an_image_is_pulled(k8s: Place, base_layout: Path, tmp_path: Path) -> None:
    image = k8s.cluster.load(changed(base_layout, tmp_path, Labels={"never": "pulled"}), f"pull-{os.getpid()}:1")
    job = k8s.far("def f(): pass", image=image, queue=QUEUE).submit()
    with k8s.cluster.without("registry"):
        start(k8s, job)
        with pytest.raises(errors.ImagePullFailed, match="connection refused"):
            job.result(LONG)
        with pytest.raises(errors.RegistryError, match="refused"):
            k8s.far("def f(): pass")()
    assert k8s.far("def f(): return 1")() == 1


def test_the_registry_is_away_when_a_payload_is_fetched_and_when_a_result_is_sent(k8s: Place, node: Node) -> None:
    source = "import os\ndef f(data):\n    print('ready', flush=True)\n    return data[::-1]"
    data = os.urandom(2 << 20)
    fetches = k8s.far(source, queue=QUEUE).submit(data)
    sends = k8s.far(WAIT).submit(2 << 20)
    pod = running(k8s, sends)
    with k8s.cluster.without("registry"):
        start(k8s, fetches)
        go(node, pod)
        until(lambda: [one for one in k8s.get("pods") if names.ulid_of(one) == fetches.id.ulid and _starts(one)])
        assert not sends.wait(3)
        assert not fetches.done()
    assert len(sends.result(LONG)) == 2 << 20
    assert fetches.result(LONG) == data[::-1]


def _starts(pod: dict[str, Any]) -> bool:
    return bool(pod["status"]["phase"] == "Running")


# --- the API server and the node ------------------------------------------------------------------


@pytest.mark.proves("server restart")
@pytest.mark.proves("connection cut while it runs")
def test_the_api_server_is_away_during_a_map(k8s: Place, node: Node) -> None:
    array = k8s.far(WAIT, max_parallel=2).map([0, 0], chunksize=1)
    pods = [running(k8s, array)]
    pods.append(running(k8s, array, but=pods[0]["metadata"]["name"]))
    seen: list[int] = []
    for job in array.jobs:
        job.add_done_callback(lambda job: seen.append(job.index))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with k8s.cluster.without("apiserver"):
            go(node, pods[0])
            meanwhile = pool.submit(k8s.far("def f(): return 1").submit)
            assert not array.wait(3)
        go(node, pods[1])
        assert meanwhile.result(LONG).result(LONG) == 1
    assert sorted(array.results(timeout=LONG)) == sorted(pod["metadata"]["name"] for pod in pods)
    assert sorted(seen) == [0, 1]


@pytest.mark.proves("node failure")
def test_a_node_is_lost_and_comes_back(k8s: Place, node: Node) -> None:
    job = k8s.far(WAIT).submit()
    pod = running(k8s, job)
    with k8s.cluster.without("kubelet"):
        late = k8s.far("def f(): return 1").submit()
        go(node, pod)
        assert not job.wait(2)
        assert not late.done()
    assert job.result(LONG) == pod["metadata"]["name"]
    assert late.result(LONG) == 1


# --- pods -----------------------------------------------------------------------------------------


@pytest.mark.proves("work saved before the end")
def test_who_is_evicted_may_save_its_work(k8s: Place) -> None:
    job = k8s.far(SAVE).submit()
    k8s.cluster.evict(running(k8s, job)["metadata"]["name"], k8s.namespace)
    with pytest.raises(errors.Preempted, match="taken away") as caught:
        job.result(LONG)
    assert caught.value.checkpoint == "step 7"


def test_what_it_saved_is_kept_while_nobody_looks(k8s: Place) -> None:
    """The Job has ended then, and the pod with its status is gone."""
    job = k8s.far(SAVE).submit()
    pod = running(k8s, job)["metadata"]["name"]
    k8s.cluster.evict(pod, k8s.namespace)
    until(lambda: not [one for one in k8s.get("pods") if one["metadata"]["name"] == pod])
    with pytest.raises(errors.Preempted) as caught:
        job.result(LONG)
    assert caught.value.checkpoint == "step 7"


# --- clients --------------------------------------------------------------------------------------


@pytest.mark.proves("reattach from another home")
@pytest.mark.proves("reattach without the journal")
def test_the_client_is_killed_and_another_home_has_the_value(k8s: Place, node: Node, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "clustrix.yml").write_text(yaml.safe_dump({"targets": {"k8s": k8s.settings}}))
    (tmp_path / "far.py").write_text(
        "import os, time\nfrom clustrix import cluster\n@cluster(target='k8s')\ndef wait():\n"
        "    print('ready', flush=True)\n    while not os.path.exists('/tmp/go'): time.sleep(0.02)\n"
        "    return os.environ['CLUSTRIX_POD_NAME']\nif __name__ == '__main__':\n"
        "    job = wait.submit()\n    print(job.id, flush=True)\n    job.result()\n"
    )
    first = {**os.environ, "HOME": str(tmp_path / "first"), "CLUSTRIX_STATE_DIR": str(tmp_path / "first" / "state")}
    argv = [sys.executable, "far.py"]
    with subprocess.Popen(argv, cwd=tmp_path, env=first, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        job = client.stdout.readline().strip()
        pods = until(lambda: [one for one in k8s.get("pods") if f"k8s/{names.ulid_of(one)}" == job])
        client.kill()
    until(lambda: "ready" in log(k8s, pods[0]["metadata"]["name"]))
    go(node, pods[0])
    until(lambda: k8s.get("pods") and _of(k8s, pods[0])["status"]["phase"] == "Succeeded")
    second = {**os.environ, "HOME": str(tmp_path / "second"), "CLUSTRIX_STATE_DIR": str(tmp_path / "second" / "state")}
    argv = [sys.executable, "-m", "clustrix", "result", job]
    done = subprocess.run(argv, cwd=tmp_path, env=second, capture_output=True, text=True, check=False, timeout=LONG)
    assert (done.returncode, done.stdout) == (0, f"{pods[0]['metadata']['name']!r}\n"), done.stderr


def _of(place: Place, pod: dict[str, Any]) -> dict[str, Any]:
    return place.cluster.get("pod", pod["metadata"]["name"], place.namespace)


def test_a_kubeconfig_that_has_expired(k8s: Place, node: Node, tmp_path: Path) -> None:
    k8s.configure(kubeconfig=str(k8s.cluster.kubeconfig_for(node.expired(), k8s.namespace, tmp_path / "kubeconfig")))
    with pytest.raises(errors.AuthenticationFailed) as caught:
        k8s.far("def f(): pass")()
    assert caught.value.remedy


@pytest.mark.proves("connection cut after acceptance")
def test_two_clients_submit_one_job(k8s: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a cut that hid what had been done: whoever comes second finds it by its name."""
    submit = Backend.submit

    def twice(backend: Backend, *job: Any) -> str:
        place = backend._place
        another = Cluster(place.cluster.context, place.cluster.namespace, place.cluster.kubeconfig)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            both = pool.map(lambda one: submit(one, *job), (backend, Backend(Site(another, place.config))))
        (name,) = set(both)
        return name

    monkeypatch.setattr(Backend, "submit", twice)
    job = k8s.far("import os\ndef f(): return os.environ['CLUSTRIX_POD_NAME']").submit()
    host = job.result(LONG)
    for kind, number in (("jobs", 1), ("secrets", 1), ("pods", 1)):
        assert len([one for one in k8s.get(kind) if names.ulid_of(one) == job.id.ulid]) == number
    assert host.startswith(names.job_name(job.id.ulid))


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.proves("big result")
def test_a_result_of_300_mb(k8s: Place) -> None:
    source = """
        import hashlib, os
        def make():
            data = b"".join(os.urandom(1 << 20) * 10 for _ in range(30))
            return hashlib.sha256(data).hexdigest(), data
    """
    told, data = k8s.far(source)()
    assert len(data) == 300 << 20
    assert hashlib.sha256(data).hexdigest() == told


def test_a_payload_of_200_mb(k8s: Place) -> None:
    data = b"".join(os.urandom(1 << 20) * 10 for _ in range(20))
    there = k8s.far("import hashlib\ndef f(data): return len(data), hashlib.sha256(data).hexdigest()")(data)
    assert there == (200 << 20, hashlib.sha256(data).hexdigest())


@pytest.mark.proves("many small results")
def test_a_thousand_results(k8s: Place) -> None:
    array = k8s.far("def f(x): return str(x) * 5000", max_parallel=2).map(range(1000))
    assert list(array.results(timeout=LONG)) == [str(x) * 5000 for x in range(1000)]


def test_a_map_of_200(k8s: Place) -> None:
    light = {"pod_template": {"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "10m"}}}]}}}
    array = k8s.far("def f(x): return 1 / (x - 100)", backend_options=light).map(range(200), chunksize=1)
    assert array.record.workers == 200
    found = list(array.results(timeout=4 * LONG, return_exceptions=True))
    assert isinstance(found.pop(100), ZeroDivisionError)
    assert found == [1 / (x - 100) for x in range(200) if x != 100]


# --- images ---------------------------------------------------------------------------------------


def changed(
    layout: Path, directory: Path, platform: str | None = None, link: tuple[str, str] | None = None, **settings: object
) -> Path:
    """Copy an image and change what its configuration says; ``link`` is a symbolic link to add."""
    copy = Layout(shutil.copytree(layout, directory / "image", copy_function=os.link))
    (copy.path / "index.json").unlink()  # so far it is the original's
    manifest = Layout(layout).manifest(Layout(layout).resolve().digest)
    config = ImageConfig.parse(copy.read_blob(manifest.config.digest))
    told = {**config.settings, **settings}
    config = dataclasses.replace(config, settings=told, platform=platform or config.platform, history=())
    if link is not None:
        make_base(directory / "link", [dict([link])])
        other = Layout(directory / "link")
        more = other.manifest(other.resolve().digest)
        below = ImageConfig.parse(other.read_blob(more.config.digest))
        copy.put_blob(other.read_blob(more.layers[0].digest))
        manifest = dataclasses.replace(manifest, layers=(*manifest.layers, *more.layers))
        config = dataclasses.replace(config, diff_ids=(*config.diff_ids, *below.diff_ids))
    copy.put_blob(config.encode())
    manifest = dataclasses.replace(manifest, config=config.descriptor)
    copy.put_blob(manifest.encode())
    copy.tag("latest", manifest.descriptor)
    return copy.path


def test_an_image_with_a_user(k8s: Place, base_layout: Path, tmp_path: Path) -> None:
    image = k8s.cluster.load(changed(base_layout, tmp_path, User="1234:1234"), f"user-{os.getpid()}:1")
    source = "import os, pathlib\ndef f():\n    (pathlib.Path.home() / 'x').touch()\n    return os.getuid()"
    assert k8s.far(source, image=image)() == 65532
    assert k8s.far(source, image=image, backend_options={"run_as_user": 1234})() == 1234


OURS = {"dev.clustrix.python": f"{sys.version_info[0]}.{sys.version_info[1]}"}


@pytest.mark.parametrize(
    ("labels", "platform", "error"),
    [
        ({}, None, errors.BaseImageError(r"has no Python \(looked for")),
        ({"dev.clustrix.python": "3.9"}, None, errors.EnvironmentMismatch("has Python 3.9")),
        (OURS, "linux/arm64", errors.ImageUnavailable("made for linux/arm64, not for linux/amd64")),
    ],
    ids=["no Python", "another minor", "another architecture"],
)
def test_an_image_that_does_not_fit_costs_no_job(
    k8s: Place, tmp_path: Path, labels: dict[str, str], platform: str | None, error: errors.ClustrixError
) -> None:
    before = len(k8s.get("jobs"))
    make_base(tmp_path / "base", [{path: what for path, what in DEBIAN.items() if "python" not in path}])
    name = f"unfit-{time.monotonic_ns()}:1"
    image = k8s.cluster.load(changed(tmp_path / "base", tmp_path, platform, Labels=labels), name)
    with pytest.raises(type(error), match=error.message):
        k8s.far("def f(): pass", image=image)()
    assert len(k8s.get("jobs")) == before


def test_an_image_that_says_it_has_our_python_and_does_not(k8s: Place, base_layout: Path, tmp_path: Path) -> None:
    image = k8s.cluster.load(changed(base_layout, tmp_path, Labels=OURS), f"lie-{os.getpid()}:1")
    with pytest.raises(errors.Unschedulable, match=r"/opt/clustrix/venv/bin/python.*no such file"):
        k8s.far("def f(): pass", image=image)()
