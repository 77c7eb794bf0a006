"""What the administrator of a namespace says for all its jobs: the ConfigMap that the chart writes.

Weakest first: the chart's defaults, the target's settings, the call's; policy refuses, and never changes silently.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from clustrix.errors import ConfigError, UnsupportedResource
from clustrix.kubernetes import fate, names
from clustrix.model.resources import parse_memory, parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clustrix.model.resources import Mount, Resources

KEY = "defaults.yaml"
UNKNOWN_IMAGE = "image-of-the-call"
"""What a manifest shows as long as nobody knows the image."""
_VERSION = 1
_FIELDS = {
    "node_selector": "spec.nodeSelector",
    "tolerations": "spec.tolerations",
    "affinity": "spec.affinity",
    "service_account": "spec.serviceAccountName",
    "priority_class": "spec.priorityClassName",
    "image_pull_secrets": "spec.imagePullSecrets",
    "runtime_class": "spec.runtimeClassName",
    "run_as_user": "spec.securityContext.runAsUser",
    "run_as_group": "spec.securityContext.runAsGroup",
    "fs_group": "spec.securityContext.fsGroup",
    "labels": "metadata.labels",
    "annotations": "metadata.annotations",
}
"""The options that a template can say in the words of the API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Hold what no job of the namespace may exceed; empty or None is: anything."""

    courier: bool = False
    max: Mapping[str, Any] = field(default_factory=dict)
    service_accounts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    forbidden_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Hold the chart's defaults, named as the settings are."""

    namespace: str = ""
    registry: str | None = None
    pod_registry: str | None = None
    insecure_registry: bool = False
    store: str = "registry"
    courier: bool = False
    queue: str | None = None
    backend_options: Mapping[str, Any] = field(default_factory=dict)
    pod_template: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)

    @property
    def time(self) -> timedelta | None:
        """Give the time of jobs that name none: the most that they may have."""
        return parse_time(self.policy.max["time"]) if "time" in self.policy.max else None


def read(config_map: Mapping[str, Any] | None, namespace: str) -> Defaults:
    """Read the ConfigMap; without one there are no defaults.

    Raises:
        ConfigError: it is of a newer chart, or cannot be read.

    """
    text = ((config_map or {}).get("data") or {}).get(KEY)
    if text is None:
        return Defaults(namespace=namespace)
    import yaml

    where = f"the ConfigMap {names.DEFAULTS} of namespace {namespace}"
    try:
        document = dict(yaml.safe_load(text) or {})
        version = document.pop("version", _VERSION)
        policy = dict(document.pop("policy", None) or {})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    known = {row.name for row in fields(Defaults)} - {"namespace", "policy"}
    stranger = next((f"the key {key}" for key in document if key not in known), None)
    stranger = stranger or next((f"the policy {key}" for key in policy if key not in _POLICIES), None)
    if version != _VERSION or stranger:
        raise ConfigError(
            f"the chart in namespace {namespace} is newer than this clustrix: {stranger or f'version {version}'}",
            remedy="Upgrade clustrix.",
        )
    given = {key: value for key, value in document.items() if value is not None}
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in policy.items()}
    return Defaults(namespace=namespace, **given, policy=Policy(**lists))


_POLICIES = frozenset(row.name for row in fields(Policy))


def check(
    defaults: Defaults,
    resources: Resources,
    asked: Mapping[str, Any],
    pod: Mapping[str, Any],
    *,
    mounts: tuple[Mount, ...],
    parallelism: int,
    gpu_resource: str = "nvidia.com/gpu",
) -> None:
    """Refuse what the policy of the namespace forbids, by name, whether an option or a template asks for it.

    ``asked`` are the names and values of the user's own ``backend_options``; ``pod`` is the spec of the pods.

    Raises:
        UnsupportedResource: names the option, what was asked, and what is allowed.

    """
    policy, most = defaults.policy, defaults.policy.max
    whose = f"policy of namespace {defaults.namespace} (ConfigMap {names.DEFAULTS})"

    def refuse(name: str, value: object, allowed: str) -> None:
        raise UnsupportedResource(f"{name}={value}: {allowed}, by the {whose}", remedy="Ask for what it allows.")

    own = asked.get("pod_template") or {}
    used = {**asked, **_said(own)}
    claims = [row["persistentVolumeClaim"] for row in _at(own, "spec.volumes") or () if "persistentVolumeClaim" in row]
    if mounts or claims:
        used["mounts"] = [*(mount.source for mount in mounts), *claims]
    for name in policy.forbidden_options:
        if name in used:
            refuse(name, used[name], "not allowed")
    theirs = {row["name"]: row for row in _containers(defaults.pod_template.get("spec") or {})}
    memory = most.get("memory") and parse_memory(most["memory"])
    amounts: tuple[tuple[str, Any, Any], ...] = (
        ("cores", max(resources.cores, _amount(pod, "cpu", theirs)), most.get("cores")),
        ("gpus", max(resources.gpus, _amount(pod, gpu_resource, theirs)), most.get("gpus")),
        ("memory", max(resources.memory_bytes or 0, _amount(pod, "memory", theirs)), memory),
        ("time", resources.time or timedelta(0), defaults.time),
        ("max_parallel", parallelism, most.get("max_parallel")),
    )
    for name, value, limit in amounts:
        if limit is not None and value > limit:
            refuse(name, value, f"at most {most[name]}")
    account = pod.get("serviceAccountName", "default")
    if policy.service_accounts and account not in policy.service_accounts:
        refuse("service_account", account, f"only {', '.join(policy.service_accounts)}")
    for container in _containers(pod):
        image = container["image"]
        known = image == theirs.get(container["name"], {}).get("image")
        if policy.images and not known and not image.startswith((*policy.images, UNKNOWN_IMAGE)):
            refuse("image", image, f"only {', '.join(policy.images)}")


def options(defaults: Defaults, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Put the chart's ``backend_options`` under the user's, who may say the same in a ``pod_template``."""
    own = _said(asked.get("pod_template") or {})
    return {**{name: value for name, value in defaults.backend_options.items() if name not in own}, **asked}


def _said(template: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a template says that is an option, too."""
    try:
        found = {name: _at(template, path) for name, path in _FIELDS.items()}
    except (TypeError, AttributeError):  # it is none, and will be refused
        return {}
    return {name: value for name, value in found.items() if value is not None}


def _at(template: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401 - JSON
    found: Any = template
    for name in path.split("."):
        found = (found or {}).get(name)
    return found


def _containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]


def _amount(pod: Mapping[str, Any], name: str, theirs: Mapping[str, Any]) -> float:
    """Add up what the containers of a pod get, but for those that are the administrator's; those that begin it alone.

    A template may say it, where the request names no number.
    """

    def of(container: Mapping[str, Any]) -> float:
        resources = container.get("resources") or {}
        other = container["name"] != names.MAIN
        if other and resources == (theirs.get(container["name"], {}).get("resources") or {}):
            return 0
        return max(fate.quantity((resources.get(kind) or {}).get(name, 0)) for kind in ("requests", "limits"))

    found = max(sum(map(of, pod["containers"])), *map(of, pod.get("initContainers") or ()), 0)
    return int(found) if found == int(found) else found
