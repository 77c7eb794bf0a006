"""One process of a pool: reads pickles of work, answers with pickles of outcomes; run by `clustrix.local.pool`."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from clustrix.worker.pickling import Pickler, loads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SIZE = struct.Struct("<Q")


def dumps(value: object) -> bytes:
    """Pickle by reference what is in modules, and the rest by value."""
    data = io.BytesIO()
    Pickler(data).dump(value)
    return data.getvalue()


def send(stream: BinaryIO, data: bytes) -> None:
    """Write one message."""
    stream.write(_SIZE.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Read one message, None where there are no more."""
    head = stream.read(_SIZE.size)
    if len(head) < _SIZE.size:
        return None
    (size,) = _SIZE.unpack(head)
    data = stream.read(size)
    return data if len(data) == size else None


def main() -> None:
    """Answer until the other end closes. What user code prints goes to the standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    function: Any = None
    while (data := receive(sys.stdin.buffer)) is not None:
        kind, content = pickle.loads(data)  # noqa: S301 - our own parent's
        if kind == "function":
            function = loads(content)
            continue
        send(answers, _outcomes(function, content))


def _outcomes(function: Callable[[Any], Any], items: bytes) -> bytes:
    """Give (value, error) of each item up to the first that fails, and the name of a captured value that changed."""
    before = {name: _copy(value) for name, value in _captured(function).items()}
    outcomes: list[tuple[Any, BaseException | None]] = []
    try:
        outcomes.extend((function(item), None) for item in cast("list[Any]", loads(items)))
    except Exception as error:  # noqa: BLE001 - raised again where the loop is
        outcomes.append((None, error))
    after = _captured(function)
    changed = [name for name in before if not _same(before[name], after.get(name))]
    try:
        return dumps((outcomes, changed))
    except Exception as error:  # noqa: BLE001 - whatever pickling raises
        failed = TypeError(f"a result of {function.__qualname__} cannot travel between processes: {error}")
        return dumps(([(None, failed)], changed))


def _captured(function: Callable[..., Any]) -> dict[str, Any]:
    """Find the values that a function has from around it."""
    cells: Sequence[Any] = getattr(function, "__closure__", None) or ()
    found = {}
    for name, cell in zip(function.__code__.co_freevars if cells else (), cells, strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            value = cell.cell_contents
            if isinstance(value, FunctionType):
                found.update(_captured(value))
            else:
                found[name] = value
    return found


def _copy(value: Any) -> Any:  # noqa: ANN401 - anything
    """Copy what can be changed in place, as deep as lists and dictionaries go; the rest is itself."""
    if type(value) in {list, tuple}:
        return type(value)(map(_copy, value))
    if type(value) is dict:
        return {key: _copy(element) for key, element in value.items()}
    if type(value) in {set, bytearray} or hasattr(value, "__array_interface__"):
        return value.copy()
    return value


def _same(before: Any, now: Any) -> bool:  # noqa: ANN401 - anything
    if type(before) is not type(now):
        return False
    if isinstance(before, (list, tuple)):
        return len(before) == len(now) and all(map(_same, before, now))
    if isinstance(before, dict):
        return list(before) == list(now) and all(map(_same, before.values(), now.values()))
    if hasattr(before, "__array_interface__"):
        return bool(before.shape == now.shape and before.tobytes() == now.tobytes())
    return before is now or (type(before) in {set, bytearray} and before == now)


if __name__ == "__main__":
    main()
