"""A target on the test bed: what a measure's client process finds in its directory and in its environment."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ground as grounds
from live import beds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ground import Ground


@contextmanager
def cluster(ground: Ground, role: str, backend: str) -> Iterator[tuple[beds.Bed, Path, dict[str, str]]]:
    """Start a bed; give it, a directory with a configuration whose target is the bed, and an environment."""
    base = grounds.servers.bases()["debian"].layout
    with beds.bed(role, ground.fresh("bed")) as bed:
        directory = ground.fresh(role)
        (directory / "requirements.txt").write_text(f"{grounds.CHANGE[0]}\n")
        (directory / "ssh_config").write_text(
            f"Host *\n  IdentityFile {bed.key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {bed.known_hosts}\n"
        )
        target = {
            "backend": backend,
            "runtime": "apptainer",
            "host": bed.host,
            "port": bed.port,
            "username": bed.user,
            "ssh_config": str(directory / "ssh_config"),
            "base": f"oci:{base}",
            "environment": str(directory / "requirements.txt"),
        }
        (directory / "clustrix.json").write_text(json.dumps({"targets": {"near": target}, "target": "near"}))
        environment = {
            **os.environ,
            "CLUSTRIX_STATE_DIR": str(directory / "state"),
            "UV_DEFAULT_INDEX": ground.index,
        }
        yield bed, directory, environment
