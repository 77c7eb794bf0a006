"""``clustrix images``: what was built here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from clustrix.cli import output


@click.command("images")
@output.as_json
def command(*, as_json: bool) -> None:
    """List the images and environments that were built here, the newest first.

    \b
    Examples:
      clustrix images
      clustrix images --json
    """
    from clustrix import config, target

    images = built()
    site = target.of(config.load().resolve(config.LOCAL)).site
    venvs = _environments(Path(site.venvs))
    if as_json:
        output.emit({"images": images, "environments": venvs})
        return
    if not images and not venvs:
        output.note("nothing was built here yet")
    if images:
        columns = ("config_digest", "python", "platform", "lock")
        rows = [[*(_short(row[name]) for name in columns), output.size(row["layer_bytes"])] for row in images]
        output.table((*columns, "own layers"), rows)
    if venvs:
        output.table(("environment", "lock"), [[row["path"], _short(row["lock"])] for row in venvs])


def built() -> list[dict[str, Any]]:
    """List what the builder remembers, the newest first."""
    from clustrix import config

    directory = config.cache_directory() / "build" / "images"
    rows = []
    for path in sorted(directory.glob("*.json"), key=lambda path: -path.stat().st_mtime):
        record = json.loads(path.read_bytes())
        image = record["image"]
        rows.append(
            {
                "config_digest": image["config_digest"],
                "manifest_digest": image["manifest_digest"],
                "python": image["python"],
                "platform": image["platform"],
                "lock": image["lock_digest"],
                "fingerprint": image["fingerprint"],
                "layer_bytes": sum(layer["size"] for layer in record["layers"]),
                "built": path.stat().st_mtime,
            }
        )
    return rows


def _environments(directory: Path) -> list[dict[str, object]]:
    if not directory.is_dir():
        return []
    return [
        {"path": str(path), "lock": f"sha256:{path.name}"}
        for path in sorted(directory.iterdir())
        if "." not in path.name
    ]


def _short(value: object) -> object:
    return value[:19] if isinstance(value, str) and value.startswith("sha256:") else value
