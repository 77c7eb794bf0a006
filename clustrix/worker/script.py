"""A whole script as one call."""

from __future__ import annotations

import dis
import linecache
import sys
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def run(name: str, text: str, arguments: tuple[str, ...]) -> None:
    """Run the text of a script as Python would: as ``__main__``, with ``sys.argv``; ``sys.exit(0)`` is a good end."""
    module = ModuleType("__main__")
    module.__file__ = name
    sys.modules["__main__"] = module
    sys.argv = [name, *arguments]
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    try:
        exec(compile(text, name, "exec"), vars(module))  # noqa: S102 - it is what was submitted
    except SystemExit as end:
        if end.code not in {None, 0}:
            raise


def imports(text: str, name: str) -> frozenset[str]:
    """List the modules that a script imports anywhere in it.

    Raises:
        SyntaxError: it is no Python.

    """
    return frozenset(_imports(compile(text, name, "exec")))


def _imports(code: CodeType) -> Iterator[str]:
    for row in dis.get_instructions(code):
        if row.opname == "IMPORT_NAME" and row.argval:
            yield row.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _imports(constant)
