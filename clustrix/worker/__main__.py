# ruff: noqa: PTH100, PTH120, PTH123
# pathlib would take a seventh of the time in which a worker starts.
"""What runs inside the container: ``python -I <worker zip> <job directory> <task number>``.

It ends with 0 when everything that it claimed has an outcome, whatever that says. Whatever kills it leaves none, and
the wrapper outside of the container tells why.
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys

from clustrix.model.paths import JobPaths
from clustrix.worker import task as tasks
from clustrix.worker import variables
from clustrix.worker.claims import claim
from clustrix.worker.items import Runner


def main(argv: list[str]) -> int:
    """Do the part of one task in the job whose directory is ``argv[1]``; ``argv[2]`` is the task's number.

    ``argv[3:]`` are its items, as ranges ``start:stop``, where nobody shares them: in pods (`clustrix.worker.pod`).
    """
    if argv[1] == "--pod":
        from clustrix.worker import pod

        return pod.main(argv)
    if argv[1] == "--courier":
        from clustrix.worker import courier

        return courier.main(argv)
    if argv[1] == "--rank":
        from clustrix.worker import ranks

        _watch_output()
        return ranks.main(argv)
    worker, directory, number, *ranges = argv
    paths = JobPaths(directory)
    with open(paths.task, "rb") as file:
        task = tasks.read(file.read())
    _watch_output()
    if os.getpid() == 1:  # in a container, where the kernel would ignore what ends any other process
        import signal

        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    runner = Runner(task, paths, os.path.dirname(os.path.abspath(worker)), int(number))
    variables.apply(runner.variables, cores=task.cores)
    given = (index for row in ranges for index in range(*map(int, row.split(":"))))
    for index in given if ranges else claim(task, paths, int(number)):
        runner.run(index)
    return 0


def _watch_output() -> None:
    """Show every line at once, whatever it holds, and the Python stack of a crash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    faulthandler.enable()
