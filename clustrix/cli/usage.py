"""``clustrix usage``: what a job asked for, what it used, and what to ask for next."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from clustrix.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable

    from clustrix.model.usage import Request, Usage

T = TypeVar("T")


@click.command("usage")
@output.job_argument()
@output.as_json
def command(job_id: str, *, as_json: bool) -> None:
    """Compare what a job asked for with what it used, and propose the next request.

    What was used is of items that ended with a value; nothing is proposed before all have ended.

    \b
    Examples:
      clustrix usage hpc/01J9ZK2M
      clustrix usage 01J9ZK2M --json
    """
    from clustrix import catalogue

    array = catalogue.array_of(job_id)
    found = array.usage()
    if as_json:
        output.emit(_data(found, str(array.id)))
        return
    output.table(("", "asked", "used", "next"), _rows(found))
    for note in found.notes:
        output.note(note)
    if found.failed:
        output.note(f"{found.failed} of {found.items} items ended without a value, and are not in these figures.")
    if found.decorator is not None:
        click.echo(f"\n{found.decorator}")


def _rows(found: Usage) -> list[list[str]]:
    from datetime import timedelta

    from clustrix.model.usage import memory_text, time_text

    asked, then, longest = found.asked, found.next, found.longest_seconds
    busy = _shown("{:.1f}".format, found.busy_cores, found.cores_fraction)
    peak = _shown(memory_text, found.peak_memory_bytes, found.memory_fraction)
    took = _shown(time_text, None if longest is None else timedelta(seconds=longest), found.time_fraction)
    return [
        ["cores", _shown(str, asked.cores), busy, _shown(str, then.cores)],
        ["memory", _shown(memory_text, asked.memory_bytes), peak, _shown(memory_text, then.memory_bytes)],
        ["time", _shown(time_text, asked.time), took, _shown(time_text, then.time)],
    ]


def _shown(text: Callable[[T], str], value: T | None, fraction: float | None = None) -> str:
    if value is None:
        return "-"
    return text(value) if fraction is None else f"{text(value)} ({fraction:.0%})"


def _data(found: Usage, job: str) -> dict[str, object]:
    return {
        "id": job,
        "items": found.items,
        "measured": found.measured,
        "failed": found.failed,
        "open": found.open,
        "asked": _request(found.asked),
        "used": {
            "cores": found.busy_cores,
            "busiest_cores": found.busiest_cores,
            "memory_bytes": found.peak_memory_bytes,
            "time_seconds": found.longest_seconds,
            "cpu_seconds": found.cpu_seconds,
            "wall_seconds": found.wall_seconds,
        },
        "fractions": {
            "cores": found.cores_fraction,
            "memory": found.memory_fraction,
            "time": found.time_fraction,
        },
        "out_of_memory": found.out_of_memory,
        "out_of_time": found.out_of_time,
        "next": _request(found.next),
        "decorator": found.decorator,
        "notes": list(found.notes),
    }


def _request(request: Request) -> dict[str, object]:
    seconds = None if request.time is None else request.time.total_seconds()
    return {"cores": request.cores, "memory_bytes": request.memory_bytes, "time_seconds": seconds}
