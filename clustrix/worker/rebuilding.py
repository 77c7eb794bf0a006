"""What pickles call when they are loaded; `clustrix.worker.pickling` writes them, and a worker need not import that."""

from __future__ import annotations

import sys
from types import CellType, FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any


def undecorated(module: str, qualified_name: str, depth: int) -> object:
    """Find a function below ``depth`` decorators."""
    found: Any = _imported(module)
    for name in qualified_name.split("."):
        found = getattr(found, name)
    for _ in range(depth):
        found = found.__wrapped__
    return found


def make_nested(module: str, code: CodeType, cells: int | None) -> FunctionType:
    """Make a function that was defined inside another; `fill_nested` completes it, for it may refer to itself."""
    closure = None if cells is None else tuple(CellType() for _ in range(cells))
    return FunctionType(code, vars(_imported(module)), closure=closure)


def fill_nested(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any], Any]) -> None:
    """Complete what `make_nested` began."""
    attributes, dictionary, closure = state
    for name, value in attributes.items():
        setattr(function, name, value)
    function.__dict__.update(dictionary)
    for cell, source in zip(function.__closure__ or (), closure or (), strict=True):
        try:  # noqa: SIM105 - contextlib is slow to import
            cell.cell_contents = source.cell_contents
        except ValueError:  # noqa: PERF203 - an empty cell stays empty
            pass


def _imported(name: str) -> ModuleType:
    __import__(name)  # as `importlib.import_module` does, whose own import costs a millisecond
    return sys.modules[name]
