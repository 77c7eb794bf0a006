# ruff: noqa: F811 - fixtures of another file
"""What goes wrong during a map on SLURM, for real: workers, items and the controller."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import cluster, errors
from clustrix.journal import Journal
from clustrix.model.job import State
from clustrix.model.resources import Resources
from clustrix.model.slices import share
from tests.conformance.backends import LONG
from tests.conformance.desk import by_value

from . import sites
from .test_slurm import ROOT, cache, desk, line, place, placed  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clustrix.decorator import RemoteFunction
    from clustrix.handle import JobArray
    from clustrix.model.job import Placed
    from tests.conformance.desk import Desk

    from .beds import Bed

pytestmark = pytest.mark.live


def until(come_true: Callable[[], object], patience: float = LONG) -> None:
    end = time.monotonic() + patience
    while not come_true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.2)


@pytest.fixture
def far(slurm_cluster: Bed, placed: Placed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make remote functions of sources, at a target as people configure it."""
    sites.project(slurm_cluster, tmp_path, root=ROOT)
    monkeypatch.chdir(tmp_path)

    def make(source: str, **options: object) -> RemoteFunction[..., Any]:
        return cluster(target="hpc", image=placed.location, **options)(by_value(source))

    return make


@pytest.mark.proves("array with failed items", "slurm")
@pytest.mark.proves("failed items run again alone", "slurm")
@pytest.mark.proves("mounts", "slurm")
def test_three_of_a_thousand_fail_and_only_they_run_again(far: Callable[..., Any], desk: Desk) -> None:
    source = """
        import os
        def work(place, x):
            with open(place, "a") as file:
                file.write(f"{x}\\n")
            if x in (3, 500, 999) and not os.path.exists(place + ".mended"):
                raise ValueError(x)
            return x
    """
    place = f"{ROOT}/thousand-{time.monotonic_ns()}"
    mount = {"mounts": [f"{ROOT}:{ROOT}"]}
    array: JobArray = far(source, max_parallel=4, **mount).starmap((place, x) for x in range(1000))
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert {x for x, value in enumerate(found) if value == x} == set(range(1000)) - {3, 500, 999}
    assert {x: (type(error), error.args) for x, error in array.failed.items()} == {
        x: (ValueError, (x,)) for x in (3, 500, 999)
    }
    assert len(str(array.record.native_id).split()) == 1  # ONE sbatch
    desk.transport.run(f"touch '{place}.mended'")
    assert list(array.retry_failed().results(timeout=LONG)) == [3, 500, 999]
    ran = desk.transport.run(f"cat '{place}'").stdout.split()
    assert sorted(map(int, ran)) == sorted([*range(1000), 3, 500, 999])


@pytest.mark.proves("a worker dies during a map", "slurm")
@pytest.mark.parametrize("how", ["killed", "memory"])
def test_a_worker_that_is_ended_takes_one_item_with_it(desk: Desk, slurm_cluster: Bed, how: str) -> None:
    source = """
        import time
        def work(x, deadly):
            if x == 0:
                if deadly:
                    hoard = []
                    while True:
                        hoard.append(bytearray(10_000_000))
                time.sleep(1000)
            return x
    """
    items = [(x, how == "memory") for x in range(9)]
    asked = Resources(memory_bytes=150 << 20)
    array = desk.submit(source, items, workers=2, slices=share(9, 2), resources=asked)
    if how == "killed":
        store = desk.site.store
        until(lambda: 0 in store.owners(array.record))
        task = store.owners(array.record)[0]
        # All of it at once, also who would write it down.
        slurm_cluster.root(f"pkill -KILL -f 'jobs/{array.id.ulid}(/task.sh)? {task}$'")
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert found[1:] == list(range(1, 9))
    assert type(found[0]) is (errors.OutOfMemory if how == "memory" else errors.Crashed)
    assert list(array.failed) == [0]


@contextlib.contextmanager
def controller_away(bed: Bed, command: str = "true") -> Iterator[None]:
    """Stop slurmctld, and start it again."""
    bed.root("pkill -x slurmctld; while pgrep -x slurmctld; do sleep 0.1; done; " + command)
    try:
        yield
    finally:
        bed.root("slurmctld; until scontrol ping | grep -q UP; do sleep 0.2; done")


@pytest.mark.proves("server restart", "slurm")
def test_the_controller_is_away_during_a_map(desk: Desk, slurm_cluster: Bed) -> None:
    source = """
        import os, time
        def wait(flag, trace, x):
            with open(trace, "a") as file:
                file.write(f"{x} ")
            while not os.path.exists(flag):
                time.sleep(0.1)
            return x
    """
    place = f"{desk.root}/away-{time.monotonic_ns()}"
    items = [(f"{place}.flag", f"{place}.trace", x) for x in range(4)]
    array = desk.submit(source, items, workers=4, max_parallel=2)
    until(lambda: desk.transport.run(f"wc -w <'{place}.trace'").stdout.split() == [b"2"])
    with controller_away(slurm_cluster):
        assert not array.wait(3)
        with pytest.raises(errors.BackendError, match=r"SLURM does not answer: .+"):
            desk.call("def one(): return 1")
        desk.transport.run(f"touch '{place}.flag'")
        until(lambda: len(array._course.ended) == 2)  # outcomes come without it
    assert list(array.results(timeout=LONG)) == [0, 1, 2, 3]
    assert sorted(desk.transport.run(f"cat '{place}.trace'").stdout.split()) == [b"0", b"1", b"2", b"3"]


@pytest.mark.proves("array beyond the limit", "slurm")
def test_more_tasks_than_an_array_may_have(desk: Desk, slurm_cluster: Bed) -> None:
    """MaxArraySize caps the index."""
    source = """
        import os, time
        def meet(directory, x):
            os.makedirs(directory, exist_ok=True)
            mark = f"{directory}/{x}"
            open(mark, "w").close()
            time.sleep(0.3)
            present = len(os.listdir(directory))
            os.remove(mark)
            return x, present
    """
    limit = "sed -i s/^MaxArraySize=.*/MaxArraySize={}/ /etc/slurm/slurm.conf"
    with controller_away(slurm_cluster, limit.format(3)):
        pass
    try:
        items = [(f"{desk.root}/many-{time.monotonic_ns()}", x) for x in range(7)]
        array = desk.submit(source, items, max_parallel=3)
        found = list(array.results(timeout=LONG))
        assert [x for x, _ in found] == list(range(7))
        assert max(present for _, present in found) <= 3
        assert len(str(array.record.native_id).split()) == 3
        status = array.status()
        assert (status.finished, status.failed) == (7, 0)
    finally:
        with controller_away(slurm_cluster, limit.format(1001)):
            pass


def test_a_call_that_can_never_start_leaves_the_queue(far: Callable[..., Any], slurm_cluster: Bed) -> None:
    function = far("def one(): return 1", partition="short", time="30m")
    with pytest.raises(errors.Unschedulable, match="more time than its partition gives") as caught:
        function()
    assert caught.value.remedy == "It has been cancelled."
    assert slurm_cluster.root("squeue -h -p short") == ""
    assert Journal().find(str(caught.value.job_id)).state is State.FAILED  # it is remembered
    job = function.submit()
    with pytest.raises(errors.Unschedulable):
        job.result(LONG)
    assert slurm_cluster.root("squeue -h -p short") != ""  # whoever holds a handle says when
    assert job.cancel()
    until(lambda: slurm_cluster.root("squeue -h -p short") == "")


@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_while_a_map_is_iterated(
    far: Callable[..., Any], slurm_cluster: Bed, desk: Desk, capfd: pytest.CaptureFixture[str], twice: bool
) -> None:
    source = """
        import os, time
        def wait(flag, x):
            while not os.path.exists(flag):
                time.sleep(0.1)
            return x
    """
    flag = f"{ROOT}/flag-{time.monotonic_ns()}"
    array = far(source, mounts=[f"{ROOT}:{ROOT}"]).starmap((flag, x) for x in range(3))
    queue = f"squeue -h -t PD,R -j {array.record.native_id} -o %i 2>/dev/null || true"

    def press() -> None:
        user = threading.main_thread().ident
        assert user is not None
        until(lambda: array.status().state is State.RUNNING)
        signal.pthread_kill(user, signal.SIGINT)
        if twice:
            until(lambda: "once more" in capfd.readouterr().err)
            signal.pthread_kill(user, signal.SIGINT)

    with concurrent.futures.ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch:
        if twice:
            patch.setattr("clustrix.pipeline._SECOND_THOUGHT", 30.0)
        pressed = pool.submit(press)
        with pytest.raises(KeyboardInterrupt):
            for _ in array:
                pass
        pressed.result()
    if twice:
        assert f"clustrix result {array.id}" in capfd.readouterr().err
        assert slurm_cluster.root(queue) != ""
        desk.transport.run(f"touch '{flag}'")
        assert list(array.results(timeout=LONG)) == [0, 1, 2]
    else:
        until(lambda: slurm_cluster.root(queue) == "")
        with pytest.raises(errors.JobCancelled):
            array[0].result(LONG)
