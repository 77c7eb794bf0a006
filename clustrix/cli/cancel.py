"""``clustrix cancel``: end jobs, or take them out of the queue."""

from __future__ import annotations

import click

from clustrix.cli import output


@click.command("cancel")
@output.job_argument(nargs=-1, required=True)
@output.as_json
def command(job_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Cancel jobs: every process of theirs, or their place in the queue.

    \b
    Examples:
      clustrix cancel hpc/01J9ZK2M
      clustrix cancel 01J9ZK2M 01J9ZK2P
    """
    from clustrix import catalogue

    arrays = [catalogue.array_of(name) for name in job_ids]  # all of them are known before one is cancelled
    done = []
    for array in arrays:
        cancelled = array.cancel()
        done.append({"id": str(array.id), "cancelled": cancelled})
        if not as_json:
            click.echo(f"{array.id} {'is cancelled' if cancelled else 'had ended'}")
    catalogue.statuses([array.record for array in arrays])  # the journal learns how they ended
    if as_json:
        output.emit(done)
