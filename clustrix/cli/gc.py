"""``clustrix gc``: remove what ended jobs left, and environments that no job here is from."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clustrix.cli import output
from clustrix.errors import ClustrixError, ConfigError
from clustrix.model.resources import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clustrix.journal import Journal
    from clustrix.model.job import JobRecord


@click.command("gc")
@output.target_option
@click.option("--older", default="30d", show_default=True, help="Only what is older than this.")
@output.dry_run
@output.as_json
def command(target: str | None, older: str, *, dry_run: bool, as_json: bool) -> None:
    """Remove what ended jobs left: their directories and records, and environments that no other job is from.

    A job that runs, waits, or whose target does not answer stays. Images stay: they are shared, and packed once.

    \b
    Examples:
      clustrix gc --dry-run
      clustrix gc --target hpc --older 7d
    """
    from clustrix import catalogue
    from clustrix.journal import Journal

    before = time.time() - parse_time(older).total_seconds()
    journal = Journal()
    records = journal.list()
    old = [record for record in records if target in {None, record.id.target} and record.created < before]
    catalogue.statuses([record for record in old if not record.state.ended])  # the journal learns who has ended
    ended = [record for record in (journal.find(str(row.id)) for row in old) if record.state.ended]
    kept = {str(row.id): words for row in ended if not dry_run and (words := _removed(row, journal))}
    removed = [str(record.id) for record in ended if str(record.id) not in kept]
    gone = set(removed)
    venvs = [] if target not in {None, "local"} else list(_venvs([r for r in records if str(r.id) not in gone], before))
    for path in venvs:
        if not dry_run:
            shutil.rmtree(path)
    if as_json:
        output.emit({"dry_run": dry_run, "jobs": removed, "environments": [str(p) for p in venvs], "kept": kept})
        return
    for job, words in kept.items():
        output.note(f"kept: {job}: {words}")
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {len(removed)} jobs and {len(venvs)} environments")


def _removed(record: JobRecord, journal: Journal) -> str | None:
    """Remove one job; say why not, where that fails."""
    from clustrix import target

    try:
        target.of_record(record).store.remove(record)
    except ClustrixError as error:
        return error.message
    journal.remove(record.id)
    return None


def _venvs(records: Sequence[JobRecord], before: float) -> Iterator[Path]:
    """Find environments of this machine that no job of the journal is from."""
    from clustrix import config, target

    try:
        place = Path(target.of(config.load().resolve(config.LOCAL)).site.venvs)
    except ConfigError:  # what somebody made of `local` is another machine
        return
    used = {record.lock_digest.partition(":")[2] for record in records if record.lock_digest}
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.name not in used and path.stat().st_mtime < before:
            yield path
