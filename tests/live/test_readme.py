"""The cluster of the README: its configuration and example as written, but for host, account and base image."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .beds import Bed

README = (Path(__file__).parents[2] / "README.md").read_text()

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.proves("success", "slurm")
def test_the_example_runs(slurm_cluster: Bed, base_layout: Path, tmp_path: Path) -> None:
    bed = slurm_cluster
    (tmp_path / ".git").mkdir()
    (tmp_path / "ssh_config").write_text(
        f"Host bed\n  HostName {bed.host}\n  Port {bed.port}\n  IdentityFile {bed.key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {bed.known_hosts}\n"
    )
    settings = block("yaml")
    assert "host: login.example.org" in settings
    assert "username: alice" in settings
    settings = settings.replace("login.example.org", "bed").replace("alice", bed.user)
    (tmp_path / "clustrix.yml").write_text(settings)
    (tmp_path / "estimate.py").write_text(block("python sketch"))
    # Here nothing can be pulled, and what runs the tests need not be baked for this.
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    shell = {
        **os.environ,
        "CLUSTRIX_BASE": f"oci:{base_layout}",
        "CLUSTRIX_ENVIRONMENT": "requirements.txt",
        "CLUSTRIX_SSH_CONFIG": str(tmp_path / "ssh_config"),
    }
    for argv in (["-m", "clustrix", "doctor", "--target", "hpc"], ["estimate.py"]):
        done = subprocess.run(
            [sys.executable, *argv], cwd=tmp_path, env=shell, capture_output=True, text=True, check=False, timeout=500
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    first, many, *_ = done.stdout.splitlines()
    assert 3.1 < float(first) < 3.2
    assert len(many.split()) == 10
    assert many.split()[1] == first  # the same seed
