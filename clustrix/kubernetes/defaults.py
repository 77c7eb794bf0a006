"""What the administrator of a namespace says for all its jobs: the ConfigMap that the chart writes.

Weakest first: the chart's defaults, the target's settings, the call's; policy refuses, and never changes silently.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from clustrix.errors import ConfigError, UnsupportedResource
from clustrix.kubernetes import names
from clustrix.model.resources import parse_memory, parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clustrix.model.resources import Mount, Resources

KEY = "defaults.yaml"
UNKNOWN_IMAGE = "image-of-the-call"
"""What a manifest shows as long as nobody knows the image."""
_VERSION = 1


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
_FIELDS = {
    "node_selector": "nodeSelector",
    "tolerations": "tolerations",
    "affinity": "affinity",
    "service_account": "serviceAccountName",
    "automount_token": "automountServiceAccountToken",
    "priority_class": "priorityClassName",
    "image_pull_secrets": "imagePullSecrets",
    "runtime_class": "runtimeClassName",
}
"""The options that a template can say in the words of the API."""


def check(
    defaults: Defaults,
    resources: Resources,
    asked: Mapping[str, Any],
    pod: Mapping[str, Any],
    *,
    mounts: tuple[Mount, ...],
    parallelism: int,
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

    own = (asked.get("pod_template") or {}).get("spec") or {}
    used = {**asked, **{name: own[field] for name, field in _FIELDS.items() if field in own}}
    if mounts:
        used["mounts"] = [mount.source for mount in mounts]
    for name in policy.forbidden_options:
        if name in used:
            refuse(name, used[name], "not allowed")
    amounts: tuple[tuple[str, Any, Any], ...] = (
        ("cores", resources.cores, most.get("cores")),
        ("gpus", resources.gpus, most.get("gpus")),
        ("memory", resources.memory_bytes or 0, most.get("memory") and parse_memory(most["memory"])),
        ("time", resources.time or timedelta(0), defaults.time),
        ("max_parallel", parallelism, most.get("max_parallel")),
    )
    for name, value, limit in amounts:
        if limit is not None and value > limit:
            refuse(name, value, f"at most {most[name]}")
    account = pod.get("serviceAccountName", "default")
    if policy.service_accounts and account not in policy.service_accounts:
        refuse("service_account", account, f"only {', '.join(policy.service_accounts)}")
    theirs = {row["name"] for row in (defaults.pod_template.get("spec") or {}).get("containers") or ()} - {names.MAIN}
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        image = container["image"]
        if policy.images and container["name"] not in theirs and not image.startswith((*policy.images, UNKNOWN_IMAGE)):
            refuse("image", image, f"only {', '.join(policy.images)}")
