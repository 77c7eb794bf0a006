"""The page of the documentation, made of the raw figures."""

from __future__ import annotations

import statistics
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD = """\
# Benchmarks

<!-- Made by tests/bench/run.py: change the code, not this page. -->

Every contender does the same work on the same machine, in turn, round after round, and is given the median of its
rounds. All fetch packages from one index on loopback and push to one registry on loopback (Debian's docker-registry),
so that no network is measured. Each is started as its users start it. Raw figures: `tests/bench/results.json`. To make
them again, on Linux as root with a Docker engine (`bash .ci/run packages engine install images` sets that up):

```text
python tests/bench/run.py
```
"""


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the page."""
    parts = [HEAD, *_summary(results)]
    for result in results.values():
        measure, machine = result["measure"], result["machine"]
        parts += [f"## {measure['title']}", "", _wrapped(measure["text"]), ""]
        for table in measure["tables"]:
            parts += [*_table(table), ""]
        versions = ", ".join(f"{name} {version}" for name, version in measure["versions"].items())
        taken = (
            f"Taken on {result['taken']} with `{result['command']}`, {result['rounds']} "
            f"{'round' if result['rounds'] == 1 else 'rounds'}: {machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}, "
            f"load {machine['load_before']} before." + (f" {versions}." if versions else "")
        )
        parts += [_wrapped(taken), ""]
    return "\n".join(parts).rstrip() + "\n"


def _summary(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    bars = [bar for result in results.values() for bar in result["measure"]["bars"]]
    missed = [bar for bar in bars if not bar["kept"]]
    said = f"{len(bars) - len(missed)} of {len(bars)} goals are met."
    if missed:
        said += " **Missed: " + "; ".join(f"{bar['promise']} ({_figure(bar)})" for bar in missed) + ".**"
    rows = [
        f"| {bar['promise']} | {'at least' if bar['least'] else 'at most'} {_amount(bar['limit'], bar['unit'])} "
        f"| {_figure(bar)} | {'yes' if bar['kept'] else '**no**'} |"
        for bar in bars
    ]
    return [said, "", "| goal | | measured | met |", "| --- | --- | --- | --- |", *rows, ""]


def _figure(bar: Mapping[str, Any]) -> str:
    return _amount(bar["figure"], bar["unit"])


def _table(table: Mapping[str, Any]) -> list[str]:
    rows = [(name, values) for name, values in table["samples"].items() if values]
    ours = statistics.median(rows[0][1]) if rows else 0
    lines = [f"| {table['title']} | median | least to most | times ours |", "| --- | --- | --- | --- |"]
    for name, values in rows:
        median, least, most = statistics.median(values), min(values), max(values)
        times = f"{median / ours:.1f}" if ours > 0 else ""
        spread = f"{_amount(least, table['unit'])} to {_amount(most, table['unit'])}"
        lines.append(f"| {name} | {_amount(median, table['unit'])} | {spread} | {times} |")
    return lines


def _amount(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1000:.1f} ms" if abs(value) < 0.1 else f"{value:.2f} s"
    if unit == "MB":
        return f"{value:.2f} MB" if value < 10 else f"{value:.0f} MB"
    if unit == "x":
        return f"{value:.1f}x"
    return f"{value:g} {unit}".rstrip()


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
