"""How much a call and a map cost beyond what Grid Engine, or a bare host, and Apptainer need themselves."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

import ground as grounds
from cluster import cluster
from measure import Bar, Measure, Table

if TYPE_CHECKING:
    from ground import Ground

ROLES = {"sge": ("sge", "SGE", "qsub"), "ssh": ("login", "SSH host", "sh")}
CALL, PACKED = "clustrix, a call", "clustrix, a map of 100"


def measure(ground: Ground, rounds: int) -> Measure:
    """Call and map on each, in turn with raw submissions over the same connection."""
    samples = {}
    for backend, (role, title, _) in ROLES.items():
        with cluster(ground, role, backend) as (_, directory, environment):
            argv = (ground.scientific, grounds.HERE / "elsewhere_often.py", backend, str(rounds))
            samples[backend] = json.loads(grounds.run(*argv, cwd=directory, env=environment).splitlines()[-1])
        for name, values in samples[backend].items():
            print(f"  {title}, {name}: {statistics.median(values):.3f}", flush=True)
    return found(samples)


def found(samples: dict[str, dict[str, Any]]) -> Measure:
    """Say what was found."""
    tables, bars = [], []
    for backend, (_, title, command) in ROLES.items():
        times = samples[backend]
        middle = {name: statistics.median(values) for name, values in times.items()}
        over = [call - floor for call, floor in zip(times["call"], times["floor"], strict=True)]
        floor = f"{command} of apptainer exec python3 -c pass"
        tables += [
            Table(f"{title}, a call", {CALL: times["call"], floor: times["floor"]}),
            Table(f"{title}, a map of 100", {PACKED: times["packed"], f"100 times {floor}": times["array"]}),
        ]
        bars += [
            Bar(f"{title}, a call: over the floor", statistics.median(over), 0.25, "s"),
            Bar(f"{title}, a map of 100: times the raw array", middle["packed"] / middle["array"], 1 / 3, "x"),
            Bar(f"{title}, a map of 100: submissions", max(times["submissions"]), 1, ""),
        ]
    text = (
        "Over SSH, on the test bed of the live tests as Grid Engine with 4 slots and as a host without a scheduler. The"
        " floor is the least that starts Python in the image and touches a file, submitted and noticed over the same"
        " warm connection; the raw array is `qsub -t`, or `xargs -P` with as many at once as clustrix runs there."
    )
    return Measure("Grid Engine and bare hosts", text, tables, bars)
