"""Run contenders in turn, round after round, so that a machine that changes pace changes it for all."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Bar:
    """Hold a promise against a figure: it is kept if ``figure`` is at most (or, ``least``, at least) ``limit``."""

    promise: str
    figure: float
    limit: float
    unit: str
    least: bool = False

    @property
    def kept(self) -> bool:
        return self.figure >= self.limit if self.least else self.figure <= self.limit


@dataclass(frozen=True, slots=True)
class Table:
    """Hold the samples of contenders for one and the same work, ours first; ``unit`` is ``s`` or ``MB``."""

    title: str
    samples: Mapping[str, list[float]]
    unit: str = "s"


@dataclass(frozen=True, slots=True)
class Measure:
    """Hold what one measure found, and the words that explain it."""

    title: str
    text: str
    tables: list[Table]
    bars: list[Bar]
    versions: Mapping[str, str] = field(default_factory=dict)


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternate(cases: Mapping[str, Callable[[], float]], rounds: int, *, quiet: bool = False) -> dict[str, list[float]]:
    """Call every case once a round, in an order that turns; a case gives its own figure."""
    samples: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            figure = cases[name]()
            samples[name].append(figure)
            if not quiet:
                print(f"  round {number + 1}: {name} {figure:.3f}", flush=True)
    return samples


def over(samples: Mapping[str, list[float]], floor: str) -> dict[str, list[float]]:
    """Take the floor's figure of the same round from every other contender's."""
    return {
        name: [value - least for value, least in zip(values, samples[floor], strict=True)]
        for name, values in samples.items()
        if name != floor
    }


def middle(samples: Mapping[str, list[float]], name: str) -> float:
    """Give a contender's median."""
    return statistics.median(samples[name])


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
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }
