"""A plain host over SSH, jobs in a SIF: the suites of every transport and of every backend."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from clustrix.model.paths import SitePaths
from clustrix.model.progress import SILENT
from clustrix.model.resources import Mount
from clustrix.runtimes.apptainer import Apptainer
from clustrix.schedulers.process import Process
from tests.conformance.backends import LONG, Backends
from tests.conformance.desk import Desk, Unreliable
from tests.conformance.transports import Transports

from . import sites

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from clustrix.model.job import Placed
    from clustrix.transports.ssh import SSH

    from .beds import Bed

pytestmark = pytest.mark.live

ROOT = "/home/alice/plain host"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def line(ssh_host: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSH]:
    with contextlib.closing(sites.ssh(ssh_host, tmp_path_factory.mktemp("login"))) as transport:
        yield transport


@pytest.fixture(scope="module")
def placed(line: SSH, base_layout: Path) -> Placed:
    return Apptainer().ensure(sites.artifact(base_layout), line, SitePaths(ROOT), progress=SILENT)


@pytest.fixture
def desk(line: SSH, placed: Placed, cache: Path) -> Iterator[Desk]:
    def wrap(argv: Sequence[str]) -> tuple[str, ...]:
        mounts = [Mount(place, place) for place in (ROOT, "/tmp")]  # where the suites leave their marks
        return Apptainer().wrap(placed, argv, mounts=mounts, variables={}, gpus=0, memory_bytes=None, cores=1)

    desk = Desk(Process(), Unreliable(line), ROOT, cache, interpreter=(placed.interpreter,), wrap=wrap)
    yield desk
    desk.transport.dead = False
    desk.clear()


class TestSSH(Transports):
    @pytest.fixture
    def transport(self, line: SSH) -> SSH:
        return line

    @pytest.fixture
    def there(self, line: SSH) -> Iterator[str]:
        place = line.run("mktemp -d").stdout.decode().strip()
        yield place
        line.run(f"rm -rf {place}")


@pytest.mark.column("ssh host")
class TestProcesses(Backends):
    """The suite of every backend."""


@pytest.mark.proves("connection cut after acceptance", "ssh host")
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_submission_is_one_round_trip_and_happens_once(desk: Desk, line: SSH, how: str) -> None:
    desk.call("def one(): return 1").result(LONG)
    before = desk.transport.runs
    trace = line.run("mktemp").stdout.decode().strip()
    desk.call("def note(path): open(path, 'a').write('x')", trace).result(LONG)
    assert desk.transport.runs - before <= 4  # submission, key, and what the watch asks at the end
    desk.transport.cut[desk.transport.runs + 1] = how
    desk.call("def note(path): open(path, 'a').write('x')", trace).result(LONG)
    assert line.run(f"cat {trace}").stdout == b"xx"
