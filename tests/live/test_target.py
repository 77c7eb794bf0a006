"""Your own target, as it is configured: ``pytest tests/live --target NAME``.

Jobs are small and end within seconds of their start; each may wait two minutes for it. What they leave lies below the
target's root in a directory of its own, which goes at the end.
"""

from __future__ import annotations

import os
import secrets
import shlex
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from clustrix import catalogue, config, errors, pipeline, placement, trial
from clustrix import target as targets
from clustrix.journal import Journal
from clustrix.model.job import State
from clustrix.model.resources import Mount, Resources
from clustrix.schedulers.process import Process
from tests.conformance.backends import LONG, Backends
from tests.conformance.desk import Desk, Unreliable, by_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from clustrix.handle import Job, JobArray
    from clustrix.model.settings import ClusterConfig

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]
CONFIGURED = {name: os.environ.get(name) for name in ("CLUSTRIX_HOME", "CLUSTRIX_CONFIG")}
OF_A_SITE = ("partition", "queue", "account", "qos", "constraint", "modules", "backend_options")


@pytest.fixture(scope="module")
def settings(request: pytest.FixtureRequest) -> ClusterConfig:
    """Read them before tests get a home of their own."""
    return config.load().resolve(request.config.getoption("--target"))


@pytest.fixture(scope="module")
def ready(settings: ClusterConfig) -> placement.Prepared:
    return placement.prepare(settings)


@pytest.fixture(scope="module")
def root(ready: placement.Prepared) -> Iterator[str]:
    place = f"{ready.target.site.root}/tests-{secrets.token_hex(4)}"
    yield place
    ready.target.transport.run(f"rm -rf {shlex.quote(place)}")


@pytest.fixture
def desk(ready: placement.Prepared, root: str, tmp_path: Path) -> Iterator[Desk]:
    target, given = ready.target, ready.settings

    def wrap(argv: Sequence[str]) -> tuple[str, ...]:
        mounts = (Mount(root, root), *given.mounts)
        asked = {"mounts": mounts, "variables": {}, "gpus": 0, "memory_bytes": given.memory, "cores": 1}
        return target.runtime.wrap(ready.placed, argv, **asked)

    dialect = Process() if target.plain else target.backend._dialect
    time = given.time or (None if target.plain else timedelta(minutes=5))
    asked = Resources(memory_bytes=given.memory, time=time, **{name: getattr(given, name) for name in OF_A_SITE})
    transport = Unreliable(target.transport)
    made = Desk(dialect, transport, root, tmp_path, interpreter=(ready.placed.interpreter,), wrap=wrap, resources=asked)
    yield made
    made.transport.dead = False
    made.clear()


class TestTarget(Backends):
    """The suite of every backend; processes on compute nodes, which nobody here can list, are seen by what they do."""

    def test_cancel_ends_every_process(self, desk: Desk) -> None:
        source = """
            import os, subprocess, sys, time
            def breed(place):
                beat = f"import sys, time\\nwhile True: open({place!r} + sys.argv[1], 'a').write('x'); time.sleep(0.2)"
                deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n" + beat
                orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {beat!r}, 'orphan'])"
                subprocess.Popen([sys.executable, "-c", beat, "child"])
                subprocess.Popen([sys.executable, "-c", deaf, "deaf"], start_new_session=True)
                subprocess.Popen([sys.executable, "-c", beat, "bare"], env={})
                subprocess.run([sys.executable, "-c", orphan], start_new_session=True, check=True)
                while len(os.listdir(place)) < 4:
                    time.sleep(0.1)
                print("ready", flush=True)
                time.sleep(1000)
        """
        place = f"{desk.root}/beats-{secrets.token_hex(4)}/"
        desk.transport.run(f"mkdir '{place}'")
        job = desk.call(source, place)
        assert next(job.logs(follow=True)) == "ready\n"
        assert job.running()
        assert job.cancel()
        with pytest.raises(errors.JobCancelled):
            job.result(LONG)
        assert job.cancelled()
        assert not job.cancel()
        assert job.status().state is State.CANCELLED

        def beats() -> list[bytes]:
            time.sleep(2)
            return desk.transport.run(
                f"cd '{place}' && cat child | wc -c; cat deaf | wc -c; cat bare orphan | wc -c"
            ).stdout.split()

        end = time.monotonic() + LONG
        while (before := beats()) != beats():
            assert time.monotonic() < end, before
        assert len(before) == 3
        assert b"0" not in before  # they were seen while they ran


@pytest.fixture
def far(settings: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Job | JobArray]]:
    """Submit calls, or a map of several, as users do."""
    for name, value in CONFIGURED.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    config.load.cache_clear()
    jobs: list[Job | JobArray] = []

    def submit(source: str, *calls: tuple[object, ...], **options: object) -> Job | JobArray:
        limit = {} if settings.time or settings.backend in {"local", "ssh"} else {"time": "00:05:00"}
        given = {"target": settings.target, **limit, **options}
        call = by_value(source)
        if len(calls) == 1:
            jobs.append(pipeline.submit(call, calls[0], {}, given))
        else:
            jobs.append(pipeline.submit_many(call, [(each, {}) for each in calls], given))
        return jobs[-1]

    yield submit
    for job in jobs:
        job.cancel()
        targets.of_record(job.record).store.remove(job.record)


@pytest.mark.usefixtures("far")
def test_all_the_way(settings: ClusterConfig) -> None:
    """What ``clustrix doctor --deep`` shows."""
    rows = list(trial.run(settings, patience=LONG))
    assert not [row for row in rows if row[1] == "fail"]
    assert targets.of(settings).name == settings.target


def test_found_from_another_home(far: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = far("def one(x): return x", (5,))
    monkeypatch.setenv("CLUSTRIX_STATE_DIR", str(tmp_path / "another"))
    monkeypatch.setattr(targets, "_targets", {})  # nor is a connection there
    assert list(Journal().list()) == []
    found = catalogue.job(str(job.id))
    assert found.result(LONG) == 5
    targets.of_record(found.record).transport.close()


def test_a_map_of_many_is_one_submission(far: Callable[..., JobArray]) -> None:
    array = far("def square(x): return x * x", *((x,) for x in range(100)))
    assert list(array.results(timeout=LONG)) == [x * x for x in range(100)]
    assert len(str(Journal().find(str(array.id)).native_id).split()) == 1


def test_mounts(far: Callable[..., Job], ready: placement.Prepared, root: str) -> None:
    if ready.target.runtime_name == "venv":
        pytest.skip("in a virtual environment jobs see the host's directories where they are")
    ready.target.transport.run(f"mkdir -p '{root}/data set' && echo 7 >'{root}/data set/number'")
    source = """
        def look():
            try:
                open("/mnt/data/other", "w")
            except OSError as error:
                return open("/mnt/data/number").read(), type(error).__name__, error.errno
    """
    job = far(source, (), mounts=[f"{root}/data set:/mnt/data:ro"])
    assert job.result(LONG) == ("7\n", "OSError", 30)
