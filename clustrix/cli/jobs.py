"""``clustrix jobs``: the journal, and where those stand that have not ended."""

from __future__ import annotations

import time
from datetime import datetime

import click

from clustrix.cli import output


@click.command("jobs")
@click.option("--target", shell_complete=output.complete_targets, help="Show those of one target alone.")
@click.option("-n", "--number", type=click.IntRange(1), default=20, show_default=True, help="Show so many, the newest.")
@click.option("--all", "everything", is_flag=True, help="Show all.")
@click.option("--offline", is_flag=True, help="Ask no target: show what is known here.")
@output.as_json
def command(target: str | None, number: int, *, everything: bool, offline: bool, as_json: bool) -> None:
    """List jobs, the newest first. Each target is asked once, whatever the number of jobs.

    \b
    Examples:
      clustrix jobs
      clustrix jobs --target hpc --all
      clustrix jobs --json --offline
    """
    from clustrix import catalogue, config
    from clustrix.errors import ClustrixError, UnknownOption
    from clustrix.journal import Journal

    records = [record for record in Journal().list() if target in {None, record.id.target}]
    # A target that is configured no longer may still have jobs here.
    if target and not records and target not in (known_targets := config.load().target_names):
        raise UnknownOption("target", target, known_targets)
    shown = records if everything else records[:number]
    open_ones = [] if offline else [record for record in shown if not record.state.ended]
    said = catalogue.statuses(open_ones)
    rows = []
    for record in shown:
        status = said.get(record.id)
        silent = isinstance(status, ClustrixError)
        known = None if status is None or isinstance(status, ClustrixError) else status
        rows.append(
            {
                "id": str(record.id),
                "function": record.function,
                "state": "no answer" if silent else (known.state if known else record.state).value,
                "items": record.items,
                "finished": known.finished if known else None,
                "failed": known.failed if known else None,
                "created": record.created,
                "native_id": record.native_id,
                "reason": known.reason if known else str(status) if silent else "",
            }
        )
    if as_json:
        output.emit(rows)
        return
    if not rows:
        output.note("no jobs yet" if target is None else f"no jobs of target {target} yet")
        return
    columns = ("id", "function", "state", "items", "created", "reason")
    output.table(columns, [[_cell(name, row[name]) for name in columns] for row in rows])
    if len(records) > len(shown):
        output.note(f"{len(records) - len(shown)} older ones: --all")


def _cell(name: str, value: object) -> object:
    if name == "created" and isinstance(value, float):
        return age(value)
    return str(value).splitlines()[0] if value else value


def age(created: float) -> str:
    """Say how long ago something was, or its date where that is days."""
    seconds = time.time() - created
    for limit, unit, size in ((60, "s", 1), (3600, "min", 60), (86400, "h", 3600)):
        if seconds < limit:
            return f"{int(seconds / size)} {unit} ago"
    return datetime.fromtimestamp(created).astimezone().strftime("%Y-%m-%d %H:%M")
