"""uv is found, is new enough, and its complaints become ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clustrix.errors import ClustrixError, LockError, UnsupportedPackage
from clustrix.locking import uv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    find = uv.find
    find.cache_clear()
    yield
    find.cache_clear()  # or whoever comes next would run what a test here made


def program(directory: Path, script: str) -> Path:
    path = directory / "uv"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_real_one() -> None:
    assert uv.run(["--version"]).startswith("uv ")
    assert uv.check_version(uv.find())


def test_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("uv.find_uv_bin", absent)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LockError, match="uv is not installed") as raised:
        uv.find()
    assert "pip-tools" in str(raised.value.remedy)
    expected = program(tmp_path, "echo uv 0.9.1")
    assert uv.find() == str(expected)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo uv 0.7.9", r"is uv 0\.7\.9; 0\.8 is needed"),
        ("echo hello", "is hello; 0.8 is needed"),
        ("exit 1", "is no uv"),
    ],
)
def test_too_old_or_something_else(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(LockError, match=words) as raised:
        uv.check_version(str(program(tmp_path, script)))
    assert raised.value.remedy == "pip install -U uv"


def test_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="does not run"):
        uv.check_version(str(tmp_path / "absent"))


FAILED = "error: No solution found when resolving dependencies\n  cause: Because "


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (f"{FAILED}there is no version of numpy==99.0 and you require", UnsupportedPackage, "^numpy cannot be had"),
        (f"{FAILED}pywin32==306 has no wheels with a matching", UnsupportedPackage, "^pywin32 cannot be had"),
        (f"{FAILED}no-such was not found in the package registry", UnsupportedPackage, "^no-such cannot be had"),
        (f"{FAILED}only six<=2.0 is available and you require", UnsupportedPackage, "^six cannot be had"),
        ("error: The lockfile at `uv.lock` needs to be updated, but `--locked` was", LockError, "out of date"),
        ("error: x\n  cause: status client error (401 Unauthorized)", LockError, "~/.netrc"),
        ("error: Failed to initialize cache at `/x`", LockError, "UV_CACHE_DIR"),
        ("error: something new", LockError, "uv says:\nerror: something new"),
    ],
)
def test_complaints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, error: type[ClustrixError], message: str
) -> None:
    (tmp_path / "words").write_text(words)
    monkeypatch.setattr(uv, "find", lambda: str(program(tmp_path, f"cat {tmp_path}/words >&2; exit 2")))
    with pytest.raises(error, match=message):
        uv.run(["pip", "compile"])
