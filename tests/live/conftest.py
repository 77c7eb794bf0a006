"""The servers as fixtures, one of each a test process: pytest-xdist's workers share none."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import beds, cluster, servers, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker

    Factory = pytest.TempPathFactory


@dataclasses.dataclass(frozen=True, slots=True)
class AuthRegistry(servers.Registry):
    """A registry that wants a token; `tokens` tells who asked for which."""

    tokens: tokens.TokenServer
    writer: tokens.User = tokens.WRITER
    reader: tokens.User = tokens.READER


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--target`` run what concerns that target alone, without everything else."""
    given = config.getoption("--target") is not None
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    dropped = [item for item in here if item.path.name.startswith("test_target") is not given]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[docker.DockerClient]:
    """The Docker engine that DOCKER_HOST or the default socket leads to."""
    servers.need("engine")
    client = servers.docker_client()
    yield client
    client.close()


@pytest.fixture(scope="session")
def podman_engine(tmp_path_factory: Factory) -> Iterator[servers.Podman]:
    """Podman's service, with images and containers of its own."""
    with servers.podman(tmp_path_factory.mktemp("podman")) as podman:
        yield podman


@pytest.fixture(scope="session")
def registry(tmp_path_factory: Factory) -> Iterator[servers.Registry]:
    """A registry that asks nobody who they are."""
    with servers.registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="session")
def bridge_registry(
    registry: servers.Registry, docker_engine: docker.DockerClient, tmp_path_factory: Factory
) -> Iterator[servers.Registry]:
    """The contents of `registry` at an address that containers reach, the test beds among them."""
    subnet = ipaddress.ip_network(docker_engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Subnet"])
    gateway = str(next(subnet.hosts()))  # Docker 20 names the subnet and not the gateway, which is its first address
    directory = tmp_path_factory.mktemp("bridge-registry")
    with servers.registry(directory, address=gateway, storage=registry.storage) as server:
        yield server


@pytest.fixture(scope="session")
def auth_registry(tmp_path_factory: Factory) -> Iterator[AuthRegistry]:
    """A registry with signed bearer tokens: `writer` may push, `reader` may pull, nobody else may do anything."""
    directory = tmp_path_factory.mktemp("auth-registry")
    with contextlib.ExitStack() as stack:
        token_server, auth = stack.enter_context(tokens.token_server(directory, "clustrix-tests"))
        server = stack.enter_context(servers.registry(directory, auth=auth))
        yield AuthRegistry(server.host, server.storage, server.log, token_server)


@pytest.fixture(scope="session")
def bases() -> dict[str, servers.Base]:
    """Both base images: `debian` (Python in /usr/bin) and `usr-local` (as the official Python images have it)."""
    return servers.bases()


@pytest.fixture(scope="session")
def base_layout(bases: dict[str, servers.Base]) -> Path:
    """The OCI layout of the base with Python in /usr/bin; its tag is `latest`."""
    return bases["debian"].layout


@pytest.fixture(scope="session")
def base_usr_local_layout(bases: dict[str, servers.Base]) -> Path:
    """The OCI layout of the base with Python under /usr/local alone; its tag is `latest`."""
    return bases["usr-local"].layout


@pytest.fixture(scope="session")
def base_reference(registry: servers.Registry, base_layout: Path) -> str:
    """The base with Python in /usr/bin, in `registry`."""
    return registry.load(base_layout, "base:bookworm")


@pytest.fixture(scope="session")
def ssh_host(tmp_path_factory: Factory) -> Iterator[beds.Bed]:
    """A log-in node without a scheduler."""
    with beds.bed("login", tmp_path_factory.mktemp("login")) as bed:
        yield bed


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: Factory) -> Iterator[beds.Bed]:
    """A log-in node of a SLURM cluster: two nodes of 4 CPUs and 4000 MB, partitions main and short, account users."""
    with beds.bed("slurm", tmp_path_factory.mktemp("slurm")) as bed:
        yield bed


@pytest.fixture(scope="session")
def sge_cluster(tmp_path_factory: Factory) -> Iterator[beds.Bed]:
    """A log-in node of an SGE cluster: queue all.q with 4 slots, parallel environment smp."""
    with beds.bed("sge", tmp_path_factory.mktemp("sge")) as bed:
        yield bed


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: Factory) -> Iterator[cluster.Kubernetes]:
    """A Kubernetes cluster with a registry: one node of our own, or what CLUSTRIX_LIVE_KUBECONFIG names."""
    with cluster.kubernetes(tmp_path_factory.mktemp("kubernetes")) as running:
        yield running


@pytest.fixture(scope="session")
def kubernetes_base(kubernetes: cluster.Kubernetes, base_layout: Path) -> str:
    """The base with Python in /usr/bin, in the cluster's registry."""
    return kubernetes.load(base_layout, "base:bookworm")


@pytest.fixture(scope="module")
def kubernetes_namespace(kubernetes: cluster.Kubernetes) -> Iterator[str]:
    """A namespace of the test module's own."""
    with kubernetes.namespace() as name:
        yield name
