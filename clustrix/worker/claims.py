# ruff: noqa: PTH102, PTH103, PTH208
# pathlib would take a seventh of the time in which a worker starts.
"""Share the slices of a job out among its tasks: ``mkdir`` succeeds for one of them only, on NFS too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.model.paths import JobPaths
    from clustrix.worker.task import Task


def claim(task: Task, paths: JobPaths, number: int) -> Iterator[tuple[int, int]]:
    """Claim slices one after the other until none is left, and yield each as (first item, one past the last).

    With a slice for every task, a task claims its own and no other: the time limit is meant for one. A task that is
    started a second time finds its slice claimed and gets nothing.
    """
    os.makedirs(paths.claims, mode=0o700, exist_ok=True)
    wanted = range(len(task.slices))
    if len(task.slices) <= task.workers:
        wanted = wanted[number : number + 1]
    taken: set[str] = set()
    while True:
        taken.update(os.listdir(paths.claims))  # spares an attempt for each; what NFS shows may be old
        for place in wanted:
            if str(place) not in taken:
                taken.add(str(place))
                if _mkdir(paths, place, number):
                    yield task.slices[place]
                    break
        else:
            return


def _mkdir(paths: JobPaths, place: int, number: int) -> bool:
    try:
        os.mkdir(paths.claim(place), 0o700)
    except FileExistsError:
        return False
    os.close(os.open(paths.claimant(place, number), os.O_CREAT | os.O_WRONLY, 0o600))
    return True
