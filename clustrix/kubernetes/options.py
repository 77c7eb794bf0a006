"""``backend_options`` on Kubernetes: each name once, with what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from clustrix.errors import ConfigError, UnknownOption, UnsupportedResource
from clustrix.kubernetes import names
from clustrix.model.resources import parse_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from clustrix.model.resources import Mount, Resources

_RESERVED = ("clustrix.dev/", "batch.kubernetes.io/", "controller-uid", "job-name", names.MANAGED_BY, names.QUEUE)

_ELSEWHERE: Mapping[str, str] = {
    "partition": "Choose nodes with backend_options={'node_selector': {...}}.",
    "account": "A namespace is who pays: set `namespace`.",
    "qos": "Set backend_options={'priority_class': ...}.",
    "constraint": "Choose nodes with backend_options={'node_selector': {...}} or 'affinity'.",
    "modules": "Put what they hold into the image.",
}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(word) for word in ([value] if isinstance(value, str) else _list(value)))


def _text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise TypeError


def _extended(value: object) -> str:
    name = _text(value)
    if "/" in name:
        return name
    raise TypeError


def _list(value: object) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    raise TypeError


def _tables(value: object) -> tuple[dict[str, Any], ...]:
    return tuple(_table(row) for row in _list(value))


def _table(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise TypeError


def _words(value: object) -> dict[str, str]:
    return {key: _text(text) for key, text in _table(value).items()}


def _metadata(value: object) -> dict[str, str]:
    table = _words(value)
    taken = next((key for key in table if key.startswith(_RESERVED)), None)
    if taken:
        raise ConfigError(f"{taken} is not yours to set", remedy="Choose a name with a prefix of your own.")
    return table


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError


def _number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise TypeError


def _user(value: object) -> int:
    number = _number(value)
    if number == 0:
        raise ConfigError("no pod runs as root", remedy="Give a number above 0, or leave it out.")
    return number


def _sizes(value: object) -> dict[str, int]:
    table = _table(value)
    if not all(path.startswith("/") for path in table):
        raise TypeError
    return {path: parse_memory(size) for path, size in table.items()}


def _option(parse: Callable[[Any], Any], meaning: str, default: object = None) -> Any:  # noqa: ANN401 - a field
    metadata = {"parse": parse, "meaning": meaning}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Hold what may be asked for beyond what all schedulers know."""

    node_selector: Mapping[str, str] = _option(_words, "labels that nodes must have", {})
    tolerations: tuple[Mapping[str, Any], ...] = _option(_tables, "a list of tolerations", ())
    affinity: Mapping[str, Any] = _option(_table, "an affinity, as the API has it", {})
    service_account: str | None = _option(_text, "the name of a service account")
    automount_token: bool = _option(_switch, "true or false", default=False)
    priority_class: str | None = _option(_text, "the name of a priority class")
    gpu_resource: str = _option(_extended, "the name of an extended resource, `vendor.example/gpu`", "nvidia.com/gpu")
    image_pull_secrets: tuple[str, ...] = _option(_texts, "names of secrets", ())
    empty_dirs: Mapping[str, int] = _option(_sizes, "absolute paths and their sizes", {})
    run_as_user: int | None = _option(_user, "the number of a user above 0")
    run_as_group: int | None = _option(_user, "the number of a group above 0")
    fs_group: int | None = _option(_user, "the number of a group above 0")
    ttl_seconds: int = _option(_number, "a number of seconds", 3600)
    labels: Mapping[str, str] = _option(_metadata, "labels and their values", {})
    annotations: Mapping[str, str] = _option(_metadata, "annotations and their values", {})
    pending_seconds: int = _option(_number, "a number of seconds", 300)
    ephemeral_storage: int | None = _option(parse_memory, "an amount of memory")
    runtime_class: str | None = _option(_text, "the name of a runtime class")
    pod_template: Mapping[str, Any] = _option(_table, "a part of a PodTemplateSpec", {})


def read(given: Mapping[str, object]) -> Options:
    """Read ``backend_options``.

    Raises:
        UnknownOption: a name that is none.
        ConfigError: a value that cannot be read.

    """
    known = {row.name: row for row in fields(Options)}
    values = {}
    for name, value in given.items():
        if name not in known:
            raise UnknownOption("backend option", name, tuple(known))
        about = known[name].metadata
        try:
            values[name] = about["parse"](value)
        except ConfigError as error:
            raise ConfigError(f"backend_options: {name}={value!r}: {error.message}", remedy=error.remedy) from None
        except (TypeError, ValueError):
            raise ConfigError(f"backend_options: {name} must be {about['meaning']}, not {value!r}") from None
    return Options(**values)


def refuse(resources: Resources, mounts: tuple[Mount, ...]) -> None:
    """Refuse by name what batch schedulers have and Kubernetes does not; UnsupportedResource."""
    for name, remedy in _ELSEWHERE.items():
        value = getattr(resources, name)
        if value:
            raise UnsupportedResource(f"Kubernetes has no {name} ({name}={value!r})", remedy=remedy)
    if resources.nodes > 1:
        raise UnsupportedResource(
            f"nodes={resources.nodes}: a task on Kubernetes is one pod", remedy="Leave nodes out, and use .map."
        )
    for mount in mounts:
        if mount.source.startswith("/"):
            raise UnsupportedResource(
                f"pods see no directory of a node, such as {mount.source}",
                remedy='Mount a PersistentVolumeClaim, mounts=["claim:/data"], or set backend_options empty_dirs.',
            )
