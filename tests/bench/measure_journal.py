"""What many jobs in the journal cost whoever waits for one, and whoever lists them."""

from __future__ import annotations

import json
import statistics
from functools import partial
from typing import TYPE_CHECKING

import ground as grounds
from cluster import cluster
from measure import Bar, Measure, Table, seconds

if TYPE_CHECKING:
    from ground import Ground

SIZES = (1, 100, 10_000)
WAIT = 4


def measure(ground: Ground, rounds: int) -> Measure:
    """Wait for a job on SLURM with ever more jobs in the journal, then list them."""
    waits: dict[str, dict[str, list[float]]] = {"cpu": {}, "scripts": {}}
    with cluster(ground, "slurm", "slurm") as (_, directory, environment):
        for size in SIZES:
            for _ in range(rounds):
                argv = (ground.scientific, grounds.HERE / "watch_once.py", str(size), str(WAIT))
                said = json.loads(grounds.run(*argv, cwd=directory, env=environment).splitlines()[-1])
                for name, figure in said.items():
                    waits[name].setdefault(f"{size:,} jobs in the journal", []).append(figure)
            print(
                f"  {size} journalled", {name: list(values.values())[-1] for name, values in waits.items()}, flush=True
            )
        listing = {}
        for name, options in {"clustrix jobs": (), "clustrix jobs --all": ("--all",)}.items():
            argv = (ground.scientific.with_name("clustrix"), "jobs", "--offline", *options)
            run = partial(grounds.run, *argv, cwd=directory, env=environment)
            listing[name] = [seconds(run) for _ in range(rounds)]
            print(f"  {name} {statistics.median(listing[name]):.3f}", flush=True)
    return found(waits, listing)


def found(waits: dict[str, dict[str, list[float]]], listing: dict[str, list[float]]) -> Measure:
    """Say what was found."""
    cpu = [statistics.median(values) for values in waits["cpu"].values()]
    scripts = [max(values) for values in waits["scripts"].values()]
    text = (
        f"A process waits for a job of {WAIT} s on SLURM, over SSH, with 1, 100 and 10,000 jobs in the journal; then"
        " the 10,000 are listed, by whole processes. The processor time is that of the waiting process."
    )
    return Measure(
        "Many jobs",
        text,
        [Table(f"waiting {WAIT} s: processor time", waits["cpu"]), Table("listing 10,000 jobs", listing)],
        [
            Bar("waiting beside 10,000 jobs: scripts more than beside 1", scripts[-1] - scripts[0], 1, ""),
            Bar("waiting beside 10,000 jobs: processor time more than beside 1", cpu[-1] - cpu[0], 0.05, "s"),
            Bar("`clustrix jobs` over 10,000 records", statistics.median(listing["clustrix jobs"]), 1.0, "s"),
        ],
    )
