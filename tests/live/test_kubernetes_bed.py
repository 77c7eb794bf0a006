"""The Kubernetes test bed is real, does what other live tests lean on, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from . import cluster, servers

if TYPE_CHECKING:
    from .cluster import Kubernetes, Node

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]


def pod(name: str, image: str, code: str, **more: Any) -> dict[str, Any]:
    container = {"name": "main", "image": image, "command": ["python3", "-c", code], **more.pop("container", {})}
    spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def ended(bed: Kubernetes, name: str, namespace: str) -> dict[str, Any]:
    """Wait for a pod's container to end and return its `terminated` state."""

    def state() -> dict[str, Any] | None:
        statuses = bed.get("pod", name, namespace)["status"].get("containerStatuses", [])
        return next((one["state"]["terminated"] for one in statuses if "terminated" in one["state"]), None)

    cluster.wait_until(f"{name} to end", state)
    found = state()
    assert found is not None
    return found


def running(bed: Kubernetes, name: str, namespace: str) -> None:
    cluster.wait_until(f"{name} to run", lambda: bed.get("pod", name, namespace)["status"]["phase"] == "Running")


def waits_for(reason: str, bed: Kubernetes, name: str, namespace: str) -> None:
    """Wait until a pod's container cannot start for a reason (a pattern)."""

    def waits() -> bool:
        statuses = bed.get("pod", name, namespace)["status"].get("containerStatuses", [])
        return any(re.search(reason, one["state"].get("waiting", {}).get("message", "")) for one in statuses)

    cluster.wait_until(f"{name} to wait for {reason}", waits)


@pytest.fixture
def node(kubernetes: Kubernetes) -> Node:
    if kubernetes.node is None:
        pytest.skip("the cluster of CLUSTRIX_LIVE_KUBECONFIG is not ours to look into or to break")
    return kubernetes.node


REACH = """
import os, ssl, sys, urllib.request as web
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
headers = {"Authorization": "Bearer " + open(account + "token").read()}
asked = web.Request(f"https://{host}:{port}/version", headers=headers)
print(web.urlopen(asked, context=ssl.create_default_context(cafile=account + "ca.crt")).status)
print(web.urlopen(sys.argv[1] + "/v2/").status)
upload = web.urlopen(web.Request(sys.argv[1] + "/v2/bed/blob/blobs/uploads/", method="POST"))
where = upload.headers["Location"] + "&digest=" + sys.argv[2]
print(web.urlopen(web.Request(where, b"result", {"Content-Type": "application/octet-stream"}, method="PUT")).status)
"""


def test_a_job_runs_and_its_pod_reaches_the_registry_and_the_api(
    kubernetes: Kubernetes, kubernetes_base: str, kubernetes_namespace: str
) -> None:
    url = f"{'http' if kubernetes.plain_http else 'https'}://{kubernetes.registry}"
    template = {"spec": pod("", kubernetes_base, REACH)["spec"]}
    blob = f"sha256:{hashlib.sha256(b'result').hexdigest()}"
    template["spec"]["containers"][0]["command"] += [url, blob]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "reach"},
        "spec": {"template": template, "backoffLimit": 0},
    }
    kubernetes.create(job, namespace=kubernetes_namespace)
    cluster.wait_until(
        "the job to end", lambda: kubernetes.get("job", "reach", kubernetes_namespace)["status"].get("conditions")
    )
    assert kubernetes.kubectl("--namespace", kubernetes_namespace, "logs", "job/reach").split() == ["200", "200", "201"]
    assert kubernetes.get("job", "reach", kubernetes_namespace)["status"]["succeeded"] == 1
    assert httpx.get(f"{url}/v2/bed/blob/blobs/{blob}", timeout=30).content == b"result"


def test_memory_over_the_limit_is_a_kill(
    kubernetes: Kubernetes, kubernetes_base: str, kubernetes_namespace: str
) -> None:
    limits = {"resources": {"limits": {"memory": "64Mi"}}}
    greedy = pod("greedy", kubernetes_base, "x = bytearray(400 << 20)", container=limits)
    kubernetes.create(greedy, namespace=kubernetes_namespace)
    state = ended(kubernetes, "greedy", kubernetes_namespace)
    assert (state["reason"], state["exitCode"]) == ("OOMKilled", 137)


def test_a_sidecar_starts_first_and_ends_last(
    kubernetes: Kubernetes, kubernetes_base: str, kubernetes_namespace: str
) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('told'))); time.sleep(600)"
    )
    sidecar = {"name": "side", "image": kubernetes_base, "restartPolicy": "Always", "command": ["python3", "-uc", code]}
    both = pod("both", kubernetes_base, "import time; time.sleep(2)", initContainers=[sidecar])
    both["spec"]["terminationGracePeriodSeconds"] = 20
    kubernetes.create(both, namespace=kubernetes_namespace)
    phase = lambda: kubernetes.get("pod", "both", kubernetes_namespace)["status"]["phase"]  # noqa: E731
    cluster.wait_until("the pod to succeed", lambda: phase() == "Succeeded")
    assert kubernetes.kubectl("--namespace", kubernetes_namespace, "logs", "both", "-c", "side") == "told\n"


def test_admission_refuses(kubernetes: Kubernetes, kubernetes_base: str) -> None:
    strict = kubernetes.namespace(labels={"pod-security.kubernetes.io/enforce": "baseline"})
    with strict as namespace, pytest.raises(RuntimeError, match="violates PodSecurity"):
        kubernetes.create(pod("p", kubernetes_base, "0", hostNetwork=True), namespace=namespace)
    poor = kubernetes.namespace(quota={"pods": "0"})
    with poor as namespace, pytest.raises(RuntimeError, match="exceeded quota"):
        kubernetes.create(pod("p", kubernetes_base, "0"), namespace=namespace)


def test_a_registry_asks_for_the_password(kubernetes: Kubernetes, node: Node, kubernetes_base: str) -> None:
    def allowed(account: tuple[str, str] | None) -> int:
        return httpx.get(f"http://{node.auth_registry}/v2/", auth=account, timeout=30).status_code

    assert [allowed(one) for one in (None, ("clustrix", "wrong"), node.account)] == [401, 401, 200]
    image = kubernetes_base.replace(kubernetes.registry, node.auth_registry)
    config = {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": node.docker_config()}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"}, **config}
    stranger, friend = (pod(name, image, "print(6 * 7)") for name in ("stranger", "friend"))
    friend["spec"]["imagePullSecrets"] = [{"name": "pull"}]
    for one in (stranger, friend):
        one["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    with kubernetes.namespace() as namespace:
        kubernetes.create(secret, stranger, friend, namespace=namespace)
        assert ended(kubernetes, "friend", namespace)["exitCode"] == 0
        waits_for("authorization failed|401", kubernetes, "stranger", namespace)


def test_somebody_else_is_refused(
    kubernetes: Kubernetes, node: Node, kubernetes_namespace: str, tmp_path: Path
) -> None:
    def ask(user: dict[str, str]) -> str:
        path = kubernetes.kubeconfig_for(user, kubernetes_namespace, tmp_path / "kubeconfig")
        return servers.run(["kubectl", "get", "pods"], env={**kubernetes.env, "KUBECONFIG": str(path)})

    with pytest.raises(RuntimeError, match=r"Forbidden.*system:serviceaccount"):
        ask({"token": kubernetes.token(kubernetes_namespace)})
    for nobody in ({"token": "eyJ.e30.c2ln"}, node.expired()):
        with pytest.raises(RuntimeError, match=r"Unauthorized|asked for the client to provide credentials"):
            ask(nobody)


def test_helm_knows_the_cluster(kubernetes: Kubernetes, kubernetes_namespace: str) -> None:
    assert json.loads(kubernetes.helm("list", "--namespace", kubernetes_namespace, "--output=json")) == []
    assert re.match(r"v[34]\.", kubernetes.helm("version", "--template={{.Version}}"))


SLEEP = "import time; time.sleep(600)"


def test_faults(kubernetes: Kubernetes, node: Node, kubernetes_base: str) -> None:
    with kubernetes.namespace() as namespace:
        stays = [{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]
        kubernetes.create(pod("stays", kubernetes_base, SLEEP, tolerations=stays), namespace=namespace)
        running(kubernetes, "stays", namespace)
        with kubernetes.without("apiserver"), pytest.raises(RuntimeError, match="refused"):
            kubernetes.get("pod", "stays", namespace)
        with kubernetes.without("registry"):
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://{kubernetes.registry}/v2/", timeout=30)
            broken = pod("broken", kubernetes_base, "0")
            broken["spec"]["containers"][0]["imagePullPolicy"] = "Always"
            kubernetes.create(broken, namespace=namespace)
            waits_for("connection refused", kubernetes, "broken", namespace)
        ready = lambda: {  # noqa: E731
            one["type"]: one["status"] for one in kubernetes.get("pod", "stays", namespace)["status"]["conditions"]
        }["Ready"]
        with kubernetes.without("kubelet"):
            cluster.wait_until("the pod to be unready", lambda: ready() == "False")
        cluster.wait_until("the pod to be ready", lambda: ready() == "True")
        node.kill("controllers")
        kubernetes.evict("stays", namespace)
        cluster.wait_until(
            "the pod to be gone", lambda: "stays" not in kubernetes.kubectl("-n", namespace, "get", "pods")
        )


# --- nothing is left ------------------------------------------------------------------------------


SYSCTL = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


def machine() -> dict[str, object]:
    """What a node could change on this machine, whichever nodes others run beside it."""
    return {
        "rules": [line for line in servers.run(["iptables-save"]).splitlines() if "KUBE" in line],
        "sysctl": [Path("/proc/sys", name).read_text() for name in SYSCTL],
        "folders": [
            Path(name).exists() for name in ("/var/log/pods", "/var/lib/kubelet", "/var/lib/etcd", "/var/lib/cni")
        ],
    }


def traces(number: str, state: Path) -> list[str]:
    """What is there of a node: its network link, its cgroups, its mounts and its files."""
    links = re.findall(rf"clustrix-(?:kube|node){number}\b", servers.run(["ip", "-o", "link"]))
    cgroups = map(str, Path("/sys/fs/cgroup").glob(f"*/clustrix-kube{number}"))
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(state) in line]
    return [*links, *cgroups, *mounts, *(str(path) for path in (state / "lib", state / "registry") if path.exists())]


def inhabitants(namespace: str) -> list[str]:
    """The processes in a process namespace; those that end meanwhile are none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "ns" / "pid").readlink()) == namespace:
                found.append(process.name)
    return found


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_node_leaves_nothing(tmp_path: Path, end: signal.Signals) -> None:
    servers.need("kubernetes")
    servers.need("bases")
    before = machine()
    state, log = tmp_path / "state", tmp_path / "log"
    argv = [sys.executable, "-m", "tests.live.cluster", str(state)]
    with log.open("wb") as output, subprocess.Popen(argv, stdout=output, stderr=output, cwd=ROOT) as person:
        try:
            servers.wait_for("base image: .*\n", log, person, seconds=240)
            bed = cluster.given(state / "kubeconfig", tmp_path)
            bed.create(pod("long", f"{bed.registry}/base:bookworm", SLEEP), namespace="default")
            running(bed, "long", "default")
            namespace = str(Path("/proc", (state / "pid" / "node").read_text().strip(), "ns", "pid").readlink())
            number = bed.registry.split(".")[2]
            assert len(inhabitants(namespace)) > 10
            assert len(traces(number, state)) > 5
        finally:
            os.kill(person.pid, end)
    cluster.wait_until("its processes to end", lambda: not inhabitants(namespace))
    cluster.wait_until("everything else to go", lambda: not traces(number, state))
    assert machine() == before
