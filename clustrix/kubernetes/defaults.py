"""What the administrator of a namespace says for all its jobs: the ConfigMap that the chart writes.

Weakest first: the chart's defaults, the target's settings, the call's; policy refuses, and never changes silently.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from clustrix.errors import ConfigError, UnsupportedResource
from clustrix.kubernetes import names
from clustrix.model.resources import parse_memory, parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from clustrix.model.resources import Mount, Resources

KEY = "defaults.yaml"
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


def check(
    defaults: Defaults,
    resources: Resources,
    asked: Mapping[str, object],
    *,
    image: str | None,
    mounts: tuple[Mount, ...],
    parallelism: int,
    service_account: str | None,
) -> None:
    """Refuse what the policy of the namespace forbids, by name.

    ``asked`` are the names and values of the user's own ``backend_options``; ``image`` is as pods pull it, None as long
    as nobody knows.

    Raises:
        UnsupportedResource: names the option, what was asked, and what is allowed.

    """
    policy = defaults.policy
    whose = f"policy of namespace {defaults.namespace} (ConfigMap {names.DEFAULTS})"

    def refuse(name: str, value: object, allowed: str) -> None:
        raise UnsupportedResource(f"{name}={value}: {allowed}, by the {whose}", remedy="Ask for what it allows.")

    used = {**asked, **({"mounts": [mount.source for mount in mounts]} if mounts else {})}
    for name in policy.forbidden_options:
        if name in used:
            refuse(name, used[name], "not allowed")
    most = policy.max
    for name, value, limit in (
        ("cores", resources.cores, most.get("cores")),
        ("gpus", resources.gpus, most.get("gpus")),
        ("max_parallel", parallelism, most.get("max_parallel")),
    ):
        if limit is not None and value > limit:
            refuse(name, value, f"at most {limit}")
    if (
        "memory" in most
        and resources.memory_bytes is not None
        and resources.memory_bytes > parse_memory(most["memory"])
    ):
        refuse("memory", f"{resources.memory_bytes} bytes", f"at most {most['memory']}")
    if defaults.time is not None and resources.time is not None and resources.time > defaults.time:
        refuse("time", resources.time, f"at most {most['time']}")
    if policy.service_accounts and (service_account or "default") not in policy.service_accounts:
        refuse("service_account", service_account or "default", f"only {', '.join(policy.service_accounts)}")
    if policy.images and image is not None and not image.startswith(policy.images):
        refuse("image", image, f"only {', '.join(policy.images)}")
