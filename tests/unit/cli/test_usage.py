"""What ``clustrix usage`` prints, for people and for programs."""

from __future__ import annotations

import json
from typing import Any

from clustrix import pipeline
from clustrix.model.job import EndKind

from .test_jobs import calls, halve, run

ASKED = {"cores": 2, "memory": "1GB", "time": "1h"}


def measure(backend: Any) -> None:
    backend.metadata = {"task": 0, "started": 50.0, "ended": 150.0, "cpu_seconds": 90.0, "peak_memory_bytes": 200 << 20}


def test_usage_is_a_table_and_a_line_to_paste(backend: Any) -> None:
    measure(backend)
    job = str(pipeline.submit_many(halve, calls(2, 4), ASKED).id)
    said = run("usage", job)
    assert said.stdout.splitlines() == [
        "        ASKED     USED           NEXT",
        "cores   2         0.9 (45%)      1",
        "memory  1GB       200MB (20%)    256MB",
        "time    01:00:00  00:01:40 (3%)  00:05:00",
        "",
        '@cluster(cores=1, memory="256MB", time="00:05:00")',
    ]
    assert said.stderr == ""
    found = json.loads(run("usage", job, "--json").stdout)
    assert found["asked"] == {"cores": 2, "memory_bytes": 1 << 30, "time_seconds": 3600.0}
    assert found["next"] == {"cores": 1, "memory_bytes": 256 << 20, "time_seconds": 300.0}
    assert found["fractions"]["cores"] == 0.45
    assert (found["items"], found["measured"], found["failed"], found["open"]) == (2, 2, 0, 0)
    assert found["decorator"] == '@cluster(cores=1, memory="256MB", time="00:05:00")'


def test_usage_says_what_failed_and_what_ran_out(backend: Any) -> None:
    measure(backend)
    mixed = str(pipeline.submit_many(halve, calls(2, 3), ASKED).id)
    assert run("usage", mixed).stderr == "1 of 2 items ended without a value, and are not in these figures.\n"
    backend.ends = [EndKind.OUT_OF_MEMORY]
    said = run("usage", str(pipeline.submit(halve, (2,), {}, ASKED).id))
    assert said.stdout.splitlines()[-1] == '@cluster(cores=2, memory="2GB", time="01:00:00")'
    assert "Memory ran out." in said.stderr
    backend.ends = [EndKind.TIME_LIMIT]
    said = run("usage", str(pipeline.submit(halve, (2,), {}, ASKED).id))
    assert said.stdout.splitlines()[-1] == '@cluster(cores=2, memory="1GB", time="02:00:00")'


def test_nothing_is_proposed_where_nothing_was_measured(backend: Any) -> None:
    said = run("usage", str(pipeline.submit(halve, (2,), {}, ASKED).id))
    assert "@cluster" not in said.stdout
    assert said.stderr == "Nothing was measured: nothing is proposed.\n"
    assert run("usage", "nonsense", status=5).stdout == ""
