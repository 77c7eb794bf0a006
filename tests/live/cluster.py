"""The Kubernetes test bed: a real node of this test process, or the cluster that CLUSTRIX_LIVE_KUBECONFIG names.

``python -m tests.live.cluster`` starts a node for people, until Ctrl-C.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from . import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECIPE: Final = servers.IMAGES / "testbed" / "kubernetes"


def wait_until(what: str, condition: Callable[[], object], seconds: float = 120) -> None:
    """Return when the condition holds; TimeoutError when it does not in time. An error is no answer yet."""
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (RuntimeError, httpx.HTTPError, OSError) as raised:
            error = raised
        time.sleep(0.1)
    raise TimeoutError(f"waited {seconds:.0f} s for {what}") from error


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """The inside of the test bed, for tests that break things: what one breaks it puts back."""

    state: Path
    address: str

    @property
    def auth_registry(self) -> str:
        """The contents of the cluster's registry, for `account` alone (HTTP basic authentication)."""
        return f"{self.address}:5001"

    @property
    def account(self) -> tuple[str, str]:
        """Name and password for `auth_registry`."""
        return "clustrix", (self.state / "registry-password").read_text().strip()

    def docker_config(self) -> str:
        """Write `account` as ~/.docker/config.json and Secrets of type kubernetes.io/dockerconfigjson have it."""
        auth = base64.b64encode(":".join(self.account).encode()).decode()
        return json.dumps({"auths": {self.auth_registry: {"auth": auth}}})

    def run(self, *argv: str) -> str:
        """Run a program as root in the node's namespaces (``ctr``, ``iptables``); RuntimeError when it fails."""
        init = (self.state / "pid" / "node").read_text().strip()
        return servers.run(["nsenter", "--target", init, "--pid", "--mount", "--net", "--", *argv])

    @contextlib.contextmanager
    def trusting(self, registry: str, at: str | None = None) -> Iterator[None]:
        """Have containerd pull from a registry (``host:port``) that speaks plain HTTP, at that or another address."""
        place = self.state / "certs.d" / registry
        place.mkdir()
        (place / "hosts.toml").write_text(f'[host."http://{at or registry}"]\ncapabilities = ["pull", "resolve"]\n')
        try:
            yield
        finally:
            shutil.rmtree(place)

    def kill(self, server: str) -> None:
        """Kill a server as a crash does, and wait until it has ended. It starts again by itself.

        They are apiserver, containerd, controllers, etcd, kubelet, proxy, registry, registry-auth and scheduler.
        """
        pid = (self.state / "pid" / server).read_text().strip()
        self.run("sh", "-c", f"kill -KILL {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.02; done")

    def expired(self) -> dict[str, str]:
        """Return a user of `kubeconfig_for`: an administrator whose certificate ended yesterday."""
        authority = x509.load_pem_x509_certificate((self.state / "pki" / "ca.crt").read_bytes())
        signer = serialization.load_pem_private_key((self.state / "pki" / "ca.key").read_bytes(), password=None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        names = {x509.NameOID.COMMON_NAME: "latecomer", x509.NameOID.ORGANIZATION_NAME: "system:masters"}
        yesterday = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
        certificate = (
            x509.CertificateBuilder(authority.subject, public_key=key.public_key())
            .subject_name(x509.Name([x509.NameAttribute(kind, value) for kind, value in names.items()]))
            .serial_number(x509.random_serial_number())
            .not_valid_before(yesterday - dt.timedelta(days=1))
            .not_valid_after(yesterday)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(signer, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        parts = {"certificate": certificate.public_bytes(pem), "key": key.private_bytes(pem, *plain)}
        return {f"client-{part}-data": base64.b64encode(content).decode() for part, content in parts.items()}

    @contextlib.contextmanager
    def without(self, server: str) -> Iterator[None]:
        """Have a server stopped for the length of the block. It is starting, not up, when the block has ended."""
        held = self.state / "hold" / server
        held.touch()
        try:
            self.kill(server)
            yield
        finally:
            held.unlink()


@dataclasses.dataclass(frozen=True, slots=True)
class Kubernetes:
    """A cluster and a registry that this machine and the cluster's pods reach under one name.

    ``node`` is None where the cluster is not ours to break.
    """

    kubeconfig: Path
    context: str
    registry: str
    plain_http: bool
    path: str
    directory: Path
    node: Node | None

    @property
    def env(self) -> dict[str, str]:
        """The environment in which kubectl and helm know the cluster, and keep what they keep out of $HOME."""
        return {**os.environ, "PATH": self.path, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.directory)}

    def kubectl(self, *arguments: str, stdin: str = "", timeout: float = 120) -> str:
        """Return what kubectl prints; RuntimeError with its error output when it fails."""
        argv = ["kubectl", "--context", self.context, *arguments]
        return servers.run(argv, env=self.env, input=stdin, timeout=timeout)

    def helm(self, *arguments: str, timeout: float = 240) -> str:
        """Return what helm prints; RuntimeError with its error output when it fails."""
        return servers.run(["helm", "--kube-context", self.context, *arguments], env=self.env, timeout=timeout)

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """Return an object as the API server has it."""
        found: dict[str, Any] = json.loads(self.kubectl("--namespace", namespace, "get", kind, name, "--output=json"))
        return found

    def create(self, *manifests: dict[str, Any], namespace: str) -> None:
        """Create objects; RuntimeError with the API server's words when it refuses one."""
        self.kubectl("--namespace", namespace, "create", "--filename=-", stdin=yaml.safe_dump_all(manifests))

    def load(self, layout: Path, name: str) -> str:
        """Copy an OCI layout into the registry with skopeo, a client that is not ours, and return its reference."""
        servers.need("skopeo")
        reference = f"{self.registry}/{name}"
        verify = "false" if self.plain_http else "true"
        skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", f"--dest-tls-verify={verify}"]
        servers.run([*skopeo, f"oci:{layout}:latest", f"docker://{reference}"])
        return reference

    @contextlib.contextmanager
    def namespace(self, *, labels: dict[str, str] | None = None, quota: dict[str, str] | None = None) -> Iterator[str]:
        """Make a namespace of its own, ready for pods; it is deleted with everything in it when the block ends."""
        name = f"clustrix-test-{secrets.token_hex(4)}"
        metadata = {"name": name, "labels": labels or {}}
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, namespace="default")
        try:
            # What every namespace gets, by controllers of their own.
            wait_until(f"the service account of {name}", lambda: self.get("serviceaccount", "default", name))
            wait_until(f"the certificate of {name}", lambda: self.get("configmap", "kube-root-ca.crt", name))
            if quota is not None:
                hard = ",".join(f"{resource}={amount}" for resource, amount in quota.items())
                self.kubectl("--namespace", name, "create", "quota", "quota", f"--hard={hard}")
                wait_until("the quota's status", lambda: self.get("resourcequota", "quota", name)["status"].get("hard"))
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    def token(self, namespace: str, account: str = "default") -> str:
        """Return a token of a service account, good for an hour."""
        return self.kubectl("--namespace", namespace, "create", "token", account).strip()

    def kubeconfig_for(self, user: dict[str, str], namespace: str, path: Path) -> Path:
        """Write a kubeconfig for somebody else: ``{"token": ...}``, or a certificate as kubeconfigs have it."""
        document = yaml.safe_load(self.kubectl("config", "view", "--minify", "--raw", "--flatten", "--output=yaml"))
        context = document["contexts"][0]
        context["context"] |= {"user": "somebody", "namespace": namespace}
        document["users"] = [{"name": "somebody", "user": user}]
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    def evict(self, pod: str, namespace: str) -> None:
        """Evict a pod, as a drain of its node does."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        url = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", url, "--filename=-", stdin=json.dumps(body))

    def is_up(self) -> bool:
        """Say whether everything answers: API server, registry and node."""
        self.kubectl("get", "--raw", "/readyz")
        scheme = "http" if self.plain_http else "https"
        httpx.get(f"{scheme}://{self.registry.partition('/')[0]}/v2/", timeout=10)
        return self.is_ready()

    def is_ready(self) -> bool:
        """Say whether the cluster takes each of its nodes for ready."""
        nodes = json.loads(self.kubectl("get", "nodes", "--output=json"))["items"]
        conditions = [one for node in nodes for one in node["status"]["conditions"] if one["type"] == "Ready"]
        return all(one["status"] == "True" for one in conditions)

    @contextlib.contextmanager
    def without(self, server: str) -> Iterator[None]:
        """Have one of the node's servers (see `Node.kill`) stopped for the length of the block; all is well after it.

        Without the kubelet, the block begins when the cluster knows that the node is lost.
        """
        assert self.node is not None, "only a cluster of our own can be broken"
        try:
            with self.node.without(server):
                if server == "kubelet":
                    wait_until("the node to be lost", lambda: not self.is_ready())
                yield
        finally:
            wait_until(f"the cluster to recover from the loss of {server}", self.is_up)


def programs() -> str | None:
    """Say what keeps a node from running here."""
    needed = "containerd runc docker-registry ip iptables unshare nsenter setpriv openssl pgrep"
    missing = [name for name in needed.split() if shutil.which(name) is None]
    if missing:
        return f"there is no program {', '.join(missing)}"
    if not Path("/usr/lib/cni/bridge").exists():
        return "there are no network plug-ins in /usr/lib/cni"
    if os.geteuid() != 0:
        return "a node needs root"
    # Compiling takes longer than a test may.
    built = subprocess.run([str(RECIPE / "build"), "--check"], capture_output=True, check=False)
    return "its programs are not built" if built.returncode else None


@contextlib.contextmanager
def node(state: Path) -> Iterator[Kubernetes]:
    """Start a node; pods can run when the block begins, and nothing is left of it but its logs when it has ended."""
    servers.need("kubernetes")
    binaries = servers.run([str(RECIPE / "build")]).strip()
    state.mkdir(parents=True, exist_ok=True)
    log = state / "run.log"
    with servers.process([str(RECIPE / "run"), binaries, str(state)], log) as server:
        servers.wait_for(r"node ready at (\S+)", log, server, seconds=180)
        yield _of_node(state, binaries)


def _of_node(state: Path, binaries: str) -> Kubernetes:
    address = yaml.safe_load((state / "kubeconfig").read_text())["clusters"][0]["cluster"]["server"]
    host = httpx.URL(address).host
    return Kubernetes(
        kubeconfig=state / "kubeconfig",
        context="clustrix-testbed",
        registry=f"{host}:5000",
        plain_http=True,
        path=f"{binaries}{os.pathsep}{os.environ['PATH']}",
        directory=state,
        node=Node(state, host),
    )


def given(kubeconfig: Path, directory: Path) -> Kubernetes:
    """Use a kubeconfig and CLUSTRIX_LIVE_REGISTRY, a registry with ``http://`` before it where it speaks plain HTTP."""
    if (kubeconfig.parent / "pid" / "node").exists():  # a node that somebody started by hand
        return _of_node(kubeconfig.parent, servers.run([str(RECIPE / "build")]).strip())
    address = os.environ.get("CLUSTRIX_LIVE_REGISTRY")
    if not address:
        raise RuntimeError(
            "CLUSTRIX_LIVE_KUBECONFIG goes with CLUSTRIX_LIVE_REGISTRY, a registry that the cluster pulls from"
        )
    context = yaml.safe_load(kubeconfig.read_text())["current-context"]
    registry = address.removeprefix("http://").removeprefix("https://").rstrip("/")
    return Kubernetes(
        kubeconfig=kubeconfig,
        context=context,
        registry=registry,
        plain_http=address.startswith("http://"),
        path=os.environ["PATH"],
        directory=directory,
        node=None,
    )


@contextlib.contextmanager
def kubernetes(directory: Path) -> Iterator[Kubernetes]:
    """The cluster of CLUSTRIX_LIVE_KUBECONFIG, else a node of our own."""
    kubeconfig = os.environ.get("CLUSTRIX_LIVE_KUBECONFIG")
    if kubeconfig:
        yield given(Path(kubeconfig), directory)
    else:
        with node(directory) as started:
            yield started


def main(state: Path) -> None:
    """Start a node and wait for Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), node(state) as cluster:
        assert cluster.node is not None
        base = cluster.load(servers.bases()["debian"].layout, "base:bookworm")
        print(
            f"export CLUSTRIX_LIVE_KUBECONFIG={cluster.kubeconfig} KUBECONFIG={cluster.kubeconfig} PATH={cluster.path}"
        )
        print(f"registry: {cluster.registry} (plain HTTP), with a password: {cluster.node.docker_config()}")
        print(f"base image: {base}", flush=True)
        signal.pause()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as given_none:
            main(Path(given_none))
