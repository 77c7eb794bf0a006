"""``clustrix ls``: lists for people, which no name forges, and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from clustrix import cli, config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "project"
    (place / "data").mkdir(parents=True)
    (place / "data" / "a.csv").write_bytes(bytes(1500))
    (place / "data" / "a.csv").chmod(0o640)
    os.utime(place / "data" / "a.csv", (1_700_000_000, 1_700_000_000))
    (place / os.fsdecode(b"b\n\xe9\x1b[2J")).touch()
    monkeypatch.chdir(place)
    config.load.cache_clear()
    return place


def said(*argv: str, status: int = 0) -> str:
    done = CliRunner().invoke(cli.main, ["ls", *argv])
    assert done.exit_code == status, done.output
    return done.stdout if status == 0 else done.stderr


def test_lists(project: Path) -> None:
    assert said().splitlines() == [r"b\n\xe9\x1b[2J", "data"]
    assert said("local:data", "-l").splitlines() == [
        "MODE        SIZE    MODIFIED             NAME",
        "-rw-r-----  1.5 kB  2023-11-14 22:13:20  a.csv",
    ]
    assert said("--glob", "d*/*.csv") == said("-r", "data") == f"{project}/data/a.csv\n"
    assert said("--du", "data").splitlines()[1:] == [
        "total        1.5 kB",
        *["files        1", "directories  0", "others       0"],
    ]
    assert json.loads(said("--du", "--json"))["total_bytes"] == 1500
    first, second = json.loads(said("--json"))
    assert (first["name"], second["is_dir"]) == ("b\n\udce9\x1b[2J", True)
    [about] = json.loads(said("data", "--json"))
    assert (about["mode"], about["modified"]) == ("0640", "2023-11-14T22:13:20+00:00")


def test_refusals() -> None:
    assert said("absent\n", status=1).splitlines() == [
        rf"error[FileNotFoundError]: {os.getcwd()}/absent\n: No such file or directory"  # noqa: PTH109
    ]
    assert "unknown target 'hcp'" in said("hcp:data", status=2)
    assert "a:b: No such file" in said("./a:b", status=1)
    assert "exclude each other" in said("--du", "--glob", "*", status=2)
    assert "--long is for lists" in said("--du", "-l", status=2)


def test_targets_are_completed(project: Path) -> None:
    (project / "clustrix.yml").write_text("targets: {hpc: {backend: slurm, host: h}, gpu: {backend: slurm, host: h}}\n")
    words = {**os.environ, "_CLUSTRIX_COMPLETE": "bash_complete", "COMP_WORDS": "clustrix ls h", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-m", "clustrix"], env=words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plain,hpc:"]
