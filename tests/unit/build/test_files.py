"""Files of this machine in an image: reproducible, scanned, and without harm to the base."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clustrix.build import files
from clustrix.errors import BuildError, CredentialsInLayer

from .bases import DEBIAN, make_base

if TYPE_CHECKING:
    from collections.abc import Callable

    from .recipes import Environment


def tree(place: Path) -> Path:
    root = place / "data"
    (root / "sub/empty").mkdir(parents=True)
    (root / "table.csv").write_text("1,2\n")
    (root / "sub/run.sh").write_text("#!/bin/sh\n")
    (root / "sub/run.sh").chmod(0o700)
    (root / "sub/link").symlink_to("../table.csv")
    return root


def test_a_tree_becomes_a_layer(environment: Environment) -> None:
    root = tree(environment.place)
    result = environment.build(files=((str(root), "/opt/data"), (str(root / "table.csv"), "/srv/")))
    entries = environment.entries(result, "added files")
    assert {path: (entry.type, entry.mode, entry.linkname, entry.uid) for path, entry in entries.items()} == {
        "opt": (b"5", 0o755, "", 0),
        "opt/data": (b"5", 0o755, "", 0),
        "opt/data/table.csv": (b"0", 0o644, "", 0),
        "opt/data/sub": (b"5", 0o755, "", 0),
        "opt/data/sub/empty": (b"5", 0o755, "", 0),
        "opt/data/sub/run.sh": (b"0", 0o755, "", 0),
        "opt/data/sub/link": (b"2", 0o777, "../table.csv", 0),
        "srv": (b"5", 0o755, "", 0),
        "srv/table.csv": (b"0", 0o644, "", 0),
    }
    assert list(entries) == sorted(entries)
    assert environment.read(result, "srv/table.csv") == b"1,2\n"


def test_the_same_files_are_the_same_layer_and_others_are_not(environment: Environment) -> None:
    root = tree(environment.place)
    order = ((str(root), "/opt/data"),)
    first = environment.build(files=order)
    for path in root.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    moved = root.rename(environment.place / "elsewhere")
    assert environment.build(files=((str(moved), "/opt/data"),)).image == first.image
    (moved / "table.csv").write_text("1,3\n")
    second = environment.build(files=((str(moved), "/opt/data"),))
    assert [layer.title for layer in second.layers if not layer.reused] == ["added files"]


def test_directories_and_links_of_the_base_are_respected(environment: Environment) -> None:
    """A header for /tmp must not close it to other users, and one for /bin must not replace the link by a directory."""
    environment.base = make_base(environment.place / "base2", [{**DEBIAN, "data": 0o755, "link": "/data"}])
    file = environment.place / "tool"
    file.write_text("tool\n")
    order = tuple((str(file), target) for target in ("/tmp/tool", "/bin/tool", "/link/tool"))
    entries = environment.entries(environment.build(files=order), "added files")
    assert entries["tmp"].mode == 0o1777
    assert set(entries) == {"tmp", "tmp/tool", "usr", "usr/bin", "usr/bin/tool", "data", "data/tool"}


def fifo(place: Path) -> tuple[str, str]:
    os.mkfifo(place / "fifo")
    return str(place / "fifo"), "/x"


def outward(place: Path) -> tuple[str, str]:
    (place / "d").mkdir()
    (place / "d/link").symlink_to("../secret")
    return str(place / "d"), "/x"


def absolute(place: Path) -> tuple[str, str]:
    (place / "d").mkdir()
    (place / "d/link").symlink_to("/etc/passwd")
    return str(place / "d"), "/x"


def named(place: Path) -> tuple[str, str]:
    (place / "d").mkdir()
    (place / "d/.netrc").write_text("")
    return str(place / "d"), "/x"


def renamed(place: Path) -> tuple[str, str]:
    (place / "harmless").write_text("")
    return str(place / "harmless"), "/root/.netrc"


def inside(place: Path) -> tuple[str, str]:
    """Across the border of two pieces, where a careless scan would miss it."""
    key = b"-----BEGIN OPENSSH " + b"PRIVATE KEY-----\nb3BlbnNzaC1rZXk"
    (place / "blob").write_bytes(bytes((1 << 20) - 20) + key)
    return str(place / "blob"), "/x"


def plain(place: Path) -> str:
    (place / "f").write_text("x")
    return str(place / "f")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda place: (str(place / "absent"), "/x"), BuildError, "absent cannot be read"),
        (fifo, BuildError, "neither a file nor a directory"),
        (outward, BuildError, "leads out of"),
        (absolute, BuildError, "leads out of"),
        (lambda place: (plain(place), "/opt/clustrix/venv/x"), BuildError, "cannot be added"),
        (lambda place: (plain(place), "/opt/clustrix"), BuildError, "cannot be added"),
        (lambda place: (plain(place), "/a/../../x"), BuildError, "cannot be added"),
        (lambda place: (plain(place), "/"), None, ""),
        (named, CredentialsInLayer, r"credentials \(\.netrc\)"),
        (renamed, CredentialsInLayer, r"credentials \(\.netrc\)"),
        (inside, CredentialsInLayer, "holds a private key"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, make: Callable[[Path], tuple[str, str]], error: type[Exception] | None, words: str
) -> None:
    order = (make(tmp_path),)
    if error is None:
        assert [entry.path for entry in files.collect(order)] == ["f"]
        return
    with pytest.raises(error, match=words):
        files.collect(order)


def test_a_file_that_changes_under_the_build(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    file = environment.place / "file"
    file.write_text("one")
    looked = files.collect(((str(file), "/x"),))
    file.write_text("two")
    monkeypatch.setattr(files, "collect", lambda _: looked)
    with pytest.raises(BuildError, match="changed while it was copied"):
        environment.build(files=((str(file), "/x"),))
    assert Path(environment.place / "cache/images").exists() is False
