"""Tasks that are several processes on several nodes: MPI programs, and programs that find each other by themselves."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import cluster, errors
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

MPI = """
    import os
    def total(x):
        from mpi4py import MPI
        world = MPI.COMM_WORLD
        print(f"rank {world.rank} is here", flush=True)
        nodes = world.allgather(os.environ["SLURM_NODEID"])
        data = world.allgather(bytes(1_000_000))
        return world.allreduce(world.rank + x), nodes, len(data), MPI.Get_library_version()
"""
# What torch.distributed does with init_method="env://".
MEETING = """
    import os, socket, time
    def meet(x):
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if rank == 0:
            server = socket.create_server(("", place[1]))
            return x, sorted(server.accept()[0].makefile().read() for _ in range(size - 1))
        while True:
            try:
                connection = socket.create_connection(place)
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        connection.sendall(f"{rank} on {os.environ['SLURM_NODEID']}, local {os.environ['LOCAL_RANK']}".encode())
        return "nobody hears this"
"""


@pytest.fixture
def far(
    slurm_cluster: Bed, base_layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Make remote functions of sources, in an image with these packages."""
    monkeypatch.chdir(tmp_path)

    def make(source: str, *packages: str, **options: object) -> RemoteFunction[..., Any]:
        (tmp_path / "requirements.txt").write_text("".join(f"{package}\n" for package in packages))
        (tmp_path / "pylock.toml").write_text('lock-version = "1.0"\ncreated-by = "a test"\npackages = []\n')
        file = "requirements.txt" if packages else "pylock.toml"
        root = "/home/alice/many ranks"
        sites.project(slurm_cluster, tmp_path, root=root, base=f"oci:{base_layout}", environment=file, nodes=2)
        return cluster(target="hpc", memory="300MB", **options)(by_value(source))

    yield make
    slurm_cluster.root("scancel -u alice")  # what a test that failed has left would take all nodes


@pytest.mark.proves("several nodes", "slurm")
@pytest.mark.parametrize(("package", "name"), [("mpich", "MPICH"), ("openmpi", "Open MPI")])
def test_mpi_over_two_nodes(
    far: Callable[..., Any], capfd: pytest.CaptureFixture[str], package: str, name: str
) -> None:
    function = far(MPI, "mpi4py", package, backend_options={"ntasks_per_node": 2})
    total, nodes, parts, library = function(10)
    assert (total, nodes, parts) == (0 + 1 + 2 + 3 + 4 * 10, ["0", "0", "1", "1"], 4)
    assert library.startswith(name)
    assert sorted(capfd.readouterr().out.splitlines()) == [f"{rank}: rank {rank} is here" for rank in range(4)]


def test_ranks_without_mpi_find_each_other(far: Callable[..., Any]) -> None:
    array = far(MEETING, backend_options={"ntasks_per_node": 2}).map([0, 1])
    others = ["1 on 0, local 1", "2 on 1, local 0", "3 on 1, local 1"]
    assert list(array.results(timeout=LONG)) == [(0, others), (1, others)]
    with pytest.raises(errors.UnsupportedResource, match="a task of several ranks has one item"):
        far(MEETING).map([0, 1, 2], chunksize=2)


def test_what_any_rank_raises_is_the_outcome(far: Callable[..., Any], slurm_cluster: Bed) -> None:
    source = """
        import os, signal, time
        def fall(how):
            if os.environ["RANK"] == "1":
                if how == "raise":
                    raise KeyError("of rank 1")
                if how == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
            if how == "return":
                return lambda: os.environ["RANK"]
            time.sleep(1000)
    """
    function = far(source)
    with pytest.raises(KeyError, match="of rank 1"):
        function("raise")
    with pytest.raises(errors.Crashed):
        function("die")
    slurm_cluster.root("while squeue -h | grep -q .; do sleep 0.1; done")  # rank 0 was ended, too
    assert callable(function("return"))


def test_rank_0_saves_the_work_of_all(far: Callable[..., Any], slurm_cluster: Bed) -> None:
    source = """
        import os, time
        def train():
            if os.environ["RANK"] == "0":
                import clustrix
                @clustrix.on_preempt
                def save():
                    time.sleep(1)
                    return "step 7"
            time.sleep(0.5)
            print("ready", flush=True)
            time.sleep(1000)
    """
    job = far(source, time=timedelta(minutes=10)).submit()
    said = ""
    for piece in job.logs(follow=True):
        said += piece
        if {"0: ready", "1: ready"} <= set(said.splitlines()):
            break
    slurm_cluster.root(f"scancel --batch --signal=XCPU {job.record.native_id}")  # what SLURM sends before the limit
    with pytest.raises(errors.TimeLimit) as caught:
        job.result(LONG)
    assert caught.value.checkpoint == "step 7"


def test_mpi_that_cannot_be_started_is_refused(far: Callable[..., Any], slurm_cluster: Bed) -> None:
    """Before anything is queued, with what was found at the site and in the image."""
    following = "scontrol show config | grep '^NEXT_JOB_ID'"
    before = slurm_cluster.root(following)
    with pytest.raises(errors.UnsupportedResource, match=r"mpi4py \S+ of the image finds no MPI: .*cannot load MPI"):
        far(MPI, "mpi4py")(1)
    with pytest.raises(errors.UnsupportedResource, match=r"mpi='pmi9': hpc offers .*none, pmi2, pmix"):
        far(MPI, "mpi4py", backend_options={"mpi": "pmi9"})(1)
    plugin = "/usr/lib/x86_64-linux-gnu/slurm-wlm/mpi_pmi2.so"
    targets._targets.clear()
    slurm_cluster.root(f"mv {plugin} /root/")
    try:
        with pytest.raises(
            errors.UnsupportedResource, match=r"is MPICH Version: .*, which speaks pmi2; hpc offers .*pmix"
        ):
            far(MPI, "mpi4py", "mpich")(1)
    finally:
        slurm_cluster.root(f"mv /root/mpi_pmi2.so {plugin}")
        targets._targets.clear()
    assert slurm_cluster.root(following) == before
