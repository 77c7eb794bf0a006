# ruff: noqa: F811 - fixtures of another file
"""SLURM sites that lack something: room on the disk, accounting, a node, a maker of SIFs that stays alive."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from clustrix import errors
from clustrix.model.paths import SitePaths
from clustrix.model.progress import SILENT
from clustrix.model.resources import Mount, Resources
from clustrix.runtimes.apptainer import Apptainer
from clustrix.schedulers.slurm import Slurm
from tests.conformance.backends import LONG
from tests.conformance.desk import Desk

from . import sites
from .test_slurm import cache, desk, line, place, placed  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from clustrix.model.job import Placed
    from clustrix.transports.ssh import SSH

    from .beds import Bed

pytestmark = pytest.mark.live

HOLD = """
    import os, time
    def hold(flag, x):
        print("ready", flush=True)
        while not os.path.exists(flag):
            time.sleep(0.05)
        return x
"""


def until(come_true: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not come_true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.2)


@pytest.fixture
def tiny(slurm_cluster: Bed, line: SSH, placed: Placed, cache: Path) -> Iterator[Desk]:
    """A root with room for four megabytes."""
    root = "/tiny"
    slurm_cluster.root(f"mkdir -p {root} && mount -t tmpfs -o size=4m,mode=777 tmpfs {root}")

    def wrap(argv: Sequence[str]) -> tuple[str, ...]:
        asked = {"mounts": [Mount(root, root)], "variables": {}, "gpus": 0, "memory_bytes": None, "cores": 1}
        return Apptainer().wrap(placed, argv, **asked)

    desk = Desk(Slurm(), line, root, cache, interpreter=(placed.interpreter,), wrap=wrap)
    yield desk
    desk.clear()
    slurm_cluster.root(f"umount -l {root}")


def test_a_full_disk(tiny: Desk) -> None:
    assert tiny.call("def one(): return 1").result(LONG) == 1
    # A result that does not fit is told, and the next one fits.
    with pytest.raises(errors.StoreError, match=r"cannot be written: .*No space left"):
        tiny.call("def large(): return bytes(8_000_000)").result(LONG)
    assert tiny.call("def one(): return 1").result(LONG) == 1
    # Arguments that do not fit start nothing, and leave nothing that stands in the way.
    with pytest.raises(errors.DiskFull, match=r"no space left at .* below /tiny"):
        tiny.call("def length(x): return len(x)", bytes(8_000_000))
    tiny.sent.pop()
    assert tiny.call("def one(): return 1").result(LONG) == 1


@contextlib.contextmanager
def without_accounting(bed: Bed) -> Iterator[None]:
    bed.root("mv /usr/bin/sacct /usr/bin/hidden-sacct")
    try:
        yield
    finally:
        bed.root("mv /usr/bin/hidden-sacct /usr/bin/sacct")


def test_no_accounting(desk: Desk, slurm_cluster: Bed) -> None:
    ends = {
        errors.OutOfMemory: ("def eat(): return len(bytearray(600 * 2**20))", Resources(memory_bytes=150 * 2**20), ""),
        errors.JobCancelled: ("import time\ndef rest(): time.sleep(1000)", Resources(), "scancel {}"),
        errors.TimeLimit: (
            "import time\ndef rest(): time.sleep(1000)",
            Resources(time=timedelta(minutes=1)),
            "scontrol update jobid={} EndTime=now",
        ),
        errors.Crashed: ("import os\ndef die(): os.kill(os.getpid(), 9)", Resources(), ""),
    }
    with without_accounting(slurm_cluster):
        assert desk.call("def one(): return 1").result(LONG) == 1
        for kind, (source, asked, command) in ends.items():
            job = desk.call(source, resources=asked)
            if command:
                until(job.running)
                slurm_cluster.root(command.format(job.record.native_id))
            with pytest.raises(kind):
                job.result(LONG)


def test_a_node_is_drained_while_it_works(desk: Desk, slurm_cluster: Bed) -> None:
    """What runs there ends there; what waits goes elsewhere."""
    flag = f"{desk.root}/drained-{time.monotonic_ns()}"
    array = desk.submit(HOLD, [(flag, x) for x in range(4)], resources=Resources(cores=3))  # one a node
    until(lambda: len(array.status().nodes) == 2)
    drained = array.status().nodes[0]
    slurm_cluster.root(f"scontrol update nodename={drained} state=drain reason=maintenance")
    try:
        desk.transport.run(f"touch '{flag}'")
        assert list(array.results(timeout=LONG)) == [0, 1, 2, 3]
        rows = desk.transport.run(f"squeue -h -t all -o '%K %N' -j {array.record.native_id}").stdout.decode().split()
        ran = dict(zip(rows[::2], rows[1::2], strict=True))
        assert drained in {ran["0"], ran["1"]}
        assert drained not in {ran["2"], ran["3"]}
    finally:
        slurm_cluster.root(f"scontrol update nodename={drained} state=resume")


def test_the_maker_of_a_sif_is_killed(line: SSH, slurm_cluster: Bed, base_layout: Path) -> None:
    """With all that the account runs there, as when a login node goes down: the next attempt takes over."""
    site = SitePaths("/home/alice/killed")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        making = pool.submit(Apptainer().ensure, sites.artifact(base_layout), line, site, progress=SILENT)
        slurm_cluster.root(f"until [ -e {site.sifs}/.making-*/image.sif ]; do sleep 0.05; done; pkill -KILL -u alice")
        assert slurm_cluster.root(f"ls {site.sifs} | grep -c 'sif$' || true").strip() == "0"  # nothing half-made
        slurm_cluster.root(f"touch -d '10 minutes ago' {site.sifs}/*.lock")  # as if nobody had been there for so long
        found = making.result(LONG)
    assert line.run(f"apptainer exec {found.location} true && ls {site.sifs}").stdout.decode().split() == [
        found.location.rpartition("/")[2],
        found.location.rpartition("/")[2] + ".digest",
    ]
