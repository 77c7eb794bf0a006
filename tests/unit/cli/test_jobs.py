"""What the commands about jobs print, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from clustrix import cli, pipeline
from clustrix.errors import BackendError
from clustrix.model.job import EndKind


def halve(number: int) -> float:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number / 2


def run(*argv: str, status: int = 0) -> Result:
    done = CliRunner().invoke(cli.main, list(argv))
    assert done.exit_code == status, done.output
    return done


def calls(*numbers: int) -> Any:
    return [((number,), {}) for number in numbers]


def test_jobs_says_who_does_not_answer(backend: Any) -> None:
    first = pipeline.submit(halve, (2,), {}, {})
    second = pipeline.submit_many(halve, calls(2, 4), {})
    backend.silence = BackendError("slurmctld is down")
    rows = json.loads(run("jobs", "--json").stdout)
    assert [(row["id"], row["state"], row["reason"]) for row in rows] == [
        (str(second.id), "no answer", "slurmctld is down"),
        (str(first.id), "no answer", "slurmctld is down"),
    ]
    assert [row["state"] for row in json.loads(run("jobs", "--json", "--offline").stdout)] == ["submitted"] * 2
    backend.silence = None
    lines = run("jobs").stdout.splitlines()
    assert lines[0].split() == ["ID", "FUNCTION", "STATE", "ITEMS", "CREATED", "REASON"]
    assert lines[1].split()[:4] == [str(second.id), "halve", "succeeded", "2"]
    # From now on the journal knows, and nobody is asked.
    backend.silence = BackendError("slurmctld is down")
    assert {row["state"] for row in json.loads(run("jobs", "--json").stdout)} == {"succeeded"}
    assert "unknown target" in run("jobs", "--json", "--target", "other", status=2).stderr


def test_a_result_is_a_repr_or_json_or_a_failure(backend: Any, tmp_path: Path) -> None:
    good = str(pipeline.submit(halve, (4,), {}, {}).id)
    assert run("result", good).stdout == "2.0\n"
    assert run("result", good.partition("/")[2][:20], "--output", str(tmp_path / "v.pkl")).stdout == ""
    assert (tmp_path / "v.pkl").stat().st_size > 0
    assert json.loads(run("result", good, "--json").stdout)["items"] == [
        {"index": 0, "status": "success", "value": 2.0}
    ]
    bad = str(pipeline.submit(halve, (3,), {}, {}).id)
    said = run("result", bad, status=1)
    assert said.stdout == ""
    assert "remote traceback" in said.stderr
    assert "ValueError: 3 is odd" in said.stderr
    mixed = str(pipeline.submit_many(halve, calls(2, 3, 8), {}).id)
    said = run("result", mixed, "--output", str(tmp_path / "w.pkl"), status=1)
    assert (said.stderr.splitlines()[0], (tmp_path / "w.pkl").exists()) == (
        f"nothing is written to {tmp_path / 'w.pkl'}",
        False,
    )
    said = run("result", mixed, status=1)
    assert said.stdout.splitlines() == ["1.0", "ValueError: 3 is odd", "4.0"]
    assert said.stderr == "1 of 3 items failed: 1\n"
    items = json.loads(run("result", mixed, "--json", status=1).stdout)["items"]
    assert [item["status"] for item in items] == ["success", "error", "success"]


def test_a_lost_machine_is_told_with_status_1(backend: Any) -> None:
    backend.ends = [EndKind.NODE_FAILURE]
    job = str(pipeline.submit(halve, (2,), {}, {}).id)
    assert "error" in run("result", job, status=1).stderr


def test_logs_tell_tasks_apart(backend: Any) -> None:
    one = pipeline.submit(halve, (2,), {}, {})
    assert run("logs", str(one.id)).stdout == "output\n"
    many = pipeline.submit_many(halve, calls(2, 4), {})
    assert run("logs", str(many.id)).stdout == "[0] output\n[1] output\n"
    assert "0 to 1" in run("logs", str(many.id), "--item", "2", status=2).stderr


def test_cancel_says_what_had_ended(backend: Any) -> None:
    ended = pipeline.submit(halve, (2,), {}, {})
    assert json.loads(run("cancel", str(ended.id), "--json").stdout) == [{"id": str(ended.id), "cancelled": False}]
    run("cancel", str(ended.id), "nonsense", status=5)
    assert backend.cancelled == []
