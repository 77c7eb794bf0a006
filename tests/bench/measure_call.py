"""How much a call costs beyond the process or container that it starts."""

from __future__ import annotations

import json
import os
import statistics
from typing import TYPE_CHECKING, Any

import ground as grounds
from measure import Bar, Measure, Table

if TYPE_CHECKING:
    from ground import Ground

LIMITS = {"venv": 0.150, "docker": 0.100}
FLOORS = {"venv": "python -c pass", "docker": "docker run IMAGE python -c pass"}
CALL, EDITED = "clustrix, a call", "clustrix, a call after an edit"
CALLS = 10


def measure(ground: Ground, rounds: int) -> Measure:
    """Make calls in a process of a scientific environment, in turn with what they cannot be faster than."""
    base = grounds.servers.bases()["debian"].layout
    samples = {}
    for runtime in LIMITS:
        directory = ground.fresh("call")
        target = {"backend": "local", "runtime": runtime, "base": f"oci:{base}"}
        (directory / "clustrix.json").write_text(json.dumps({"targets": {"here": target}, "target": "here"}))
        environment = {
            **os.environ,
            "CLUSTRIX_STATE_DIR": str(directory / "state"),
            "UV_FIND_LINKS": str(ground.wheels),
        }
        argv = (ground.scientific, grounds.HERE / "call_often.py", runtime, str(CALLS * rounds))
        said = grounds.run(*argv, cwd=directory, env=environment)
        samples[runtime] = json.loads(said.splitlines()[-1])
        for name in ("call", "edited", "floor"):
            print(f"  {runtime}, {name}: {statistics.median(samples[runtime][name]):.3f}", flush=True)
    return found(samples)


def found(samples: dict[str, dict[str, Any]]) -> Measure:
    """Say what was found."""
    tables, bars = [], []
    for runtime, limit in LIMITS.items():
        times = samples[runtime]
        tables.append(
            Table(f"runtime {runtime}", {CALL: times["call"], EDITED: times["edited"], FLOORS[runtime]: times["floor"]})
        )
        over = [call - floor for call, floor in zip(times["call"], times["floor"], strict=True)]
        bars.append(Bar(f"warm call, runtime {runtime}: over `{FLOORS[runtime]}`", statistics.median(over), limit, "s"))
    built = max(len(times["new_blobs"]) for times in samples.values())
    bars.append(Bar("call after an edit of its module: layers built", built, 0, ""))
    text = (
        "`f()` of an `@cluster` function that returns a number, from the caller's process and back, in turn with the"
        " bare process or container of the same environment. The environment is the live one of the capture above; the"
        " first calls, which place it and start helpers, are not counted. For every call after an edit the caller's"
        " module was written anew and loaded."
    )
    return Measure("Call", text, tables, bars)
