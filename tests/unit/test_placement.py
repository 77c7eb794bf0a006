"""Environments at a target: seen once, trusted for a moment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clustrix import placement
from clustrix.errors import BadReference, ConfigError
from clustrix.model.job import Placed
from clustrix.model.settings import ClusterConfig
from clustrix.pipeline import resolve
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


def test_a_repository_that_is_none_and_a_directory_that_is_not_there_are_refused_first(tmp_path: Path) -> None:
    for registry in ("BAD REG", "jobs", "ghcr.io/me/jobs:1"):
        with pytest.raises(BadReference, match=f"target hpc: registry '{registry}' is no repository"):
            placement._check_repository(registry, "hpc")
    placement._check_repository("localhost:5000/me/jobs", "hpc")
    with pytest.raises(ConfigError, match="absent does not exist on this machine"):
        placement.prepare(resolve({"target": "local", "mounts": [f"{tmp_path}/absent:/data"]}))
