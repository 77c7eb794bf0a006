"""Progress on a terminal, and what is printed meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from clustrix.cli import driver

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
from clustrix import placement
from clustrix.cli.progress import shown

def refresh():  # it would be in a tenth of a second
    if hasattr(placement.progress, "drawn"):
        placement.progress.drawn.refresh()

with shown():
    print("before")
    bar = placement.progress.start("pack", 2_000_000)
    bar.advance(1_000_000)
    refresh()
    print("x" * 300)
    bar.close()
    bar.close()
    items = placement.progress.start("map f", 3)
    items.advance(1)
    refresh()
    items.close()
    print("after")
"""


def drawn(descriptor: int) -> str:
    """Read what a terminal was sent."""
    data = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(descriptor, 1 << 16):
            data += piece
    return data.decode()


def test_bars_go_to_the_terminal_and_output_to_where_it_was_sent() -> None:
    """On a terminal with ``> file`` the output of a script belongs into the file, whole and as it is."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment
    ) as process:
        os.close(theirs)
        terminal = drawn(ours)
        assert process.stdout is not None
        assert process.stdout.read() == "before\n" + "x" * 300 + "\nafter\n"
    os.close(ours)
    assert process.returncode == 0, terminal
    assert "pack" in terminal
    assert "1.0 MB of 2.0 MB" in terminal
    assert "1/3" in terminal
    assert "xxx" not in terminal


def test_pipes_are_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == "before\n" + "x" * 300 + "\nafter\n"


@pytest.mark.parametrize("of", ["command", "script"])
def test_a_reader_that_has_what_it_wanted_is_no_error(tmp_path: Path, of: str) -> None:
    script = tmp_path / "script.py"
    script.write_text("for number in range(100_000): print(number)\n")
    argv = {
        "command": [sys.executable, "-m", "clustrix", "config", "--all"],
        "script": driver.argv(sys.executable, tmp_path, {}, script, []),
    }[of]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
