"""One small environment, byte for byte: whoever changes these files makes every image another one, and must mean to.

After such a change raise `clustrix.build.packing.FORMAT`, so that nothing packed before is used, and write the files
anew with ``CLUSTRIX_GOLDEN=write pytest tests/unit/build/test_golden.py``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from clustrix.oci.layout import Layout
from clustrix.oci.manifest import ImageConfig

from .recipes import SITE, Environment

GOLDEN = Path(__file__).parents[2] / "golden" / "build"


def compare(name: str, text: str) -> None:
    if os.environ.get("CLUSTRIX_GOLDEN") == "write":
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


@pytest.fixture
def built(environment: Environment):
    pylock = "".join(f'wheels = [{{ url = "{wheel.as_uri()}" }}]\n' for wheel in environment.wheels.values())
    return environment.build(pylock=pylock, variables=(("MODE", "fast"),), labels=(("org.example", "yes"),))


def test_the_configuration(environment: Environment, built) -> None:
    data = Layout(environment.place / "layout").read_blob(built.image.config_digest)
    assert ImageConfig.parse(data).encode() == data
    compare("config.json", json.dumps(json.loads(data), indent=1) + "\n")


def test_the_layers(environment: Environment, built) -> None:
    lines = []
    for layer in built.layers:
        lines.append(f"# {layer.title} {layer.diff_id}")
        for entry in environment.members(built, layer.digest):
            kind = {b"0": "-", b"2": "l", b"5": "d"}[entry.type]
            link = f" -> {entry.linkname}" if entry.linkname else ""
            owner = f"{entry.uid}:{entry.gid}"
            lines.append(f"{kind}{entry.mode:04o} {owner} {entry.mtime} {entry.size:>8} {entry.name}{link}")
    compare("layers.txt", "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("RECORD", f"{SITE}/alpha-1.0.dist-info/RECORD"),
        ("script", "opt/clustrix/venv/bin/alpha"),
        ("pyvenv.cfg", "opt/clustrix/venv/pyvenv.cfg"),
        ("pylock.toml", "opt/clustrix/pylock.toml"),
        ("sbom.cdx.json", "opt/clustrix/sbom.cdx.json"),
    ],
)
def test_what_we_write(environment: Environment, built, name: str, path: str) -> None:
    compare(name, environment.read(built, path).decode())
