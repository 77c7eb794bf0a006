# ruff: noqa: PTH102, PTH103, PTH110, PTH115, PTH119, PTH208, PTH211
# pathlib would take a seventh of the time in which a worker starts.
"""Share the items of a job out among its tasks, so that nobody's code runs twice.

A task claims a slice: ``mkdir`` succeeds for one of them only, on NFS too. In a slice of several items it claims each
before it runs it, by a symbolic link, of which the same is true. So what a task that died has not begun can be taken
over by the others, and so can what a slow one has not come to: nobody needs to know which it is.
"""

from __future__ import annotations

import itertools
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.model.paths import JobPaths
    from clustrix.worker.task import Task


def claim(task: Task, paths: JobPaths, number: int) -> Iterator[int]:
    """Claim items one after the other until none is left.

    With a slice for every task, a task does its own and no other: the time limit is meant for one. A task that is
    started a second time never gets what it had begun before, unless its job may be requeued: then it gets what has no
    outcome.
    """
    os.makedirs(paths.claims, mode=0o700, exist_ok=True)
    if task.requeue and _start(paths, number) > 0:
        yield from _unfinished(task, paths, number)
    for place in _slices(task, paths, number):
        for index in range(*task.slices[place]):
            if _claim_item(task, paths, place, index, number):
                yield index
    if _shared(task):
        yield from _left_over(task, paths, number)


def _shared(task: Task) -> bool:
    return len(task.slices) > task.workers


def _slices(task: Task, paths: JobPaths, number: int) -> Iterator[int]:
    """Claim slices until none is left."""
    wanted = range(len(task.slices))
    if not _shared(task):
        wanted = wanted[number : number + 1]
    taken: set[str] = set()
    while True:
        taken.update(os.listdir(paths.claims))  # spares an attempt for each; what NFS shows may be old
        for place in wanted:
            if str(place) not in taken:
                taken.add(str(place))
                if _claim_slice(paths, place, number):
                    yield place
                    break
        else:
            return


def _left_over(task: Task, paths: JobPaths, number: int) -> Iterator[int]:
    """Claim what others have claimed and not begun, from the end, where they come to it last."""
    for place, (start, stop) in enumerate(task.slices):
        if stop - start > 1:
            begun = set(os.listdir(paths.claim(place)))
            for index in reversed(range(start, stop)):
                if os.path.basename(paths.mark(place, index)) not in begun and _mark(paths, place, index, number):
                    yield index


def _unfinished(task: Task, paths: JobPaths, number: int) -> Iterator[int]:
    """Give what this task had claimed when it was started before, and has no outcome."""
    for place, (start, stop) in enumerate(task.slices):
        own = os.path.exists(paths.claimant(place, number))
        for index in range(start, stop):
            begun = own if stop - start == 1 else _marked_by(paths, place, index) == number
            if (begun and not os.path.exists(paths.outcome(index))) or (
                own and not begun and _claim_item(task, paths, place, index, number)
            ):
                yield index


def _start(paths: JobPaths, number: int) -> int:
    """Count the starts of a task before this one; of two that start at once each gets a number of its own."""
    for attempt in itertools.count():
        try:
            os.mkdir(paths.start(number, attempt), 0o700)
        except FileExistsError:
            continue
        return attempt
    raise AssertionError  # it counts for ever


def _claim_slice(paths: JobPaths, place: int, number: int) -> bool:
    try:
        os.mkdir(paths.claim(place), 0o700)
    except FileExistsError:
        return False
    os.close(os.open(paths.claimant(place, number), os.O_CREAT | os.O_WRONLY, 0o600))
    return True


def _claim_item(task: Task, paths: JobPaths, place: int, index: int, number: int) -> bool:
    """Claim one item of a slice that this task has; of a slice of one item it has that already."""
    start, stop = task.slices[place]
    return stop - start == 1 or _mark(paths, place, index, number)


def _mark(paths: JobPaths, place: int, index: int, number: int) -> bool:
    try:
        os.symlink(str(number), paths.mark(place, index))
    except FileExistsError:
        return False
    return True


def _marked_by(paths: JobPaths, place: int, index: int) -> int | None:
    try:
        return int(os.readlink(paths.mark(place, index)))
    except FileNotFoundError:
        return None
