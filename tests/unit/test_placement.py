"""Environments at a target: seen once, trusted for a moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from clustrix import placement
from clustrix.model.job import Placed
from clustrix.model.settings import ClusterConfig
from clustrix.runtimes.base import Artifact, Need


def test_calls_in_a_row_ask_once_whether_an_environment_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """After that it is looked for again: somebody may have removed it. A SIF's path says nothing of what it holds."""
    asked: list[Artifact] = []

    def ensure(artifact: Artifact, *_: Any, **__: Any) -> Placed:
        asked.append(artifact)
        return Placed(runtime="venv", location="there", interpreter="python")

    runtime = SimpleNamespace(ensure=ensure, needs=Need.LOCK)
    target: Any = SimpleNamespace(runtime=runtime, transport=None, site=None, standing={})
    now = 100.0
    monkeypatch.setattr(placement.time, "monotonic", lambda: now)
    first, second = (Artifact(lock=SimpleNamespace(digest=digest)) for digest in ("sha256:1", "sha256:2"))  # type: ignore[arg-type]
    for artifact in (first, first, second, first):
        assert placement._ensured(target, artifact, ClusterConfig()).location == "there"
    assert asked == [first, second]
    now += placement._TRUSTED_SECONDS
    placement._ensured(target, first, ClusterConfig())
    assert asked == [first, second, first]
    for _ in range(2):
        placement._ensured(target, Artifact(sif="/images/fit.sif"), ClusterConfig())
    assert len(asked) == 5
