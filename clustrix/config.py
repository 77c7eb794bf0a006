"""Settings: from calls, files and the environment, in that order, to one target.

Files are ``clustrix.yml``, ``clustrix.yaml``, ``clustrix.json`` or ``[tool.clustrix]`` of a ``pyproject.toml``, the
first found in the working directory or above it (up to the project's top), then those of ``~/.clustrix/`` and
``/etc/clustrix/``; the nearer wins, key by key. `clustrix.model.settings` is the table of all settings.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.errors import ConfigError, UnknownOption
from clustrix.model.settings import ClusterConfig, settings, spellings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOCAL = "local"
"""The target that needs no configuration."""

CALL = "the call"
_NAMES = ("clustrix.yml", "clustrix.yaml", "clustrix.json")
_SECRET = re.compile(r"(^|[_-])(passw(or)?d|passphrase|secret|token|api_?key)($|[_-])", re.IGNORECASE)
_TARGET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Value:
    """Hold a parsed value and where it was said."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Source:
    """Hold what one file, or `configure`, says: values for every target, and targets by name."""

    name: str
    path: Path | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    targets: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)


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
        layers: list[Mapping[str, Value]] = [_read(overrides or {}, CALL, scopes=("call",))]
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
    given = _mapping(options.pop("targets", {}), "targets", "configure()")
    taken_back = {spellings().get(name, name) for name, value in options.items() if value is None}
    set_now = {name: value for name, value in options.items() if value is not None}
    added = _read(set_now, "configure()", scopes=("call", "target", "host", "client"))
    for name in taken_back - settings().keys():
        raise UnknownOption("setting", name, tuple(spellings()))
    values = {name: value for name, value in _runtime.values.items() if name not in taken_back}
    targets, parents = _targets(given, "configure()", None)
    candidate = replace(
        _runtime,
        values={**values, **added},
        targets={**_runtime.targets, **targets},
        parents={**_runtime.parents, **parents},
    )
    load.cache_clear()
    _runtime = candidate
    current = load()
    target = None if current.undecided else current.default_target()
    return None if target is None else current.resolve(target)


def check_call(options: Mapping[str, object]) -> None:
    """Refuse what no call may say; whether a target exists is asked when the call is made."""
    _read({name: value for name, value in options.items() if name != "target"}, CALL, scopes=("call",))


@cache
def load(directory: Path | None = None) -> Configuration:
    """Read everything there is, once a process; files are looked for from ``directory``, by default the working one.

    Raises:
        UnknownOption: a key that does not exist, with its file and line.
        ConfigError: a file that cannot be read, or holds secrets and can be read by others.

    """
    return Configuration((_runtime, *(_parse(path) for path in discover(directory))), _environment())


def discover(start: Path | None = None, system: Path = Path("/etc/clustrix")) -> tuple[Path, ...]:
    """Find the configuration files, strongest first.

    Raises:
        ConfigError: two of them in one directory: neither is silently ignored.

    """
    explicit = os.environ.get("CLUSTRIX_CONFIG")
    found: list[Path] = []
    if explicit:
        found.append(Path(explicit))
    else:
        for directory in _project(start or Path.cwd()):
            if here := _in_directory(directory, pyproject=True):
                found.append(here)
                break
    for directory in (home(), system):
        if (here := _in_directory(directory, pyproject=False)) and here not in found:
            found.append(here)
    return tuple(found)


def home() -> Path:
    """Give the user's own directory of configuration and caches."""
    return Path(os.environ.get("CLUSTRIX_HOME") or Path.home() / ".clustrix")


def cache_directory() -> Path:
    """Place what can be made again: below CLUSTRIX_STATE_DIR, else clustrix in XDG_CACHE_HOME or ``~/.cache``."""
    if own := os.environ.get("CLUSTRIX_STATE_DIR"):
        return Path(own) / "cache"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "clustrix"


def _project(start: Path) -> Iterator[Path]:
    """Walk up to the top of the project: a version-control directory, the home directory, or the root."""
    for directory in (start, *start.parents):
        yield directory
        if (directory / ".git").exists() or directory == Path.home():
            return


def _in_directory(directory: Path, *, pyproject: bool) -> Path | None:
    found = [directory / name for name in _NAMES if (directory / name).is_file()]
    project = directory / "pyproject.toml"
    if pyproject and project.is_file() and "[tool.clustrix" in project.read_text("utf-8", errors="replace"):
        found.append(project)
    if len(found) > 1:
        raise ConfigError(
            f"two configurations in {directory}: {', '.join(path.name for path in found)}", remedy="Keep one of them."
        )
    return found[0] if found else None


def _parse(path: Path) -> Source:
    try:
        text = path.read_text("utf-8")
        content = _decode(path, text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    content = _mapping(content if content is not None else {}, "it", str(path))
    _refuse_readable_secrets(path, content)
    targets, parents = _targets(_mapping(content.pop("targets", {}), "targets", str(path)), str(path), text)
    values = _read(content, str(path), text=text, scopes=("call", "target", "host", "client"))
    return Source(str(path), path, values, targets, parents)


def _decode(path: Path, text: str) -> object:
    """Read YAML, JSON or a table of TOML; `ConfigError` with file and line where it is not."""
    try:
        if path.suffix == ".toml":
            import sys

            if sys.version_info >= (3, 11):
                import tomllib
            else:
                import tomli as tomllib
            document: Any = tomllib.loads(text)
            return document.get("tool", {}).get("clustrix", {}) if path.name == "pyproject.toml" else document
        if path.suffix == ".json":
            import json

            return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _mapping(value: object, what: str, where: str) -> dict[str, Any]:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise ConfigError(f"{where}: {what} must be names and values, not {value!r:.80}")


def _targets(
    given: Mapping[str, object], where: str, text: str | None
) -> tuple[dict[str, Mapping[str, Value]], dict[str, str]]:
    targets: dict[str, Mapping[str, Value]] = {}
    parents: dict[str, str] = {}
    for name, raw in given.items():
        if not _TARGET_NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: not a name for a target: {name!r}",
                remedy="Use letters, digits, dots, dashes and underscores.",
            )
        content = _mapping(raw if raw is not None else {}, f"target {name!r}", where)
        parent = content.pop("extends", None)
        if parent is not None:
            parents[name] = str(parent)
        targets[name] = _read(content, where, text=text, label=f" (target {name})", scopes=("call", "target", "host"))
    return targets, parents


def _read(
    content: Mapping[str, object], where: str, *, scopes: tuple[str, ...], text: str | None = None, label: str = ""
) -> dict[str, Value]:
    known = [word for word, name in spellings().items() if settings()[name].scope in scopes]
    choices = [*known, "target", "parallel"] if where == CALL else known
    values: dict[str, Value] = {}
    for word, raw in content.items():
        place = f"{where}{_line(text, word)}"
        if word not in known:
            raise UnknownOption(f"setting{label}", word, choices, where="" if where == CALL else place)
        name = spellings()[word]
        if name in values:
            raise ConfigError(f"{place}: {name} is set twice, also as {word}")
        try:
            values[name] = Value(settings()[name].parse(raw), f"{place}{label}")
        except ConfigError as error:
            raise ConfigError(f"{place}: {error.message}", remedy=error.remedy) from None
    return values


def _line(text: str | None, key: str) -> str:
    match = re.search(rf"^[\s{{,]*[\"']?{re.escape(key)}[\"']?\s*[:=]", text, re.MULTILINE) if text else None
    return f":{text.count(chr(10), 0, match.end()) + 1}" if text and match else ""


def _environment() -> dict[str, Value]:
    values = {}
    for name, row in settings().items():
        for variable in (row.variable, *(f"CLUSTRIX_{alias.upper()}" for alias in row.aliases)):
            if text := os.environ.get(variable):
                try:
                    values[name] = Value(row.parse(text), f"${variable}")
                except ConfigError as error:
                    raise ConfigError(f"${variable}: {error.message}", remedy=error.remedy) from None
                break
    return values


def _refuse_readable_secrets(path: Path, content: Mapping[str, object]) -> None:
    names = sorted(set(_secrets(content)))
    if names and os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} holds {', '.join(names)} and can be read by others", remedy=f"Run: chmod 600 {path}")


def _secrets(content: object) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            if isinstance(value, str) and value and is_secret(str(key)):
                yield str(key)
            yield from _secrets(value)
    elif isinstance(content, list):
        for item in content:
            yield from _secrets(item)


def is_secret(name: str) -> bool:
    """Tell whether a value of that name is never shown or recorded."""
    return bool(_SECRET.search(name))


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
