"""The engine of this machine."""

from __future__ import annotations

import pytest

from clustrix import engines


def test_an_engine_of_another_machine_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    assert engines.runtime()[0] == "venv"
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert engines.answering()[0] is None
