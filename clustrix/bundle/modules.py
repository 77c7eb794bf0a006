"""Whose a module is: the caller's own, or part of Python or of what is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import site
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from clustrix.bundle.tree import Root
from clustrix.errors import CaptureError
from clustrix.worker.pickling import PRIVATE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.machinery import ModuleSpec

    from clustrix.model.lock import Travelling

# In every job: Python's own, the worker's, and what travels by value.
_EVERYWHERE = sys.stdlib_module_names | {*sys.builtin_module_names, "clustrix", PRIVATE_NAME, "__main__", "__mp_main__"}

# What compiled modules put into sys.modules for themselves.
_CYTHON = ("_cython_", "cython_runtime")

# Of a project, not of a package.
_TOOLS = {"setup.py", "conftest.py", "noxfile.py", "tasks.py"}
_METADATA = ("METADATA", "PKG-INFO", "entry_points.txt", "top_level.txt")


def roots(name: str) -> tuple[Root, ...] | None:
    """Find what the top-level module ``name`` consists of, if it is the caller's own; None if there is no such module.

    Raises:
        CaptureError: it is the caller's own and is no source file; named.

    """
    if name in _EVERYWHERE or name.startswith(_CYTHON):
        return ()
    spec = _spec(name)
    if spec is None:
        return _without_spec(name)
    if spec.submodule_search_locations is not None:
        mine = [path for path in spec.submodule_search_locations if not _installed(path, name)]
        return tuple(Root(name, path, sources_only=spec.origin is None) for path in mine)
    if spec.origin is None or spec.origin in {"built-in", "frozen"}:
        return ()
    return _of_file(name, f"{name}.py", spec.origin)


def submodule(name: str) -> tuple[Root, ...]:
    """Find the file of a dotted module whose top-level package cannot be found (some test runners make such).

    Raises:
        CaptureError: it was made at run time and has no file.

    """
    module = sys.modules.get(name)
    if module is None:
        return ()
    path = getattr(module, "__file__", None)
    if path is None:
        raise CaptureError(
            f"module {name!r} was made at run time: it has no file that could travel to a job",
            remedy="Write it to a file, or define what is needed in the script itself.",
        )
    package = "/__init__.py" if os.path.basename(path) == "__init__.py" else ".py"  # noqa: PTH119
    return _of_file(name, name.replace(".", "/") + package, path) or ()


def of_editable(travelling: Travelling) -> list[Root]:
    """List what a pure-Python editable install adds: its packages, its modules and its metadata."""
    found = [Root(*_named(name, Path(path))) for name, path in travelling.modules]
    for directory in map(Path, travelling.roots):
        found += [Root(path.name, str(path)) for path in sorted(directory.iterdir()) if _is_module(path)]
    if travelling.metadata is not None:
        metadata = Path(travelling.metadata)
        files = [metadata / name for name in _METADATA]
        found += [Root(f"{metadata.name}/{path.name}", str(path)) for path in files if path.is_file()]
    return found


def _is_module(path: Path) -> bool:
    return (path / "__init__.py").is_file() or (path.suffix == ".py" and path.name not in _TOOLS)


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: it is imported and has no spec
        return None


def _without_spec(name: str) -> tuple[Root, ...] | None:
    """Describe a module that says no more than where it is, if that."""
    module = sys.modules.get(name)
    if module is None:
        return None
    locations = [str(path) for path in getattr(module, "__path__", ())]
    if locations:
        return tuple(Root(name, path) for path in locations if not _installed(path, name))
    path = getattr(module, "__file__", None)
    return None if path is None else _of_file(name, f"{name}.py", path)


def _of_file(name: str, travels_as: str, path: str) -> tuple[Root, ...] | None:
    if _installed(os.path.dirname(path), name):  # noqa: PTH120
        return ()
    if not os.path.exists(path) and not any(parent.is_file() for parent in Path(path).parents):  # noqa: PTH110
        return None  # deleted since it was imported
    if not path.endswith(".py") or not os.path.isfile(path):  # noqa: PTH113
        raise CaptureError(
            f"module {name!r} is no source file ({path}) and cannot travel to a job",
            remedy="Install it as a package, so that its wheel becomes part of the image.",
        )
    return (Root(travels_as, path),)


def _named(name: str, path: Path) -> tuple[str, str]:
    """Complete a path as an import hook writes it: a directory, or a file with or without its suffix."""
    if path.is_dir():
        return name.replace(".", "/"), str(path)
    source = path if path.suffix == ".py" else path.with_name(f"{path.name}.py")
    return name.replace(".", "/") + ".py", str(source)


def _installed(directory: str, name: str) -> bool:
    if any(_is_below(directory, known) for known in (*_installation_directories(), *_compiled_editables())):
        return True
    parts = Path(directory).parts
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return any(_is_below(directory, entry) and name in _recorded(entry) for entry in sys.path if entry)


@cache
def _installation_directories() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    known = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({*known, *site.getsitepackages(), site.getusersitepackages()})


@cache
def _compiled_editables() -> tuple[str, ...]:
    """List the projects that are installed in editable mode and have compiled parts: the image holds their wheels."""
    from importlib.metadata import distributions

    found = []
    for distribution in distributions():
        text = distribution.read_text("direct_url.json")
        origin = json.loads(text) if text else {}
        if origin.get("dir_info", {}).get("editable"):
            tags = [row for row in (distribution.read_text("WHEEL") or "").splitlines() if row.startswith("Tag:")]
            if not all(tag.endswith("-none-any") for tag in tags):
                from urllib.request import url2pathname  # a slow import, for what few have

                found.append(url2pathname(urlparse(origin["url"]).path))
    return tuple(found)


@cache
def _recorded(directory: str) -> frozenset[str]:
    """List the top-level names that installers put into a directory of sys.path (``pip install --target``)."""
    names: set[str] = set()
    for record in Path(directory).glob("*.dist-info/RECORD"):
        rows = record.read_text(encoding="utf-8", errors="replace").splitlines()
        names.update(row.split(",")[0].partition("/")[0].removesuffix(".py") for row in rows)
    return frozenset(names)


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def top_level(modules: Iterable[str]) -> set[str]:
    """Give the first part of each dotted name."""
    return {name.partition(".")[0] for name in modules}
