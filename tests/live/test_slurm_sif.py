"""SIFs on SLURM sites whose login nodes start no containers: a batch job makes them, once, and leaves nothing else."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import cluster, errors, placement
from clustrix import target as targets
from tests.conformance.backends import LONG
from tests.conformance.desk import by_value

from . import sites

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clustrix.decorator import RemoteFunction

    from .beds import Bed

pytestmark = pytest.mark.live

SHIM = """#!/bin/sh
[ -n "$SLURM_JOB_ID" ] || { echo "no containers on login nodes, please" >&2; exit 1; }
exec /usr/bin/real-apptainer "$@"
"""
WHERE = "import os\ndef where(): return os.environ['APPTAINER_CONTAINER']"


@pytest.fixture(scope="module", autouse=True)
def forbidden(slurm_cluster: Bed) -> Iterator[None]:
    """Let the login node refuse to start Apptainer, as some do."""
    bed = slurm_cluster
    bed.root("mv /usr/bin/apptainer /usr/bin/real-apptainer")
    bed.root(f"cat >/usr/bin/apptainer <<'END'\n{SHIM}END\nchmod 755 /usr/bin/apptainer")
    try:
        yield
    finally:
        bed.root("mv -f /usr/bin/real-apptainer /usr/bin/apptainer")


@pytest.fixture
def root() -> str:
    return f"/home/alice/by job {time.monotonic_ns()}"


@pytest.fixture
def far(
    slurm_cluster: Bed, base_layout: Path, tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Make remote functions, with ``sif_build`` as told; they run in the base image, to which nothing is added."""
    (tmp_path / "pylock.toml").write_text('lock-version = "1.0"\ncreated-by = "a test"\npackages = []\n')
    monkeypatch.chdir(tmp_path)

    def make(sif_build: str, source: str = WHERE, **options: object) -> RemoteFunction[..., Any]:
        settings = {"root": root, "base": f"oci:{base_layout}", "environment": "pylock.toml", "account": "users"}
        sites.project(slurm_cluster, tmp_path, **settings, sif_build=sif_build)
        return cluster(target="hpc", **options)(by_value(source))

    return make


def left(bed: Bed, root: str) -> list[str]:
    """List what lies beside finished SIFs, and what is in the queue."""
    files = f"cd '{root}' && ls jobs sifs -A -I '*.sif' | grep -v :"
    told = bed.root(f"{{ {files}; squeue -h -t PD,R -o %j | grep '^sif-'; exit 0; }} 2>/dev/null")
    return told.split()


def nothing_is_left(bed: Bed, root: str) -> bool:
    """Tell whether nothing is, in a moment: a job runs on for one after its wrapper has written down its end."""
    end = time.monotonic() + LONG
    while left(bed, root) and time.monotonic() < end:
        time.sleep(0.2)
    return not left(bed, root)


def jobs(bed: Bed) -> list[list[str]]:
    """List the jobs that looked into SIFs or made them: number, account, state."""
    bed.root("while squeue -h -o %j | grep -q '^sif-'; do sleep 0.1; done")
    said = bed.root(
        # Left alone it looks no further back than midnight.
        "sacct --starttime=now-1days --noheader --allocations --parsable2 --format=JobName,JobID,Account,State"
    )
    return [line.split("|")[1:] for line in said.splitlines() if line.startswith("sif-")]


@pytest.mark.proves("SIF made by a job", "slurm")
def test_a_job_makes_it_once_for_everybody(
    far: Callable[..., Any], slurm_cluster: Bed, root: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(errors.RuntimeUnavailable, match="no containers on login nodes, please") as caught:
        far("login").build()
    assert "sif_build: job" in str(caught.value)
    function = far("job", account="users")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = {call.result(LONG) for call in [pool.submit(function) for _ in range(2)]}
    (sif,) = found
    assert sif.startswith(f"{root}/sifs/")
    assert "sees to the SIF" in capfd.readouterr().err
    targets._targets.clear()
    inode = slurm_cluster.root(f"stat -c %i '{sif}'")
    made = jobs(slurm_cluster)
    assert {(account, state) for _, account, state in made} == {("users", "COMPLETED")}
    assert not [name for name in left(slurm_cluster, root) if name.startswith(".making") or name.endswith(".lock")]
    # Another process, later: nothing is made, and no job but its own is needed.
    assert far("job")() == sif
    assert (slurm_cluster.root(f"stat -c %i '{sif}'"), jobs(slurm_cluster)) == (inode, made)
    # A file that somebody has made himself: its Python is looked for by a job, once.
    slurm_cluster.root(f"cp '{sif}' '{root}/own.sif' && chown alice: '{root}/own.sif'")
    own = far("job", image=f"{root}/own.sif")
    assert own() == f"{root}/own.sif"
    targets._targets.clear()
    assert own() == f"{root}/own.sif"
    assert len(jobs(slurm_cluster)) == len(made) + 1


def test_a_job_only_where_the_login_node_cannot(far: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert far("auto")().endswith(".sif")
    said = capfd.readouterr().err
    assert "no containers on login nodes, please; sif_build is auto, so a compute node is asked" in said
    assert "sees to the SIF" in said


def test_a_job_that_cannot_make_it(far: Callable[..., Any], slurm_cluster: Bed, root: str) -> None:
    """It says what Apptainer or SLURM said, and leaves nothing."""
    function = far("job")
    slurm_cluster.root("mv /usr/bin/mksquashfs /usr/bin/hidden-mksquashfs")
    try:
        with pytest.raises(errors.ImageUnavailable, match=r"(?s)a compute node of .* cannot have .*mksquashfs"):
            function()
    finally:
        slurm_cluster.root("mv /usr/bin/hidden-mksquashfs /usr/bin/mksquashfs")
    assert nothing_is_left(slurm_cluster, root)
    with pytest.raises(errors.SubmitRejected, match="invalid partition"):
        far("job", partition="nope")()
    assert nothing_is_left(slurm_cluster, root)
    assert far("job")().endswith(".sif")


def test_ctrl_c_cancels_it(
    far: Callable[..., Any], slurm_cluster: Bed, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = far("job")
    slurm_cluster.root("scontrol update nodename=ALL state=drain reason=maintenance")
    try:
        said: list[str] = []
        monkeypatch.setattr(placement, "say", said.append)

        def interrupt() -> None:
            end = time.monotonic() + LONG
            while not any("waits: " in line for line in said) and time.monotonic() < end:
                time.sleep(0.1)
            signal.raise_signal(signal.SIGINT)

        helper = threading.Thread(target=interrupt)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            function()
        helper.join()
        assert any("waits: " in line for line in said)
        assert nothing_is_left(slurm_cluster, root)
    finally:
        slurm_cluster.root("scontrol update nodename=ALL state=resume")
    assert function().endswith(".sif")
