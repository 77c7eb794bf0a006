"""A requirements file is read for what may not be dropped: hashes and options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clustrix.errors import LockError
from clustrix.locking import requirements

if TYPE_CHECKING:
    from pathlib import Path

A, B = "a" * 64, "B" * 64


def read(tmp_path: Path, text: str) -> requirements.Requirements:
    path = tmp_path / "requirements.txt"
    path.write_text(text)
    return requirements.read(path)


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(f"Ruamel.Yaml==1 --hash=sha256:{A}  # a comment\n")
    text = f"# top\n-r more.txt\n--index-url https://h/simple\nsix==1 \\\n  --hash=sha256:{A} \\\n  --hash=sha256:{B}\n"
    found = read(tmp_path, text)
    assert found.hashes == {"six": frozenset({A, B.lower()}), "ruamel-yaml": frozenset({A})}
    assert [path.name for path in found.files] == ["requirements.txt", "more.txt"]


def test_without_hashes(tmp_path: Path) -> None:
    found = read(tmp_path, "--pre\nsix\nx @ https://h/x.whl#sha256=1 ; python_version > '3'\n-e .\n--no-binary=six\n")
    assert found.hashes == {}
    assert found.prereleases
    assert len(found.unhashed) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--trusted-host h\nsix\n", "--trusted-host cannot be honoured"),
        ("--use-feature=fast\n", "--use-feature cannot be honoured"),
        ("--index-url https://me:hunter2@h/simple\nsix\n", "the URL after --index-url holds a user or password"),
        ("-f=https://${TOKEN}@h/simple\n", "the URL after -f holds a user"),
        ("six --global-option=x\n", "six: --global-option cannot be honoured"),
        (f"six==1 --hash=sha256:{A}\nrich\n", "has hashes, but none for rich"),
        ("--require-hashes\nrich\n", "has hashes, but none for rich"),
        ("six --hash=md5:abc\n", "six has no sha256 among its hashes"),
        ("-r absent.txt\n", r"cannot read .*absent\.txt"),
    ],
)
def test_what_cannot_be_honoured_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(LockError, match=words) as raised:
        read(tmp_path, text)
    assert raised.value.remedy


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("-r requirements.txt\nrich\n")
    assert read(tmp_path, "-r more.txt\nsix\n").unhashed == ["rich", "six"]
