"""``clustrix result``: what a job returned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clustrix.cli import output
from clustrix.errors import ClustrixError

if TYPE_CHECKING:
    from clustrix.handle import JobArray


@click.command("result")
@output.job_argument()
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the end of the job.")
@click.option("--output", "path", type=click.Path(path_type=Path), help="Write it there, pickled, instead of its repr.")
@output.as_json
def command(job_id: str, path: Path | None, *, wait: bool, as_json: bool) -> None:
    """Show what a job returned: its repr, or JSON. A map gives one line an item, in order.

    Ends with 1 if the job failed, and with 6 if it has not ended and --no-wait was given.

    \b
    Examples:
      clustrix result hpc/01J9ZK2M
      clustrix result 01J9ZK2M --json
      clustrix result 01J9ZK2M --output value.pkl
    """
    from clustrix import catalogue
    from clustrix.errors import NotReady

    sys.path.append(str(Path.cwd()))  # the classes of values may be from the caller's modules
    array = catalogue.array_of(job_id)
    if not wait and not array.record.state.ended and not array.done():
        raise NotReady(f"{array.id} has not ended", remedy=f"See: clustrix status {array.id}")
    values: list[Any] = []
    errors: dict[int, BaseException] = {}
    for index in range(len(array)):
        error = array[index].exception()
        if error is not None:
            errors[index] = error
        values.append(None if error is not None else array[index].result())
    if path is not None:
        _write(values if len(array) > 1 else values[0], path, errors)
    if as_json:
        output.emit({"id": str(array.id), "items": [_item(index, values, errors) for index in range(len(values))]})
    elif path is None or errors:
        _show(values, errors)
        _explain(array, errors)
    if errors:
        click.get_current_context().exit(1)


def _show(values: list[Any], errors: dict[int, BaseException]) -> None:
    for index, value in enumerate(values):
        if index not in errors:
            click.echo(repr(value))
        elif len(values) > 1:
            click.echo(_summary(errors[index]))


def _item(index: int, values: list[Any], errors: dict[int, BaseException]) -> dict[str, object]:
    if index in errors:
        error = errors[index]
        return {"index": index, "status": "error", "type": type(error).__name__, "message": str(error)}
    return {"index": index, "status": "success", "value": _plain(values[index])}


def _plain(value: object) -> object:
    """Keep what JSON knows; the rest is shown as Python does."""
    import json

    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return repr(value)


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _explain(array: JobArray, errors: dict[int, BaseException]) -> None:
    """Say on standard error what failed: of a call, with all that is known of it."""
    if errors and len(array) > 1:
        output.note(f"{len(errors)} of {len(array)} items failed: {', '.join(map(str, list(errors)[:20]))}")
    elif errors:
        error = errors[0]
        if error.__cause__ is not None:
            output.note(f"{error.__cause__}\n{_summary(error)}")
        elif isinstance(error, ClustrixError):
            output.complain(error)
        else:
            output.note(_summary(error))


def _write(value: object, path: Path, errors: dict[int, BaseException]) -> None:
    from clustrix.worker.pickling import Pickler

    if errors:
        output.note(f"nothing is written to {path}")
        return
    with path.open("wb") as file:
        Pickler(file).dump(value)
    output.note(f"written to {path}")
