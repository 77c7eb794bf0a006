"""Lock what a file describes: uv.lock, pylock.toml, requirements, or a script's metadata."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.locking import builds, graph, inputs, requirements, travelling
from clustrix.locking.live import Parts
from clustrix.model.lock import LockedPackage, Row, Status
from clustrix.model.source import ProjectSource, PylockSource, RequirementsSource
from clustrix.worker import installed

if TYPE_CHECKING:
    from clustrix.locking.pylock import Entry
    from clustrix.locking.resolution import Locker
    from clustrix.model.lock import LockedFile, Travelling
    from clustrix.model.source import ScriptSource


def collect(source: ProjectSource | PylockSource | RequirementsSource | ScriptSource, locker: Locker) -> Parts:
    """Lock what a file describes.

    Raises:
        LockError: the file cannot be read, is out of date, or asks for what cannot be honoured.
        UnsupportedPackage: packages cannot be had for the target; named.

    """
    parts = Parts()
    entries, status = _entries(source, locker)
    for entry in entries:
        if entry.name == graph.CLUSTRIX:
            parts.rows[entry.name] = Row(entry.name, Status.LEFT_OUT, None, entry.version)
        elif entry.directory is not None:
            _directory(entry, entry.directory, locker, parts)
        elif entry.vcs is not None:
            kind, url, commit, subdirectory = entry.vcs
            if kind != "git":
                raise locker.target.unsupported(f"{entry.name} ({kind} {url})", entry.version)
            file = builds.from_repository(entry.name, url, commit=commit, subdirectory=subdirectory, locker=locker)
            _built(entry.name, file, f"built from commit {commit[:12]} of {url}", parts)
        else:
            parts.add(entry, locker, status)
    return parts


def _entries(
    source: ProjectSource | PylockSource | RequirementsSource | ScriptSource, locker: Locker
) -> tuple[list[Entry], Status]:
    if isinstance(source, ProjectSource):
        return locker.project(source), Status.LOCKED
    if isinstance(source, PylockSource):
        return locker.pylock(source), Status.LOCKED
    if isinstance(source, RequirementsSource):
        hashed = requirements.read(Path(source.path)).hashes
        return locker.requirements(source), Status.LOCKED if hashed else Status.RESOLVED
    locked = inputs.lock_of_script(Path(source.path)).is_file()
    return locker.script(source), Status.LOCKED if locked else Status.RESOLVED


def _directory(entry: Entry, place: tuple[str, str | None, bool], locker: Locker, parts: Parts) -> None:
    """Let a pure-Python editable travel as source, as it does where it is installed; build any other source tree."""
    path, subdirectory, editable = place
    here = _installed_editable(entry.name, path) if editable else None
    if here is not None:
        _travels(here, entry.name, parts)
        return
    if editable:
        sample = builds.from_directory(entry.name, Path(path), subdirectory, locker, any_code=True)
        if sample.filename.endswith("-none-any.whl"):
            _travels(travelling.of_built(entry.name, Path(path, subdirectory or ""), sample), entry.name, parts)
            return
    file = builds.from_directory(entry.name, Path(path), subdirectory, locker)
    _built(entry.name, file, f"built from {path}", parts)


def _installed_editable(name: str, directory: str) -> Travelling | None:
    """Find the pure-Python editable install of a directory beside this interpreter."""
    used, _ = installed.find(installed.site_directories())
    for found in used:
        if found.key != name:
            continue
        metadata = Path(found.path)
        with contextlib.suppress(OSError, ValueError, KeyError):
            url = json.loads((metadata / "direct_url.json").read_text(encoding="utf-8"))["url"]
            tags = [row for row in (metadata / "WHEEL").read_text(encoding="utf-8").splitlines() if row[:5] == "Tag: "]
            if url == Path(directory).as_uri() and all(tag.endswith("-none-any") for tag in tags):
                return travelling.of_installed(found.name, found.version, metadata)
    return None


def _travels(found: Travelling, name: str, parts: Parts) -> None:
    parts.travelling.append(found)
    parts.rows[name] = Row(name, Status.TRAVELS, found.version, None, ", ".join(found.paths[:1]))


def _built(name: str, file: LockedFile, note: str, parts: Parts) -> None:
    version = file.filename.split("-")[1]
    parts.packages[name] = LockedPackage(name, version, file)
    parts.rows[name] = Row(name, Status.REBUILT, None, version, note)
