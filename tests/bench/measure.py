"""Run contenders in turn, round after round, so that a machine that changes pace changes it for all."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternate(cases: Mapping[str, Callable[[], float | None]], rounds: int) -> dict[str, list[float]]:
    """Call every case once a round, in an order that turns; a case gives its own figure in seconds."""
    samples: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            figure = cases[name]()
            if figure is not None:
                samples[name].append(figure)
                print(f"  round {number + 1}: {name} {figure:.3f}", flush=True)
    return samples


def machine() -> dict[str, object]:
    """Describe where the figures were made."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        model = next(names, model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def table(results: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Write one Markdown table a measure: median, spread, ratio to the first row (ours)."""
    lines = []
    for measure, samples in results.items():
        rows = [(name, values) for name, values in samples.items() if values]
        if not rows:
            continue
        ours = statistics.median(rows[0][1])
        lines += [f"## {measure}", "", "| | median | least to most | ratio |", "| --- | --- | --- | --- |"]
        for name, values in rows:
            middle = statistics.median(values)
            spread = f"{_human(min(values))} to {_human(max(values))}"
            lines.append(
                f"| {name} | {_human(middle)} | {spread} | {middle / ours:.2f} |"
                if ours
                else f"| {name} | {_human(middle)} | {spread} | |"
            )
        lines.append("")
    return "\n".join(lines)


def save(path: Path, results: Mapping[str, object]) -> None:
    """Write the raw figures."""
    path.write_text(json.dumps(results, indent=1) + "\n")


def _human(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
