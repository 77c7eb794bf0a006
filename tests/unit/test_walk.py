"""Walks through a shell: answers that come in pieces, break off, or hold complaints; and what vanishes meanwhile."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clustrix import walk
from clustrix.errors import ConnectionLost, TransportError
from clustrix.transports.local import Local

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER = b"root /r\0d 4096 755 1700000000.5000000000 1 2 2 \0f 3 640 -2.5000000000 1 3 2 caf\xe9 \n\0end 0 \0"


class Wire:
    """Answer with pieces."""

    address = "ssh://me@there:22"

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    @contextlib.contextmanager
    def stream(self, script: str) -> Iterator[Iterator[bytes]]:
        script.encode("ascii")
        yield iter(self.pieces)


def asked(*pieces: bytes) -> list[walk.Entry]:
    return list(walk.there(Wire(list(pieces)), "/r\udce9", None))


def test_an_answer_may_be_cut_anywhere() -> None:
    whole = asked(ANSWER)
    assert whole[1] == walk.Entry("/r", "caf\udce9 \n", "f", 3, -1_500_000_000, 0o640, (1, 3))
    for at in range(1, len(ANSWER)):
        assert asked(ANSWER[:at], b"", ANSWER[at:]) == whole
    for at in range(len(ANSWER)):
        with pytest.raises(ConnectionLost, match="broke off"):
            asked(ANSWER[:at])


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        (b"end 1 find: '/r/x': Permission denied", PermissionError, "/r/x"),
        (b"end 1 find: '/r/x': No such file or directory\nfind: '/r/y': Stale file handle", OSError, "/r/y"),
        (b"end 1 find: a loop of some kind", OSError, "a loop of some kind"),
        (b"end 137 ", TransportError, "status 137"),
        (b"end 137 find: '/r/x': No such file or directory", TransportError, "status 137"),
        (b"end 1 ", TransportError, "did not say why"),
    ],
)
def test_what_find_could_not_do_is_told(end: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        asked(ANSWER.replace(b"end 0 ", end))


def test_nothing_at_all_is_no_empty_directory() -> None:
    with pytest.raises(TransportError, match="did not say why"):
        asked(b"root /r\0end 0 \0")


def test_what_vanishes_meanwhile_is_not_there(tmp_path: Path) -> None:
    gone = ANSWER.replace(b"end 0 ", b"end 1 find: '/r/x': No such file or directory")
    assert len(asked(gone)) == 2
    (tmp_path / "a").mkdir()
    found = walk.here(str(tmp_path), None)
    assert [next(found).below, next(found).below] == ["", "a"]
    (tmp_path / "a").rmdir()
    assert list(found) == []


def test_a_find_without_printf_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "find"
    other.write_text('#!/bin/sh\necho "find: unrecognized: -printf" >&2\nexit 1\n')
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(TransportError, match="no find of GNU findutils"):
        list(walk.there(Local(), str(tmp_path), 0))


@pytest.mark.parametrize("path", ["~", "~/below", "below", "."])
def test_relative_paths_are_below_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    place = str(tmp_path / path.removeprefix("~").strip("/"))
    assert [entry.path for entry in walk.there(Local(), path, 0)] == [place]
    if path.startswith("~"):
        assert [entry.path for entry in walk.here(path, 0)] == [place]
    else:
        monkeypatch.chdir(tmp_path)
        assert [entry.path for entry in walk.here(path, 0)] == [place]
