"""What every test stands on: a home, caches and a journal of its own."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from clustrix import config

if TYPE_CHECKING:
    from pathlib import Path

    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling


# A shell that starts something in the background has it ignore Ctrl-C, and what it starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the name of a configured target: ``pytest tests/live --target hpc``."""
    parser.addoption("--target", help="run the live tests of jobs against this target of your configuration")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Let one process have the Kubernetes cluster and one all other servers, where several share the tests (``-n``)."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _servers(nodeid.partition("::")[0]) or nodeid

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See to it that no other module takes the cluster."""
    for item in items:
        name = item.nodeid.partition("::")[0]
        if "kubernetes" in getattr(item, "fixturenames", ()) and _servers(name) != "kubernetes":
            raise pytest.UsageError(f"{name} needs the cluster: see _servers in tests/conftest.py")


def _servers(path: str) -> str:
    """Name the servers of a test module, which is run as a whole; tests of none go to who has nothing else to do."""
    live, _, name = path.rpartition("/")
    if live != "tests/live":
        return ""
    return "kubernetes" if name.startswith(("test_kubernetes", "test_chart", "test_pipeline")) else "others"


@pytest.fixture(autouse=True)
def _own_home(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep tests from the configuration, caches and journal of whoever runs them, and from one another's settings."""
    home: Path = tmp_path_factory.mktemp("home")
    for name in ("CLUSTRIX_TARGET", "CLUSTRIX_CONFIG", "CLUSTRIX_IN_JOB", "CLUSTRIX_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLUSTRIX_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("CLUSTRIX_HOME", str(home / "clustrix"))
    if pytestconfig.getoption("--target") is None:  # else it is known already, and needed
        monkeypatch.setattr(config, "_runtime", config.Source("configure()"))
        config.load.cache_clear()
