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
    def __init__(self, screen: RichProgress, task: TaskID) -> None:
        self._screen = screen
        self._task = task

    def advance(self, amount: int) -> None:
        self._screen.advance(self._task, amount)

    def close(self) -> None:
        self._screen.remove_task(self._task)


class Screen:
    """Draw one line a running stage, with bytes and speed (`clustrix.model.progress.Progress`)."""

    def __init__(self, screen: RichProgress) -> None:
        self._screen = screen

    def start(self, stage: str, total: int | None) -> Bar:
        """Begin a stage."""
        return _Row(self._screen, self._screen.add_task(stage, total=total))


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Draw the progress of this process, as long as the context lasts; what was drawn is wiped away at its end."""
    from clustrix import pipeline

    if not on_terminal():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as screen:
        pipeline.progress = Screen(screen)
        try:
            yield
        finally:
            pipeline.progress = SILENT
