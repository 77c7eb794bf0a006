"""What srun says, and what stands around it: outcomes count once all ranks have ended well."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from clustrix.errors import ConfigError, UnparsableOutput
from clustrix.model.job import JobId, JobSpec
from clustrix.model.paths import JobPaths
from clustrix.model.resources import Resources
from clustrix.schedulers import srun
from clustrix.schedulers.slurm import Slurm
from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from pathlib import Path

SPEC = JobSpec(
    id=JobId("hpc", "0" * 26),
    name="job",
    items=1,
    slices=((0, 1),),
    workers=1,
    resources=Resources(nodes=2, cores=3, memory_bytes=1 << 30, backend_options={"ntasks-per-node": 4}),
    argv=("run",),
    mpi="pmix",
)


NEW = b"MPI plugin types are...\n\tnone\n\tpmix\n\tcray_shasta\n\tpmi2\nspecific pmix versions available: pmix_v5"
OLD = b"srun: MPI types are...\nsrun: cray_shasta\nsrun: none\nsrun: pmi2\nsrun: pmix\nsrun: pmix_v5"


@pytest.mark.parametrize("done", [Completed(0, NEW, b""), Completed(0, b"", OLD)], ids=["24.11", "before 22.05"])
def test_what_a_site_offers(done: Completed) -> None:
    assert srun.parse_interfaces(done) == {"none", "pmix", "pmix_v5", "pmi2", "cray_shasta"}


@pytest.mark.parametrize("done", [Completed(127, b"", b"srun: not found"), Completed(0, b"", b"")])
def test_no_answer_is_no_list(done: Completed) -> None:
    with pytest.raises(UnparsableOutput, match="srun --mpi=list"):
        srun.parse_interfaces(done)


def test_what_is_asked_for_is_of_each_rank() -> None:
    lines = Slurm().script(SPEC, JobPaths("/r/jobs/x")).splitlines()
    for option in ("nodes=2", "ntasks=8", "ntasks-per-node=4", "cpus-per-task=3", f"mem={4 << 20}K"):
        assert f"#SBATCH --{option}" in lines
    assert not [line for line in lines if "mpi" in line]
    alone = replace(SPEC, resources=Resources(backend_options={"mpi": "pmix"}))
    with pytest.raises(ConfigError, match="mpi='pmix' is for several ranks"):
        Slurm().script(alone, JobPaths("/r/jobs/x"))
    with pytest.raises(ConfigError, match="ntasks_per_node must be"):
        _ = Resources(backend_options={"ntasks_per_node": "4"}).ranks


@pytest.fixture
def site(tmp_path: Path) -> JobPaths:
    """A job's directory, and an srun whose ranks leave what rank 0 leaves and end as $ENDS says."""
    paths = JobPaths(str(tmp_path / "a job"))
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "srun"
    program.write_text(
        '#!/bin/sh\necho "$1 $2 $3" >"$SEEN"\n'
        'echo value >"$LEFT/0.pkl"; echo outcome >"$LEFT/0.json"; exit "${ENDS:-0}"\n'
    )
    program.chmod(0o755)
    for place in (paths.outcomes, paths.ends):
        os.makedirs(place)  # noqa: PTH103 - a text
    return paths


def launch(paths: JobPaths, tmp_path: Path, *, requeue: bool = False, ends: int = 0) -> tuple[int, list[str]]:
    options = {"ntasks_per_node": 2, "requeue": requeue}
    spec = replace(SPEC, resources=Resources(backend_options=options))
    variables = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "LEFT": paths.of_ranks(0),
        "SEEN": f"{tmp_path}/seen",
        "ENDS": str(ends),
    }
    done = subprocess.run([*srun.argv(spec, paths), "run", "0"], env=variables, capture_output=True, check=False)
    return done.returncode, sorted(os.listdir(paths.outcomes))  # noqa: PTH208 - a text


def test_outcomes_count_once_all_ranks_ended_well(site: JobPaths, tmp_path: Path) -> None:
    assert launch(site, tmp_path, ends=3) == (3, [])
    assert (tmp_path / "seen").read_text() == "--mpi=pmix --kill-on-bad-exit=1 --cpus-per-task=1\n"
    # A second start runs nothing, unless it was asked for.
    (tmp_path / "seen").unlink()
    assert launch(site, tmp_path) == (73, [])
    assert not (tmp_path / "seen").exists()
    assert launch(site, tmp_path, requeue=True) == (0, ["0.json", "0.pkl"])
