"""Pod templates of administrators and targets, merged under what a job asks for.

Weakest first: the chart's ``pod_template``, the target's ``backend_options.pod_template``, the request, and what is
never given up: no root, no privileges, nothing of the node.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from clustrix.errors import ConfigError
from clustrix.kubernetes import names

_BY_NAME = {"containers", "initContainers", "volumes", "env", "imagePullSecrets"}
_BY_PATH = {"volumeMounts"}
_ADDED = {"tolerations", "envFrom", "topologySpreadConstraints"}
_HOST = ("hostNetwork", "hostPID", "hostIPC", "hostUsers", "nodeName", "shareProcessNamespace")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle")
_ENDS = ("terminationMessagePath", "terminationMessagePolicy", "restartPolicy")
_OURS = ("command", "args", "image", "imagePullPolicy", "workingDir", *_PROBES, *_ENDS)
_FIXED = {
    "restartPolicy": ("Never", "Leave it out."),
    "terminationGracePeriodSeconds": (30, "Leave it out."),
    "enableServiceLinks": (False, "Leave it out."),
    "automountServiceAccountToken": (False, "Set backend_options automount_token."),
}
"""What every pod gets, so that a template that says something else would be passed over."""
_VARIABLES = {"HOME", "TMPDIR"}


def merge(under: Any, over: Any, key: str = "") -> Any:  # noqa: ANN401 - JSON
    """Merge JSON: tables key by key, lists of named things by name, lists of rules added up, all else replaced."""
    if isinstance(under, Mapping) and isinstance(over, Mapping):
        merged = dict(under)
        for name, value in over.items():
            merged[name] = merge(under[name], value, name) if name in under else copy.deepcopy(value)
        return merged
    if isinstance(under, list) and isinstance(over, list):
        if key in _ADDED:
            return [*under, *(row for row in over if row not in under)]
        mark = "name" if key in _BY_NAME else "mountPath" if key in _BY_PATH else None
        if mark:
            rows = {row[mark]: row for row in copy.deepcopy(under)}
            for row in over:
                rows[row[mark]] = merge(rows.get(row[mark], {}), row)
            return list(rows.values())
    return copy.deepcopy(over)


def check(template: Mapping[str, Any], where: str) -> None:
    """Refuse a template that would give up what is never given up, or that is none; ConfigError names the field."""
    for name in template:
        if name not in {"metadata", "spec"}:
            raise ConfigError(f"{where}: {name} is no part of a pod template", remedy="It has metadata and spec.")
    try:
        _check_rows(template, where)
        _check_spec(template.get("spec") or {}, f"{where}.spec")
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where} is no part of a PodTemplateSpec: {error!r}") from error


def _check_rows(part: Any, where: str) -> None:  # noqa: ANN401 - JSON
    """Refuse lists whose rows are merged by a name that one of them does not have."""
    for key, value in part.items() if isinstance(part, Mapping) else ():
        mark = "name" if key in _BY_NAME else "mountPath" if key in _BY_PATH else None
        for row in value if isinstance(value, list) else ():
            if mark and not (isinstance(row, Mapping) and row.get(mark)):
                raise ConfigError(f"{where}.{key}: {row!r} has no {mark}", remedy=f"Each row needs its {mark}.")
            _check_rows(row, f"{where}.{key}")
        _check_rows(value, f"{where}.{key}")


def _check_spec(spec: Mapping[str, Any], where: str) -> None:
    for name in _HOST:
        if spec.get(name):
            _refuse(f"{where}.{name}")
    for name, (value, remedy) in _FIXED.items():
        if spec.get(name, value) != value:
            raise ConfigError(f"{where}.{name} is clustrix's to set", remedy=remedy)
    for volume in spec.get("volumes") or ():
        if "hostPath" in volume:
            _refuse(f"{where}.volumes[{volume['name']}].hostPath")
    _check_identity(spec.get("securityContext") or {}, f"{where}.securityContext")
    for kind in ("containers", "initContainers"):
        for container in spec.get(kind) or ():
            _check_container(container, f"{where}.{kind}[{container['name']}]")


def _check_container(container: Mapping[str, Any], place: str) -> None:
    _check_identity(container.get("securityContext") or {}, f"{place}.securityContext")
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        _refuse(f"{place}.ports.hostPort")
    if container["name"] not in {names.MAIN, names.COURIER}:
        return
    variables = [row["name"] for row in container.get("env") or ()]
    ours = [field for field in _OURS if field in container]
    ours += [f"env[{name}]" for name in variables if name in _VARIABLES or name.startswith("CLUSTRIX_")]
    if ours:
        raise ConfigError(f"{place}.{ours[0]} is clustrix's to set", remedy="Leave it out.")


def _check_identity(context: Mapping[str, Any], place: str) -> None:
    for name, wrong in (
        ("runAsUser", 0),
        ("runAsGroup", 0),
        ("runAsNonRoot", False),
        ("privileged", True),
        ("allowPrivilegeEscalation", True),
        ("readOnlyRootFilesystem", False),
    ):
        if name in context and context[name] == wrong and type(context[name]) is type(wrong):
            _refuse(f"{place}.{name}")
    if (context.get("capabilities") or {}).get("add"):
        _refuse(f"{place}.capabilities.add")
    if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
        _refuse(f"{place}.seccompProfile")


def _refuse(field: str) -> None:
    raise ConfigError(f"{field}: pods get no root, no privileges and nothing of the node", remedy="Leave it out.")
