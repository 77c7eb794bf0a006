"""Read from the tests what is proven where: ``@pytest.mark.proves("time limit", "slurm")``.

A test of a suite names its rows alone; the class that takes over the suite, or its module, names the column:
``@pytest.mark.column("slurm")``. ``recorded=True`` says that the server's answers are transcripts, ``refused="Error"``
that what is proven is the refusal, by that error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from clustrix import registry

ROOT = Path(__file__).parents[2]
TESTS = ("tests/live", "tests/conformance", "tests/unit/schedulers", "tests/unit/runtimes")
SCHEDULERS = sorted(set(registry.PLUG_INS["schedulers"]) - {"process"})
COLUMNS = ("local venv", "docker", "podman", "ssh host", "docker over ssh", *SCHEDULERS, "kubernetes")
ROWS = {
    "Ends": (
        "success",
        "typed failure",
        "sys.exit",
        "segfault",
        "kill -9",
        "cancel running",
        "cancel queued",
        "cancelled by somebody else",
        "time limit",
        "memory limit",
        "node failure",
        "preemption",
        "queued again",
        "work saved before the end",
        "lost job",
        "unsatisfiable request",
        "job in an error state",
        "refusal in the scheduler's words",
        "image unavailable",
        "SIF made by a job",
        "same environment, measured there",
        "other environment",
    ),
    "Maps": (
        "array with failed items",
        "array beyond the limit",
        "fewer tasks than items",
        "failed items run again alone",
        "a worker dies during a map",
        "max_parallel",
        "many small results",
    ),
    "Requests": (
        "cores and memory",
        "what was used",
        "GPU",
        "several nodes",
        "partition or queue",
        "account",
        "modules",
        "scheduler's own options",
        "environment variables",
        "working directory",
        "mounts",
        "mounts at another path, or read-only",
        "hostile quoting",
    ),
    "While it runs": (
        "live log line",
        "why it waits",
        "big result",
        "whole script as one job",
        "two clients at once",
        "cleanup",
    ),
    "When things break": (
        "reattach without the journal",
        "reattach from another home",
        "connection cut after acceptance",
        "connection cut while it runs",
        "server restart",
        "one round trip a submission",
    ),
    "The way there": (
        "key, agent, password",
        "two factors",
        "jump host",
        "strict host keys",
        "connection lost and opened again",
        "copies go on after a cut",
        "file functions",
    ),
}


class Proof(NamedTuple):
    """Say that a test proves a row for a column."""

    row: str
    column: str
    test: str
    kind: str


def proofs() -> list[Proof]:
    """Ask pytest for all marked tests, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory) / "found.json"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "CLUSTRIX_MATRIX": str(found)}
        places = [place for place in TESTS if (ROOT / place).is_dir()]
        argv = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "matrix", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*argv, *places], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return [Proof(*row) for row in json.loads(found.read_text())]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write down what the marks of the collected tests say."""
    if path := os.environ.get("CLUSTRIX_MATRIX"):
        Path(path).write_text(json.dumps(sorted({proof for item in items for proof in _of(item)})))


def _of(item: pytest.Item) -> list[Proof]:
    known = {row for group in ROWS.values() for row in group}
    if item.get_closest_marker("proves") and any(item.iter_markers("xfail")):
        raise pytest.UsageError(f"{item.nodeid} is expected to fail, and proves nothing")
    suite = item.get_closest_marker("column")
    found = []
    for mark in item.iter_markers("proves"):
        row, *named = mark.args
        columns = named or (suite.args if suite else ())
        test = item.nodeid.partition("[")[0]
        if row not in known or not columns or not {*columns} <= {*COLUMNS}:
            raise pytest.UsageError(f"{test}: {mark.args} {columns} is no row and column of the support matrix")
        found += [Proof(row, column, test, _kind(test, **mark.kwargs)) for column in columns]
    return found


def _kind(test: str, *, recorded: bool = False, refused: str = "") -> str:
    from clustrix import errors

    if refused:
        return f"refused: {getattr(errors, refused).__name__}"
    return "recorded" if recorded else "live" if test.startswith("tests/live") else "conformance"


def page(made: str) -> str:
    """Draw the tables, and name the test behind every cell."""
    cells: dict[tuple[str, str], list[Proof]] = defaultdict(list)
    for proof in proofs():
        cells[proof.row, proof.column].append(proof)
    parts = [HEAD.format(made=made)]
    for group, rows in ROWS.items():
        lines = [f"| {group} | {' | '.join(COLUMNS)} |", f"|{' --- |' * (len(COLUMNS) + 1)}"]
        lines += [_line(row, [cells[row, column] for column in COLUMNS]) for row in rows]
        parts.append("\n".join(lines))
    parts.append("## The tests")
    for row in (row for rows in ROWS.values() for row in rows):
        tests: dict[tuple[str, str], list[str]] = defaultdict(list)
        for column in COLUMNS:
            for proof in cells[row, column]:
                tests[proof.test, proof.kind].append(column)
        lines = [f"- {', '.join(columns)}: {_link(test)} ({kind})" for (test, kind), columns in tests.items()]
        parts.append(f"### {row}\n\n" + ("\n".join(lines) or "No test."))
    return "\n\n".join(parts) + "\n"


def _line(row: str, columns: list[list[Proof]]) -> str:
    anchor = "".join(letter for letter in row.replace(" ", "-") if letter.isalnum() or letter in "-_")
    said = [", ".join(sorted({proof.kind for proof in column})) for column in columns]
    return f"| [{row}](#{anchor.lower()}) | {' | '.join(said)} |"


def _link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[`{name}`](../../{path})"


HEAD = """# Support matrix

{made}

What works where, and which test shows it. The tests say it themselves, by a mark; this page is made from what pytest
collects, and a test compares the two. In a cell:

- **live**: a test against a real server, which it starts itself: a scheduler, sshd, Docker, Podman;
- **conformance**: a test with real processes of this machine, which needs no server and runs every time;
- **recorded**: a test against what a real server printed once, because none is started here;
- **refused**: asking for it raises that [error](errors.md) before anything is queued;
- nothing: no test shows it. Do not rely on it.

The columns are backends and what they run jobs in: virtual environments, Docker and Podman on this machine; Apptainer
and Docker on a host over SSH; Apptainer under each scheduler; pods of Kubernetes. In CI (`bash .ci/run`) a live test
whose server cannot start fails, so a green run means that every cell was green."""
