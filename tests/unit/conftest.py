"""The fake target as fixtures; what it is made of is in `fakes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustrix import catalogue, config, pipeline, target
from clustrix.model.job import Placed
from clustrix.model.settings import ClusterConfig
from clustrix.placement import Prepared

from . import fakes, sites


@pytest.fixture(scope="session")
def bundle_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles are made once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle_cache: Path) -> fakes.FakeBackend:
    """Submit to a list, from a project of its own."""
    monkeypatch.setattr(config, "cache_directory", lambda: bundle_cache)
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    config.load.cache_clear()
    made = fakes.FakeBackend()
    place = fakes.target(tmp_path / "site", made)
    placed = Placed(runtime="fake", location="/env", interpreter="/env/bin/python")

    def prepare(settings: ClusterConfig) -> Prepared:
        return Prepared(target=place, settings=settings, placed=placed, prints={"numpy": "1"})

    monkeypatch.setattr(pipeline, "prepare", prepare)
    monkeypatch.setattr(target, "of_record", lambda _: place)
    assert catalogue.targets is target
    return made


@pytest.fixture
def site() -> sites.FakeSite:
    """Nothing has happened yet."""
    return sites.FakeSite()
