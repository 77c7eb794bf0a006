"""``clustrix logs``: what a job printed."""

from __future__ import annotations

import click

from clustrix.cli import output


@click.command("logs")
@output.job_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--item", type=click.IntRange(0), help="Only the task that has this item of a map.")
def command(job_id: str, *, follow: bool, item: int | None) -> None:
    """Show what a job printed: standard output and error together. Tasks of a map are told apart by their number.

    \b
    Examples:
      clustrix logs hpc/01J9ZK2M
      clustrix logs -f 01J9ZK2M
      clustrix logs 01J9ZK2M --item 3
    """
    from clustrix import catalogue

    array = catalogue.array_of(job_id)
    if item is not None and item >= len(array):
        raise click.UsageError(f"{array.id} has {len(array)} items: 0 to {len(array) - 1}")
    if follow:
        for piece in array.logs(follow=True) if item is None else array[item].logs(follow=True):
            click.echo(piece, nl=False)
        return
    if item is not None:
        click.echo(array[item].logs(), nl=False)
        return
    for task in range(array.record.workers):
        text = array.logs(task=task)
        if array.record.workers > 1:
            text = "".join(f"[{task}] {line}\n" for line in text.splitlines())
        click.echo(text, nl=False)
