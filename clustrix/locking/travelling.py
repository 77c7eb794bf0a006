"""Where the source of an editable install lies, as it tells the interpreter itself (PEP 660)."""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import LockError
from clustrix.locking.pylock import local_path
from clustrix.model.lock import Travelling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.model.lock import LockedFile

_LAYOUTS = ("src", ".", "python", "lib")


def of_installed(name: str, version: str, metadata: Path) -> Travelling:
    """Say what has to travel of a pure-Python editable: what its ``.pth`` files and import hooks point to.

    Raises:
        LockError: it cannot be told.

    """
    if metadata.suffix == ".egg-info":
        return Travelling(name, version, roots=(str(metadata.parent),), metadata=str(metadata))
    roots: list[str] = []
    modules: dict[str, str] = {}
    for path in _recorded(metadata):
        if path.suffix == ".pth":
            lines = path.read_text(encoding="utf-8").splitlines()
            roots += [line.strip() for line in lines if Path(line.strip()).is_absolute()]
        elif path.suffix == ".py":
            modules |= _mapped(path)
    if not roots and not modules:
        raise LockError(
            f"cannot tell where the source of the editable {name} is: {metadata} lists no .pth file that says it",
            remedy="Install it again with: uv pip install -e DIRECTORY",
        )
    return Travelling(name, version, tuple(dict.fromkeys(roots)), tuple(sorted(modules.items())), str(metadata))


def of_built(name: str, directory: Path, file: LockedFile) -> Travelling:
    """Say what has to travel of a project that is not installed: the sources of what its wheel holds.

    The wheel's metadata is unpacked beside it.

    Raises:
        LockError: the project's modules do not lie where projects have them.

    """
    wheel = local_path(file.url)
    if wheel is None:
        raise LockError(f"the wheel of {name} is not on this machine: {file.url}")
    with zipfile.ZipFile(wheel) as archive:
        members = archive.namelist()
        metadata = next(member.partition("/")[0] for member in members if ".dist-info/" in member)
        archive.extractall(wheel.parent, [member for member in members if member.startswith(f"{metadata}/")])
    tops = sorted({member.partition("/")[0] for member in members} - {metadata})
    version = metadata.removesuffix(".dist-info").rpartition("-")[2]
    for layout in _LAYOUTS:
        root = (directory / layout).resolve()
        if tops and all((root / top).exists() for top in tops):
            modules = tuple((top.removesuffix(".py"), str(root / top)) for top in tops)
            return Travelling(name, version, modules=modules, metadata=str(wheel.parent / metadata))
    raise LockError(
        f"cannot tell where the source of {name} is below {directory} ({', '.join(tops) or 'it has no modules'})",
        remedy=f"Install it with `uv pip install -e {directory}`, so that it says so itself.",
    )


def _recorded(metadata: Path) -> Iterator[Path]:
    try:
        lines = (metadata / "RECORD").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        name = line.rpartition(",")[0].rpartition(",")[0]
        if "/" not in name and (metadata.parent / name).is_file():
            yield metadata.parent / name


def _mapped(path: Path) -> dict[str, str]:
    """Read top-level name -> path from an import hook: setuptools' MAPPING, or calls of the library `editables`."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "MAPPING" and isinstance(node, ast.Assign | ast.AnnAssign):
            found |= ast.literal_eval(node.value) if node.value else {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "map_module":
            name, place = (ast.literal_eval(argument) for argument in node.args)
            found[name] = place
    # A package's own file stands for the package; a module's has to keep its suffix.
    return {name: place.removesuffix("/__init__.py") for name, place in found.items()} | {
        name: f"{place}.py"
        for name, place in found.items()
        if not Path(place).exists() and Path(f"{place}.py").is_file()
    }
