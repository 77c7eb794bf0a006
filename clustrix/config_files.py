"""What configuration files and environment variables say: found, read, and every value with its place."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.errors import ConfigError, UnknownOption
from clustrix.model.settings import settings, spellings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
        for directory in _project(start or _here()):
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


def unusable(error: OSError) -> ConfigError:
    """Say of what the system refused where it lies, and what else could be named."""
    from clustrix.journal import state_directory

    place, ours = Path(str(error.filename)), (cache_directory(), state_directory())
    own = any(place in {directory, *directory.parents} or directory in place.parents for directory in ours)
    return ConfigError(
        f"cannot use {place}: {error.strerror}",
        remedy="Set CLUSTRIX_STATE_DIR to a directory that you may write to."
        if own
        else "See that it is there and is yours to use, or name another.",
    )


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ConfigError("the working directory does not exist any more", remedy="Go to one that does.") from None


def _project(start: Path) -> Iterator[Path]:
    """Walk up to the top of the project: a version-control directory, the home directory, or the root."""
    for directory in (start, *start.parents):
        yield directory
        if (directory / ".git").exists() or directory == Path.home():
            return


def _in_directory(directory: Path, *, pyproject: bool) -> Path | None:
    found = [directory / name for name in _NAMES if _is_file(directory / name)]
    project = directory / "pyproject.toml"
    if pyproject and _is_file(project) and "[tool.clustrix" in project.read_text("utf-8", errors="replace"):
        found.append(project)
    if len(found) > 1:
        raise ConfigError(
            f"two configurations in {directory}: {', '.join(path.name for path in found)}", remedy="Keep one of them."
        )
    return found[0] if found else None


def _is_file(path: Path) -> bool:
    """Do what ``Path.is_file`` does, the same in every Python where it may not look."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(
            f"cannot look for {path}: {error.strerror}", remedy="Work in a directory that you may search."
        ) from None


def parse(path: Path) -> Source:
    """Read one file.

    Raises:
        UnknownOption: a key that does not exist, with its line.
        ConfigError: it cannot be read, or holds secrets and can be read by others.

    """
    try:
        text = path.read_text("utf-8")
        content = _decode(path, text)
    except OSError as error:
        hint = " It is named by CLUSTRIX_CONFIG." if os.environ.get("CLUSTRIX_CONFIG") == str(path) else ""
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", remedy=f"See that it is there and is yours to read.{hint}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}", remedy="Save it as UTF-8."
        ) from None
    content = mapping(content if content is not None else {}, "it", str(path))
    _refuse_readable_secrets(path, content)
    named, parents = targets(mapping(content.pop("targets", {}), "targets", str(path)), str(path), text)
    values = read(content, str(path), text=text, scopes=("call", "target", "host", "client"))
    return Source(str(path), path, values, named, parents)


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

            return json.loads(text, object_pairs_hook=_unique)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}", remedy="Mend it there.") from None
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuse a key that stands there twice, as YAML does and its libraries do not: one would be ignored."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - it is a safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line} is no YAML: {error.problem}", remedy="Mend it there, or before it.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} cannot be read: {error}", remedy="Mend it there.") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is there twice")
    return dict(pairs)


def mapping(value: object, what: str, where: str) -> dict[str, Any]:
    """Take names and values, ConfigError for anything else."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise ConfigError(f"{where}: {what} must be names and values, not {value!r:.80}")


def targets(
    given: Mapping[str, object], where: str, text: str | None
) -> tuple[dict[str, Mapping[str, Value]], dict[str, str]]:
    """Read targets and whom each extends."""
    found: dict[str, Mapping[str, Value]] = {}
    parents: dict[str, str] = {}
    for name, raw in given.items():
        if not _TARGET_NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: not a name for a target: {name!r}",
                remedy="Use letters, digits, dots, dashes and underscores.",
            )
        content = mapping(raw if raw is not None else {}, f"target {name!r}", where)
        parent = content.pop("extends", None)
        if parent is not None:
            parents[name] = str(parent)
        found[name] = read(content, where, text=text, label=f" (target {name})", scopes=("call", "target", "host"))
    return found, parents


def read(
    content: Mapping[str, object], where: str, *, scopes: tuple[str, ...], text: str | None = None, label: str = ""
) -> dict[str, Value]:
    """Read settings that these scopes may give; ``text`` is that of the file, for the line of a wrong one."""
    known = [word for word, name in spellings().items() if settings()[name].scope in scopes]
    choices = [*known, "target", "parallel"] if where == CALL else known
    values: dict[str, Value] = {}
    for word, raw in content.items():
        place = f"{where}{_line(text, word)}"
        if word not in known and word in spellings():
            whose = "a target, not of a call" if where == CALL else "a whole file, not of a target"
            raise ConfigError(
                f"{place}{label}: {word} is a setting of {whose}",
                remedy="Set it there, in clustrix.yml or by configure().",
            )
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


def environment() -> dict[str, Value]:
    """Read the environment variables of all settings."""
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
