"""``clustrix gc``: say how much lies at targets and here, and remove what nobody needs any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from clustrix.cli import output
from clustrix.errors import ClustrixError
from clustrix.model.resources import parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from pathlib import Path

    from clustrix.inventory import Inventory
    from clustrix.target import Target


@click.command("gc")
@click.option(
    "--target",
    shell_complete=output.complete_targets,
    help="The target; without it all that are configured, and `local`.",
)
@click.option("--older", default="30d", show_default=True, help="Only what has not changed for so long.")
@output.dry_run
@output.as_json
def command(target: str | None, older: str, *, dry_run: bool, as_json: bool) -> None:
    """Remove what ended jobs left, and what no other job needs: bundles, blobs, SIFs and environments at targets.

    Jobs are removed with their results, whoever of this account submitted them. A job that runs or waits stays, and all
    of a target that does not answer. Of a Kubernetes target what jobs left in its registry goes, too. What was built
    here stays: it is only measured.

    \b
    Examples:
      clustrix gc --dry-run
      clustrix gc --target hpc --older 7d
    """
    from clustrix import config, inventory
    from clustrix import target as targets

    age = parse_time(older)
    current = config.load()
    rows: list[dict[str, Any]] = []
    for name in [target] if target else current.target_names:
        row: dict[str, Any] = {"target": name}
        try:
            place = targets.of(current.resolve(name))
            found = inventory.look(place, age)
            row |= {"root": place.site.root, "free_bytes": found.free_bytes, "sizes": found.sizes}
            row |= _swept(place, found, age, dry_run=dry_run)
        except ClustrixError as error:
            row["error"] = error.message
        rows.append(row)
    here = _cache()
    if as_json:
        output.emit({"dry_run": dry_run, "targets": rows, "here": here})
    else:
        _show(rows, here, dry_run=dry_run)
    if any("error" in row for row in rows):
        click.get_current_context().exit(output.AT_THE_TARGET)


def _swept(place: Target, found: Inventory, age: timedelta, *, dry_run: bool) -> dict[str, Any]:
    """Remove what may be removed, and the records of jobs that are nowhere any more."""
    from clustrix import inventory
    from clustrix.journal import Journal

    old = {one.path: one.size_bytes for one in (*found.jobs.values(), *found.shared)}
    gone = frozenset(old) if dry_run else inventory.remove(place, old)
    left = found.there - {path.removeprefix("jobs/") for path in gone}
    if not dry_run:
        journal = Journal()
        before = time.time() - age.total_seconds()
        for record in journal.list():
            own = record.id.target == place.name and record.root == place.site.root
            # Whatever is younger may be on its way there.
            if own and (record.id.ulid in found.there or record.created < before) and record.id.ulid not in left:
                journal.remove(record.id)
    return {
        "jobs": sorted(f"{place.name}/{path.removeprefix('jobs/')}" for path in gone if path.startswith("jobs/")),
        "shared": sorted(path for path in gone if not path.startswith("jobs/")),
        "bytes": {path: old[path] for path in sorted(gone)},
        "freed_bytes": sum(old[path] for path in gone),
        "kept": {f"{place.name}/{ulid}": why for ulid, why in found.kept.items()},
    }


def _cache() -> dict[str, int]:
    """Measure what was made here and can be made again."""
    from clustrix import config

    place = config.cache_directory()
    found = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    return {str(path): sum(one.lstat().st_size for one in _files(path)) for path in found}


def _files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if not path.is_dir() or path.is_symlink()]


def _show(rows: list[dict[str, Any]], here: Mapping[str, int], *, dry_run: bool) -> None:
    verb = "would free" if dry_run else "freed"
    for row in rows:
        if "error" in row:
            output.note(f"target {row['target']}: {row['error']}")
            continue
        free = f", {output.size(row['free_bytes'])} free" if row["free_bytes"] is not None else ""
        click.echo(f"target {row['target']}: {row['root']}{free}")
        for kind, size in row["sizes"].items():
            click.echo(f"  {kind:8} {output.size(size):>10}")
        freed = output.size(row["freed_bytes"])
        click.echo(f"  {verb} {freed}: {len(row['jobs'])} jobs, {len(row['shared'])} shared files")
        for path, size in row["bytes"].items() if dry_run else ():
            click.echo(f"  {output.size(size):>10}  {path}")
        for job, why in row["kept"].items():
            output.note(f"  kept: {job}: {why}")
    click.echo("here, all of which can be made again:")
    for place, size in here.items():
        click.echo(f"  {output.size(size):>10}  {place}")
