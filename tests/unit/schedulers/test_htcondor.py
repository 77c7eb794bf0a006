"""HTCondor's dialect, against what a pool of version 23.9.6 printed (tests/golden/htcondor, recorded there)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from clustrix.errors import (
    BackendError,
    ConfigError,
    SubmitRejected,
    UnknownOption,
    UnparsableOutput,
    UnsupportedResource,
)
from clustrix.model.job import EndKind, State, TaskStatus
from clustrix.model.paths import JobPaths
from clustrix.model.resources import Resources
from clustrix.schedulers.htcondor import Htcondor
from clustrix.transports.base import Completed
from tests.golden import job

RECORDED: dict[str, Any] = json.loads((Path(job.__file__).parent / "htcondor" / "transcripts.json").read_text())
OK = (State.SUCCEEDED, EndKind.EXITED, 0)
WAITS = (State.WAITING,)
RUNS = (State.RUNNING,)
EMPTY = b"%% factories\n%% history\n%% analysis\n"


def completed(answer: dict[str, Any]) -> Completed:
    return Completed(answer["returncode"], answer["stdout"].encode(), answer["stderr"].encode())


def recorded(scenario: str) -> list[dict[int, TaskStatus]]:
    """Read a recorded scenario, in the order of its jobs."""
    jobs, answers = RECORDED[scenario]["jobs"], RECORDED[scenario]["answers"]
    found = Htcondor().parse_status(jobs, [completed(answer) for answer in answers])
    return [dict(found[job]) if job in found else {} for job in jobs]


def brief(status: TaskStatus) -> tuple[Any, ...]:
    """Give state, kind of end, and exit code or signal."""
    end = status.end
    if end is None:
        return (status.state,)
    number = end.exit_code if end.kind is EndKind.EXITED else end.signal
    return (status.state, end.kind, number) if number is not None else (status.state, end.kind)


def briefly(scenario: str) -> list[dict[int, tuple[Any, ...]]]:
    return [{task: brief(status) for task, status in tasks.items()} for tasks in recorded(scenario)]


def of(ad: dict[str, Any], *, queued: bool = True) -> TaskStatus:
    """Read the one job of that ad, from the queue or from the history."""
    text = json.dumps([{"ClusterId": 7, "ProcId": 0, **ad}]).encode()
    answer = text + b"\n" + EMPTY if queued else EMPTY.replace(b"history\n", b"history\n" + text + b"\n")
    return Htcondor().parse_status(["7.0-0"], [Completed(0, answer, b"")])["7.0-0"][0]


def test_ends() -> None:
    assert briefly("ended") == [
        {0: OK},
        {0: (State.FAILED, EndKind.EXITED, 3)},
        {0: (State.FAILED, EndKind.SIGNALLED, 9)},  # the exit code 137
        {0: (State.FAILED, EndKind.SIGNALLED, 9)},
        {0: (State.FAILED, EndKind.EXITED, 255)},
    ]
    assert recorded("ended")[1][0].node == "pool"


def test_what_the_pool_did_to_jobs() -> None:
    late, greedy, deleted, vacated = recorded("limits")
    assert brief(late[0]) == (State.FAILED, EndKind.TIME_LIMIT)
    assert brief(greedy[0]) == (State.FAILED, EndKind.OUT_OF_MEMORY)
    assert brief(deleted[0]) == (State.CANCELLED, EndKind.CANCELLED)
    assert brief(vacated[0]) == (State.FAILED, EndKind.PREEMPTED)
    said = [tasks[0].end.message for tasks in (late, greedy, deleted, vacated) if tasks[0].end]
    assert "(code 46): The job exceeded allowed job duration of 00:02" in said[0]
    assert "over cgroup memory limit" in said[1]
    assert said[2].endswith("via condor_rm (by user alice)")
    assert said[3].endswith("User requested the job to vacate")
    # Before they are taken out of the queue.
    assert briefly("held at a limit") == [
        {0: (State.FAILED, EndKind.OUT_OF_MEMORY)},
        {0: (State.FAILED, EndKind.TIME_LIMIT)},
    ]
    assert briefly("held by a policy") == [{0: (State.FAILED, EndKind.OUT_OF_MEMORY)}]


def test_why_jobs_wait() -> None:
    running, full, never, too_much, held = recorded("waiting")
    assert running == {0: TaskStatus(state=State.RUNNING, node="pool")}
    assert full == {0: TaskStatus(state=State.WAITING, reason="no match found")}
    assert {brief(status) for status in never.values()} == {(State.FAILED, EndKind.UNSCHEDULABLE)}
    assert never[1].reason == 'no machine of the pool meets Arch == "foo"'
    assert too_much[0].reason.startswith("no machine of the pool meets TARGET.Memory >= RequestMemory, where Request")
    assert held == {0: TaskStatus(state=State.WAITING, reason="it is held: submitted on hold at user's request")}


def test_an_empty_pool_is_no_reason_to_give_up() -> None:
    text = RECORDED["waiting"]["answers"][0]["stdout"].replace("Of 1 machines", "Of 0 machines")
    jobs = RECORDED["waiting"]["jobs"]
    found = Htcondor().parse_status(jobs, [Completed(0, text.encode(), b"")])
    assert {brief(found[job][0]) for job in jobs[1:]} == {WAITS}


def test_tasks_that_are_held_back_wait() -> None:
    (tasks,) = recorded("array")
    assert {task: brief(status) for task, status in tasks.items()} == {
        0: RUNS,
        1: (State.FAILED, EndKind.EXITED, 4),
        **dict.fromkeys(range(2, 10), WAITS),
    }
    assert "max_parallel" in tasks[9].reason
    (tasks,) = briefly("cancelled array")
    gone = (State.CANCELLED, EndKind.CANCELLED)
    expected = {0: gone, 1: (State.FAILED, EndKind.EXITED, 4), 2: gone}
    assert tasks == expected | dict.fromkeys(range(3, 10), (State.LOST,))


def test_a_part_of_the_history_is_enough() -> None:
    """An array of which nothing is in the queue yet is known all the same."""
    answer = b'%% factories\n[{"ClusterId": 7}]\n%% history\n%% analysis\n'
    assert Htcondor().parse_status(["7.0-4"], [Completed(0, answer, b"")]) == {"7.0-4": {}}


def test_only_what_nobody_knows_is_left_out() -> None:
    assert recorded("unknown") == [{}]
    assert briefly("unknown among others") == [{}, {0: OK}]


def test_no_answer_is_no_end() -> None:
    with pytest.raises(BackendError, match=r"HTCondor does not answer: Error: Can't find address for schedd pool$"):
        recorded("no queue")
    with pytest.raises(UnparsableOutput, match="no JSON"):
        Htcondor().parse_status(["7.0-0"], [Completed(0, b"[{\n" + EMPTY, b"")])
    with pytest.raises(UnparsableOutput, match="broke off"):
        Htcondor().parse_status(["7.0-0"], [Completed(0, b"[]\n%% factories\n", b"")])


@pytest.mark.parametrize(
    ("ad", "expected"),
    [
        ({"JobStatus": 6}, RUNS),
        ({"JobStatus": 7}, RUNS),
        ({"JobStatus": 3, "LastJobStatus": 2}, RUNS),  # it is being ended
        ({"JobStatus": 3, "LastJobStatus": 1}, (State.CANCELLED, EndKind.CANCELLED)),
        ({"JobStatus": 4, "ExitBySignal": False, "ExitCode": 0}, OK),
        ({"JobStatus": 5, "HoldReasonCode": 1}, WAITS),
        ({"JobStatus": 5, "HoldReasonCode": 16}, WAITS),
        ({"JobStatus": 5, "HoldReasonCode": 6}, (State.FAILED, EndKind.UNSCHEDULABLE)),
        ({"JobStatus": 5, "HoldReasonCode": 21, "HoldReasonSubCode": 104}, (State.FAILED, EndKind.UNSCHEDULABLE)),
        ({"JobStatus": 5, "HoldReasonCode": 26, "HoldReasonSubCode": 102}, (State.FAILED, EndKind.OUT_OF_MEMORY)),
        ({"JobStatus": 5, "HoldReasonCode": 47}, (State.FAILED, EndKind.TIME_LIMIT)),
        ({"JobStatus": 5}, (State.FAILED, EndKind.UNSCHEDULABLE)),
    ],
)
def test_jobs_of_the_queue(ad: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert brief(of(ad)) == expected


def test_what_nobody_has_heard_of() -> None:
    with pytest.raises(UnparsableOutput, match="job status 8"):
        of({"JobStatus": 8})
    with pytest.raises(UnparsableOutput, match=r"how 7\.0 ended"):
        of({"JobStatus": 4, "ExitBySignal": False}, queued=False)


def test_removed_by_hand_after_it_was_held_at_a_limit() -> None:
    ad = {"JobStatus": 3, "RemoveReason": "via condor_rm (by user alice)", "LastHoldReasonCode": 34}
    assert brief(of({**ad, "LastJobStatus": 5}, queued=False)) == (State.FAILED, EndKind.OUT_OF_MEMORY)
    assert brief(of({**ad, "LastJobStatus": 2}, queued=False)) == (State.CANCELLED, EndKind.CANCELLED)


COMMANDS = {
    "condor_submit": "cat >described; cat said; echo '7.0 - 7.1'",
    "condor_q": "case $* in *-factory*) ;; *-better-analyze*|*-af*) ;; *) cat queue;; esac",
    "condor_history": 'echo "$*" >>asked',
    "condor_rm": 'echo "$1" >removed; cat said; exit 1',
}


def run(directory: Path, argv: tuple[str, ...]) -> Completed:
    """Run a command of the dialect where these commands stand in for HTCondor's."""
    for name, text in COMMANDS.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o700)
    environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}
    done = subprocess.run(argv, capture_output=True, env=environment, cwd=directory, check=False)
    return Completed(done.returncode, done.stdout, done.stderr)


def test_the_history_is_asked_for_what_is_not_in_the_queue_and_for_nothing_else(tmp_path: Path) -> None:
    ads = [{"ClusterId": 7, "ProcId": task, "JobStatus": 2} for task in range(2)]
    (tmp_path / "queue").write_text(json.dumps(ads, indent=0))
    (argv,) = Htcondor().status_argv(["7.0-1"])
    found = Htcondor().parse_status(["7.0-1"], [run(tmp_path, argv)])
    assert {task: status.state for task, status in found["7.0-1"].items()} == dict.fromkeys(range(2), State.RUNNING)
    assert not (tmp_path / "asked").exists()
    (argv,) = Htcondor().status_argv(["7.0-4", "8.0-0"])
    run(tmp_path, argv)
    assert "-constraint ClusterId == 7 || ClusterId == 8 -limit 4\n" in (tmp_path / "asked").read_text()


def test_a_version_that_ignores_a_command_does_not_get_the_job(tmp_path: Path) -> None:
    (tmp_path / "script.sh").write_text(script(time=timedelta(seconds=9)))
    (tmp_path / "said").write_text("WARNING: something else\n")
    argv = Htcondor().submit_argv(job.JOB, str(tmp_path / "script.sh"))
    assert Htcondor().parse_submit(run(tmp_path, argv)) == "7.0-1"
    described = (tmp_path / "described").read_text()
    assert "\nallowed_job_duration = 9\n" in described
    assert not [line for line in described.splitlines() if not re.match(r"[\w.]+ = .|queue \d+$", line)]
    assert not (tmp_path / "removed").exists()
    warning = "WARNING: the line 'allowed_job_duration = 9' was unused by condor_submit. Is it a typo?"
    (tmp_path / "said").write_text(f"{warning}\n")
    with pytest.raises(SubmitRejected, match="allowed_job_duration = 9"):
        Htcondor().parse_submit(run(tmp_path, argv))
    assert (tmp_path / "removed").read_text() == "7\n"


@pytest.mark.parametrize(
    ("said", "ended"),
    [
        ("Couldn't find/remove all jobs in cluster 9", True),
        ("Couldn't find/remove all jobs in cluster 9\nAll jobs in cluster 8 have been marked for removal", True),
        (RECORDED["no queue to remove from"]["stderr"], False),
        ("Permission denied to remove job 8.0", False),
    ],
)
def test_cancelling_what_has_ended_is_no_failure(tmp_path: Path, said: str, *, ended: bool) -> None:
    (tmp_path / "said").write_text(f"{said}\n")
    done = run(tmp_path, Htcondor().cancel_argv(["8.0-0", "9.0-3"]))
    assert (done.returncode == 0) is ended
    assert completed(RECORDED["cancel what ended"]).returncode == 0
    assert completed(RECORDED["no queue to remove from"]).returncode != 0


def test_found_by_name() -> None:
    assert job.JOB.id.ulid in Htcondor().find_argv(job.JOB)[-1]
    for answer in RECORDED["find"].values():
        assert Htcondor().parse_find(completed(answer["answer"])) == answer["id"]
    ads = [{"ClusterId": cluster, "ProcId": 0, "TotalSubmitProcs": 3} for cluster in (7, 12, 9)]
    assert Htcondor().parse_find(Completed(0, json.dumps(ads).encode(), b"")) == "12.0-2"
    with pytest.raises(BackendError, match="refused"):
        Htcondor().parse_find(Completed(1, b"", b"refused"))


def test_accepted() -> None:
    assert Htcondor().parse_submit(completed(RECORDED["accepted"])).endswith(".0-0")
    assert Htcondor().parse_submit(completed(RECORDED["accepted array"])).endswith(".0-7")
    with pytest.raises(UnparsableOutput):
        Htcondor().parse_submit(Completed(0, b"hello\n", b""))


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("group", "HTCondor refused the job: Invalid accounting_group: a b"),
        ("expression", "Parse error in expression: RequestDisk = x y"),
        ("requirements", "Parse error in expression: Requirements = ((Arch ==)"),
        ("array", "would exceed MAX_JOBS_PER_SUBMISSION"),
    ],
)
def test_refused_in_its_own_words(refusal: str, words: str) -> None:
    with pytest.raises(SubmitRejected) as caught:
        Htcondor().parse_submit(completed(RECORDED["refusals"][refusal]))
    assert words in str(caught.value)


def test_a_queue_that_is_down_refuses_nothing() -> None:
    with pytest.raises(BackendError, match="HTCondor does not answer") as caught:
        Htcondor().parse_submit(completed(RECORDED["no queue to submit to"]))
    assert not isinstance(caught.value, SubmitRejected)


def test_limits() -> None:
    assert Htcondor().parse_limits(completed(RECORDED["limits of the site"])).max_array_index == 19_999
    assert Htcondor().parse_limits(completed(RECORDED["no queue to ask for limits"])).max_array_index is None
    assert Htcondor().parse_limits(Completed(0, b"Not defined: X\n", b"")).max_array_index is None


def script(**changes: Any) -> str:
    return Htcondor().script(replace(job.JOB, resources=Resources(**changes)), job.PATHS)


def test_a_part_of_a_map() -> None:
    part = Htcondor().script(job.JOB, job.PATHS, offset=20_000, tasks=9)
    assert "\n#CONDOR max_materialize = 8\n" in part
    assert "\n#CONDOR queue 9\n" in part
    assert "/script-20000.sh' $(Process) " in part
    assert "\ntask=$((20000 + ${1:-0}))\n" in part
    assert "max_materialize" not in Htcondor().script(job.JOB, job.PATHS, tasks=8)


def test_what_runs(tmp_path: Path) -> None:
    paths = JobPaths(str(tmp_path / "it's"))
    Path(paths.logs).mkdir(parents=True)
    Path(paths.wrapper).write_text("echo $1 $CLUSTRIX_NATIVE_ID; exit 3\n")
    text = Htcondor().script(replace(job.JOB, resources=Resources()), paths, offset=4, tasks=3)
    Path(paths.script_from(4)).write_text(text)
    done = subprocess.run(["sh", paths.script_from(4), "2", "7.2"], check=False)
    assert done.returncode == 3
    assert Path(paths.log(6)).read_text() == "6 7.2\n"


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"cores": 3}, "request_cpus = 3"),
        ({"memory_bytes": 2**30 + 1}, "request_memory = 1048577K"),
        ({"gpus": 2}, "request_gpus = 2"),
        ({"time": timedelta(seconds=59.5)}, "allowed_job_duration = 60"),
        ({"account": "group_a.b"}, "accounting_group = group_a.b"),
        ({}, "requirements = NumJobStarts == 0"),
        ({"backend_options": {"requirements": "A || B"}}, "requirements = (A || B) && NumJobStarts == 0"),
        ({"backend_options": {"requirements": "A || B", "requeue": True}}, "requirements = (A || B)"),
        ({"backend_options": {"nice_user": True}}, "nice_user = true"),
        ({"backend_options": {"priority": -10}}, "priority = -10"),
        ({"backend_options": {"rank": "Memory"}}, "rank = Memory"),
        ({"backend_options": {"keep_claim_idle": 20}}, "keep_claim_idle = 20"),
        ({"backend_options": {"require_gpus": 'DeviceName == "A100"'}}, 'require_gpus = DeviceName == "A100"'),
        ({"backend_options": {"attributes": {"Flavour": 'a "b" \\ é'}}}, 'My.Flavour = "a \\"b\\" \\\\ é"'),
        ({"backend_options": {"attributes": {"Wanted": True}}}, "My.Wanted = true"),
        ({"backend_options": {"attributes": {"Share": 0.5}}}, "My.Share = 0.5"),
    ],
)
def test_options(asked: dict[str, Any], line: str) -> None:
    assert f"#CONDOR {line}" in script(**asked).splitlines()


def test_queued_again_only_where_asked() -> None:
    assert "NumJobStarts" in script()
    assert "NumJobStarts" not in script(backend_options={"requeue": True})


@pytest.mark.parametrize("value", ["a\nb", "a\n#CONDOR queue 9", "$HOME", "$(id)", "$$(Cpus)", "a\\", " a", "a\t"])
@pytest.mark.parametrize("name", ["account", "requirements", "rank", "attributes"])
def test_what_cannot_be_said_is_refused_by_name(name: str, value: str) -> None:
    asked = {"backend_options": {name: {"A": value} if name == "attributes" else value}}
    with pytest.raises(ConfigError, match=f"^{name}"):
        script(**({"account": value} if name == "account" else asked))


@pytest.mark.parametrize("root", ["/scratch/$(id)", "/scratch/a\nb"])
def test_a_root_that_cannot_be_said(root: str) -> None:
    with pytest.raises(ConfigError, match=r"^root"):
        Htcondor().script(replace(job.JOB, resources=Resources()), JobPaths(root))


@pytest.mark.proves("several nodes", "htcondor", refused="UnsupportedResource")
@pytest.mark.proves("partition or queue", "htcondor", refused="UnsupportedResource")
@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"nodes": 2}, UnsupportedResource, "MPI"),
        ({"partition": "a"}, UnsupportedResource, "requirements"),
        ({"queue": "a"}, UnsupportedResource, "requirements"),
        ({"qos": "a"}, UnsupportedResource, "qos"),
        ({"constraint": "a"}, UnsupportedResource, "requirements"),
        ({"gpu_type": "a100", "gpus": 1}, UnsupportedResource, "require_gpus"),
        ({"modules": ("a\nb",)}, ConfigError, "modules"),
        ({"backend_options": {"output": "x"}}, ConfigError, "set by clustrix"),
        ({"backend_options": {"environment": "A=1"}}, ConfigError, "environment_variables"),
        ({"backend_options": {"prioritee": 1}}, UnknownOption, "'priority'"),
        ({"backend_options": {"attributes": {"a b": 1}}}, ConfigError, "no name"),
        ({"backend_options": {"attributes": "a"}}, ConfigError, "table"),
        ({"backend_options": {"requeue": "yes"}}, ConfigError, "requeue"),
    ],
)
def test_impossible_requests(asked: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        script(**asked)
    assert words in str(caught.value)


def test_modules_are_loaded_in_a_login_shell() -> None:
    (line,) = [line for line in script(modules=("apptainer/1.4", "$(id)")).splitlines() if "bash -lc " in line]
    assert line.endswith("apptainer/1.4 '$(id)'")
