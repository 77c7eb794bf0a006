"""Jobs on real pods: a call, a map, their ends, and what can never start."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from clustrix import cli, cluster, config, errors
from clustrix.kubernetes import artifacts, names
from clustrix.oci.client import Client
from clustrix.oci.reference import Reference
from tests.conformance.desk import by_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clustrix.decorator import RemoteFunction

    from .cluster import Kubernetes

pytestmark = [pytest.mark.live, pytest.mark.column("kubernetes"), pytest.mark.timeout(600)]

LONG = 120.0


@dataclass(frozen=True)
class Place:
    """Name a namespace of a cluster, and make functions that run there."""

    cluster: Kubernetes
    namespace: str
    settings: dict[str, Any]

    def far(self, source: str, **options: object) -> RemoteFunction[..., Any]:
        return cluster(target="k8s", **options)(by_value(source))

    def configure(self, **changes: object) -> None:
        config.configure(targets={"k8s": {**self.settings, **changes}})

    def get(self, kind: str) -> list[dict[str, Any]]:
        said = self.cluster.kubectl("--namespace", self.namespace, "get", kind, "--output=json")
        found: list[dict[str, Any]] = json.loads(said)["items"]
        return found

    def job(self, handle: Any) -> dict[str, Any]:
        return self.cluster.get("job", names.job_name(handle.id.ulid), self.namespace)


def place_in(kubernetes: Kubernetes, namespace: str, image: str) -> Place:
    return Place(
        kubernetes,
        namespace,
        {
            "backend": "kubernetes",
            "kubeconfig": str(kubernetes.kubeconfig),
            "context": kubernetes.context,
            "namespace": namespace,
            "registry": f"{kubernetes.registry}/jobs",
            "insecure_registry": kubernetes.plain_http,
            "image": image,
        },
    )


@pytest.fixture
def k8s(kubernetes: Kubernetes, kubernetes_namespace: str, kubernetes_base: str) -> Place:
    """A target of that name, and the image of the test bed."""
    place = place_in(kubernetes, kubernetes_namespace, kubernetes_base)
    place.configure()
    return place


def until(true: Callable[[], Any], seconds: float = LONG) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, true
        time.sleep(0.1)
    return found


@pytest.mark.proves("success")
@pytest.mark.proves("live log line")
def test_a_call(k8s: Place, capsys: pytest.CaptureFixture[str]) -> None:
    double = k8s.far("def double(x):\n    print('doubling', x)\n    return 2 * x")
    assert double(21) == 42
    assert "doubling 21" in capsys.readouterr().out


@pytest.mark.proves("typed failure")
def test_an_exception(k8s: Place) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        k8s.far("def divide(x):\n    print('before the fall')\n    return x / 0")(1)
    assert "return x / 0" in str(caught.value.__cause__)
    assert "before the fall" in str(caught.value.__cause__)


@pytest.mark.proves("array with failed items")
@pytest.mark.proves("fewer tasks than items")
@pytest.mark.proves("max_parallel")
def test_a_map_is_one_job(k8s: Place) -> None:
    source = "def f(x):\n    if x == 3: raise LookupError(x)\n    return x * x"
    array = k8s.far(source, max_parallel=2, cores=1, backend_options={"labels": {"a": "b"}}).map(range(7))
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert [value if index != 3 else type(value) for index, value in enumerate(found)] == [
        0, 1, 4, LookupError, 16, 25, 36
    ]  # fmt: skip
    job = k8s.job(array)
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["metadata"]["labels"]["a"]) == (2, 2, "b")


def test_what_a_pod_may(k8s: Place) -> None:
    """No root, no privileges, no token, nothing to write on but what is ours; and a home, under a nameless user."""
    source = """
        import os, pathlib, subprocess, tempfile, getpass
        def look():
            found = {"uid": os.getuid(), "groups": os.getgroups(), "home": os.environ["HOME"]}
            pathlib.Path.home().joinpath("x").write_text("x")
            found["user"] = getpass.getuser()
            found["scratch"] = tempfile.gettempdir()
            tempfile.TemporaryFile().write(b"x")
            for place in ("/usr/x", "/x", "/clustrix-job/x", "/var/run/secrets/kubernetes.io"):
                try:
                    open(place, "w") if place.endswith("x") else os.listdir(place)
                except OSError as error:
                    found[place] = type(error).__name__
            wanted = ("NoNewPrivs", "CapEff", "Seccomp:")
            found["status"] = [line for line in open("/proc/self/status") if line.startswith(wanted)]
            return found
    """
    found = k8s.far(source)()
    assert (found["uid"], found["user"]) == (65532, "clustrix")
    assert found["home"].startswith("/clustrix")
    assert found["/usr/x"] == found["/x"] == found["/clustrix-job/x"] == "OSError"
    assert found["/var/run/secrets/kubernetes.io"] == "FileNotFoundError"
    said = {name: value.split()[0] for name, _, value in (line.partition(":") for line in found["status"])}
    assert said == {"NoNewPrivs": "1", "CapEff": "0000000000000000", "Seccomp": "2"}


@pytest.mark.proves("cancel running")
def test_cancelled_pods_are_gone(k8s: Place) -> None:
    job = k8s.far("import time\ndef rest():\n    print('ready', flush=True)\n    time.sleep(1000)").submit()
    until(lambda: "ready" in job.logs())
    assert job.cancel()
    with pytest.raises(errors.JobCancelled):
        job.result(LONG)
    assert not [pod for pod in k8s.get("pods") if names.ulid_of(pod) == job.id.ulid]
    assert job.status().state.value == "cancelled"


def test_ctrl_c_leaves_no_pod(k8s: Place, tmp_path: Path) -> None:
    """A blocking call that is interrupted ends its pods before the program ends."""
    (tmp_path / "clustrix.yml").write_text(yaml.safe_dump({"targets": {"k8s": k8s.settings}}))
    (tmp_path / "rest.py").write_text(
        "import time\nfrom clustrix import cluster\n@cluster(target='k8s')\ndef rest():\n"
        "    print('ready', flush=True)\n    time.sleep(1000)\nrest()\n"
    )
    client = subprocess.Popen(
        [sys.executable, "rest.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with contextlib.closing(client.stdout) as output:  # type: ignore[type-var]
        assert output is not None
        while "ready" not in (line := output.readline()):
            assert line
        started = [pod for pod in k8s.get("pods") if pod["status"]["phase"] == "Running"]
        client.send_signal(2)
        rest = output.read()
    assert client.wait(LONG) != 0
    assert "is cancelled" in rest
    left = {pod["metadata"]["name"] for pod in k8s.get("pods")}
    assert started
    assert not left & {pod["metadata"]["name"] for pod in started}


@pytest.mark.proves("image unavailable", refused="ImagePullFailed")
def test_an_image_that_nodes_cannot_pull(k8s: Place) -> None:
    """The registry has it, and nodes are told another name for the registry."""
    source = k8s.settings["image"].rpartition(":")[0]
    k8s.configure(registry=source, pod_registry=f"{source}-elsewhere")
    job = k8s.far("def f(): pass").submit()
    with pytest.raises(errors.ImagePullFailed, match=r"ErrImagePull|ImagePullBackOff") as caught:
        job.result(LONG)
    assert isinstance(caught.value, errors.ImageUnavailable)
    assert "not found" in caught.value.message
    until(lambda: not [pod for pod in k8s.get("pods") if names.ulid_of(pod) == job.id.ulid])
    assert job.status().state.value == "failed"


def test_a_registry_that_wants_a_login(k8s: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes pull with our login, and pods read payloads and leave results with it."""
    if k8s.cluster.node is None:
        pytest.skip("a cluster of somebody else has no such registry; without CLUSTRIX_LIVE_KUBECONFIG ours has")
    (tmp_path / "config.json").write_text(k8s.cluster.node.docker_config())
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    registry = k8s.cluster.node.auth_registry
    image = k8s.settings["image"].rpartition("/")[2]
    large = secrets.token_bytes(2 << 20)
    for courier in (False, True):
        k8s.configure(registry=f"{registry}/jobs", image=f"{registry}/{image}", courier=courier)
        assert k8s.far("def echo(x): return x")(large) == large


def test_an_image_that_does_not_exist_costs_no_job(k8s: Place) -> None:
    missing = f"{k8s.cluster.registry}/nowhere@sha256:{'0' * 64}"
    with pytest.raises(errors.ImageUnavailable, match="does not exist"):
        k8s.far("def f(): pass", image=missing)()


@pytest.mark.proves("unsatisfiable request", refused="Unschedulable")
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"cores": 500}, "Insufficient cpu"),
        ({"gpus": 1}, "Insufficient nvidia.com/gpu"),
        ({"mounts": ["nothing:/data"]}, 'persistentvolumeclaim "nothing" not found'),
        ({"backend_options": {"service_account": "nobody"}}, 'serviceaccount "nobody" not found'),
        ({"backend_options": {"node_selector": {"no": "node"}}}, "didn't match Pod's node affinity/selector"),
        ({"backend_options": {"priority_class": "none"}}, "no PriorityClass with name none"),
    ],
)
def test_what_can_never_start_says_so_at_once(k8s: Place, asked: dict[str, Any], words: str) -> None:
    job = k8s.far("def f(): pass", **asked).submit()
    with pytest.raises(errors.Unschedulable) as caught:
        job.result(LONG)
    assert words in caught.value.message
    assert k8s.job(job)["spec"]["suspend"] is True  # it holds no place


@pytest.mark.proves("refusal in the scheduler's words", refused="SubmitRejected")
def test_the_server_s_refusal(k8s: Place) -> None:
    before = len(k8s.get("jobs"))
    with pytest.raises(errors.SubmitRejected, match="a valid label must be"):
        k8s.far("def f(): pass", backend_options={"labels": {"a": "no label!"}})()
    assert len(k8s.get("jobs")) == before


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"quota": {"pods": "0"}}, "exceeded quota"),
        ({"quota": {"requests.cpu": "500m"}}, "exceeded quota"),
        ({"quota": {"limits.memory": "1Gi"}}, "must specify limits.memory"),
    ],
)
def test_a_quota_that_leaves_no_room(kubernetes: Kubernetes, kubernetes_base: str, made: Any, words: str) -> None:
    with kubernetes.namespace(**made) as space:
        place_in(kubernetes, space, kubernetes_base).configure()
        with pytest.raises(errors.Unschedulable, match=words):
            cluster(target="k8s")(by_value("def f(): pass"))()


def test_pods_pass_the_strictest_standard(kubernetes: Kubernetes, kubernetes_base: str) -> None:
    """Admission refuses what is less than `restricted`, and tells why."""
    strict = {"pod-security.kubernetes.io/enforce": "restricted"}
    with kubernetes.namespace(labels=strict) as space:
        place = place_in(kubernetes, space, kubernetes_base)
        place.configure()
        assert place.far("def f(x): return x")(1) == 1
        place.configure(courier=True)
        assert place.far("def f(x): return x")(1) == 1


@pytest.mark.parametrize("whose", ["namespace", "rights", "token"])
def test_what_the_account_may_not_is_typed(k8s: Place, tmp_path: Path, whose: str) -> None:
    if whose == "namespace":
        k8s.configure(namespace="not-there")
        kind, words = errors.ConfigError, 'namespaces "not-there" not found'
    else:
        token = k8s.cluster.token(k8s.namespace) if whose == "rights" else "none"
        file = k8s.cluster.kubeconfig_for({"token": token}, k8s.namespace, tmp_path / "kubeconfig")
        k8s.configure(kubeconfig=str(file))
        kind = errors.AccessDenied if whose == "rights" else errors.AuthenticationFailed
        words = 'cannot create resource "jobs"' if whose == "rights" else "Unauthorized"
    with pytest.raises(kind) as caught:
        k8s.far("def f(): pass")()
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert caught.value.remedy


def clustrix(*argv: str, status: int = 0) -> str:
    done = CliRunner().invoke(cli.main, list(argv))
    assert done.exit_code == status, done.output
    return done.stdout


def test_doctor(k8s: Place) -> None:
    rows = {row["check"]: row for row in json.loads(clustrix("doctor", "--target", "k8s", "--deep", "--json"))}
    assert {row["status"] for name, row in rows.items() if name.startswith("target k8s")} == {"ok"}
    assert rows["target k8s: rights"]["found"] == "all 16 that are needed"
    assert "came back" in rows["target k8s: output"]["found"]


def test_doctor_names_every_right_that_is_missing(k8s: Place, tmp_path: Path) -> None:
    token = k8s.cluster.token(k8s.namespace)
    k8s.configure(kubeconfig=str(k8s.cluster.kubeconfig_for({"token": token}, k8s.namespace, tmp_path / "kubeconfig")))
    rows = {row["check"]: row for row in json.loads(clustrix("doctor", "--target", "k8s", "--json", status=1))}
    assert rows["target k8s: rights"]["status"] == "fail"
    for right in ("create jobs", "watch pods", "get pods/log", "create secrets", "list events"):
        assert right in rows["target k8s: rights"]["found"]


@pytest.mark.proves("cleanup")
def test_gc_removes_the_old_and_nothing_that_runs(k8s: Place) -> None:
    ended = k8s.far("def one(): return 1").submit()
    assert ended.result(LONG) == 1
    until(lambda: k8s.job(ended)["status"].get("completionTime"))
    rests = k8s.far("import time\ndef rest(): time.sleep(1000)").submit()
    try:
        gc = ("gc", "--target", "k8s", "--older", "1s", "--json")
        running = {str(rests.id): "it has not ended"}  # of jobs of other tests, all that is left has ended by then
        until(lambda: json.loads(clustrix(*gc, "--dry-run"))["targets"][0]["kept"] == running)
        time.sleep(1)
        (told,) = json.loads(clustrix(*gc))["targets"]
        assert str(ended.id) in told["jobs"]
        assert told["kept"] == running
        until(lambda: ended.id.ulid not in {names.ulid_of(secret) for secret in k8s.get("secrets")})
        assert rests.id.ulid in {names.ulid_of(secret) for secret in k8s.get("secrets")}
        labels = [thing["metadata"].get("labels", {}) for thing in k8s.get("configmaps")]
        bundles = {row[names.BUNDLE] for row in labels if names.BUNDLE in row}
        assert set(k8s.job(rests)["metadata"]["annotations"][names.BUNDLES].split(",")) <= bundles
    finally:
        rests.cancel()


@pytest.mark.proves("cleanup")
def test_gc_finds_what_removed_jobs_left_in_the_registry(k8s: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payload and outcome of a job that somebody deleted; those of another namespace, in the same repository, stay."""
    repository = f"{k8s.cluster.registry}/gc-{secrets.token_hex(4)}"
    k8s.configure(registry=repository)
    large = secrets.token_bytes(1 << 20)
    echo = k8s.far("def echo(x): return x")
    gone = [echo.submit(large) for _ in range(2)]
    assert all(job.result(LONG) == large for job in gone)
    stays = echo.submit(large)
    assert stays.result(LONG) == large
    with Client(insecure=True) as client:
        tags = lambda: set(client.tags(Reference.parse(repository), ""))  # noqa: E731
        theirs = tags()
        assert len(theirs) == 6
        k8s.cluster.kubectl("--namespace", k8s.namespace, "delete", "job", *(names.job_name(j.id.ulid) for j in gone))
        monkeypatch.setattr(artifacts, "_UNDER_WAY", 0.0)  # else they had to be an hour old
        argv = ("gc", "--target", "k8s", "--older", "1s")
        with kubernetes_elsewhere(k8s, repository):
            assert not [line for line in clustrix(*argv, "--dry-run").splitlines() if "artifacts/" in line]
        said = [line.split() for line in clustrix(*argv, "--dry-run").splitlines() if "artifacts/" in line]
        sizes = {path.partition("/")[2]: f"{size} {unit}" for size, unit, path in said}
        going = {tag for tag in theirs if not tag.startswith(artifacts.prefix(stays.id.ulid))}
        assert sizes.keys() == going
        assert set(sizes.values()) <= {"1.0 MB", "1.1 MB"}  # a mebibyte, and a little
        assert tags() == theirs
        (told,) = json.loads(clustrix(*argv, "--json"))["targets"]
        assert {path.partition("/")[2] for path in told["shared"] if path.startswith("artifacts/")} == going
        until(lambda: clustrix(*argv) and not tags())  # the other one ends, too, and then is old enough


@contextlib.contextmanager
def kubernetes_elsewhere(k8s: Place, repository: str) -> Iterator[None]:
    """Work in another namespace that uses the same repository."""
    with k8s.cluster.namespace() as space:
        k8s.configure(registry=repository, namespace=space)
        yield
    k8s.configure(registry=repository)


def test_the_manifest_is_one_that_kubectl_applies(k8s: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fit.py").write_text("print('x')\n")
    monkeypatch.chdir(tmp_path)
    apply = ["--namespace", k8s.namespace, "apply", "--dry-run=server", "--filename=-"]
    for verb in ("run", "submit"):
        text = clustrix(verb, "--dry-run", "--target", "k8s", "fit.py")
        assert "created (server dry run)" in k8s.cluster.kubectl(*apply, stdin=text)


def test_what_was_read_may_go(k8s: Place) -> None:
    job = k8s.far("def one(): return 1", backend_options={"ttl_seconds": 0}).submit()
    assert job.result(LONG) == 1
    kinds = ("jobs", "pods", "secrets")
    until(lambda: job.id.ulid not in {names.ulid_of(thing) for kind in kinds for thing in k8s.get(kind)})
