"""What an image consists of, for whoever audits it: CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from clustrix.model.lock import Lock


def cyclonedx(lock: Lock) -> bytes:
    """List a lock's packages, with the sha256 of each wheel; same lock, same bytes (no serial number, no time)."""
    components = [
        {
            "type": "library",
            "bom-ref": (purl := f"pkg:pypi/{package.name}@{quote(package.version, safe='')}"),
            "name": package.name,
            "version": package.version,
            "purl": purl,
            "hashes": [{"alg": "SHA-256", "content": package.file.sha256}],
            "properties": [{"name": "dev.clustrix.wheel", "value": package.file.filename}],
        }
        for package in lock.packages
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"properties": [{"name": "dev.clustrix.lock", "value": lock.digest}]},
        "components": components,
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
