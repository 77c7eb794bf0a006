"""How long it takes to know what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ground as grounds
from measure import Bar, Measure, Table, alternate, middle, seconds
from uv import find_uv_bin

if TYPE_CHECKING:
    from ground import Ground

CAPTURE = """
import sys, time
from clustrix.capture import packages
start = time.perf_counter()
rows = len(packages.{call}.distributions)
print(time.perf_counter() - start, rows)
"""
IN_PROCESS, UNCHANGED, WHOLE = "clustrix, in process", "clustrix, in process, unchanged", "clustrix, whole process"


def measure(ground: Ground, rounds: int) -> Measure:
    """Capture an environment in fresh processes, and let pip and uv list it."""
    python, cache, uv = ground.scientific, ground.fresh("captures"), find_uv_bin()

    def inside(call: str) -> float:
        return float(grounds.run(python, "-c", CAPTURE.format(call=call)).split()[0])

    cases = {
        IN_PROCESS: lambda: inside("capture()"),
        UNCHANGED: lambda: inside(f"capture_cached({str(cache)!r})"),
        WHOLE: lambda: seconds(lambda: grounds.run(python, "-c", CAPTURE.format(call="capture()"))),
        "pip list": lambda: seconds(lambda: grounds.run(python, "-m", "pip", "list", "--format=freeze")),
        "uv pip list": lambda: seconds(lambda: grounds.run(uv, "pip", "list", "--format=freeze", "--python", python)),
    }
    for case in cases.values():
        case()
    times = alternate(cases, 5 * rounds, quiet=True)
    rows = grounds.run(python, "-c", CAPTURE.format(call="capture()")).split()[1]
    return found(times, int(rows), {**ground.versions(python, "pip"), "uv": grounds.run(uv, "--version").split()[1]})


def found(times: dict[str, list[float]], rows: int, versions: dict[str, str]) -> Measure:
    """Say what was found."""
    return Measure(
        "Capture",
        f"Learning what is installed, here {rows} distributions. In process is what a call of an `@cluster` function"
        " pays once a process; unchanged is what it pays when an earlier process captured the same environment. The"
        " whole process starts a Python and imports first, as `pip list` does; uv is a program of its own. Both lists"
        " leave out where a package came from, which the capture reads too.",
        [Table("capture", times)],
        [
            Bar("capture in process", middle(times, IN_PROCESS), 0.080, "s"),
            Bar("unchanged environment recognised", middle(times, UNCHANGED), 0.010, "s"),
        ],
        versions,
    )
