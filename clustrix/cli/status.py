"""``clustrix status``: where one job stands, and why."""

from __future__ import annotations

import click

from clustrix.cli import output


@click.command("status")
@output.job_argument()
@output.as_json
def command(job_id: str, *, as_json: bool) -> None:
    """Say where a job stands. The beginning of an id is enough.

    \b
    Examples:
      clustrix status hpc/01J9ZK2M
      clustrix status 01J9ZK2M --json
    """
    from clustrix import catalogue
    from clustrix import target as targets

    record = catalogue.find(job_id)
    found = catalogue.statuses([record])[record.id]
    if isinstance(found, Exception):
        raise found
    start = found.expected_start
    several = {"nodes": found.nodes, "unenforced": record.unenforced}
    in_pods = targets.of_record(record).on_cluster  # each with a directory that goes with it
    data = {
        "id": str(record.id),
        "function": record.function,
        "state": found.state.value,
        "reason": found.reason,
        "expected_start": start.isoformat() if start else None,
        "items": found.items,
        "finished": found.finished,
        "failed": found.failed,
        "native_id": record.native_id,
        "directory": None if in_pods else f"{record.root}/jobs/{record.id.ulid}",
        "image": record.image,
        "lock": record.lock_digest,
        "fingerprint": record.fingerprint,
        **{name: list(values) for name, values in several.items()},
    }
    if as_json:
        output.emit(data)
    else:
        output.facts(data | {name: ", ".join(values) for name, values in several.items()})
