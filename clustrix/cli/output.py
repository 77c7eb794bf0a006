"""What commands print: JSON for programs, tables for people; and their exit statuses."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from clustrix import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_STATUSES: tuple[tuple[type[errors.ClustrixError], int], ...] = (
    (errors.ConfigError, 2),
    (errors.MissingExtra, 2),
    (errors.CaptureError, 3),
    (errors.LockError, 3),
    (errors.BuildError, 3),
    (errors.ImageError, 3),
    (errors.UnknownJob, 5),
    (errors.NotReady, 6),
    (errors.JobError, 1),
)
AT_THE_TARGET = 4
"""The exit status where a target cannot be reached, or refused."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def exit_status(error: errors.ClustrixError) -> int:
    """Give the exit status of an error; the list is in ``clustrix --help``."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), AT_THE_TARGET)


def complain(error: errors.ClustrixError, where: str = "") -> int:
    """Print an error by its name, so that it can be looked up and caught, with its remedy; give the exit status.

    ``where`` is the line of a script that it came from.
    """
    note(f"error[{type(error).__name__}]: {error}" + (f"\n  at {where}" if where else ""))
    return exit_status(error)


def emit(data: object) -> None:
    """Print JSON on standard output."""
    click.echo(json.dumps(data, indent=2, default=str))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows below their titles; plain aligned text, cut to nothing, so that it can be read by programs too."""
    cells = [[*map(str.upper, columns)], *([("-" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[number]) for line in cells) for number in range(len(columns))]
    for number, line in enumerate(cells):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        click.echo(click.style(text, bold=True) if number == 0 else text)


def facts(data: Mapping[str, object], *, err: bool = False) -> None:
    """Print names and values, one a line; what is not known is left out, and bytes get a unit."""
    width = max((len(name) for name in data), default=0)
    for name, value in data.items():
        if value is not None and value != "":
            text = size(value) if name.endswith("_bytes") and isinstance(value, int) else value
            click.echo(f"{name.removesuffix('_bytes').ljust(width)}  {text}", err=err)


def size(amount: int) -> str:
    """Write an amount of bytes for people."""
    from rich.filesize import decimal

    return decimal(amount)


def note(text: str) -> None:
    """Tell the person something that is no result: on standard error."""
    click.echo(text, err=True)


def complete_jobs(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """Complete job ids, newest first."""
    from clustrix.journal import Journal

    return [str(record.id) for record in Journal().list() if str(record.id).startswith(incomplete)]


def complete_targets(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """Complete the names of targets."""
    from clustrix import config

    return [name for name in config.load().target_names if name.startswith(incomplete)]


def job_argument(**options: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - click's own parameters
    """Take a job id, completed from the journal."""
    return click.argument(
        "job_id" if options.get("nargs", 1) == 1 else "job_ids", shell_complete=complete_jobs, **options
    )


target_option = click.option(
    "--target", shell_complete=complete_targets, help="The target; without it what the configuration says, or `local`."
)


def unread() -> bool:
    """Tell whether whoever read standard output has gone, with what it wanted; then nothing more is written to it."""
    import select

    if not hasattr(select, "poll"):  # Windows
        return False
    look = select.poll()
    look.register(sys.stdout.fileno(), 0)  # errors are told of unasked
    gone = bool(look.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def on_terminal() -> bool:
    """Tell whether a person watches standard error."""
    return sys.stderr.isatty()
