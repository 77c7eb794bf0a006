"""How the record of a job and the end of a task are written down: JSON, the same in the journal and beside the job."""

from __future__ import annotations

import dataclasses
import json

from clustrix.errors import StoreError
from clustrix.model.job import End, EndKind, JobId, JobRecord, State

_FIELDS = frozenset(field.name for field in dataclasses.fields(JobRecord))


def dump(record: JobRecord) -> bytes:
    """Write a record."""
    document = {name: getattr(record, name) for name in _FIELDS}
    document |= {"id": str(record.id), "target": dict(record.target), "state": record.state.value}
    return (json.dumps(document, sort_keys=True) + "\n").encode()


def load(text: bytes) -> JobRecord:
    """Read a record; what a later version added is left out.

    Raises:
        StoreError: it is none.

    """
    try:
        document = {name: value for name, value in json.loads(text).items() if name in _FIELDS}
        document |= {"id": JobId.parse(document["id"]), "state": State(document["state"])}
        document["unenforced"] = tuple(document.get("unenforced", ()))
        return JobRecord(**document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"not the record of a job: {error}") from error


def load_end(text: bytes) -> End:
    """Read the end of a task, as its wrapper wrote it (`clustrix.backends.wrapper`).

    Raises:
        StoreError: it is none.

    """
    try:
        document = json.loads(text)
        return End(
            kind=EndKind(document["kind"]),
            exit_code=document.get("exit_code"),
            signal=document.get("signal"),
            node=document.get("node"),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"not the end of a task: {error}") from error
