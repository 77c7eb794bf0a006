"""The files of a module or package: which travel, and what their sources import."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LARGEST_FILE = 50 * 2**20
LARGEST_BUNDLE = 200 * 2**20
_SKIPPED = frozenset({"__pycache__", "node_modules"})
_COMPILED = tuple(EXTENSION_SUFFIXES)
_CALLED = re.compile(r"(importlib\.)?import_module|__import__")


@dataclass(frozen=True, slots=True)
class Root:
    """Name what travels as one: a package's directory or a module's file, and what it is called in the bundle.

    Of a package without ``__init__.py`` (PEP 420) only sources travel: any directory of data looks like one.
    """

    name: str
    path: str
    sources_only: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """Describe one file so that a change shows: its name in the bundle, and what stat says."""

    name: str
    path: str
    modified: int  # nanoseconds
    size: int


def walk(roots: Iterable[Root]) -> tuple[File, ...]:
    """List the files below ``roots`` by name; hidden files, caches, virtual environments and bytecode stay here.

    Raises:
        CaptureError: a directory cannot be read.

    """
    found: dict[str, File] = {}
    for root in roots:
        for file in _below(root):
            found.setdefault(file.name, file)
    return tuple(found[name] for name in sorted(found))


def check(files: Iterable[File]) -> None:
    """Refuse what cannot travel.

    Raises:
        CaptureError: a file is compiled, or a file or all of them are too large; named.

    """
    files = tuple(files)
    for file in files:
        if file.name.endswith(_COMPILED):
            raise CaptureError(
                f"{file.path} is compiled and cannot travel as source",
                remedy="Install its project (pip install -e DIRECTORY): its wheel then becomes part of the image.",
            )
        if file.size > LARGEST_FILE:
            raise CaptureError(
                f"{file.path} ({file.size >> 20} MiB) lies among the modules of this job and is too large to travel",
                remedy="Keep data outside of packages and mount it at the target, or pass its path.",
            )
    total = sum(file.size for file in files)
    if total > LARGEST_BUNDLE:
        largest = sorted(files, key=lambda file: -file.size)[:3]
        names = ", ".join(f"{file.path} ({file.size >> 20} MiB)" for file in largest)
        raise CaptureError(
            f"the modules of this job are {total >> 20} MiB; the largest files are {names}",
            remedy="Keep data outside of packages and mount it at the target, or pass its path.",
        )


def imports(path: str) -> tuple[str, ...]:
    """List the top-level names that a source file imports, anywhere in it; none where it is no valid source."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError):
        return ()
    return tuple(sorted({name.partition(".")[0] for node in ast.walk(tree) for name in _imported(node)}))


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module
    elif isinstance(node, ast.Call) and node.args and _CALLED.fullmatch(ast.unparse(node.func)):
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
            yield first.value


def _below(root: Root) -> Iterator[File]:
    at = os.stat(root.path)  # noqa: PTH116 - pathlib would double the time, and this runs before every job
    if not os.path.isdir(root.path):  # noqa: PTH112
        yield File(root.name, root.path, at.st_mtime_ns, at.st_size)
        return
    seen = {(at.st_dev, at.st_ino)}
    left = [(root.name, root.path)]
    while left:
        name, directory = left.pop()
        for entry in _entries(directory):
            if entry.name.startswith(".") or entry.name in _SKIPPED:
                continue
            try:
                at = entry.stat()
            except FileNotFoundError:  # a dangling link
                continue
            if entry.is_dir():
                if (at.st_dev, at.st_ino) not in seen:
                    seen.add((at.st_dev, at.st_ino))
                    left.append((f"{name}/{entry.name}", entry.path))
            elif entry.is_file() and _travels(entry.name, sources_only=root.sources_only):
                yield File(f"{name}/{entry.name}", entry.path, at.st_mtime_ns, at.st_size)


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            entries = list(found)
    except PermissionError as error:
        raise CaptureError(f"{directory} lies among the modules of this job and cannot be read: {error}") from error
    # A virtual environment (PEP 405).
    return [] if any(entry.name == "pyvenv.cfg" for entry in entries) else entries


def _travels(name: str, *, sources_only: bool) -> bool:
    if sources_only:
        return name.endswith((".py", *_COMPILED))
    return not name.endswith((".pyc", ".pyo"))
