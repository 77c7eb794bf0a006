"""The file functions on this machine: without a shell, and through one."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import pytest

from clustrix import config, filesystem
from clustrix.transports.local import Local

from .files import Files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Sides(Files):
    @pytest.fixture
    def transport(self) -> Local:
        return Local()

    @pytest.fixture
    def unprivileged(self) -> Iterator[None]:
        """Be somebody who may not read everything; what is started, too."""
        if os.geteuid():
            yield
            return
        config.load()  # while it may be read
        os.setresuid(65534, 65534, 0)
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)

    @pytest.fixture
    def there(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
        if "unprivileged" not in request.fixturenames:
            yield str(tmp_path)
            return
        request.getfixturevalue("unprivileged")
        with tempfile.TemporaryDirectory(dir="/tmp") as place:  # that of pytest is its own
            yield place


class TestHere(Sides):
    @pytest.fixture
    def target(self) -> None:
        """No target is configured."""


class TestThroughAShell(Sides):
    @pytest.fixture
    def target(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(filesystem, "_transport", lambda _: Local())


del Sides  # no suite by itself
