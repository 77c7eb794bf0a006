"""A pool of processes or threads: results in order, a timeout that ends the work, nothing done twice."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import CellType, CodeType, FunctionType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from clustrix.errors import ConfigError, ParallelError
from clustrix.local.child import dumps, receive, send
from clustrix.worker.pickling import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from typing_extensions import Self

PROCESSES, THREADS = "processes", "threads"
_CHUNKS = 4  # a worker, so that those which finish early help the others
_WAITS = frozenset({"open", "sleep", "requests", "httpx", "urllib", "urlopen", "socket", "subprocess", "sqlite3"})
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from clustrix.local.child import main; main()"


def cores() -> int:
    """Count the cores that this process may use: those of the job, if it is one."""
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "") if os.environ.get("CLUSTRIX_IN_JOB") else ""
    return int(given) if given.isdecimal() and int(given) else may


def choose(function: Callable[..., Any], items: Sequence[Any]) -> str:
    """Choose processes, or threads for what cannot be pickled, or waits for files and the network.

    Whether it can be pickled is tried first; what it calls is looked at only then.
    """
    try:
        dumps((function, items))
    except Exception:  # noqa: BLE001 - whatever pickling raises
        return THREADS
    return THREADS if _WAITS & _names(function) else PROCESSES


def _names(function: Callable[..., Any]) -> set[str]:
    """List the names that a function uses, with the functions that it holds."""
    found: set[str] = set()
    todo: list[Any] = [getattr(function, "__code__", None)]
    cells = getattr(function, "__closure__", None) or ()
    todo += [cell.cell_contents.__code__ for cell in cells if _is_function(cell)]
    while todo:
        code = todo.pop()
        if isinstance(code, CodeType):
            found.update(code.co_names)
            todo += code.co_consts
    return found


def _is_function(cell: CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, FunctionType)
    except ValueError:  # not assigned yet
        return False


def run(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    workers: int | None = None,
    chunk: int | None = None,
    timeout: float | None = None,
    kind: str | None = None,
) -> Iterator[Any]:
    """Call a function with every item and give the results in order.

    ``workers`` is `cores` unless given; ``chunk`` items go to a worker at a time. The first error, in the order of the
    items, is raised in its place, and ends the rest. After ``timeout`` seconds no process of it runs any more.

    Raises:
        TimeoutError: the time is up.
        ConfigError: a timeout for threads, which nobody can end.
        ParallelError: the function changes what it has captured, which would be lost; or a process died. Nothing is
            done a second time.

    """
    if not items:
        return
    workers = min(workers or cores(), len(items))
    kind = kind or choose(function, items)
    if kind == THREADS:
        if timeout is not None:
            raise ConfigError(
                f"{function.__qualname__} runs in threads, which no timeout can end",
                remedy="Let it and its arguments be picklable, so that it runs in processes.",
            )
        with ThreadPoolExecutor(workers, "clustrix") as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                for future in futures:
                    yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return
    size = chunk or max(1, -(-len(items) // (workers * _CHUNKS)))
    pieces = [items[start : start + size] for start in range(0, len(items), size)]
    deadline = None if timeout is None else time.monotonic() + timeout
    with _Processes(function, min(workers, len(pieces))) as processes:
        processes.begin(pieces)
        for number in range(len(pieces)):
            for value, error in processes.outcome(number, deadline):
                if error is not None:
                    raise error
                yield value


class _Processes:
    """Hold the processes of one run; when the block is left, none of them or of their children is running."""

    def __init__(self, function: Callable[[Any], Any], workers: int) -> None:
        self._name = function.__qualname__
        self._function = pickle.dumps(("function", dumps(function)))
        self._todo: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._answers: dict[int, bytes | None] = {}
        self._news = threading.Condition()
        self._running: list[subprocess.Popen[bytes]] = []
        self._workers = workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            with contextlib.suppress(OSError):
                process.kill() if os.name == "nt" else os.killpg(process.pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join()
        for process in self._running:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]

    def begin(self, pieces: Sequence[Sequence[Any]]) -> None:
        """Hand out all of the work."""
        import json

        for number, piece in enumerate(pieces):
            self._todo.put((number, pickle.dumps(("items", dumps(list(piece))))))
        # Each has one core: the libraries' own threads would fight over them.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        argv = [sys.executable, "-c", _START, json.dumps([os.path.abspath(path) for path in sys.path])]  # noqa: PTH100
        self._threads = []
        for _ in range(self._workers):
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **single},
                start_new_session=True,
            )
            self._running.append(process)
            thread = threading.Thread(target=self._serve, args=(process,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def outcome(self, number: int, deadline: float | None) -> list[tuple[Any, BaseException | None]]:
        """Wait for what became of a piece."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        with self._news:
            if not self._news.wait_for(lambda: number in self._answers, left):
                raise TimeoutError(f"{self._name} had not ended in time, and was ended")
            data = self._answers.pop(number)
        if data is None:
            raise ParallelError(
                f"a process that ran {self._name} died", remedy="Look at its output; perhaps memory ran out."
            )
        outcomes, changed = cast("tuple[list[tuple[Any, BaseException | None]], list[str]]", loads(data))
        if changed:
            raise ParallelError(
                f"{self._name} changes {', '.join(changed)}, which it has from around it: elsewhere that is lost",
                remedy="Return the value, or assign it by index or append it in the loop itself.",
            )
        return outcomes

    def _serve(self, process: subprocess.Popen[bytes]) -> None:
        words, answers = cast("BinaryIO", process.stdin), cast("BinaryIO", process.stdout)
        work = self._function
        while True:
            try:
                number, items = self._todo.get_nowait()
            except queue.Empty:
                return
            answer = None
            with contextlib.suppress(OSError, ValueError):
                if work:
                    send(words, work)
                    work = b""
                send(words, items)
                answer = receive(answers)
            with self._news:
                self._answers[number] = answer
                self._news.notify_all()
            if answer is None:
                return
