"""The caller's own modules as one zip file, which the worker puts on sys.path.

What a payload imports is followed through the sources: from module to module as far as they are the caller's own.
What was found is remembered, so that an unchanged tree costs one stat per file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.bundle import archive, modules, tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from clustrix.model.lock import Travelling

_FORMAT = 1


@dataclass(slots=True)
class _Known:
    """Hold what an earlier look found; ``missing`` are names that were imported and could not be found."""

    roots: list[tree.Root] = field(default_factory=list)
    files: tuple[tree.File, ...] = ()
    imports: dict[str, tuple[str, ...]] = field(default_factory=dict)  # path -> top-level names
    missing: list[str] = field(default_factory=list)
    digest: str | None = None


def collect(imported: Collection[str], travelling: Collection[Travelling], cache_dir: Path) -> archive.Bundle | None:
    """Bundle the caller's own modules among ``imported``, all that they import, and pure-Python editable installs.

    ``imported`` is what unpickling the payload needs (`clustrix.worker.payload.Packed.modules`). A package travels
    whole, with its data. None if there is nothing to travel.

    Raises:
        CaptureError: a module is no source, or is compiled, or a file is too large; named.

    """
    directory = cache_dir / "code"
    index = directory / f"{_key(imported, travelling)}.json"
    known = _load(index)
    if known is not None and _unchanged(known):
        if known.digest is None:
            return None
        bundle = archive.find(known.digest, directory)
        if bundle is not None:
            return bundle
    found = _search(imported, travelling, known or _Known())
    bundle = None
    if found.files:
        bundle = archive.write(((file.name, Path(file.path)) for file in found.files), directory)
        found.digest = bundle.digest
    archive.save(index, json.dumps(dataclasses.asdict(found)).encode())
    return bundle


def _search(imported: Iterable[str], travelling: Iterable[Travelling], known: _Known) -> _Known:
    found = _Known()
    earlier = {(file.path, file.modified, file.size): known.imports.get(file.path) for file in known.files}
    seen: set[str] = set()
    unread = [root for editable in travelling for root in modules.of_editable(editable)]
    names = modules.top_level(imported)
    while names or unread:
        for name in sorted(names - seen):
            unread += _roots(name, imported, found)
        seen |= names
        names = set()
        for file in tree.walk(unread):
            if file.name.endswith(".py"):
                found.imports[file.path] = earlier.get((file.path, file.modified, file.size)) or tree.imports(file.path)
                names |= {*found.imports[file.path]} - seen
        found.roots += unread
        unread = []
    found.files = tree.walk(found.roots)
    tree.check(found.files)
    return found


def _roots(name: str, imported: Iterable[str], found: _Known) -> tuple[tree.Root, ...]:
    roots = modules.roots(name)
    if roots is None:
        below = [module for module in imported if module == name or module.startswith(f"{name}.")]
        roots = tuple(root for module in below for root in modules.submodule(module))
        if not roots:
            found.missing.append(name)
    return roots


def _unchanged(known: _Known) -> bool:
    try:
        files = tree.walk(known.roots)
    except OSError:  # a root is gone
        return False
    return files == known.files and all(modules.roots(name) is None for name in known.missing)


def _key(imported: Iterable[str], travelling: Iterable[Travelling]) -> str:
    """Name what a search depends on besides the files it finds."""
    editables = [dataclasses.asdict(editable) for editable in travelling]
    path = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100 - '' is the current directory
    document = [_FORMAT, sys.version, path, sorted(imported), editables]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:32]


def _load(index: Path) -> _Known | None:
    if not index.is_file():
        return None
    document = json.loads(index.read_bytes())
    return _Known(
        roots=[tree.Root(**row) for row in document["roots"]],
        files=tuple(tree.File(**row) for row in document["files"]),
        imports={path: tuple(names) for path, names in document["imports"].items()},
        missing=document["missing"],
        digest=document["digest"],
    )
