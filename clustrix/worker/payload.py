# ruff: noqa: PTH123
# pathlib would take a seventh of the time in which a worker starts.
"""One file with the function, the arguments of every item and the environment variables of a job.

Written front to back in constant memory, read by seeking, so that a task reads only its own items::

    magic
    function, environment variables (JSON), sources (JSON), item 0, item 1, ...
    table: offset, length and sha256 of each of these sections, in this order
    trailer: offset of the table, number of items, magic

Sources are the lines of code that travels by value, for tracebacks and ``inspect.getsource``.
"""

from __future__ import annotations

import struct

from clustrix.errors import ConfigError, StoreError, Unpicklable
from clustrix.model import stdlib
from clustrix.model.stdlib import PickleBuffer, Sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import BinaryIO

    _Failure = Callable[[str], Unpicklable]

MAGIC = b"CLUSTRIX PAYLOAD 1\n"
_ROW = struct.Struct(">QQ32s")
_TRAILER = struct.Struct(">QQ19s")
_FUNCTION, _VARIABLES, _SOURCES, _ITEMS = range(4)
_CHUNK = 1 << 20
_AGAIN = "Submit the job again; if it happens twice, look at the disk or quota at the target."
_REBUILD = "Make it inside the function, or pass what it is made from: a path, a name, numbers."


class Packed:
    """Say what was packed; ``modules`` are those that unpickling imports, for `clustrix.bundle.code.collect`."""

    __slots__ = ("items", "modules", "size")

    def __init__(self, items: int, modules: frozenset[str], size: int) -> None:
        self.items = items
        self.modules = modules
        self.size = size


class Sink:
    """Write to a file, count and hash on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = 0
        self.digest = Sha256()
        self.broken: OSError | None = None

    def write(self, data: bytes | PickleBuffer, /) -> int:
        """Pass ``data`` on; a pickler passes large buffers as they are."""
        view = data.raw() if isinstance(data, PickleBuffer) else memoryview(data)
        try:
            self.file.write(view)
        except OSError as error:
            self.broken = error
            raise
        self.digest.update(view)
        self.size += view.nbytes
        return view.nbytes


def pack(
    file: BinaryIO,
    function: Callable[..., object],
    items: Iterable[tuple[tuple[object, ...], Mapping[str, object]]],
    environment: Mapping[str, str] | None = None,
) -> Packed:
    """Write a payload: ``items`` are (args, kwargs), taken one by one.

    Raises:
        Unpicklable: the function or an argument cannot travel; says which, and which part of it.
        ConfigError: a name or a value cannot be that of an environment variable.

    """
    writer = _Writer(file)
    writer.pickle(function, _function_failure(function))
    writer.add(stdlib.encode(_variables(environment or {})).encode())
    writer.add(b"")  # the sources are known last; see _Writer.finish
    count = 0
    for args, kwargs in items:
        arguments = (tuple(args), dict(kwargs))
        writer.pickle(arguments, _argument_failure(function, arguments, count))
        count += 1
    return writer.finish(count)


class _Writer:
    def __init__(self, file: BinaryIO) -> None:
        from clustrix.worker.pickling import Pickler

        self._pickler = Pickler
        self.file = file
        self.position = file.write(MAGIC)
        self.rows: list[bytes] = []
        self.modules: set[str] = set()
        self.files: set[str] = set()

    def add(self, data: bytes) -> None:
        self.file.write(data)
        self._row(len(data), Sha256(data).digest())

    def pickle(self, value: object, failure: _Failure) -> None:
        sink = Sink(self.file)
        pickler = self._pickler(sink)
        try:
            pickler.dump(value)
        except Exception as error:
            if sink.broken is not None:
                raise
            raise failure(str(error) or type(error).__name__) from error
        self.modules |= pickler.modules
        self.files |= pickler.files
        self._row(sink.size, sink.digest.digest())

    def _row(self, size: int, digest: bytes) -> None:
        self.rows.append(_ROW.pack(self.position, size, digest))
        self.position += size

    def finish(self, items: int) -> Packed:
        self.add(stdlib.encode(_sources(self.files)).encode())
        self.rows[_SOURCES] = self.rows.pop()
        table = b"".join(self.rows)
        self.file.write(table)
        self.file.write(_TRAILER.pack(self.position, items, MAGIC))
        return Packed(items, frozenset(self.modules), self.position + len(table) + _TRAILER.size)


class Payload:
    """Read a payload.

    Raises:
        StoreError: from every method, if what is read is not what was written.

    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - see close
            self._file.seek(-_TRAILER.size, 2)
            self._table, self.items, magic = _TRAILER.unpack(self._file.read(_TRAILER.size))
        except OSError as error:
            raise StoreError(f"the payload cannot be read: {error}", remedy=_AGAIN) from error
        if magic != MAGIC:
            self._file.close()
            raise self._damaged("its end is missing")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def function(self) -> Callable[..., object]:
        """Unpickle the function; importing its module may raise anything."""
        function: Callable[..., object] = stdlib.load(self._at(_FUNCTION))
        return function

    def item(self, index: int) -> tuple[tuple[object, ...], dict[str, object]]:
        """Unpickle the arguments of one item."""
        if not 0 <= index < self.items:
            raise StoreError(f"the payload has {self.items} items and no item {index}")
        arguments: tuple[tuple[object, ...], dict[str, object]] = stdlib.load(self._at(_ITEMS + index))
        return arguments

    def environment(self) -> dict[str, str]:
        """Read the environment variables."""
        variables: dict[str, str] = stdlib.decode(self._read(_VARIABLES))
        return variables

    def sources(self) -> dict[str, list[str]]:
        """Read the lines of each file whose code travels by value."""
        lines: dict[str, list[str]] = stdlib.decode(self._read(_SOURCES))
        return lines

    def _check(self, number: int) -> tuple[int, int]:
        """Give offset and size of a section, once its sha256 is the one of the table."""
        digest = Sha256()
        try:
            self._file.seek(self._table + number * _ROW.size)
            offset, size, expected = _ROW.unpack(self._file.read(_ROW.size))
            self._file.seek(offset)
        except (struct.error, OSError, OverflowError):  # a damaged offset is nowhere
            raise self._damaged("its table is wrong") from None
        left = size
        while left > 0 and (chunk := self._file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        if digest.digest() != expected:
            raise self._damaged(f"section {number} has another sha256")
        return offset, size

    def _read(self, number: int) -> bytes:
        offset, size = self._check(number)
        self._file.seek(offset)
        return self._file.read(size)

    def _at(self, number: int) -> BinaryIO:
        offset, _ = self._check(number)
        self._file.seek(offset)
        return self._file

    def _damaged(self, how: str) -> StoreError:
        return StoreError(f"the payload {self.path} is damaged: {how}", remedy=_AGAIN)


def table_of(file: BinaryIO) -> tuple[int, str]:
    """Tell where the table of a payload begins, and the sha256 of all from there: what `extents` may then trust."""
    file.seek(-_TRAILER.size, 2)
    table, _, _ = _TRAILER.unpack(file.read(_TRAILER.size))
    file.seek(table)
    return table, Sha256(file.read()).hexdigest()


def extents(table: bytes, items: Iterable[int]) -> list[tuple[int, int]]:
    """List the ranges of bytes, joined where they touch, that a task with these items reads of a payload."""
    found: list[tuple[int, int]] = []
    for number in (_FUNCTION, _VARIABLES, _SOURCES, *(_ITEMS + index for index in items)):
        start, size, _ = _ROW.unpack_from(table, number * _ROW.size)
        stop = start + size
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, stop))
    return found


def name_of(function: Callable[..., object]) -> str:
    """Name a callable for people: ``module.function``, ``lambda``, or its class for an object."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name)


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    for name, value in environment.items():
        if not name or not {"=", "\0"}.isdisjoint(name):
            raise ConfigError(f"not the name of an environment variable: {name!r}")
        if "\0" in value:
            raise ConfigError(f"the environment variable {name} holds a NUL character")
    return dict(environment)


def _sources(files: set[str]) -> dict[str, list[str]]:
    import linecache

    found = {name: linecache.getlines(name) for name in sorted(files)}
    return {name: lines for name, lines in found.items() if lines}


def _unpicklable(what: str, reason: str, part: str | None) -> Unpicklable:
    return Unpicklable(f"{what}: {reason}" + (f" ({part})" if part else ""), remedy=_REBUILD)


def _function_failure(function: Callable[..., object]) -> _Failure:
    def failure(reason: str) -> Unpicklable:
        from clustrix.worker.culprit import find

        name = name_of(function)
        part = find(function, name)
        return _unpicklable(f"function {name}", reason, part if part != name else None)

    return failure


def _argument_failure(
    function: Callable[..., object], arguments: tuple[tuple[object, ...], dict[str, object]], index: int
) -> _Failure:
    def failure(reason: str) -> Unpicklable:
        from inspect import signature

        from clustrix.worker.culprit import find

        args, kwargs = arguments
        named: dict[str, object]
        try:
            named = signature(function).bind(*args, **kwargs).arguments
        except (TypeError, ValueError):  # no such call, or a callable that does not tell its parameters
            named = {**{f"#{place}": value for place, value in enumerate(args)}, **kwargs}
        for name, value in named.items():
            part = find(value, name)
            if part is not None:
                return _unpicklable(f"argument {name!r} of item {index}", reason, part if part != name else None)
        return Unpicklable(f"the arguments of item {index} cannot be pickled together: {reason}")

    return failure
