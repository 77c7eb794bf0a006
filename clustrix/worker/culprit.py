"""Find the part of a value that cannot be pickled, once pickling it has failed."""

from __future__ import annotations

from contextlib import suppress
from types import FunctionType, MethodType
from typing import TYPE_CHECKING

from clustrix.worker.pickling import Pickler, module_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEEPEST = 5
_WIDEST = 200


class _Nowhere:
    def write(self, _: object, /) -> None:
        pass


def find(value: object, label: str, depth: int = 0) -> str | None:
    """Say which part of ``value`` cannot be pickled (``x['lock']`` for the label ``x``); None if all of it can."""
    try:
        Pickler(_Nowhere()).dump(value)
    except Exception:  # noqa: BLE001 - reducers of user classes may raise anything
        for name, part in _parts(value, label) if depth < _DEEPEST else ():
            found = find(part, name, depth + 1)
            if found is not None:
                return found
        return label
    return None


def _parts(value: object, label: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, FunctionType):
        yield from _of_function(value, label)
    elif isinstance(value, MethodType):
        yield f"the object of the method {label}", value.__self__
        yield label, value.__func__
    elif isinstance(value, dict):
        for key, part in list(value.items())[:_WIDEST]:
            yield f"{label}[{key!r}]", part
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value[:_WIDEST]):
            yield f"{label}[{number}]", part
    else:
        for key, part in list(getattr(value, "__dict__", {}).items())[:_WIDEST]:
            yield f"{label}.{key}", part


def _of_function(function: FunctionType, label: str) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # an empty cell
            yield f"the variable {name!r} that {label} closes over", cell.cell_contents
    if module_of(function) is None:
        for name in function.__code__.co_names:
            if name in function.__globals__:
                yield f"the global {name!r} that {label} uses", function.__globals__[name]
