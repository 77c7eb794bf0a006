"""A small environment: a lock, its wheels and a base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .recipes import Environment

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)
