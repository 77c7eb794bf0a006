"""What every test stands on: a home, caches and a journal of its own."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from clustrix import config

if TYPE_CHECKING:
    from pathlib import Path


# A shell that starts something in the background has it ignore Ctrl-C, and what it starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the name of a configured target: ``pytest tests/live --target hpc``."""
    parser.addoption("--target", help="run the live tests of jobs against this target of your configuration")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process have the Kubernetes cluster and one all other servers, where several share the tests (``-n``).

    A module stays whole. Tests without servers go to whoever has nothing else to do.
    """
    clusters = {item.path for item in items if "kubernetes" in getattr(item, "fixturenames", ())}
    for item in items:
        if item.get_closest_marker("live"):
            name = "kubernetes" if item.path in clusters else "servers"
            item.add_marker(pytest.mark.xdist_group(name))


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
