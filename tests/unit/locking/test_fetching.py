"""A file arrives whole and as it was locked, or nothing of it stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clustrix import locking
from clustrix.errors import ClustrixError, DiskFull, HashMismatch, LockError
from clustrix.locking import fetching
from clustrix.model.environment import Platform
from clustrix.model.lock import Lock, LockedFile, LockedPackage
from tests.unit.wheels import make_wheel, sha256

if TYPE_CHECKING:
    from tests.unit.locking.index import Index


class Recorder:
    """Count what a bar would show."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.done = 0
        self.closed = 0

    def start(self, stage: str, total: int | None) -> Recorder:
        self.stages.append((stage, total))
        return self

    def advance(self, amount: int) -> None:
        self.done += amount

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustrix.locking.fetching._PAUSE_SECONDS", 0)


def locked(index: Index, *names: str, **changes: object) -> Lock:
    rows = []
    for name in names:
        wheel = make_wheel(index.files, name, "1.0")
        file = {"sha256": sha256(wheel), "url": index.file_url(wheel), "size": wheel.stat().st_size, **changes}
        rows.append(LockedPackage(name, "1.0", LockedFile(filename=wheel.name, **file)))  # type: ignore[arg-type]
    return Lock("3.11", Platform("x86_64", (2, 36)), tuple(rows))


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_fetched_once(index: Index, tmp_path: Path) -> None:
    names = [f"package{number}" for number in range(20)]
    lock, bar = locked(index, *names), Recorder()
    wheels = locking.fetch(lock, tmp_path / "cache", bar)
    assert {name: wheel.read_bytes() for name, wheel in wheels.items()} == {
        name: (index.files / f"{name}-1.0-py3-none-any.whl").read_bytes() for name in names
    }
    total = sum(package.file.size or 0 for package in lock.packages)
    assert (bar.stages, bar.done, bar.closed) == ([("fetch", total)], total, 1)
    asked = len(index.requests)
    assert locking.fetch(lock, tmp_path / "cache", bar) == wheels
    assert (len(index.requests), len(bar.stages)) == (asked, 1)


def test_another_file_than_was_locked(index: Index, tmp_path: Path) -> None:
    lock, bar = locked(index, "good", "bad"), Recorder()
    make_wheel(index.files, "bad", "1.0", files={"bad.py": "swapped = True\n"})
    with pytest.raises(HashMismatch, match=r"bad-1\.0-py3-none-any\.whl is not the file that was locked"):
        locking.fetch(lock, tmp_path / "cache", bar)
    assert not [name for name in kept(tmp_path / "cache") if name.startswith(("bad", "."))]
    assert bar.closed == 1


def test_a_damaged_cache_is_mended(index: Index, tmp_path: Path) -> None:
    lock = locked(index, "six")
    wheel = locking.fetch(lock, tmp_path)["six"]
    content = wheel.read_bytes()
    wheel.write_bytes(content[:-1] + b"!")
    assert locking.fetch(lock, tmp_path)["six"].read_bytes() == content


@pytest.mark.parametrize(
    "instead", [[503, 500, 429], [b"half a body", b""]], ids=["the server is busy", "the connection breaks"]
)
def test_what_passes_is_tried_again(index: Index, tmp_path: Path, instead: list[int | bytes]) -> None:
    lock, bar = locked(index, "six"), Recorder()
    index.instead["six-1.0-py3-none-any.whl"] = list(instead)
    locking.fetch(lock, tmp_path, bar)
    assert bar.done == lock.packages[0].file.size, "what was done in vain is taken back"
    index.instead["six-1.0-py3-none-any.whl"] = [503] * 9
    with pytest.raises(LockError, match="HTTP 503"):
        locking.fetch(lock, tmp_path / "other")
    assert kept(tmp_path / "other") == []


def test_what_is_not_there(index: Index, tmp_path: Path) -> None:
    lock = locked(index, "six")
    (index.files / "six-1.0-py3-none-any.whl").unlink()
    with pytest.raises(LockError, match="answers HTTP 404") as raised:
        locking.fetch(lock, tmp_path)
    assert len(index.requests) == 1, "no use in asking again"
    assert "lock again" in str(raised.value.remedy)
    index.close()
    with pytest.raises(LockError, match=r"cannot fetch six-1\.0"):
        locking.fetch(lock, tmp_path)


def test_credentials_are_found_and_never_stored(
    index: Index, tmp_path: Path, own_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locked(index, "six")
    index.password = "s3cret"
    with pytest.raises(LockError, match="refuses six") as raised:
        locking.fetch(lock, tmp_path / "a")
    assert "netrc" in str(raised.value.remedy)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://me:s3cret@{index.host}/simple/")
    assert locking.fetch(lock, tmp_path / "b")["six"].is_file()
    monkeypatch.delenv("UV_DEFAULT_INDEX")
    (own_settings / ".netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    (own_settings / ".netrc").chmod(0o600)
    assert locking.fetch(lock, tmp_path / "c")["six"].is_file()
    assert "s3cret" not in locking.write(lock)


def test_files_of_this_machine(index: Index, tmp_path: Path) -> None:
    lock = locked(index, "six", url=(index.files / "six-1.0-py3-none-any.whl").as_uri())
    wheel = locking.fetch(lock, tmp_path / "a")["six"]
    (index.files / "six-1.0-py3-none-any.whl").unlink()
    assert wheel.is_file(), "the cache has its own copy"
    with pytest.raises(LockError, match="does not exist"):
        locking.fetch(lock, tmp_path / "b")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path, prefix: str) -> tuple[int, str]:  # noqa: A002
        return os.open("/dev/full", os.O_WRONLY), str(dir / f"{prefix}x")

    monkeypatch.setattr("clustrix.locking.fetching.tempfile.mkstemp", full)
    with pytest.raises(DiskFull, match=r"no space for six-1\.0"):
        locking.fetch(locked(index, "six"), tmp_path)


def test_ctrl_c_leaves_nothing_half_made(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "_verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        locking.fetch(locked(index, *(f"p{number}" for number in range(12))), tmp_path)
    assert kept(tmp_path) == sorted(path.name for path in index.files.iterdir())


def test_every_error_has_a_remedy(index: Index, tmp_path: Path) -> None:
    lock = locked(index, "six", url="nonsense://h/six.whl")
    with pytest.raises(ClustrixError) as raised:
        locking.fetch(lock, tmp_path)
    assert raised.value.remedy
