"""Threads that pack and processes that compile, which all end together."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clustrix.build.bytecode import Compiler
from clustrix.oci.layout import disk_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor, Future
    from types import TracebackType

    from typing_extensions import Self

    from clustrix.build.bytecode import Interpreter

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class _Interrupted(Exception):
    """Another thread has failed, or the user has had enough: never seen outside of this module."""


class Pool:
    """Hold the workers of one build; when the block is left, none is running and no temporary file is left.

    ``compiler`` is None without an ``interpreter``; ``compiling`` runs its calls.
    """

    def __init__(self, interpreter: Interpreter | None, directory: Path, workers: int) -> None:
        self._interpreter, self._directory, self._workers = interpreter, directory, workers
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        self.compiler: Compiler | None = None
        self.compiling: Executor

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack, disk_full(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(
                dir=self._directory, prefix=".bytecode-", ignore_cleanup_errors=True
            )
            place = Path(stack.enter_context(temporary))
            compiling = stack.enter_context(ThreadPoolExecutor(self._workers, "compile"))
            packing = stack.enter_context(ThreadPoolExecutor(2 * self._workers, "pack"))
            if self._interpreter is not None:
                self.compiler = Compiler(self._interpreter, place, self._workers)
                stack.callback(self.compiler.close)
            stack.callback(self._stop.set)
            for executor in (compiling, packing):
                stack.callback(executor.shutdown, wait=False, cancel_futures=True)
            self.compiling, self._packing = compiling, packing
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def submit(self, work: Callable[[_Item], _Made], item: _Item) -> Future[_Made]:
        """Do a piece of work when a thread is free: what was submitted first begins first."""
        return self._packing.submit(work, item)

    @staticmethod
    def wait(futures: Iterable[Future[Any]]) -> None:
        """Wait until all of the work is done, in any order; the first error ends it."""
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            if (error := future.exception()) is not None:
                raise error

    def check(self) -> None:
        """End the thread that asks, if nobody wants its work any more."""
        if self._stop.is_set():
            raise _Interrupted
