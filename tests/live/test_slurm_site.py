# ruff: noqa: F811 - fixtures of another file
"""A SLURM site looked after from the command line: what lies there, and whether all of the way works."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from clustrix import catalogue, cli, config, errors
from tests.conformance.backends import LONG

from .test_slurm import ROOT, cache, desk, line, place, placed  # noqa: F401 - fixtures
from .test_slurm_faults import far, until  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clustrix.model.job import Placed
    from tests.conformance.desk import Desk

    from .beds import Bed

pytestmark = pytest.mark.live


def clustrix(*argv: str, status: int = 0) -> Any:
    done = CliRunner().invoke(cli.main, [*argv, "--json"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


@pytest.mark.proves("cleanup", "slurm")
def test_gc_removes_the_old_and_nothing_that_runs(far: Callable[..., Any], desk: Desk) -> None:
    ended = far("def one(): return 1").submit()
    assert ended.result(LONG) == 1
    waits = far("import time\ndef rest():\n    print('ready', flush=True)\n    time.sleep(1000)").submit()
    try:
        until(lambda: "ready" in waits.logs())  # from now on it writes nothing, and nobody who follows it does
        jobs = [f"{ROOT}/jobs/{job.id.ulid}" for job in (ended, waits)]
        # The wrapper writes down its end a moment after the outcome.
        desk.transport.run(f"until [ -e '{jobs[0]}/ends/0.json' ]; do sleep 0.1; done")
        desk.transport.run(f"find '{ROOT}' -exec touch -h -d '40 days ago' {{}} +")
        (told,) = clustrix("gc", "--target", "hpc", "--dry-run")["targets"]
        assert str(ended.id) in told["jobs"]
        # Other tests leave submissions there that were cut on purpose.
        assert told["kept"][str(waits.id)] == "it has not ended"
        assert str(ended.id) not in told["kept"]
        assert told["root"] == ROOT
        assert told["free_bytes"] > 0
        assert told["sizes"]["sifs"] > 10 << 20
        (told,) = clustrix("gc", "--target", "hpc")["targets"]
        left = desk.transport.run(f"cd '{ROOT}' && ls jobs; ls bundles sifs blobs/sha256").stdout.decode().split()
        assert waits.id.ulid in left
        assert ended.id.ulid not in left
        assert [name for name in left if name.endswith(".sif")]  # what runs is in it
        assert not [path for path in told["shared"] if path.startswith("sifs/") and path.endswith(".sif")]
        assert waits.status().state.value in {"running", "waiting"}
    finally:
        waits.cancel()
    with pytest.raises(errors.UnknownJob):
        catalogue.find(str(ended.id))


@contextlib.contextmanager
def nodes_behind(bed: Bed, command: str) -> Iterator[None]:
    """Start slurmd again where something was done to its file systems that the login node does not see."""
    stop = "pkill -x slurmd; while pgrep -x slurmd >/dev/null; do sleep 0.1; done; "
    nodes = "for node in $(scontrol show hostnames $(hostname)-n[1-2]); do slurmd -N $node; done"
    idle = "until [ $(sinfo -h -N -p main -o %t | grep -c idle) = 2 ]; do sleep 0.2; done"
    bed.root(f"{stop} unshare -m sh -c {shlex.quote(f'{command} && {nodes}')}; {idle}")
    try:
        yield
    finally:
        bed.root(f"{stop} {nodes}; {idle}")


def deep(*, status: int = 0) -> dict[str, dict[str, str]]:
    rows = clustrix("doctor", "--target", "hpc", "--deep", "--patience", "60", status=status)
    return {row["check"].removeprefix("target hpc: "): row for row in rows if row["check"].startswith("target hpc: ")}


def test_doctor_goes_all_the_way(far: Callable[..., Any], desk: Desk, placed: Placed) -> None:
    in_image(placed)
    found = deep()
    ways = ("submission", "job", "node", "python", "clocks", "work", "scratch", "output")
    assert {way: found[way]["status"] for way in ways} == dict.fromkeys(ways, "ok")
    assert "starts apptainer" in found["node"]["found"]
    assert f"{ROOT}/jobs/" in found["work"]["found"]
    left = desk.transport.run(f"ls '{ROOT}/jobs'").stdout.decode()
    assert found["submission"]["found"].split()[0].rpartition("/")[2] not in left


HIDDEN = {
    "root": (f"mount -t tmpfs none '{ROOT}'", "shared file system"),
    "apptainer": ("mount --bind /dev/null /usr/bin/apptainer", "on compute nodes"),
}


@pytest.mark.parametrize("check", HIDDEN)
def test_doctor_says_what_compute_nodes_do_not_have(
    far: Callable[..., Any], slurm_cluster: Bed, placed: Placed, check: str
) -> None:
    hidden, words = HIDDEN[check]
    in_image(placed)
    with nodes_behind(slurm_cluster, hidden):
        found = deep(status=1)
    assert found["submission"]["status"] == "ok"
    assert found[check]["status"] == "fail", found
    assert words in found[check]["remedy"]


def test_doctor_tells_a_queue_from_a_fault(far: Callable[..., Any], slurm_cluster: Bed, placed: Placed) -> None:
    in_image(placed)
    slurm_cluster.root("scontrol update nodename=ALL state=drain reason=maintenance")
    try:
        rows = clustrix("doctor", "--target", "hpc", "--deep", "--patience", "4")
    finally:
        slurm_cluster.root("scontrol update nodename=ALL state=resume")
    (job,) = [row for row in rows if row["check"] == "target hpc: job"]
    assert job["status"] == "note"
    assert "still waiting" in job["found"]


def in_image(placed: Placed) -> None:
    """Let the target run in the image of the tests: nothing is built."""
    with Path("clustrix.yml").open("a") as file:
        file.write(f"    image: {placed.location}\n")
    config.load.cache_clear()


def test_people_run_the_suite_against_a_target_of_theirs(far: Callable[..., Any], placed: Placed) -> None:
    in_image(placed)
    project = Path(__file__).parents[2]
    argv = ["tests/live", "--target", "hpc", "-q", "-p", "no:cacheprovider", "-k", "value or all_the_way"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *argv],
        cwd=project,
        env={**os.environ, "CLUSTRIX_CONFIG": str(Path("clustrix.yml").absolute())},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b2 passed", done.stdout), done.stdout
