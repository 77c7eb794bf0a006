"""A SIF made on the client by the real Apptainer, that of the test bed, and a job in it on a host over SSH."""

from __future__ import annotations

import shlex
import zipfile
from typing import TYPE_CHECKING

import pytest

from .beds import BED_OPTIONS
from .servers import IMAGES, need, run
from .stranger import Stranger, interrupt, said, shop, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .beds import Bed

pytestmark = pytest.mark.live

SCRIPT = """
import sys
from clustrix import cluster

@cluster(image="fit.sif", cores=1)
def look():
    import tiny
    with open("/opt/clustrix/fingerprint") as file:
        return [file.read().strip(), sys.prefix, tiny.SHOP]

print(*look())
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Stranger]:
    """Have an ``apptainer`` in the PATH that sees this test's directory where it is; ``ROOM`` limits its scratch."""
    need("testbed")
    image = run([str(IMAGES / "testbed" / "build"), "hpc"]).strip()
    options = [f"--cap-add={name}" for name in BED_OPTIONS["cap_add"]]
    options += [f"--cap-drop={name}" for name in BED_OPTIONS["cap_drop"]]
    options += [f"--security-opt={name}" for name in BED_OPTIONS["security_opt"]]
    options += [f"--device={name}" for name in BED_OPTIONS["devices"]]
    options += [f"--volume={tmp_path}:{tmp_path}", "--env=APPTAINER_TMPDIR", "--env=LC_ALL", "--network=none"]
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "apptainer"
    program.write_text(
        f'#!/bin/sh\nexec docker run --rm --init {shlex.join(options)} --workdir="$PWD" '
        f'${{ROOM:+--tmpfs="$APPTAINER_TMPDIR:exec,size=$ROOM"}} --entrypoint=apptainer {image} "$@"\n'
    )
    program.chmod(0o755)
    with shop(tmp_path / "index", {"tiny": None}) as index:
        stranger = Stranger(tmp_path, index)
        stranger.variables["PATH"] = f"{program.parent}:{stranger.variables['PATH']}"
        yield stranger


def test_a_sif_made_here_runs_there_and_failures_leave_nothing(
    stranger: Stranger, ssh_host: Bed, base_layout: Path
) -> None:
    order = ["build", "--lock", stranger.locked("tiny"), "--base", f"oci:{base_layout}", "--output", "fit.sif"]
    before = sorted(stranger.project.iterdir())

    full = stranger(*order, ROOM="20m")
    assert "error[DiskFull]: no space left to make fit.sif" in full.err

    with stranger.start(*order) as command:
        wait_until(lambda: list(stranger.scratch.glob("clustrix-*/*")), command)  # Apptainer unpacks
        interrupt(command)
        assert said(command).status == 130
    assert sorted(stranger.project.iterdir()) == before
    assert stranger.left_behind() == []

    made = stranger(*order, "--json")
    assert made.status == 0, made.err
    (output,) = made.json["outputs"]
    sif = stranger.project / "fit.sif"
    assert output == {"reference": "fit.sif", "uploaded_bytes": sif.stat().st_size, "unchanged": False}
    assert sorted(stranger.project.iterdir()) == sorted([*before, sif])
    assert stranger.left_behind() == []
    labels = run([str(stranger.project.parent / "bin" / "apptainer"), "inspect", "--labels", str(sif)])
    assert f"dev.clustrix.lock: {made.json['lock']}" in labels

    (stranger.project / "ssh_config").write_text(
        f"Host bed\n  HostName {ssh_host.host}\n  Port {ssh_host.port}\n  User {ssh_host.user}\n"
        f"  IdentityFile {ssh_host.key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {ssh_host.known_hosts}\n"
    )
    config = str(stranger.project / "ssh_config")
    stranger.configured(backend="ssh", runtime="apptainer", host="bed", ssh_config=config)
    done = stranger("run", "--target", "here", stranger.script(SCRIPT))
    assert done.status == 0, done.err
    (wheel,) = (stranger.project.parent / "index").glob("tiny-*.whl")
    fingerprint, prefix, shop_of_wheel = done.out.split()
    assert (fingerprint, prefix) == (made.json["fingerprint"], "/opt/clustrix/venv")
    assert shop_of_wheel.encode() in zipfile.ZipFile(wheel).read("tiny.py")
