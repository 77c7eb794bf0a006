"""How the answer to a question for a lock is remembered: JSON, read back without parsing TOML or asking an index."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from clustrix.model.environment import Platform
from clustrix.model.lock import Lock, LockedFile, LockedPackage, LockResult, Report, Row, Status, Travelling

if TYPE_CHECKING:
    from collections.abc import Mapping


def dump(result: LockResult) -> dict[str, Any]:
    """Give JSON types."""
    lock = result.lock
    return {
        "python": lock.python,
        "machine": lock.platform.machine,
        "glibc": list(lock.platform.glibc),
        "packages": [[row.name, row.version, dataclasses.asdict(row.file)] for row in lock.packages],
        "rows": [{**dataclasses.asdict(row), "status": row.status.value} for row in result.report.rows],
        "notes": list(result.report.notes),
        "travelling": [dataclasses.asdict(row) for row in result.travelling],
    }


def load(data: Mapping[str, Any]) -> LockResult:
    """Read what `dump` gave; KeyError or TypeError if another version of clustrix wrote it."""
    platform = Platform(data["machine"], (data["glibc"][0], data["glibc"][1]))
    packages = tuple(LockedPackage(name, version, LockedFile(**file)) for name, version, file in data["packages"])
    rows = tuple(Row(**{**row, "status": Status(row["status"])}) for row in data["rows"])
    travelling = tuple(
        Travelling(
            **{
                **row,
                "roots": tuple(row["roots"]),
                "modules": tuple((name, path) for name, path in row["modules"]),
            }
        )
        for row in data["travelling"]
    )
    return LockResult(Lock(data["python"], platform, packages), Report(rows, tuple(data["notes"])), travelling)
