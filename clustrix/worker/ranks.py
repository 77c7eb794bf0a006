# ruff: noqa: PTH102, PTH110, PTH120, PTH100, PTH123
"""One rank of a task that is many processes at once: ``worker --rank DIRECTORY TASK``, started by srun on every node.

Every rank calls the function with the same arguments (SPMD, as MPI programs and ``torch.distributed`` have it). What
rank 0 returns is the value; it is put beside the outcomes and counts once all ranks have ended well, which whoever
started them knows (`clustrix.schedulers.slurm`). What any rank raises is the outcome: of the first to say so, and the
others are ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from clustrix.model.paths import JobPaths
from clustrix.worker import task as tasks
from clustrix.worker import variables
from clustrix.worker.items import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from clustrix.errors import ClustrixError
    from clustrix.worker.task import Task

_OTHERS = 30.0  # seconds that the rank which has failed first may take to write it down


class RankPaths(JobPaths):
    """Place what one rank leaves, as long as it is not known that all have ended well."""

    __slots__ = ("number", "rank")

    def __init__(self, directory: str, number: int, rank: int) -> None:
        super().__init__(directory)
        self.number = number
        self.rank = rank

    @property
    def outcomes(self) -> str:
        """Hold what rank 0 returned."""
        return self.of_ranks(self.number)

    def hook(self, task: int | str) -> str:
        """Mark the hook of rank 0 where the wrapper looks for it, those of others where nobody does."""
        return super().hook(task) if self.rank == 0 else f"{self.of_ranks(task)}/{self.rank}.hook"


class Rank(Runner):
    """Run the items of a task as one of many that do; ``failed`` once the others are not to be waited for."""

    def __init__(self, task: Task, paths: JobPaths, bundles: str, number: int, rank: int) -> None:
        super().__init__(task, RankPaths(paths.directory, number, rank), bundles, number)
        self._real = paths
        self._rank = rank
        self.failed = False

    def _succeed(self, index: int, started: float, value: object) -> None:
        if self._rank == 0:
            super()._succeed(index, started, value)

    def _fail(self, index: int, started: float, travelling: Exception | None, raised: BaseException) -> None:
        if self._is_first(index):
            super()._fail(index, started, travelling, raised)

    def _refuse(self, index: int, started: float, error: ClustrixError) -> None:
        if self._is_first(index):
            super()._refuse(index, started, error)

    def _leave(self, index: int, started: float, hook: Callable[[], object], *, late: bool) -> None:
        if self._rank == 0:
            super()._leave(index, started, hook, late=late)
            return
        try:
            hook()
        except BaseException as error:  # noqa: BLE001 - whatever user code raises
            os.write(2, f"clustrix: on_preempt of rank {self._rank} raised {error!r}\n".encode(errors="replace"))
        os._exit(0)  # a bad end would end rank 0, too, which may be saving

    def _is_first(self, index: int) -> bool:
        """Tell whether this rank is the first that failed, and writes the outcome; others wait until that is done."""
        self.failed = True
        try:
            os.mkdir(f"{self._paths.outcomes}/failed-{index}")
        except FileExistsError:
            end = time.monotonic() + _OTHERS
            while not os.path.exists(self._real.outcome(index)) and time.monotonic() < end:
                time.sleep(0.05)
            return False
        self._paths = self._real
        return True


def main(argv: list[str]) -> int:
    """Do this rank's part of the task ``argv[3]`` in the job whose directory is ``argv[2]``."""
    worker, _, directory, number = argv
    rank = int(os.environ["RANK"])
    real = JobPaths(directory)
    with open(real.task, "rb") as file:
        task = tasks.read(file.read())
    if rank:  # whoever saves its work is rank 0, and when it ends all do
        signal.signal(signal.SIGTERM, lambda *_: None)
    runner = Rank(task, real, os.path.dirname(os.path.abspath(worker)), int(number), rank)
    variables.apply(runner.variables, cores=task.cores)
    for index in range(*task.slices[int(number)]):
        if os.path.exists(real.outcome(index)):  # the task was started again, which was allowed
            continue
        runner.run(index)
        if runner.failed:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)  # MPI's own end would wait for the others
    return 0
