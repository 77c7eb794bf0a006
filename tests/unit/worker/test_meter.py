"""What is counted as used: a process, the children that it waited for, and those that it keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clustrix.worker import meter

BURN = "import time\nwhile time.process_time() < {seconds}: pass\nprint(flush=True)\ninput()"


def children() -> float:
    found = meter.processor_seconds()
    assert found is not None
    return found[1]


def test_own_work_is_counted() -> None:
    before = meter.processor_seconds()
    sum(range(2_000_000))
    after = meter.processor_seconds()
    assert before is not None
    assert after is not None
    assert after[0] > before[0]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_children_are_counted_once_while_they_live_and_after() -> None:
    before = children()
    argv = [sys.executable, "-c", BURN.format(seconds=0.3)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        living = children() - before
        assert 0.25 <= living < 0.6
        child.communicate(b"\n")
    assert living - 0.05 <= children() - before < 0.6


def test_the_peak_is_that_of_the_largest_process() -> None:
    before = meter.peak_memory()
    assert before is not None
    subprocess.run([sys.executable, "-c", f"bytearray({before} + 2**25)"], check=True)
    after = meter.peak_memory()
    assert after is not None
    assert after >= before + 2**25
