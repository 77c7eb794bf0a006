"""One job in the language of every scheduler: a diff of two ``job.sh`` documents how they differ."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from clustrix import registry
from tests.golden import job

GOLDEN = Path(job.__file__).parent


@pytest.mark.parametrize("name", sorted(set(registry.PLUG_INS["schedulers"]) - {"process"}))
def test_the_script_of_one_job(name: str) -> None:
    script = job.script(name)
    assert script == (GOLDEN / name / "job.sh").read_text()
    subprocess.run(["sh", "-n"], input=script.encode(), check=True)
