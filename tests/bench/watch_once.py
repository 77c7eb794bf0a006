"""Wait for a job of some seconds beside a full journal: what this process and its target had to do for it, as JSON.

Usage: watch_once.py JOURNALLED SECONDS, in a directory whose configuration names the target.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from clustrix.journal import Journal, state_directory
from clustrix.model import record as records
from clustrix.model.job import JobId, State, new_ulid
from clustrix.transports.posix import PosixTransport

MODULE = """
import time
from clustrix import cluster

@cluster
def sleep(seconds):
    time.sleep(seconds)
    return seconds
"""


def main() -> None:
    journalled, seconds = int(sys.argv[1]), int(sys.argv[2])
    Path("caller.py").write_text(MODULE)
    sys.path.insert(0, str(Path.cwd()))
    from caller import sleep

    assert sleep(0) == 0  # places the image
    fill(journalled)
    scripts = 0
    begin = PosixTransport._begin

    def counted(self: PosixTransport, script: str) -> Any:
        nonlocal scripts
        scripts += 1
        return begin(self, script)

    PosixTransport._begin = counted  # type: ignore[method-assign]
    job = sleep.submit(seconds)
    start, scripts = time.process_time(), 0
    assert job.result() == seconds
    print(json.dumps({"cpu": time.process_time() - start, "scripts": scripts}))


def fill(count: int) -> None:
    """Have ``count`` jobs in the journal: copies of the last one, with ids of their own."""
    last = Journal().list()[0]
    directory = state_directory() / "jobs"
    for _ in range(count - len(list(directory.glob("*.json")))):
        ulid = new_ulid()
        copy = replace(last, id=JobId(last.id.target, ulid), state=State.SUCCEEDED)
        (directory / f"{ulid}.json").write_bytes(records.dump(copy))


if __name__ == "__main__":
    main()
