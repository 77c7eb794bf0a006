"""Settings: from calls, files and the environment, in that order, to one target.

Files are ``clustrix.yml``, ``clustrix.yaml``, ``clustrix.json`` or ``[tool.clustrix]`` of a ``pyproject.toml``, the
first found in the working directory or above it (up to the project's top), then those of ``~/.clustrix/`` and
``/etc/clustrix/``; the nearer wins, key by key. `clustrix.model.settings` is the table of all settings.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from clustrix.config_files import (
    CALL,
    Source,
    Value,
    cache_directory,
    discover,
    environment,
    home,
    is_secret,
    mapping,
    parse,
    read,
    targets,
)
from clustrix.errors import ConfigError, UnknownOption
from clustrix.model.settings import ClusterConfig, settings, spellings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "LOCAL",
    "Configuration",
    "Source",
    "as_data",
    "cache_directory",
    "check_call",
    "configure",
    "discover",
    "home",
    "is_secret",
    "load",
    "public",
]

LOCAL = "local"
"""The target that needs no configuration."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Hold all sources, strongest first, and resolve targets."""

    sources: tuple[Source, ...]
    environment: Mapping[str, Value]

    @property
    def target_names(self) -> tuple[str, ...]:
        """List what can be asked for; ``default`` is what flat keys describe."""
        named = {name for source in self.sources for name in source.targets}
        return tuple(sorted({*named, LOCAL, *(["default"] if not named and self._flat() else [])}))

    @property
    def undecided(self) -> bool:
        """Tell whether several targets are configured, and none of them as the one to take."""
        named = {name for source in self.sources for name in source.targets}
        return len(named) > 1 and self._find("target") is None

    def default_target(self) -> str | None:
        """Name the target of calls that name none; None where nothing is configured at all.

        Raises:
            ConfigError: several targets, and nothing says which.

        """
        chosen = self._find("target")
        if chosen is not None:
            return str(chosen.value)
        named = sorted({name for source in self.sources for name in source.targets})
        if len(named) > 1:
            raise ConfigError(
                f"no target was named, and there are several: {', '.join(named)}",
                remedy=f"Name one in the call, target={named[0]!r}, or configure `target: {named[0]}`.",
            )
        return named[0] if named else "default" if self._flat() else None

    def resolve(self, name: str, overrides: Mapping[str, object] | None = None) -> ClusterConfig:
        """Give all settings of a target: overrides > configure() > files > environment > defaults.

        Raises:
            UnknownOption: no such target, or an override that does not exist.
            ConfigError: a value that cannot be read, or targets that extend each other in a circle.

        """
        if name not in self.target_names:
            raise UnknownOption("target", name, self.target_names)
        layers: list[Mapping[str, Value]] = [read(overrides or {}, CALL, scopes=("call",))]
        runtime = [source for source in self.sources if source.path is None]
        files = [source for source in self.sources if source.path is not None]
        for group in (runtime, files):
            layers += self._lineage(name, group)
            layers += [self._for(name, source.values) for source in group]
        layers.append(self._for(name, self.environment))
        values: dict[str, Any] = {}
        provenance: dict[str, str] = {}
        for layer in layers:
            for key, found in layer.items():
                if key not in values:
                    values[key] = found.value
                    provenance[key] = found.source
        values["target"] = name
        return ClusterConfig(**values, provenance=provenance)

    def _lineage(self, name: str, group: list[Source]) -> list[Mapping[str, Value]]:
        """Give a target's own values and those it extends, nearest first."""
        layers: list[Mapping[str, Value]] = []
        seen: list[str] = []
        here: str | None = name
        while here is not None:
            if here in seen:
                raise ConfigError(f"targets extend each other in a circle: {' -> '.join([*seen, here])}")
            seen.append(here)
            layers += [source.targets[here] for source in group if here in source.targets]
            parents = [source.parents[here] for source in self.sources if here in source.parents]
            here = parents[0] if parents else None
            if here is not None and not self._declares(here):
                raise UnknownOption(f"target (extended by {seen[-1]!r})", here, self.target_names)
        return layers

    def _declares(self, name: str) -> bool:
        return any(name in source.targets for source in self.sources)

    def _find(self, key: str) -> Value | None:
        for layer in (*(source.values for source in self.sources), self.environment):
            if key in layer:
                return layer[key]
        return None

    def _for(self, name: str, values: Mapping[str, Value]) -> dict[str, Value]:
        """Drop what is said for all targets and describes a cluster: the built-in target stays this machine."""
        if name != LOCAL or self._declares(LOCAL):
            return dict(values)
        fitting = {"call"} if self._flat() else {"call", "target"}
        return {key: value for key, value in values.items() if settings()[key].scope in fitting}

    def _flat(self) -> bool:
        """Tell whether flat keys say where jobs go."""
        return any(self._find(key) is not None for key in ("backend", "host"))


_runtime: Source = Source("configure()")


def configure(**options: object) -> ClusterConfig | None:
    """Set values for this process, above every file; None takes a value back. Give the default target's settings.

    ``targets={"hpc": {"backend": "slurm", ...}}`` adds targets. Called without anything it changes nothing.

    Raises:
        UnknownOption: a name that does not exist, with the nearest that does.
        ConfigError: a value that cannot be read.

    """
    global _runtime  # noqa: PLW0603 - a process has one configuration
    given = mapping(options.pop("targets", {}), "targets", "configure()")
    taken_back = {spellings().get(name, name) for name, value in options.items() if value is None}
    set_now = {name: value for name, value in options.items() if value is not None}
    added = read(set_now, "configure()", scopes=("call", "target", "host", "client"))
    for name in taken_back - settings().keys():
        raise UnknownOption("setting", name, tuple(spellings()))
    values = {name: value for name, value in _runtime.values.items() if name not in taken_back}
    named, parents = targets(given, "configure()", None)
    candidate = replace(
        _runtime,
        values={**values, **added},
        targets={**_runtime.targets, **named},
        parents={**_runtime.parents, **parents},
    )
    load.cache_clear()
    _runtime = candidate
    current = load()
    target = None if current.undecided else current.default_target()
    return None if target is None else current.resolve(target)


def check_call(options: Mapping[str, object]) -> None:
    """Refuse what no call may say; whether a target exists is asked when the call is made."""
    read({name: value for name, value in options.items() if name != "target"}, CALL, scopes=("call",))


@cache
def load(directory: Path | None = None) -> Configuration:
    """Read everything there is, once a process; files are looked for from ``directory``, by default the working one.

    Raises:
        UnknownOption: a key that does not exist, with its file and line.
        ConfigError: a file that cannot be read, or holds secrets and can be read by others.

    """
    return Configuration((_runtime, *(parse(path) for path in discover(directory))), environment())


def public(config: ClusterConfig) -> dict[str, object]:
    """Give the settings that differ from their defaults, as plain data and without secrets: what a journal may hold."""
    plain: dict[str, object] = {}
    for name, row in settings().items():
        value = getattr(config, name)
        if not row.secret and value != row.default and name != "environment_variables":
            plain[name] = as_data(value)
    return plain


def as_data(value: object) -> object:
    """Turn a parsed value into what JSON and `Setting.parse` both know."""
    from datetime import timedelta

    from clustrix.model.image import Image
    from clustrix.model.resources import Mount

    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mount):
        return f"{value.source}:{value.target}{':ro' if value.read_only else ''}"
    if isinstance(value, (tuple, list)):
        return [as_data(item) for item in value]
    if isinstance(value, Image):
        return {row.name: as_data(getattr(value, row.name)) for row in fields(value)}
    return value.value if hasattr(value, "value") else value
