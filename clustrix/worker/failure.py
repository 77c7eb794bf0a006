"""An exception in text: its type, its traceback without our frames, the variables of the frame that raised."""

from __future__ import annotations

import re
import traceback
from reprlib import Repr
from types import ModuleType
from typing import TYPE_CHECKING

from clustrix.model.outcome import Failure

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

_WORDS = r"passw|passphrase|secret|token(?!s|iz)|credential|api_?key|private_?key|access_?key|auth(?!or)"
_SECRET = re.compile(_WORDS, re.IGNORECASE)
_SECRET_INSIDE = re.compile(rf"(?:{_WORDS})\w*['\"]?\s*[:=]", re.IGNORECASE)  # of a dict, or of an object's fields
_HIDDEN = "<hidden>"
_VARIABLES = 20
_LONGEST = 160
_MOST_TEXT = 100_000


def describe(error: BaseException, secrets: Collection[str] = ()) -> Failure:
    """Describe an exception; a local variable is hidden if its name looks secret or its text holds one of ``secrets``.

    The frames of the worker, which called the user's function, are left out.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("clustrix.worker."):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    return Failure(
        type=f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."),
        message=_clip(_message(error)),
        traceback=_clip(text),
        local_variables=_variables(trace, secrets),
    )


def _clip(text: str) -> str:
    """Leave out the middle of what nobody can read: it travels with every look at the job."""
    if len(text) <= _MOST_TEXT:
        return text
    half = _MOST_TEXT // 2
    return f"{text[:half]}\n[{len(text) - _MOST_TEXT} characters left out]\n{text[-half:]}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - a user's __str__
        return f"<its __str__ raised {type(second).__name__}>"


def _variables(trace: TracebackType | None, secrets: Collection[str]) -> tuple[tuple[str, str], ...]:
    if trace is None:
        return ()
    while trace.tb_next is not None:
        trace = trace.tb_next
    # Modules, and what Python puts into every module, say nothing about a failure at the top of a script.
    found = {
        name: value
        for name, value in trace.tb_frame.f_locals.items()
        if not isinstance(value, ModuleType) and not (name.startswith("__") and name.endswith("__"))
    }
    return tuple((name, _show(name, found[name], secrets)) for name in list(found)[:_VARIABLES])


def _show(name: str, value: object, secrets: Collection[str]) -> str:
    if _SECRET.search(name):
        return _HIDDEN
    shortener = Repr()
    shortener.maxother = shortener.maxstring = shortener.maxlong = _LONGEST
    try:
        text = shortener.repr(value)
        if any(secret in text for secret in secrets) or _SECRET_INSIDE.search(text):
            return _HIDDEN
    except Exception as error:  # noqa: BLE001 - a user's __repr__
        return f"<its __repr__ raised {type(error).__name__}>"
    return text
