"""Everything that decides on a lock: what is installed or written, with the files that it leads to."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import LockError
from clustrix.locking import builds, requirements
from clustrix.locking.pylock import MEND, load, local_path
from clustrix.model.environment import Environment, Origin
from clustrix.model.source import ProjectSource, PylockSource, RequirementsSource, ScriptSource

if TYPE_CHECKING:
    from clustrix.model.source import Source

_BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
"""The reference pattern of PEP 723."""


def identity(source: Source) -> str:
    """Digest all that decides on a source's lock besides the indexes, so that a lock that was kept can be used again.

    Raises:
        LockError: one of the files cannot be read.

    """
    if isinstance(source, Environment):
        own: list[object] = [asdict(source.interpreter), str(source.platform), *map(asdict, source.distributions)]
        built = [row for row in source.distributions if row.origin is Origin.DIRECTORY or not row.pure]
        trees = [path for row in built if (path := local_path(row.url or "")) is not None]
    else:
        own, trees = [type(source).__name__, asdict(source), texts(source)], _trees(source)
    stamps = [builds.stamp(path) for path in trees if path.is_dir()]
    text = json.dumps([own, stamps], default=lambda member: member.value)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def texts(source: ProjectSource | PylockSource | RequirementsSource | ScriptSource) -> list[str]:
    """Read what decides on the lock of a file: the file, what it includes, and of a script only its metadata.

    Raises:
        LockError: one cannot be read.

    """
    if isinstance(source, ProjectSource | RequirementsSource):
        # A change of what a source tree requires changes the answer, or outdates a uv.lock.
        described = [path / name for path in _trees(source) for name in ("pyproject.toml", "setup.cfg", "setup.py")]
        return [_read(path) for path in [*_files(source), *(path for path in described if path.is_file())]]
    if isinstance(source, PylockSource):
        return [_read(Path(source.path))]
    locked = lock_of_script(Path(source.path))
    return [metadata_of_script(Path(source.path)), *([_read(locked)] if locked.is_file() else [])]


def lock_of_script(script: Path) -> Path:
    """Name the file that ``uv lock --script`` writes."""
    return script.with_name(script.name + ".lock")


def metadata_of_script(script: Path) -> str:
    """Read the TOML of a script's inline metadata; empty where there is none."""
    found = _BLOCK.search(_read(script))
    lines = found["content"].splitlines() if found else []
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def _files(source: ProjectSource | RequirementsSource) -> list[Path]:
    if isinstance(source, RequirementsSource):
        return requirements.read(Path(source.path)).files
    directory = Path(source.directory)
    if not (directory / "uv.lock").is_file():
        raise LockError(f"there is no uv.lock in {directory}", remedy="Make one with: uv lock")
    return [directory / "uv.lock", directory / "pyproject.toml"]


def _trees(source: ProjectSource | PylockSource | RequirementsSource | ScriptSource) -> list[Path]:
    """List the source trees that a file leads to; LockError for a lock file that is built otherwise than its like."""
    try:
        base, names = _named_trees(source)
    except (KeyError, TypeError, AttributeError) as error:
        place = source.directory if isinstance(source, ProjectSource) else source.path
        raise LockError(f"the lock of {place} is none: {error!r}", remedy=MEND) from error
    return [base / name for name in sorted(names) if "://" not in name and (base / name).is_dir()]


def _named_trees(
    source: ProjectSource | PylockSource | RequirementsSource | ScriptSource,
) -> tuple[Path, set[str]]:
    if isinstance(source, ProjectSource):
        base = Path(source.directory)
        lock = load(_read(_files(source)[0]), f"{base}/uv.lock")
        origins = [package.get("source", {}) for package in lock.get("package", [])]
        names = {str(origin[kind]) for origin in origins for kind in ("editable", "directory") if kind in origin}
    elif isinstance(source, RequirementsSource):
        base = Path(source.path).parent
        lines = requirements.read(Path(source.path)).unhashed
        places = {line.rpartition("@ ")[2].partition("[")[0].removeprefix("file://") for line in lines}
        names = {place for place in places if place.startswith((".", "/"))}  # as pip tells a path from a name
    elif isinstance(source, PylockSource):
        base = Path(source.path).parent
        packages = load(_read(Path(source.path)), source.path).get("packages", [])
        names = {package["directory"]["path"] for package in packages if "directory" in package}
    else:
        return Path(), set()
    return base, names


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"cannot read {path}: {error}", remedy="Check the path.") from error
