"""Your own target, as it is configured: ``pytest tests/live --target NAME``.

Jobs are small and end within seconds of their start; each may wait two minutes for it. What they leave lies below the
target's root in a directory of its own, which goes at the end.
"""

from __future__ import annotations

import secrets
import shlex
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from clustrix import config, errors, placement, trial
from clustrix import target as targets
from clustrix.model.job import State
from clustrix.model.resources import Mount, Resources
from clustrix.schedulers.process import Process
from tests.conformance.backends import LONG, Backends
from tests.conformance.desk import Desk, Unreliable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from clustrix.model.settings import ClusterConfig

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]
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
    """The suite of every backend, without what looks at the processes of compute nodes."""

    test_cancel_ends_every_process = None

    def test_cancel(self, desk: Desk) -> None:
        job = desk.call("import time\ndef rest():\n    print('ready', flush=True)\n    time.sleep(1000)")
        assert next(job.logs(follow=True)) == "ready\n"
        assert job.cancel()
        with pytest.raises(errors.JobCancelled):
            job.result(LONG)
        assert job.status().state is State.CANCELLED


def test_all_the_way(settings: ClusterConfig) -> None:
    """What ``clustrix doctor --deep`` shows."""
    rows = list(trial.run(settings, patience=LONG))
    assert not [row for row in rows if row[1] == "fail"]
    assert targets.of(settings).name == settings.target
