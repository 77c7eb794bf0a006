"""Jobs as processes: a site per test, the bundles made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The caller's own project: modules that travel.
sys.path.insert(0, str(Path(__file__).with_name("caller")))


@pytest.fixture(scope="session")
def bundle_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def site(tmp_path, bundle_cache):
    from worker_site import Site

    return Site(tmp_path / "site", bundle_cache)
