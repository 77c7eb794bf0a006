"""What was found out before, as small JSON files under content keys. Several processes may share a directory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def key(*parts: object) -> str:
    """Name whatever is determined by ``parts`` (JSON values)."""
    return hashlib.sha256(_json(parts)).hexdigest()


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Records:
    """Keep JSON objects by kind and key. A record that cannot be read was never written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Read a record, None if there is none."""
        with contextlib.suppress(OSError, ValueError):
            record = json.loads((self._directory / kind / f"{name}.json").read_bytes())
            return record if isinstance(record, dict) else None
        return None

    def put(self, kind: str, name: str, record: dict[str, Any]) -> None:
        """Write a record, whole or not at all; raises `DiskFull`."""
        place = self._directory / kind / f"{name}.json"
        temporary = place.with_name(f".{os.getpid()}-{secrets.token_hex(8)}")
        from clustrix.oci.layout import disk_full  # not for those who only look

        with disk_full(self._directory):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(_json(record))
                temporary.replace(place)
            finally:
                temporary.unlink(missing_ok=True)
