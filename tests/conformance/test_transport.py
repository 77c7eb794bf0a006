"""This machine as a host."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from clustrix.errors import DiskFull, TransportError
from clustrix.transports.local import Local

from .transports import Transports

if TYPE_CHECKING:
    from pathlib import Path


class TestLocal(Transports):
    @pytest.fixture
    def transport(self) -> Local:
        return Local()

    @pytest.fixture
    def there(self, tmp_path: Path) -> str:
        return str(tmp_path)


def test_a_machine_without_a_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TransportError, match="no POSIX shell"):
        Local().run("true")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 10)
    (tmp_path / "there").mkdir()

    class Bar:
        def advance(self, amount: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    class Progress:
        def start(self, stage: str, total: int | None) -> Bar:
            return Bar()

    with pytest.raises(DiskFull, match="file"):
        Local().put(source, str(tmp_path / "there" / "file"), progress=Progress())
    assert list((tmp_path / "there").iterdir()) == []
