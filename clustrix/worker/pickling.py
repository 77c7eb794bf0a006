"""Pickle by reference whatever the other end can import, and only the rest by value.

Over the client's own cloudpickle, loaded a second time under a private name: pickles name that module, so neither
the cloudpickle of an image nor ``cloudpickle.register_pickle_by_value`` of some library has a say.
"""

from __future__ import annotations

import dis
import importlib
import importlib.util
import pickle
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any, Protocol

from clustrix.worker.rebuilding import fill_nested, make_nested, undecorated

PRIVATE_NAME = "clustrix_cloudpickle"
"""What cloudpickle is called on both sides; the worker bundle holds it as a top-level module."""


def source_of_cloudpickle() -> str:
    """Find the one file that cloudpickle consists of, without importing it."""
    spec = importlib.util.find_spec("cloudpickle")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'cloudpickle'", name="cloudpickle")
    return f"{spec.submodule_search_locations[0]}/cloudpickle.py"


def _load_cloudpickle() -> ModuleType:
    if PRIVATE_NAME in sys.modules:
        return sys.modules[PRIVATE_NAME]
    if importlib.util.find_spec(PRIVATE_NAME) is not None:  # in the worker
        return importlib.import_module(PRIVATE_NAME)
    spec = importlib.util.spec_from_file_location(PRIVATE_NAME, source_of_cloudpickle())
    assert spec is not None  # noqa: S101 - a path that ends in .py always has one
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[PRIVATE_NAME] = module
    spec.loader.exec_module(module)
    return module


_cloudpickle = _load_cloudpickle()


class Writable(Protocol):
    """Take what a pickler writes; large buffers come as they are."""

    def write(self, data: bytes | pickle.PickleBuffer, /) -> object:
        """Take some bytes."""


class Pickler(_cloudpickle.Pickler):  # type: ignore[misc,name-defined]
    """Pickle one or more objects, and remember what unpickling them will need.

    ``modules`` are the names that will be imported there; ``files`` are the file names of code that travels by value.
    """

    def __init__(self, file: Writable) -> None:
        super().__init__(file, protocol=5)
        self.modules: set[str] = set()
        self.files: set[str] = set()

    def reducer_override(self, obj: object) -> object:
        """Choose between reference and value for one object (see ``pickle.Pickler.reducer_override``)."""
        if isinstance(obj, CodeType):
            return self._code(obj)
        if isinstance(obj, FunctionType):
            return self._function(obj)
        # A module; a class; an object, whose class may name itself in its own way of pickling.
        home = getattr(obj, "__name__" if isinstance(obj, ModuleType) else "__module__", None)
        if isinstance(home, str):
            self.modules.add(home)
        return super().reducer_override(obj)

    def _code(self, code: CodeType) -> object:
        self.files.add(code.co_filename)
        if dis.opmap["IMPORT_NAME"] in code.co_code[::2]:
            named = (row.argval for row in dis.get_instructions(code) if row.opname == "IMPORT_NAME")
            self.modules.update(name for name in named if name)
        # cloudpickle forgets the file name; tracebacks need it.
        kind, values = self.dispatch_table[CodeType](code)
        return kind, tuple(code.co_filename if value == "<dynamic-code>" else value for value in values)

    def _function(self, function: FunctionType) -> object:
        place = _place(function)
        if place is not None:
            self.modules.add(place[0])
            # A function under a decorator (ours, for one) is not what its module calls by its name.
            return NotImplemented if place[2] == 0 else (undecorated, place)
        package = function.__globals__.get("__package__")
        if package:
            self.modules.add(package)
        module = module_of(function)
        if module is None:
            return super().reducer_override(function)
        self.modules.add(module.__name__)
        closure = function.__closure__
        arguments = (module.__name__, function.__code__, None if closure is None else len(closure))
        return make_nested, arguments, _nested_state(function), None, None, fill_nested


def _place(function: FunctionType) -> tuple[str, str, int] | None:
    """Find a function by its name: module, qualified name, and how many decorators (``__wrapped__``) lie above it."""
    module = sys.modules.get(function.__module__ or "")
    if module is None or not _travels(module):
        return None
    found: object = module
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    for depth in range(16):
        if found is function:
            return module.__name__, function.__qualname__, depth
        found = getattr(found, "__wrapped__", None)
        if found is None:
            return None
    return None


def _travels(module: ModuleType) -> bool:
    return module.__name__ not in {"__main__", "__mp_main__"}


def module_of(function: FunctionType) -> ModuleType | None:
    """Find the importable module that a nested function is from: its globals are those of that module there, too."""
    module = sys.modules.get(function.__globals__.get("__name__", ""))
    if module is None or not _travels(module) or getattr(module, "__file__", None) is None:
        return None
    return module if vars(module) is function.__globals__ else None


_COPIED = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__")


def _nested_state(function: FunctionType) -> tuple[dict[str, Any], dict[str, Any], Any]:
    attributes = {name: getattr(function, name) for name in _COPIED}
    try:
        attributes["__annotations__"] = function.__annotations__
    except NameError:  # PEP 649: they are evaluated when asked for, and may name what does not exist yet
        attributes["__annotations__"] = {}
    return attributes, dict(function.__dict__), function.__closure__


def loads(data: bytes) -> object:
    """Unpickle bytes that were authenticated first."""
    return pickle.loads(data)  # noqa: S301 - the caller has checked who wrote them
