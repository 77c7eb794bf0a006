# ruff: noqa: F811 - fixtures of another file
"""A plain host over SSH, jobs in a SIF: the suites of every transport and of every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clustrix.schedulers.process import Process
from tests.conformance.backends import LONG, Backends
from tests.conformance.desk import Desk
from tests.conformance.transports import Transports

from .sites import Place, cache, desk, line, placed  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.transports.ssh import SSH

    from .beds import Bed

pytestmark = pytest.mark.live

ROOT = "/home/alice/plain host"


@pytest.fixture(scope="module")
def place(ssh_host: Bed) -> Place:
    return Place(ssh_host, Process(), ROOT, ("/tmp",))  # where the suites leave their marks


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
