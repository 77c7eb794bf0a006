"""Lock files are written the same for the same lock, and read for one target, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clustrix.errors import ClustrixError, HashMismatch, LockError
from clustrix.locking import pylock
from clustrix.locking.target import Target
from clustrix.model.environment import Platform
from clustrix.model.lock import Lock, LockedFile, LockedPackage

GOLDEN = Path(__file__).parents[2] / "golden" / "locking" / "pylock.toml"
ARM = Platform("aarch64", (2, 28))
NUMPY = "numpy-2.4.6-cp311-cp311-manylinux_2_28_aarch64.whl"
LOCAL = "local-1.0+cpu-py3-none-any.whl"
LOCK = Lock(
    "3.11",
    ARM,
    (
        LockedPackage("numpy", "2.4.6", LockedFile(NUMPY, "a" * 64, "https://files.example.org/numpy.whl", 16918164)),
        LockedPackage(
            "local", "1.0+cpu", LockedFile(LOCAL, "b" * 64, "file:///cache/built/ab/local-1.0%2Bcpu-py3-none-any.whl")
        ),
    ),
)


def golden() -> str:
    return GOLDEN.read_text().replace("sha256:DIGEST", LOCK.digest)


def test_written_as_ever() -> None:
    assert pylock.write(LOCK) == golden()
    assert pylock.write(replace(LOCK, packages=LOCK.packages[::-1])) == golden()


def test_read_again(tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text(golden())
    assert pylock.read(tmp_path / "pylock.toml") == LOCK


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("lock-version = ", LockError, "does not parse"),
        ('lock-version = "1.0"\n', LockError, "was not written by clustrix"),
        (golden().replace("2.4.6", "2.4.7", 1), HashMismatch, "was edited"),
        (golden().replace("aaaa", "aaab"), HashMismatch, "was edited"),
        (golden().replace("glibc = [2, 28]\n", ""), LockError, "is no lock of clustrix"),
        (golden().replace("a" * 64, "a" * 63), LockError, "has no sha256"),
        (None, LockError, "cannot read"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, text: str | None, error: type[ClustrixError], words: str) -> None:
    path = tmp_path / "pylock.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=words):
        pylock.read(path)


def wheel(name: str, sha256: str = "a" * 64, at: str = "https://me:secret@h") -> str:
    return f'{{ url = "{at}/{name}#x", hashes = {{ sha256 = "{sha256}" }} }}'


FOREIGN = f"""
lock-version = "1.0"
requires-python = ">=3.10"
extras = ["gpu"]
dependency-groups = ["docs"]

[[packages]]
name = "Six.Two"
version = "1.0"
wheels = [
  {wheel("Six_Two-1.0-cp311-cp311-win_amd64.whl", "b" * 64)},
  {wheel("Six_Two-1.0-py3-none-any.whl", "c" * 64)},
]

[[packages]]
name = "appnope"
version = "1.0"
marker = "sys_platform == 'darwin'"
wheels = [{wheel("appnope-1.0-py3-none-any.whl")}]

[[packages]]
name = "cupy"
version = "1.0"
marker = "'gpu' in extras"
wheels = [{wheel("cupy-1.0-py3-none-any.whl")}]

[[packages]]
name = "sphinx"
version = "1.0"
marker = "'docs' in dependency_groups"
sdist = {wheel("sphinx-1.0.tar.gz")}

[[packages]]
name = "tree"
directory = {{ path = "tree", editable = true, subdirectory = "sub" }}

[[packages]]
name = "repo"
version = "1.0"
vcs = {{ type = "git", url = "https://h/repo.git", commit-id = "0123" }}

[[packages]]
name = "archive"
version = "1.0"
archive = {{ path = "archive-1.0-py3-none-any.whl", hashes = {{ sha256 = "{"d" * 64}" }} }}
"""


def entries(text: str = FOREIGN, **choices: object) -> dict[str, pylock.Entry]:
    found = pylock.entries(text, "pylock.toml", Path("/base"), Target(ARM, "3.11"), **choices)  # type: ignore[arg-type]
    return {entry.name: entry for entry in found}


def test_a_foreign_lock_for_one_target() -> None:
    found = entries()
    assert list(found) == ["six-two", "tree", "repo", "archive"]
    best = LockedFile("Six_Two-1.0-py3-none-any.whl", "c" * 64, "https://h/Six_Two-1.0-py3-none-any.whl")
    assert found["six-two"].wheel == best, "without credentials and fragment"
    assert found["tree"].directory == ("/base/tree", "sub", True)
    assert found["repo"].vcs == ("git", "https://h/repo.git", "0123", None)
    assert found["archive"].wheel == LockedFile(
        "archive-1.0-py3-none-any.whl", "d" * 64, "file:///base/archive-1.0-py3-none-any.whl"
    )


def test_extras_and_groups() -> None:
    found = entries(extras=("gpu",), groups=("docs",))
    assert found["cupy"].wheel is not None
    assert found["sphinx"].wheel is None
    assert found["sphinx"].sdist is not None


@pytest.mark.parametrize(
    ("text", "choices", "error", "words"),
    [
        ("x = [", {}, LockError, "does not parse"),
        ("x = 1", {}, LockError, "is no pylock.toml"),
        (FOREIGN.replace('"1.0"', '"2.0"', 1), {}, LockError, "lock-version 2.0"),
        (FOREIGN.replace(">=3.10", ">=3.12"), {}, LockError, "requires Python >=3.12"),
        (FOREIGN, {"extras": ("tpu",)}, LockError, "has no extra tpu"),
        (FOREIGN, {"groups": ("dev",)}, LockError, "has no group dev"),
        (FOREIGN.replace("'darwin'", "darwin"), {}, LockError, "cannot evaluate the marker of appnope"),
        (FOREIGN.replace("appnope", "tree").replace("'darwin'", "'linux'"), {}, LockError, "locks tree more than once"),
        (FOREIGN.replace("sha256 =", "md5 ="), {}, LockError, "has no sha256"),
        (FOREIGN, {"hashes": {"six-two": frozenset({"e" * 64})}}, HashMismatch, r"no file of six-two 1\.0"),
    ],
)
def test_foreign_locks_that_are_refused(
    text: str, choices: dict[str, object], error: type[ClustrixError], words: str
) -> None:
    with pytest.raises(error, match=words):
        entries(text, **choices)
