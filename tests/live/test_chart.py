"""The chart, by a real helm on a real cluster; and the image of the command line, which its own test runs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from clustrix import cluster, config
from clustrix.kubernetes.connection import RIGHTS
from clustrix.oci.client import Client
from clustrix.oci.reference import Reference
from tests.conformance.desk import by_value

from . import servers
from .cluster import Kubernetes, wait_until

if TYPE_CHECKING:
    import docker

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
CHART = str(ROOT / "charts/clustrix")
GOLDEN = ROOT / "tests/golden/chart"
SETS = sorted(path.name for path in GOLDEN.iterdir())
KUEUE = ("--api-versions", "kueue.x-k8s.io/v1beta1/LocalQueue")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def documents(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}


# --- without installing anything ------------------------------------------------------------------


@pytest.mark.parametrize("which", SETS)
def test_lint_and_golden(kubernetes: Kubernetes, which: str) -> None:
    values = str(GOLDEN / which / "values.yaml")
    kubernetes.helm("lint", "--strict", CHART, "--values", values)
    made = kubernetes.helm("template", "clustrix", CHART, "--namespace", "team", "--values", values, *KUEUE)
    assert documents(made) == documents((GOLDEN / which / "manifests.yaml").read_text())


def test_values_in_the_documentation_are_accepted(kubernetes: Kubernetes, tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/install-the-chart.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    for text in blocks:
        (tmp_path / "values.yaml").write_text(text)
        kubernetes.helm("template", "clustrix", CHART, "--values", str(tmp_path / "values.yaml"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("regisrty.enabled=true", "regisrty"),
        ("registry.enable=true", "enable"),
        ("policy.max.core=4", "core"),
        ("defaults.backend_options.tolerates=x", "tolerates"),
        ("policy.forbidden_options={toleration}", "forbidden_options"),
        ("defaults.backend_options.run_as_user=0", "run_as_user"),
        ("defaults.backend_options.empty_dirs.scratch=1Gi", "empty_dirs"),
        ("defaults.backend_options.ephemeral_storage=much", "ephemeral_storage"),
        ("defaults.pod_template.spec.hostNetwork=true", "hostNetwork"),
        ("policy.max.time=3600", "policy/max/time"),
        ("policy=null", "missing property 'policy'"),
        ("registry.enabled=sometimes", "enabled"),
        ("registry.image=registry:latest", "image"),
        ("test.image=python", "image"),
        ("registry.htpasswd=alice:secret", "htpasswd"),
        ("access.serviceAccounts[0].namespace=ci", "name"),
        ("registry.enabled=true", "registry.htpasswd or registry.existingSecret"),
        ("networkPolicy.restrictEgress=true", "networkPolicy.egress"),
        ("kueue.enabled=true,kueue.clusterQueue=team", "install Kueue first"),
    ],
)
def test_what_is_wrong_is_refused_by_name(kubernetes: Kubernetes, values: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(words)):
        kubernetes.helm("template", "clustrix", CHART, "--set", values)


# --- installed ------------------------------------------------------------------------------------


def build(context: Path, *arguments: str) -> str:
    """Build an image without a network, as nothing that it needs is fetched while it is built; give its id."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}  # Debian packages no buildx
    argv = ["docker", "build", "--quiet", "--network", "none", *arguments, str(context)]
    return servers.run(argv, env=environment).strip()


def push(kubernetes: Kubernetes, image: str, name: str) -> str:
    """Copy an image of the engine, by its id, into the cluster's registry, and give its reference."""
    servers.need("skopeo")
    reference = f"{kubernetes.registry}/{name}"
    verify = f"--dest-tls-verify={str(not kubernetes.plain_http).lower()}"
    skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", verify]
    servers.run([*skopeo, f"docker-daemon:{image}", f"docker://{reference}"])
    return reference


@pytest.fixture(scope="module")
def registry_image(
    kubernetes: Kubernetes, docker_engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Debian's registry on the base; where nothing else is said it does nothing, for ever."""
    servers.need("registry")
    context = tmp_path_factory.mktemp("registry-image")
    shutil.copy(shutil.which("docker-registry") or "", context)
    base = servers.bases()["debian"].tag
    lines = (f"FROM {base}", "COPY docker-registry /usr/bin/docker-registry", 'CMD ["sleep", "infinity"]')
    (context / "Dockerfile").write_text("\n".join(lines))
    image = build(context)
    reference = push(kubernetes, image, "chart-registry:2")
    servers.run(["docker", "rmi", image])
    return reference


@pytest.fixture
def values(registry_image: str, kubernetes_base: str) -> dict[str, Any]:
    """Values for a cluster that can pull nothing from the internet."""
    registry = {"image": registry_image, "command": ["docker-registry"], "persistence": {"enabled": False}}
    return {"registry": registry, "test": {"image": kubernetes_base}, "prepull": {"pauseImage": registry_image}}


class Release:
    """One release in one namespace."""

    def __init__(self, kubernetes: Kubernetes, namespace: str, values: dict[str, Any], directory: Path) -> None:
        self.kubernetes = kubernetes
        self.namespace = namespace
        self._values = directory / f"{namespace}.yaml"
        self._values.write_text(yaml.safe_dump(values))

    def helm(self, command: str, *arguments: str) -> str:
        given = (CHART, "--values", str(self._values)) if command in {"install", "upgrade"} else ()
        return self.kubernetes.helm(command, "clustrix", *given, "--namespace", self.namespace, *arguments)

    def kubectl(self, *arguments: str) -> str:
        return self.kubernetes.kubectl("--namespace", self.namespace, *arguments)

    def objects(self) -> set[str]:
        """Name everything in the namespace but what was reported of it."""
        kinds = self.kubectl("api-resources", "--verbs=list", "--namespaced", "--output=name").split()
        wanted = ",".join(kind for kind in kinds if not kind.startswith(("events", "pods.metrics")))
        return set(self.kubectl("get", wanted, "--ignore-not-found", "--output=name").split())

    def defaults(self) -> dict[str, Any]:
        data = self.kubernetes.get("configmap", "clustrix-defaults", self.namespace)["data"]
        return dict(yaml.safe_load(data["defaults.yaml"]))

    def ready(self) -> None:
        self.kubectl("rollout", "status", "deployment/clustrix-registry", "--timeout=90s")

    def pulled(self) -> list[str]:
        """Name the images that the nodes have pulled ahead."""
        found = self.kubectl("get", "pods", "--selector=app.kubernetes.io/component=prepull", "--output=json")
        states = [one for pod in json.loads(found)["items"] for one in pod["status"].get("initContainerStatuses", [])]
        return [state["image"] for state in states if "terminated" in state["state"]]


def test_install_test_upgrade_rollback_uninstall(
    kubernetes: Kubernetes, kubernetes_base: str, values: dict[str, Any], tmp_path: Path
) -> None:
    """In a namespace that enforces the restricted standard; afterwards it is as it was."""
    values["registry"] |= {"enabled": True, "anonymous": True}
    values["prepull"] |= {"images": [kubernetes_base]}
    values["resourceQuota"] = {"hard": {"count/jobs.batch": "50"}}
    values["limitRange"] = {"limits": [{"type": "Container", "default": {"memory": "1Gi"}}]}
    with kubernetes.namespace(labels=RESTRICTED) as namespace:
        release = Release(kubernetes, namespace, values, tmp_path)
        before = release.objects()
        with pytest.raises(RuntimeError, match="acess"):
            release.helm("install", "--set", "acess.users={alice}")
        assert release.objects() == before

        assert f"namespace: {namespace}" in release.helm("install", "--set", "access.groups={physics}")
        release.ready()
        release.helm("test")
        wait_until("what is pulled ahead", lambda: len(release.pulled()) == 1)
        release.helm("upgrade", "--set", "policy.max.cores=2")
        assert release.defaults()["policy"] == {"max": {"cores": 2}}
        release.helm("rollback")
        assert "policy" not in release.defaults()

        release.helm("uninstall")
        wait_until("all to be gone", lambda: release.objects() <= before)
        assert release.objects() == before


def test_the_claim_stays_only_if_the_values_say_so(
    kubernetes: Kubernetes, values: dict[str, Any], tmp_path: Path
) -> None:
    values["registry"] |= {"enabled": True, "anonymous": True, "persistence": {"storageClass": "none"}}
    claim = "persistentvolumeclaim/clustrix-registry"
    with kubernetes.namespace() as namespace:
        release = Release(kubernetes, namespace, values, tmp_path)
        release.helm("install", "--set", "registry.persistence.keep=true")
        release.helm("uninstall")
        assert claim in release.objects()
        release.helm("install")  # takes it over
        release.helm("uninstall")
        wait_until("the claim to go", lambda: claim not in release.objects())


@contextlib.contextmanager
def forwarded(release: Release, log: Path) -> Iterator[str]:
    """Reach the chart's registry from here."""
    argv = ["kubectl", "--context", release.kubernetes.context, "--namespace", release.namespace]
    argv += ["port-forward", "service/clustrix-registry", ":5000", "--address=127.0.0.1"]
    with servers.process(argv, log, env=release.kubernetes.env) as process:
        yield f"127.0.0.1:{servers.wait_for(r'Forwarding from 127.0.0.1:([0-9]+)', log, process)[1]}"


def test_a_registry_lets_in_who_has_a_password(kubernetes: Kubernetes, values: dict[str, Any], tmp_path: Path) -> None:
    """Over TLS; first with a Secret that the chart makes, then with one that was there."""
    alice, bob = (secrets.token_hex(8) for _ in range(2))
    values["registry"] |= {"enabled": True, "htpasswd": user_line("alice", alice), "tlsSecret": "tls"}
    key, certificate = str(tmp_path / "tls.key"), str(tmp_path / "tls.crt")
    openssl = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    names = ["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    servers.run([*openssl, *names, "-keyout", key, "-out", certificate])
    with kubernetes.namespace() as namespace:
        release = Release(kubernetes, namespace, values, tmp_path)
        release.kubectl("create", "secret", "tls", "tls", f"--key={key}", f"--cert={certificate}")
        release.kubectl("create", "secret", "generic", "users", f"--from-literal=htpasswd={user_line('bob', bob)}")
        release.helm("install")
        release.ready()
        release.helm("test")
        assert uploads(release, certificate, tmp_path) == 401
        assert uploads(release, certificate, tmp_path, ("alice", bob)) == 401
        assert uploads(release, certificate, tmp_path, ("alice", alice)) == 202

        release.helm("upgrade", "--set", "registry.htpasswd=,registry.existingSecret=users")
        release.ready()
        assert uploads(release, certificate, tmp_path, ("alice", alice)) == 401
        assert uploads(release, certificate, tmp_path, ("bob", bob)) == 202


def user_line(name: str, password: str) -> str:
    import bcrypt

    return f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"


def uploads(release: Release, certificate: str, directory: Path, login: tuple[str, str] | None = None) -> int:
    """Give the answer to the wish to push."""
    trust = ssl.create_default_context(cafile=certificate)
    with forwarded(release, directory / "forward.log") as address:
        return httpx.post(f"https://{address}/v2/clustrix/blobs/uploads/", auth=login, verify=trust).status_code


def run_a_job(release: Release, name: str, base: Path, directory: Path, **target: str) -> None:
    """Have an image, a payload and a result of a real job go by way of the chart's registry."""
    cluster_ = release.kubernetes
    (directory / "requirements.txt").write_text("six==1.17.0\n")
    own = {"backend": "kubernetes", "context": cluster_.context, "namespace": release.namespace, **target}
    here = {"kubeconfig": str(cluster_.kubeconfig), "base": f"oci:{base}"}
    config.configure(targets={"k8s": {**own, **here}}, target="k8s", environment=str(directory / "requirements.txt"))
    source = "def echo(data):\n    import six\n    return six.__version__, data"
    data = secrets.token_bytes(2 << 20)
    assert cluster(by_value(source))(data) == ("1.17.0", data)
    with Client(insecure=True) as client:
        tags = list(client.tags(Reference.parse(name), ""))
    ulids = [re.fullmatch(r"([0-9a-z]{26})-(?:payload|0-[0-9a-f-]{36})", tag) for tag in tags]
    assert len(tags) == 3  # the image, what went there, what came back
    assert len({found[1] for found in ulids if found}) == 1


def log_in(address: str, password: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login = base64.b64encode(f"alice:{password}".encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {address: {"auth": login}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))


def test_a_job_by_way_of_a_port_of_the_nodes(
    kubernetes: Kubernetes,
    values: dict[str, Any],
    base_layout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As docs/how-to/install-the-chart.md says."""
    if kubernetes.node is None:
        pytest.skip("nodes of somebody else cannot be told of a registry; without CLUSTRIX_LIVE_KUBECONFIG ours can")
    password = secrets.token_hex(8)
    service = {"type": "NodePort"}
    values["registry"] |= {"enabled": True, "htpasswd": user_line("alice", password), "service": service}
    with kubernetes.namespace(labels=RESTRICTED) as namespace:
        release = Release(kubernetes, namespace, values, tmp_path)
        release.helm("install")
        (port,) = kubernetes.get("service", "clustrix-registry", namespace)["spec"]["ports"]
        address = f"{kubernetes.node.address}:{port['nodePort']}"
        name = f"{address}/clustrix"
        release.helm("upgrade", "--set", f"defaults.registry={name},defaults.pod_registry={name}")
        log_in(address, password, tmp_path, monkeypatch)
        with kubernetes.node.trusting(address):
            release.ready()
            wait_until("the port", lambda: httpx.get(f"http://{address}/").is_success)
            run_a_job(release, name, base_layout, tmp_path)


def test_a_job_by_way_of_a_forwarded_port(
    kubernetes: Kubernetes,
    values: dict[str, Any],
    base_layout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Users know the registry by another name than pods; the test bed has no DNS that would know the Service."""
    if kubernetes.node is None:
        pytest.skip("nodes of somebody else cannot be told of a registry; without CLUSTRIX_LIVE_KUBECONFIG ours can")
    password = secrets.token_hex(8)
    values["registry"] |= {"enabled": True, "htpasswd": user_line("alice", password)}
    with kubernetes.namespace(labels=RESTRICTED) as namespace:
        release = Release(kubernetes, namespace, values, tmp_path)
        release.helm("install")
        service = f"clustrix-registry.{namespace}.svc"
        address = kubernetes.get("service", "clustrix-registry", namespace)["spec"]["clusterIP"]
        alias = f"defaults.pod_template.spec.hostAliases[0].ip={address}"
        release.helm("upgrade", "--set", f"{alias},defaults.pod_template.spec.hostAliases[0].hostnames={{{service}}}")
        release.ready()
        with (
            kubernetes.node.trusting(f"{service}:5000", at=f"{address}:5000"),
            forwarded(release, tmp_path / "forward.log") as here,
        ):
            log_in(here, password, tmp_path, monkeypatch)
            name = f"{here}/clustrix"
            run_a_job(release, name, base_layout, tmp_path, registry=name, pod_registry=f"{service}:5000/clustrix")


QUEUES = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: localqueues.kueue.x-k8s.io}
spec:
  group: kueue.x-k8s.io
  scope: Namespaced
  names: {kind: LocalQueue, plural: localqueues}
  versions:
    - name: v1beta1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, required: [clusterQueue], properties: {clusterQueue: {type: string}}}
"""


def test_a_queue_where_there_is_kueue(kubernetes: Kubernetes, values: dict[str, Any], tmp_path: Path) -> None:
    """What the chart needs of Kueue is that one kind; the rest of it is not installed."""
    values["kueue"] = {"enabled": True, "clusterQueue": "physics"}
    kubernetes.kubectl("create", "--filename=-", stdin=QUEUES)
    try:
        kubernetes.kubectl("wait", "--for=condition=Established", "crd/localqueues.kueue.x-k8s.io")
        with kubernetes.namespace() as namespace:
            release = Release(kubernetes, namespace, values, tmp_path)
            wait_until("the API to be known", lambda: release.helm("install"))
            assert kubernetes.get("localqueue", "clustrix", namespace)["spec"] == {"clusterQueue": "physics"}
            assert release.defaults()["queue"] == "clustrix"
            release.helm("uninstall")
    finally:
        kubernetes.kubectl("delete", "crd", "localqueues.kueue.x-k8s.io")


# --- what users may -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(
    kubernetes: Kubernetes, kubernetes_base: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """The chart for a registry that stands elsewhere."""
    directory = tmp_path_factory.mktemp("installed")
    defaults = {"registry": f"{kubernetes.registry}/chart/jobs", "insecure_registry": kubernetes.plain_http}
    values = {
        "defaults": {**defaults, "pod_template": {"metadata": {"labels": {"cost-centre": "physics"}}}},
        "policy": {"max": {"cores": 2}},
        "access": {"groups": ["physics"]},
        "test": {"image": kubernetes_base},
    }
    with kubernetes.namespace(labels=RESTRICTED) as namespace:
        release = Release(kubernetes, namespace, values, directory)
        release.helm("install")
        yield release


@pytest.fixture(scope="module")
def user(installed: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of somebody with the rights of users, and no others."""
    token = {"token": installed.kubernetes.token(installed.namespace, "clustrix-user")}
    path = tmp_path_factory.mktemp("user") / "kubeconfig"
    return installed.kubernetes.kubeconfig_for(token, installed.namespace, path)


def may(installed: Release, *who: str, kubeconfig: Path | None = None) -> dict[tuple[str, str], set[str]]:
    """Ask the API server what somebody may do, beyond asking who they are and what they may."""
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    body = json.dumps({**review, "spec": {"namespace": installed.namespace}})
    environment = {**installed.kubernetes.env, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})}
    argv = ["kubectl", "--context", installed.kubernetes.context, "create", "--validate=false", "--filename=-"]
    answer = json.loads(servers.run([*argv, "--output=json", *who], env=environment, input=body))
    found: dict[tuple[str, str], set[str]] = {}
    for rule in answer["status"]["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                if group not in {"authorization.k8s.io", "authentication.k8s.io"}:
                    found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def test_a_user_may_do_what_clustrix_needs_and_nothing_more(installed: Release, user: Path) -> None:
    rights = {key: set(verbs) for key, verbs in RIGHTS.items()}
    everybody = "--as-group=system:authenticated"
    assert may(installed, kubeconfig=user) == rights
    assert may(installed, "--as=alice", "--as-group=physics", everybody) == rights
    assert may(installed, "--as=mallory", everybody) == {}
    assert may(installed, f"--as=system:serviceaccount:{installed.namespace}:clustrix-runner", everybody) == {}


SCRIPT = """\
import sys
from clustrix import cluster


@cluster(target="k8s", image=sys.argv[1], cores=int(sys.argv[2]))
def add(one, other):
    print("in a pod")
    return one + other


print(add(1, 2))
"""


def run_script(release: Release, user: Path, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as somebody who configured the three lines of the chart's notes, and nothing else."""
    notes = release.kubernetes.helm("get", "notes", "clustrix", "--namespace", release.namespace)
    lines = "targets:" + notes.partition("targets:")[2].partition("\n\n")[0]
    context = yaml.safe_load(user.read_text())["current-context"]
    (directory / "clustrix.yml").write_text(lines.replace("<a context of their kubeconfig>", context))
    (directory / "add.py").write_text(SCRIPT)
    argv = [sys.executable, "add.py", *arguments]
    environment = {**os.environ, "KUBECONFIG": str(user)}
    return subprocess.run(
        argv, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=200
    )


def test_who_configures_three_lines_gets_the_charts_defaults(
    installed: Release, user: Path, kubernetes_base: str, tmp_path: Path
) -> None:
    done = run_script(installed, user, tmp_path, kubernetes_base, "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3"
    assert "in a pod" in done.stdout + done.stderr
    selector = "--selector=app.kubernetes.io/managed-by=clustrix"
    (job,) = json.loads(installed.kubectl("get", "jobs", selector, "--output=json"))["items"]
    assert job["spec"]["template"]["metadata"]["labels"]["cost-centre"] == "physics"
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "clustrix-runner"

    refused = run_script(installed, user, tmp_path, kubernetes_base, "3")
    assert refused.returncode != 0
    assert f"policy of namespace {installed.namespace}" in refused.stderr
    assert "cores" in refused.stderr


# --- the image of the command line ----------------------------------------------------------------

BUILDER = """\
ARG BASE
FROM ${BASE}
COPY wheels /wheels
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PIP_BREAK_SYSTEM_PACKAGES=1
RUN PYTHONPATH=$(echo /wheels/pip-*.whl) python3 -m pip install pip
"""


@pytest.fixture(scope="module")
def command_line(docker_engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image that the Dockerfile makes of our base, where Debian's Python needs a builder that has pip."""
    base = f"BASE={servers.bases()['debian'].tag}"
    context = tmp_path_factory.mktemp("builder")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(context / "wheels")]
    servers.run([*pip, f"{ROOT}[kubernetes]", "hatchling>=1.24", "pip"])
    (context / "Dockerfile").write_text(BUILDER)
    builder = build(context, "--build-arg", base)
    index = "PIP_INDEX_URL=https://alice:hunter2@index.invalid/simple"
    arguments = [word for argument in (base, f"BUILDER={builder}", index) for word in ("--build-arg", argument)]
    stage = build(ROOT, *arguments, "--target", "build")
    image = build(ROOT, *arguments)
    yield image
    with contextlib.suppress(RuntimeError):  # what a run left that was killed may stand on them
        servers.run(["docker", "rmi", image, stage, builder])


def run_image(image: str, *arguments: str, entrypoint: str = "clustrix") -> str:
    sealed = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp"]
    argv = ["docker", "run", "--rm", *sealed, "--env", "CLUSTRIX_STATE_DIR=/tmp/state", "--entrypoint", entrypoint]
    return servers.run([*argv, image, *arguments])


@pytest.mark.timeout(900)  # for whoever comes first: the image is made, which takes half a minute on an idle machine
def test_the_image_of_the_command_line(command_line: str, docker_engine: docker.DockerClient) -> None:
    from clustrix import __version__

    assert __version__ in run_image(command_line, "--version")
    assert "--target" in run_image(command_line, "doctor", "--help")
    assert json.loads(run_image(command_line, "doctor", "--json"))
    assert run_image(command_line, "-u", entrypoint="id").strip() == "65532"
    base = docker_engine.images.get(servers.bases()["debian"].tag)
    image = docker_engine.images.get(command_line)
    assert image.attrs["Size"] - base.attrs["Size"] < 200 << 20
    assert "index.invalid" not in json.dumps([image.attrs, image.history()])
    search = "grep -rlE 'index[.]invalid|hunter2' /opt/clustrix /etc /home || true"
    assert run_image(command_line, "-c", search, entrypoint="sh") == ""


@pytest.mark.timeout(900)
def test_doctor_runs_in_the_cluster(
    kubernetes: Kubernetes, command_line: str, values: dict[str, Any], tmp_path: Path
) -> None:
    image = push(kubernetes, command_line, "chart-command-line:1")
    values["test"] = {"image": image, "doctor": True}
    values["defaults"] = {"registry": f"{kubernetes.registry}/chart/jobs", "insecure_registry": kubernetes.plain_http}
    with kubernetes.namespace(labels=RESTRICTED) as namespace:
        release = Release(kubernetes, namespace, values, tmp_path)
        release.helm("install")
        release.helm("test")
        release.helm("uninstall")
