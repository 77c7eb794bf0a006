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
from clustrix.locking.pylock import load, local_path
from clustrix.model.environment import Environment, Origin
from clustrix.model.source import ProjectSource, PylockSource, RequirementsSource, ScriptSource

if TYPE_CHECKING:
    from clustrix.model.environment import Distribution
    from clustrix.model.source import Source

_BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
"""The reference pattern of PEP 723."""


def identity(source: Source) -> str:
    """Digest all that decides on a source's lock besides the indexes, so that a lock that was kept can be used again.

    Raises:
        LockError: one of the files cannot be read.

    """
    if isinstance(source, Environment):
        rows = [[asdict(row), _tree(row)] for row in source.distributions]
        described: object = [asdict(source.interpreter), str(source.platform), rows]
    else:
        described = [type(source).__name__, asdict(source), texts(source)]
    text = json.dumps(described, default=lambda member: member.value)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def texts(source: ProjectSource | PylockSource | RequirementsSource | ScriptSource) -> list[str]:
    """Read what decides on the lock of a file: the file, what it includes, and of a script only its metadata.

    Raises:
        LockError: one cannot be read.

    """
    if isinstance(source, ProjectSource):
        return _project(Path(source.directory))
    if isinstance(source, PylockSource):
        return [_read(Path(source.path))]
    if isinstance(source, RequirementsSource):
        return [_read(path) for path in requirements.read(Path(source.path)).files]
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


def _project(directory: Path) -> list[str]:
    """Read a uv.lock and the pyproject.toml of everything in its workspace: a change there may outdate it."""
    if not (directory / "uv.lock").is_file():
        raise LockError(f"there is no uv.lock in {directory}", remedy="Make one with: uv lock")
    lock = _read(directory / "uv.lock")
    sources = [package.get("source", {}) for package in load(lock, f"{directory}/uv.lock").get("package", [])]
    places = {source[kind] for source in sources for kind in ("editable", "directory", "virtual") if kind in source}
    files = [directory / place / "pyproject.toml" for place in sorted({".", *places})]
    return [lock, *(_read(path) for path in files if path.is_file())]


def _tree(row: Distribution) -> str | None:
    """Digest the source tree of what has to be built from one."""
    if row.origin is not Origin.DIRECTORY and (row.origin is not Origin.EDITABLE or row.pure):
        return None
    directory = local_path(row.url or "")
    return builds.tree_digest(row.name, directory) if directory is not None and directory.is_dir() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"cannot read {path}: {error}", remedy="Check the path.") from error
