"""Call an `@cluster` function in turn with its floor, and after edits of its module: what each took, as JSON.

Usage: call_often.py RUNTIME TIMES, in a directory whose configuration names the target.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix import artifacts, pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

MODULE = """
from clustrix import cluster

@cluster
def answer():
    return {number}
"""


def main() -> None:
    runtime, times = sys.argv[1], int(sys.argv[2])
    sys.path.insert(0, str(Path.cwd()))
    answer = _edit(0)
    for _ in range(2):
        answer()
    ready = pipeline.prepare(pipeline.resolve({}))
    floor = [ready.placed.interpreter, "-c", "pass"]
    if runtime == "docker":
        floor = ["docker", "run", "--rm", ready.placed.location, *floor]
    before = _blobs()
    samples: dict[str, Any] = {"call": [], "edited": [], "floor": []}
    for number in range(1, times + 1):
        samples["call"].append(_seconds(answer))
        samples["floor"].append(_seconds(lambda: subprocess.run(floor, check=True)))
        answer = _edit(number)
        samples["edited"].append(_seconds(answer))
        assert answer() == number, "the edit did not travel"
    print(json.dumps({**samples, "new_blobs": sorted(_blobs() - before)}))


def _edit(number: int) -> Callable[[], int]:
    Path("caller.py").write_text(MODULE.format(number=number))
    importlib.invalidate_caches()
    sys.modules.pop("caller", None)
    Path(importlib.util.cache_from_source("caller.py")).unlink(missing_ok=True)
    answer: Callable[[], int] = importlib.import_module("caller").answer
    return answer


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _blobs() -> set[str]:
    return {path.name for path in (artifacts.layout().path / "blobs").rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
