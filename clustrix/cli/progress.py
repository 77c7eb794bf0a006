"""Draw progress on a terminal; be silent in a pipe."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from clustrix.cli.output import on_terminal
from clustrix.model.progress import SILENT, Bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class _Row:
    def __init__(self, screen: RichProgress, task: TaskID, *, items: int | None) -> None:
        self._screen = screen
        self._task = task
        self._items = items
        self._done = 0

    def advance(self, amount: int) -> None:
        self._done += amount
        text = f"{self._done}/{self._items}" if self._items else _bytes(self._done)
        self._screen.update(self._task, advance=amount, amount=text)

    def close(self) -> None:
        self._screen.remove_task(self._task)


class Screen:
    """Draw one line a running stage, with bytes and speed (`clustrix.model.progress.Progress`)."""

    def __init__(self, screen: RichProgress) -> None:
        self._screen = screen

    def start(self, stage: str, total: int | None) -> Bar:
        """Begin a stage."""
        task = self._screen.add_task(stage, total=total, amount="")
        return _Row(self._screen, task, items=total if stage.startswith("map ") else None)


def _bytes(amount: int) -> str:
    from rich.filesize import decimal

    return decimal(amount)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Draw the progress of this process, as long as the context lasts; what was drawn is wiped away at its end."""
    from clustrix import placement

    if not on_terminal():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as screen:
        placement.progress = Screen(screen)
        try:
            yield
        finally:
            placement.progress = SILENT
