"""Draw progress on a terminal; be silent in a pipe."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING

from clustrix.cli.output import on_terminal, size
from clustrix.model.progress import SILENT, Bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID


class _Row:
    def __init__(self, screen: Screen, task: TaskID) -> None:
        self._screen = screen
        self._task = task

    def advance(self, amount: int) -> None:
        self._screen.drawn.update(self._task, advance=amount)

    def close(self) -> None:
        self._screen.end(self._task)


class Screen:
    """Draw one line a running stage, with bytes and speed (`clustrix.model.progress.Progress`).

    Nothing is drawn, and the streams of this process are its own, while no stage runs.
    """

    def __init__(self, drawn: RichProgress) -> None:
        self.drawn = drawn
        self._running: set[TaskID] = set()
        self._lock = threading.Lock()

    def start(self, stage: str, total: int | None) -> Bar:
        """Begin a stage."""
        with self._lock:
            task = self.drawn.add_task(stage, total=total)
            self._running.add(task)
            self.drawn.start()
        return _Row(self, task)

    def end(self, task: TaskID) -> None:
        """End a stage, if it has not ended."""
        with self._lock:
            if task in self._running:
                self._running.remove(task)
                self.drawn.remove_task(task)
                if not self._running:
                    self.drawn.stop()


def _amount(task: Task) -> str:
    """Say how far a stage is: items of a map, else bytes and how many of them a second."""
    done, total = int(task.completed), task.total
    if task.description.startswith("map "):
        return f"{done}/{int(total or 0)}"
    if not done:
        return ""
    speed = task.speed
    return size(done) + (f" of {size(int(total))}" if total else "") + (f", {size(int(speed))}/s" if speed else "")


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Draw the progress of this process, as long as the context lasts; what was drawn is wiped away at its end."""
    from clustrix import placement

    if not on_terminal():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_amount(task))

    columns = (TextColumn("{task.description}"), BarColumn(), Amount(), TimeElapsedColumn())
    # What is printed meanwhile goes above the lines that are drawn, if it goes to the terminal at all.
    drawn = RichProgress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=True,
    )
    placement.progress = Screen(drawn)
    try:
        yield
    finally:
        placement.progress = SILENT
        drawn.stop()
