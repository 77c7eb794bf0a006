"""The suite of every backend on real pods, which see a directory of this machine as a claim."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import handle
from clustrix.artifacts import existing
from clustrix.backends.kubernetes import Kubernetes as Backend
from clustrix.course import Site
from clustrix.kubernetes import names
from clustrix.kubernetes.connection import Cluster
from clustrix.kubernetes.place import Place
from clustrix.model.job import Placed
from clustrix.model.paths import SitePaths
from clustrix.model.resources import Mount
from clustrix.model.settings import ClusterConfig
from clustrix.runtimes.pod import Pod
from clustrix.schedulers.process import Process
from clustrix.stores.registry import RegistryStore
from clustrix.transports.local import Local
from clustrix.worker import installed
from tests.conformance.backends import Backends
from tests.conformance.desk import Desk

from .cluster import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.model.image import BuiltImage
    from clustrix.model.job import JobRecord, JobSpec

    from .cluster import Kubernetes

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

CLAIM = "shared"


@dataclass
class PodDesk(Desk):
    """Submit to a namespace; ``root`` is a directory of this machine that pods see under the same path."""

    place: Place = field(kw_only=True)
    image: BuiltImage = field(kw_only=True)

    def __post_init__(self) -> None:
        store = RegistryStore(self.place.cluster, repository=self.place.repository, insecure=self.place.insecure)
        self.site = Site(Backend(self.place), store, grace=5.0)

    @property
    def paths(self) -> SitePaths:
        return SitePaths(names.ROOT)

    def prepare(self, *args: Any, **options: Any) -> tuple[JobSpec, JobRecord, dict[str, bytes | Path]]:
        spec, record, files = super().prepare(*args, **options)
        placed = Placed(runtime="pod", location=self.image.reference or "", interpreter=self.image.interpreter or "")
        argv = (placed.interpreter, *spec.argv[1:])
        argv = Pod().wrap(placed, argv, mounts=(), variables={}, gpus=0, memory_bytes=None, cores=1)
        seen = (Mount(CLAIM, self.root),)
        return dataclasses.replace(spec, argv=argv, image=self.image, mounts=seen), record, files

    def remains(self, job: handle.Job) -> str:
        cluster, name = self.place.cluster, names.job_name(job.id.ulid)
        if cluster.job(name):
            return name
        wait_until("what belonged to the Job to follow it", lambda: cluster.secret(name) is None)
        return ""


@pytest.fixture(scope="module")
def shared(
    kubernetes: Kubernetes, kubernetes_namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A directory that pods of the namespace see: a volume of the node, as an admin makes one."""
    if kubernetes.node is None:
        pytest.skip(
            "this suite shares a directory with the node: unset CLUSTRIX_LIVE_KUBECONFIG to run it on one of its own"
        )
    directory = tmp_path_factory.mktemp("shared")
    for place in (directory, *directory.parents[:2]):
        place.chmod(0o777)
    volume = f"{kubernetes_namespace}-{CLAIM}"
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    kubernetes.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {**common, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(directory)}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM},
            "spec": {**common, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": volume},
        },
        namespace=kubernetes_namespace,
    )
    yield directory
    kubernetes.kubectl("delete", "persistentvolume", volume, "--wait=false")


@pytest.fixture
def desk(
    kubernetes: Kubernetes,
    kubernetes_namespace: str,
    kubernetes_base: str,
    shared: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[PodDesk]:
    config = ClusterConfig(
        target="test",
        backend="kubernetes",
        registry=f"{kubernetes.registry}/jobs",
        insecure_registry=kubernetes.plain_http,
    )
    place = Place(Cluster(kubernetes.context, kubernetes_namespace, str(kubernetes.kubeconfig)), config)
    image = existing(
        kubernetes_base,
        minor=installed.interpreter().minor,
        machine=installed.machine(),
        insecure=(kubernetes.registry,),
    )
    cache = tmp_path_factory.mktemp("cache")
    desk = PodDesk(Process(), Local(), str(shared), cache, place=place, image=image)
    yield desk
    desk.clear()


@pytest.mark.column("kubernetes")
class TestKubernetes(Backends):
    """The suite of every backend."""
