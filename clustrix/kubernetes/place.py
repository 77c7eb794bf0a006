"""A target's settings and the chart's defaults, put together: where images, payloads and outcomes of its jobs go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from clustrix.errors import AccessDenied, ConfigError, UnknownOption, UnsupportedResource
from clustrix.kubernetes import defaults, names

if TYPE_CHECKING:
    from clustrix.kubernetes.connection import Cluster
    from clustrix.kubernetes.defaults import Defaults
    from clustrix.model.settings import ClusterConfig

SINKS = ("registry", "podlog")


@dataclass(frozen=True, eq=False)
class Place:
    """Answer what depends on the chart, which is asked once, when it is first needed."""

    cluster: Cluster
    config: ClusterConfig

    def __post_init__(self) -> None:
        if self.config.store is not None and self.config.store not in SINKS:
            raise UnknownOption("store", self.config.store, SINKS)

    @cached_property
    def defaults(self) -> Defaults:
        """Read what the chart says; nothing where there is none, or where it may not be read."""
        try:
            found = self.cluster.get(self.cluster.path("configmaps", names.DEFAULTS))
        except AccessDenied:
            found = None
        return defaults.read(found, self.cluster.space)

    @property
    def registry(self) -> str | None:
        """Give the repository, as this machine reaches it."""
        return self.config.registry or self.defaults.registry

    @property
    def pod_registry(self) -> str | None:
        """Give the repository, as pods and nodes reach it."""
        own = self.config.pod_registry or self.config.registry
        return own or self.defaults.pod_registry or self.defaults.registry

    @property
    def insecure(self) -> bool:
        """Tell whether the repository speaks plain HTTP; what the chart says goes for its own, by whatever name."""
        own = self.pod_registry in {self.defaults.pod_registry, self.defaults.registry}
        return self.config.insecure_registry or (own and self.defaults.insecure_registry)

    @property
    def sink(self) -> str:
        """Say how outcomes come back that are too large for a pod's status."""
        return self.config.store or self.defaults.store

    @property
    def courier(self) -> bool:
        """Tell whether a container of its own sends the outcomes; UnsupportedResource where policy wants it."""
        if self.defaults.policy.courier and self.config.courier is False:
            raise UnsupportedResource(
                f"courier=False: required by the policy of namespace {self.defaults.namespace} "
                f"(ConfigMap {names.DEFAULTS})",
                remedy="Leave it out.",
            )
        asked = self.defaults.courier if self.config.courier is None else self.config.courier
        return asked or self.defaults.policy.courier

    @property
    def repository(self) -> str:
        """Give `registry`; ConfigError where nothing names one."""
        found = self.registry
        if found is None:
            raise ConfigError(
                f"target {self.config.target}: nothing says where its images and results go",
                remedy="Set `registry` to a repository that you may push to and that the nodes reach "
                "(registry.example.org/me/jobs); with an image of your own, `store: podlog` needs none.",
            )
        return found

    def seen_by_nodes(self, reference: str) -> str:
        """Translate a reference into the repository's name as nodes know it."""
        registry, theirs = self.registry, self.pod_registry
        if registry and theirs and reference.startswith((f"{registry}@", f"{registry}:", f"{registry}/")):
            return theirs + reference.removeprefix(registry)
        return reference
