"""Measure, keep the raw figures and write the page: ``python tests/bench/run.py [--only NAME ...] [--rounds 5]``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path

import ground as grounds
import report
from measure import Measure, machine

MEASURES = (
    "import",
    "capture",
    "build",
    "memory",
    "call",
    "slurm",
    "submitit",
    "elsewhere",
    "kubernetes",
    "journal",
    "copy",
)
RESULTS = grounds.HERE / "results.json"
PAGE = grounds.ROOT / "docs" / "reference" / "benchmarks.md"


def main(argv: list[str] | None = None) -> None:
    """Run the measures that were asked for; the others keep the figures that they had."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, help="raw figures, read and written")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page anew")
    given = parser.parse_args(argv)
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    with grounds.ground() as ground:
        for name in () if given.render else given.only:
            print(f"{name}:", flush=True)
            before = machine()
            found = import_module(f"measure_{name}").measure(ground, given.rounds)
            command = f"python tests/bench/run.py --only {name} --rounds {given.rounds}"
            results[name] = entry(found, before, command, given.rounds)
            results = {known: results[known] for known in MEASURES if known in results}
            given.results.write_text(json.dumps(results, indent=1) + "\n")  # each at once: the next may fail
            for bar in found.bars:
                print(f"  {'met   ' if bar.kept else 'MISSED'} {bar.promise}: {bar.figure:.4g} {bar.unit}", flush=True)
    given.page.write_text(report.page(results))


def entry(found: Measure, before: dict[str, object], command: str, rounds: int) -> dict[str, object]:
    """Put a measure into the form that is kept."""
    measure = asdict(found)
    measure["bars"] = [{**asdict(bar), "kept": bar.kept} for bar in found.bars]
    taken = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return {"taken": taken, "command": command, "rounds": rounds, "machine": before, "measure": measure}


if __name__ == "__main__":
    main()
