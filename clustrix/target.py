"""One target, put together: backend x runtime x transport x store, out of its settings and the registry of plug-ins."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix import config as configuration
from clustrix import engines, registry
from clustrix.errors import ConfigError, TransportError, UnknownOption
from clustrix.journal import state_directory
from clustrix.model.environment import Platform
from clustrix.model.machine import machine_of
from clustrix.model.paths import SitePaths
from clustrix.model.settings import ClusterConfig, settings
from clustrix.transports.absent import Absent
from clustrix.worker import installed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clustrix.backends.base import Backend
    from clustrix.course import Site
    from clustrix.kubernetes.connection import Cluster
    from clustrix.kubernetes.place import Place
    from clustrix.model.job import JobRecord, Placed
    from clustrix.runtimes.base import Runtime
    from clustrix.stores.base import Store
    from clustrix.transports.base import Completed, Transport

CLUSTER = "kubernetes"
"""The backend that has neither host nor scheduler."""
PLAIN = "process"
"""The scheduler of hosts that have none; the backends `local` and `ssh` are that one over two transports."""
_TASKS = 32
"""Tasks of a map on a scheduler, where neither ``chunksize`` nor ``max_parallel`` says how many."""
_FACT_NAMES = ("home", "machine", "cores", "libc")
_FACTS = """cores=$(getconf _NPROCESSORS_ONLN || echo 1)
libc=$(getconf GNU_LIBC_VERSION || echo none)
echo
printf '%s\\n' "$HOME" "$(uname -m)" "$cores" "$libc"
"""
_OF_CLUSTERS = ("context", "namespace", "kubeconfig", "pod_registry", "store", "courier")
_OF_HOSTS = ("host", "transport", "runtime", "root", "username", "port", "key_file", "ssh_config")
_OWN_TO_EACH_NODE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - what is refused
_SIF_BUILDS = ("login", "job", "auto")


_targets: dict[str, Target] = {}


def of(config: ClusterConfig) -> Target:
    """Give the target of these settings, one for the whole process: jobs of a target are followed together."""
    place = {name: getattr(config, name) for name, row in settings().items() if row.scope != "call"}
    chosen = config.runtime is None and (config.base or engines.avoided())
    key = json.dumps([place, chosen])
    if key not in _targets:
        _targets[key] = Target(ClusterConfig(**place))
    return _targets[key]


def of_record(record: JobRecord) -> Target:
    """Give the target that a job went to, as it was then; a password comes from the configuration of now."""
    table = settings()
    place = {name: table[name].parse(value) for name, value in record.target.items() if table[name].scope != "call"}
    current = configuration.load()
    if record.id.target in current.target_names:
        place["password"] = current.resolve(record.id.target).password
    if record.target.get("backend") != CLUSTER:
        place["root"] = record.root
    return of(ClusterConfig(**{**place, "target": record.id.target}))


@dataclass(frozen=True, eq=False)
class Target:
    """Hold a target's settings and open what they name when it is first needed."""

    config: ClusterConfig

    def __post_init__(self) -> None:
        if self.config.backend == PLAIN:
            raise UnknownOption("backend", PLAIN, ("local", "ssh"))
        if self.on_cluster:
            self._refuse_hosts()
            return
        if not self.plain:
            _check_scheduler(self.config.backend)
        registry.check("transports", self.transport_name)
        if self.config.runtime is not None:
            registry.check("runtimes", self.config.runtime)
        self._refuse_the_impossible()

    @property
    def name(self) -> str:
        """Name the target."""
        return self.config.target or configuration.LOCAL

    @property
    def on_cluster(self) -> bool:
        """Tell whether jobs are pods: there is no host, and no directory that they share."""
        return self.config.backend == CLUSTER

    @cached_property
    def place(self) -> Place:
        """Put the settings and what the chart of the namespace says together; nothing is asked yet."""
        from clustrix.kubernetes.connection import Cluster
        from clustrix.kubernetes.place import Place

        settings = self.config
        return Place(Cluster(settings.context, settings.namespace, settings.kubeconfig), settings)

    @property
    def namespace(self) -> Cluster:
        """Open the way to the cluster; MissingExtra."""
        registry.load("backends", CLUSTER)
        return self.place.cluster

    @property
    def registry(self) -> str | None:
        """Name the repository that images are pushed to."""
        return self.place.registry if self.on_cluster else self.config.registry

    @property
    def insecure_registry(self) -> bool:
        """Tell whether it speaks plain HTTP."""
        return self.place.insecure if self.on_cluster else self.config.insecure_registry

    @property
    def here(self) -> bool:
        """Tell whether jobs are submitted on this machine."""
        return self.transport_name == "local"

    @property
    def transport_name(self) -> str:
        """Name the transport: as configured, else by whether there is a host; nothing on a cluster."""
        if self.on_cluster:
            return ""
        if self.config.transport:
            return self.config.transport
        return "local" if self.config.host is None and self.config.backend != "ssh" else "ssh"

    @cached_property
    def transport(self) -> Transport:
        """Open the way to the host; nothing is sent yet. On a cluster every use is a ConfigError."""
        if self.on_cluster:
            return Absent(f"target {self.name}")
        kind = registry.load("transports", self.transport_name)
        if self.here:
            opened: Transport = kind()
            return opened
        settings = self.config
        reached: Transport = kind(
            settings.host,
            port=settings.port,
            username=settings.username,
            password=settings.password,
            key_file=settings.key_file,
            config_file=settings.ssh_config,
        )
        return reached

    @cached_property
    def site(self) -> SitePaths:
        """Give the paths below the target's root; on a cluster that of each pod."""
        if self.on_cluster:
            from clustrix.kubernetes import names

            return SitePaths(names.ROOT)
        if self.config.root and not self.config.root.startswith("~"):
            return SitePaths(self.config.root.rstrip("/"))
        if self.here:
            own = Path(self.config.root).expanduser() if self.config.root else state_directory() / "site"
            return SitePaths(str(own.absolute()))
        below = self.config.root.removeprefix("~").strip("/") if self.config.root else ".clustrix"
        return SitePaths(f"{self.facts['home']}/{below}")

    @cached_property
    def machine(self) -> str:
        """Name the architecture that jobs run on, as uname does."""
        if self.config.platform:
            return machine_of(self.config.platform)
        return installed.machine() if self.here or self.on_cluster else self.facts["machine"]

    @cached_property
    def platform(self) -> Platform:
        """Name what wheels must fit on the host itself, without a container."""
        if self.here:
            found = installed.platform()
        else:
            words = self.facts["libc"].split()
            number = words[-1].split(".")
            glibc = words[0] == "glibc" and len(number) > 1 and number[0].isdigit() and number[1].isdigit()
            found = Platform(self.facts["machine"], (int(number[0]), int(number[1]))) if glibc else None
        if found is None:
            raise ConfigError(
                f"target {self.name}: environments without a container are made on Linux with glibc only",
                remedy="Use runtime: docker, podman or apptainer.",
            )
        return found

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """Ask the host once for its home directory, architecture and cores; remembered from then on."""
        from clustrix.records import Records, key

        records = Records(configuration.cache_directory())
        name = key(self.transport.address)
        known = records.get("sites", name)
        if known is None:
            done = self.transport.run(_FACTS)
            lines = done.stdout_text.splitlines()[-len(_FACT_NAMES) :]
            if done.returncode != 0 or len(lines) != len(_FACT_NAMES) or not lines[0].startswith("/"):
                said = done.stderr_text
                raise TransportError(f"{self.transport.address} does not tell its home directory: {said or lines}")
            known = dict(zip(_FACT_NAMES, lines, strict=True))
            records.put("sites", name, known)
        return known

    def room(self, cores: int) -> int:
        """Say how many tasks of so many cores may run at a time where nothing else is said."""
        return max(1, self.cores // cores) if self.plain else _TASKS

    @property
    def cores(self) -> int:
        """Count the cores of the host."""
        return os.cpu_count() or 1 if self.here else int(self.facts["cores"])

    @property
    def chosen_by_itself(self) -> bool:
        """Tell whether nobody configured the runtime of this machine."""
        return self.config.runtime is None and self.here and self.plain

    @cached_property
    def _automatic(self) -> tuple[str, str]:
        avoided = None if self.config.base else engines.avoided()
        return ("venv", avoided) if avoided else engines.runtime()

    @property
    def why(self) -> str:
        """Say why the runtime was chosen."""
        return self._automatic[1]

    @cached_property
    def runtime_name(self) -> str:
        """Name the runtime: as configured, else what there is here, else apptainer."""
        if self.on_cluster:
            return "pod"
        return self.config.runtime or (self._automatic[0] if self.chosen_by_itself else "apptainer")

    @cached_property
    def runtime(self) -> Runtime:
        """Open the runtime."""
        if self.on_cluster:
            registry.load("backends", CLUSTER)  # before anything is built, say what is not installed
        opened: Runtime = registry.load("runtimes", self.runtime_name)()
        return opened

    def runtime_on_nodes(self, run: Callable[[str], Completed]) -> Runtime:
        """Open the runtime where compute nodes alone start it and make its images: ``run`` runs a script on one."""
        opened: Runtime = registry.load("runtimes", self.runtime_name)(on_nodes=run)
        return opened

    @cached_property
    def standing(self) -> dict[str, tuple[float, Placed]]:
        """Hold what was seen in place here, by digest: when (`time.monotonic`), and where."""
        return {}

    @cached_property
    def backend(self) -> Backend:
        """Open the backend."""
        if self.on_cluster:
            driver: Backend = registry.load("backends", CLUSTER)(self.place)
            return driver
        from clustrix.backends.batch import BatchBackend

        dialect = registry.load("schedulers", PLAIN if self.plain else self.config.backend)
        return BatchBackend(dialect(), self.transport, self.site.root)

    @cached_property
    def store(self) -> Store:
        """Open the store."""
        if self.on_cluster:
            return _cluster_store(self.place)
        from clustrix.stores.directory import DirectoryStore

        return DirectoryStore(self.transport, self.site.root)

    def task_of(self, record: JobRecord) -> bytes | None:
        """Read what the worker of a job was told (`clustrix.worker.task`); None if the job was removed."""
        if self.on_cluster:
            from clustrix.kubernetes import names

            secret = self.namespace.secret(names.job_name(record.id.ulid))
            return secret["task.json"] if secret else None
        done = self.transport.run(f"cat {shlex.quote(SitePaths(record.root).job(record.id.ulid).task)}")
        return done.stdout if done.returncode == 0 else None

    @cached_property
    def jobs(self) -> Site:
        """Give what drives and finds jobs here."""
        from clustrix.course import Site

        if self.on_cluster:  # whose API never shows yesterday's news
            return Site(self.backend, self.store, grace=5.0)
        # The files of this machine's own jobs are seen at once.
        return Site(self.backend, self.store, grace=2.0) if self.here and self.plain else Site(self.backend, self.store)

    @property
    def plain(self) -> bool:
        """Tell whether jobs are processes of a host without a scheduler."""
        return self.config.backend in {"local", "ssh"}

    def _refuse_hosts(self) -> None:
        given = next((name for name in _OF_HOSTS if getattr(self.config, name) not in (None, "pod")), None)
        if given:
            raise ConfigError(
                f"target {self.name}: {given} is for hosts, and backend 'kubernetes' has none",
                remedy="Leave it out; `context` and `namespace` say where jobs go.",
            )
        _ = self.place  # which refuses what it does not know

    def _refuse_the_impossible(self) -> None:
        name, settings = self.name, self.config
        given = next((name for name in _OF_CLUSTERS if getattr(settings, name) is not None), None)
        if given:
            raise ConfigError(
                f"target {name}: {given} is for backend 'kubernetes', and this is {settings.backend!r}",
                remedy="Leave it out, or say it for the targets that it is meant for.",
            )
        if settings.backend == "local" and not self.here:
            raise ConfigError(
                f"target {name}: backend 'local' is this machine, and transport {self.transport_name!r} is not",
                remedy="Use backend: ssh, or leave host and transport out.",
            )
        if settings.backend == "ssh" and self.here:
            raise ConfigError(
                f"target {name}: backend 'ssh' cannot use transport 'local'", remedy="Use backend: local."
            )
        if self.here and settings.host is not None:
            raise ConfigError(
                f"target {name}: host {settings.host!r} is not reached by transport 'local'",
                remedy="Use transport: ssh, or leave host out.",
            )
        if not self.plain and settings.root and settings.root.startswith(_OWN_TO_EACH_NODE):
            raise ConfigError(
                f"target {name}: compute nodes do not see the root {settings.root} of the login node",
                remedy="Set root to a directory of a file system that they share, such as one below your home.",
            )
        if settings.sif_build not in _SIF_BUILDS:
            raise UnknownOption("sif_build", settings.sif_build, _SIF_BUILDS, where=f"target {name}")
        if settings.sif_build != "login" and (self.plain or settings.runtime not in {None, "apptainer"}):
            raise ConfigError(
                f"target {name}: sif_build {settings.sif_build!r} needs a scheduler and runtime 'apptainer'",
                remedy="Leave sif_build out.",
            )
        if not self.here and settings.host is None:
            raise ConfigError(f"target {name}: transport {self.transport_name!r} needs a host", remedy="Set host.")


def _check_scheduler(name: str) -> None:
    try:
        registry.check("schedulers", name)
    except UnknownOption:
        known = {*registry.names("schedulers"), "local", "ssh", CLUSTER} - {PLAIN}
        raise UnknownOption("backend", name, tuple(sorted(known))) from None


def _cluster_store(place: Place) -> Store:
    kind: Any = registry.load("stores", place.sink)
    if place.sink == "podlog":
        without: Store = kind(place.cluster)
        return without
    opened: Store = kind(place.cluster, repository=place.repository, insecure=place.insecure)
    return opened
