"""What travels: archives made on the way, and answers found among noise."""

from __future__ import annotations

import io
import shlex
import tarfile
from pathlib import Path

import pytest

from clustrix.backends.framing import Frame
from clustrix.backends.parcel import parcel
from clustrix.errors import StoreError
from clustrix.transports.local import Local


def test_an_archive_holds_what_it_was_given(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 20_000)
    deep = "jobs/" + "é" * 120 + "/name"
    files = {"empty": b"", "block": bytes(512), deep: b"text", "large": large}
    with tarfile.open(fileobj=io.BytesIO(parcel(files).read())) as archive:
        found = {member.name: member for member in archive}
        assert list(found) == list(files)
        assert {member.mode for member in found.values()} == {0o600}
        assert archive.extractfile(deep).read() == b"text"
        assert archive.extractfile("large").read() == large.read_bytes()


def test_a_file_that_shrinks_on_the_way_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 << 20))
    stream = parcel({"file": path})
    stream.read(1 << 20)
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="cut short"):
        stream.read()


def test_answers_are_told_from_noise() -> None:
    frame = Frame()
    commands = [
        ["sh", "-c", "printf 'no newline'; echo to stderr >&2; exit 3"],
        ["sh", "-c", "printf '\\n\\nlines\\n\\n'"],
        ["true"],
        ["no-such-command-anywhere"],
    ]
    script = (
        "echo Welcome to the cluster!\n"
        + frame.prelude
        + "".join(f"ask {shlex.join(command)}\necho more noise\n" for command in commands)
    )
    done = Local().run(script)
    answers = frame.answers(done.stdout)
    assert [(a.stdout, a.returncode) for a in answers] == [
        (b"no newline", 3),
        (b"\n\nlines\n\n", 0),
        (b"", 0),
        (b"", 127),
    ]
    assert answers[0].stderr == b"to stderr"
    assert b"no-such-command" in answers[3].stderr
    # What did not arrive whole does not count, wherever it was cut.
    whole = [len(frame.answers(done.stdout[:at])) for at in range(len(done.stdout) + 1)]
    assert whole == sorted(whole)
    assert set(whole) == {0, 1, 2, 3, 4}
    assert Frame().answers(done.stdout) == []
