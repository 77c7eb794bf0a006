"""Torque's dialect, against what a server of version 6.1.2 printed (tests/golden/torque)."""

from __future__ import annotations

import json
import os
import re
import shlex
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
from clustrix.model.resources import Resources
from clustrix.schedulers.torque import Torque
from clustrix.transports.base import Completed
from tests.golden import job

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(job.__file__).parent / "torque" / "transcripts.json").read_text(encoding="utf-8")
)["recorded"]
OK = (State.SUCCEEDED, EndKind.EXITED, 0)
GONE = (State.CANCELLED, EndKind.CANCELLED)
FAILED_7 = (State.FAILED, EndKind.EXITED, 7)
RUNS, WAITS = (State.RUNNING,), (State.WAITING,)


def completed(name: str) -> Completed:
    answer = RECORDED[name]
    return Completed(answer["returncode"], answer["stdout"].encode(), answer["stderr"].encode())


def asked(name: str) -> list[str]:
    ids = re.findall(r"\d+(?:\[\d*\])?\.torque-here", RECORDED[name]["command"])
    return [re.sub(r"\[\d+\]", "[]", native_id) for native_id in ids]


def recorded(name: str) -> dict[int, TaskStatus]:
    """Read the tasks of the one job that a recorded command asked for."""
    (native_id,) = asked(name)
    return dict(Torque().parse_status([native_id], [completed(name)]).get(native_id, {}))


def brief(status: TaskStatus) -> tuple[Any, ...]:
    """Give state, kind of end, and exit code or signal."""
    end = status.end
    if end is None:
        return (status.state,)
    number = end.exit_code if end.kind is EndKind.EXITED else end.signal
    return (status.state, end.kind, number) if number is not None else (status.state, end.kind)


@pytest.mark.proves("success", "torque", recorded=True)
@pytest.mark.proves("segfault", "torque", recorded=True)
@pytest.mark.proves("kill -9", "torque", recorded=True)
@pytest.mark.proves("time limit", "torque", recorded=True)
@pytest.mark.proves("memory limit", "torque", recorded=True)
@pytest.mark.proves("cancel running", "torque", recorded=True)
@pytest.mark.proves("cancel queued", "torque", recorded=True)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ok", OK),
        ("exit3", (State.FAILED, EndKind.EXITED, 3)),
        ("exit127", (State.FAILED, EndKind.EXITED, 127)),
        ("exit255", (State.FAILED, EndKind.EXITED, 255)),
        ("sigsegv", (State.FAILED, EndKind.SIGNALLED, 11)),
        ("sigkill", (State.FAILED, EndKind.SIGNALLED, 9)),
        ("sigterm", (State.FAILED, EndKind.SIGNALLED, 15)),  # 143: 271 is left to who deletes
        ("innerkill", (State.FAILED, EndKind.SIGNALLED, 9)),
        ("walltime", (State.FAILED, EndKind.TIME_LIMIT)),  # -11
        ("walltime_ignoreterm", (State.FAILED, EndKind.TIME_LIMIT)),
        ("cput", (State.FAILED, EndKind.TIME_LIMIT)),  # -12
        ("vmem_of_all", (State.FAILED, EndKind.OUT_OF_MEMORY)),  # -10: four processes together
        ("vmem", (State.FAILED, EndKind.EXITED, 1)),  # one process alone gets a MemoryError: a limit of addresses
        ("mem", (State.FAILED, EndKind.EXITED, 1)),
        ("deleted_running", GONE),  # 271
        ("deleted_trap42", GONE),
        ("deleted_ignoreterm", GONE),
        ("deleted_held", GONE),  # no exit status
        ("deleted_waiting", GONE),
        ("depend_failed", (State.FAILED, EndKind.UNSCHEDULABLE)),  # 271, too
        ("mom_restarted", OK),  # MOM and the job were killed: whether there is an outcome is asked of the store
        ("running", RUNS),
        ("queued", WAITS),
        ("odd_variables", WAITS),
        ("qstat_account", WAITS),
    ],
)
def test_one_job(name: str, expected: tuple[Any, ...]) -> None:
    assert {task: brief(status) for task, status in recorded(name).items()} == {0: expected}


def test_what_a_status_tells_beside_the_state() -> None:
    limit = recorded("walltime")[0]
    assert limit.node == "torque-here"
    assert limit.end is not None
    assert limit.end.message == "Torque says nothing, exit status -11"
    never = recorded("depend_failed")[0]
    assert never.end is not None
    assert "deleted as result of dependency on job 44.torque-here" in never.end.message
    unborn = recorded("deleted_held")[0]
    assert unborn.end is not None
    assert "it never ran" in unborn.end.message


@pytest.mark.proves("why it waits", "torque", recorded=True)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("queued", "Not enough of the right type of nodes are available"),
        ("held", "it is held"),
        ("depend", "it waits for another job"),
        ("waiting_for_its_time", "its begin time has not come"),
    ],
)
def test_why_a_job_waits(name: str, reason: str) -> None:
    assert recorded(name) == {0: TaskStatus(state=State.WAITING, reason=reason)}


@pytest.mark.proves("array with failed items", "torque", recorded=True)
@pytest.mark.proves("max_parallel", "torque", recorded=True)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("array_one_failed", {0: OK, 1: OK, 2: FAILED_7, 3: OK, 4: OK}),
        ("array_max_two", {task: RUNS if task < 2 else WAITS for task in range(10)}),
        ("array_subjob_deleted", {task: RUNS if task < 2 else GONE if task == 5 else WAITS for task in range(10)}),
        ("array_held", {0: WAITS, 1: WAITS}),
        ("array_held_deleted", {0: GONE, 1: GONE}),
        ("array_deleted", dict.fromkeys(range(10), GONE)),
        ("array_forgotten", {0: (State.LOST,), 1: (State.LOST,), 2: RUNS}),  # keep_completed=0; of 3 nothing is said
    ],
)
def test_an_array(name: str, expected: dict[int, tuple[Any, ...]]) -> None:
    assert {task: brief(status) for task, status in recorded(name).items()} == expected


def test_why_a_task_of_an_array_waits() -> None:
    assert recorded("array_max_two")[5].reason == "as many tasks of the array run as may"


@pytest.mark.parametrize("name", ["qstat_unknown", "array_unknown", "forgotten", "array_all_forgotten"])
def test_only_what_torque_calls_unknown_is_left_out(name: str) -> None:
    assert RECORDED[name]["returncode"] == 153
    assert recorded(name) == {}


@pytest.mark.parametrize("name", ["several", "several_unknown_last"])
def test_several_jobs(name: str) -> None:
    """A document for each that is known, whatever stands before it."""
    assert RECORDED[name]["returncode"] == 153
    found = Torque().parse_status(asked(name), [completed(name)])
    assert {native_id: brief(tasks[0]) for native_id, tasks in found.items()} == {
        "2.torque-here": OK,
        "4.torque-here": (State.FAILED, EndKind.EXITED, 3),
    }


@pytest.mark.proves("server restart", "torque", recorded=True)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "server_down_qstat",
            r"Torque does not answer: Unable to communicate with torque-here\(192\.0\.2\.5\); Cannot ",
        ),
        ("trqauthd_down_qstat", "Torque does not answer"),
        ("other_user_qstat", "says nothing of 59.torque-here: qstat: Unauthorized Request"),
    ],
)
def test_no_answer_is_no_end(name: str, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        recorded(name)


def said(xml: str) -> dict[int, TaskStatus]:
    return dict(Torque().parse_status(["1.a"], [Completed(0, xml.encode(), b"")])["1.a"])


def test_answers_of_other_versions() -> None:
    """Before 6 there is no line of XML before the document, and ``<`` stands in it as it is."""
    text = "<Data><Job><Job_Id>1.a</Job_Id>{}<job_state>Q</job_state><comment>R&amp;D &lt;x&gt;</comment></Job></Data>"
    odd = "<Variable_List>A=&x<y,B=() { <job_state>C</job_state>},PBS_O_PATH=/é</Variable_List>"
    for document in (text.format(""), text.format(odd)):
        assert said(document) == {0: TaskStatus(state=State.WAITING, reason="R&D <x>")}
    with pytest.raises(UnparsableOutput, match="no XML"):
        said("Job Id: 1.a\n    job_state = Q\n")
    with pytest.raises(UnparsableOutput, match="no XML"):  # cut, after many jobs
        said(text.format("").removesuffix("</Data>") * 100 + "<Job><Job_Id>1.a</Job_Id><job_state>R</job_st")
    with pytest.raises(UnparsableOutput, match="without id or state"):
        said("<Data><Job><Job_Id>1.a</Job_Id></Job></Data>")
    with pytest.raises(UnparsableOutput, match="'Z'"):
        said("<Data><Job><Job_Id>1.a</Job_Id><job_state>Z</job_state></Job></Data>")
    with pytest.raises(BackendError, match=r"says nothing of 1\.a"):
        said('<?xml version="1.0"?>\n<Data></Data>\n')


def run(directory: Path, argv: tuple[str, ...], **commands: str) -> Completed:
    """Run a command of the dialect where these commands stand in for Torque's."""
    for name, text in commands.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o700)
    environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "CALLS": str(directory / "calls")}
    done = subprocess.run(argv, capture_output=True, env=environment, check=False)
    return Completed(done.returncode, done.stdout, done.stderr)


def answers(name: str, directory: Path) -> str:
    """Write a command that answers as it was recorded."""
    answer = RECORDED[name]
    (directory / f"{name}.out").write_text(answer["stdout"])
    (directory / f"{name}.err").write_text(answer["stderr"])
    place = shlex.quote(str(directory / name))
    return f"cat {place}.out; cat {place}.err >&2; exit {answer['returncode']}"


def test_found_by_name(tmp_path: Path) -> None:
    argv = Torque().find_argv(job.JOB)
    assert argv[-1].endswith(job.JOB.id.ulid)
    alone, first = answers("qselect", tmp_path), answers("qselect_array", tmp_path)
    nobody = answers("qselect_nobody", tmp_path)
    for both, found in (((alone, nobody), "51.torque-here"), ((nobody, first), "54[].torque-here")):
        qselect = f"case $2 in *-0) ({both[1]});; *) ({both[0]});; esac"
        assert Torque().parse_find(run(tmp_path, argv, qselect=qselect)) == found
    assert Torque().parse_find(run(tmp_path, argv, qselect=nobody)) is None
    assert Torque().parse_find(Completed(0, b"9.a\n12[0].a\n10.a\n", b"")) == "12[].a"
    with pytest.raises(BackendError, match="Cannot connect"):
        Torque().parse_find(run(tmp_path, argv, qselect=answers("server_down_qselect", tmp_path)))


@pytest.mark.parametrize(
    ("name", "ended"),
    [(name, True) for name in ("qdel_running", "qdel_completed", "qdel_unknown", "qdel_several", "qdel_array_unknown")]
    + [(name, False) for name in ("server_down_qdel", "trqauthd_down_qdel", "other_user_qdel")],
)
def test_cancelling_what_has_ended_is_no_failure(tmp_path: Path, name: str, *, ended: bool) -> None:
    done = run(tmp_path, Torque().cancel_argv(["2.torque-here"]), qdel=answers(name, tmp_path))
    assert (done.returncode == 0) is ended
    assert ended or done.stderr


def test_cancelling_twice_is_no_failure(tmp_path: Path) -> None:
    """What req_delete.c of 6.1.2 answers while MOM is still at the first."""
    qdel = "echo 'qdel: Invalid request MSG=job cancel in progress 2.torque-here' >&2; exit 156"
    assert run(tmp_path, Torque().cancel_argv(["2.torque-here"]), qdel=qdel).returncode == 0


def test_accepted(tmp_path: Path) -> None:
    commands = {"qstat": answers("version", tmp_path), "qsub": '[ "$*" = "/a b/script.sh" ] && echo 1.a'}
    done = run(tmp_path, Torque().submit_argv(job.JOB, "/a b/script.sh"), **commands)
    assert Torque().parse_submit(done) == "1.a"
    assert Torque().parse_submit(completed("qsub_accepted")) == "1.torque-here"
    assert Torque().parse_submit(completed("qsub_accepted_array")) == "3[].torque-here"
    with pytest.raises(UnparsableOutput):
        Torque().parse_submit(Completed(0, b"hello\n", b""))


def test_pbs_is_not_taken_for_torque(tmp_path: Path) -> None:
    qstat = "echo pbs_version = 23.06.06"
    done = run(tmp_path, Torque().submit_argv(job.JOB, "script.sh"), qstat=qstat, qsub='touch "$CALLS"')
    with pytest.raises(SubmitRejected, match=r"PBS 23\.06\.06\n.*backend: pbs"):
        Torque().parse_submit(done)
    assert not (tmp_path / "calls").exists()
    with pytest.raises(ConfigError, match=r"PBS 23\.06\.06\n.*backend: pbs"):
        Torque().parse_version(run(tmp_path, Torque().version_argv(), qstat=qstat))
    assert Torque().parse_version(completed("version")) == "Torque 6.1.2"
    assert RECORDED["qsub_select"]["returncode"] == 0  # what is meant for PBS it accepts, and runs on one core


@pytest.mark.proves("refusal in the scheduler's words", "torque", recorded=True)
@pytest.mark.proves("unsatisfiable request", "torque", recorded=True)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("qsub_bad_queue", "submit error (Unknown queue MSG=requested queue not found)"),
        ("qsub_queue_disabled", "queue is disabled: user alice@torque-here, queue off"),
        ("qsub_over_queue_walltime", "cannot satisfy queue max walltime requirement"),
        ("qsub_unknown_resource", "Unknown resource type  Resource_List.nosuchres"),
        ("qsub_too_many_cores", "cannot locate feasible nodes"),
        ("qsub_gpus", "cannot locate feasible nodes"),
        ("qsub_unknown_property", "cannot locate feasible nodes"),
        ("qsub_bad_mem", "Illegal attribute or resource value for Resource_List.mem"),
        ("qsub_array_too_big", "Requested array size too large, limit is 1000"),
        ("qsub_depend_unknown", "Invalid Job Dependency"),
        ("qsub_bad_attribute", "detected presence of an unknown attribute"),
        ("qsub_bad_name", "illegal -N value"),
        ("qsub_J", "The -J option can only be used in conjunction with -P"),
    ],
)
def test_refused_in_its_own_words(name: str, words: str) -> None:
    with pytest.raises(SubmitRejected) as caught:
        Torque().parse_submit(completed(name))
    assert words in str(caught.value)
    assert "usage" not in str(caught.value)
    assert str(caught.value).startswith(
        ("Torque refused the job: submit error (", "Torque refused the job: illegal", "Torque refused the job: The")
    )


@pytest.mark.parametrize("name", ["server_down_qsub", "trqauthd_down_qsub"])
def test_a_server_that_is_down_refuses_nothing(name: str) -> None:
    with pytest.raises(BackendError, match="Torque does not answer") as caught:
        Torque().parse_submit(completed(name))
    assert not isinstance(caught.value, SubmitRejected)


def test_limits() -> None:
    assert Torque().parse_limits(completed("server")).max_array_index == 999
    assert RECORDED["qsub_array_max"]["command"].startswith("qsub -t 0-999")
    assert RECORDED["qsub_array_max"]["returncode"] == 0
    assert Torque().parse_limits(completed("server_down_qstat")).max_array_index is None


def test_the_environment_of_a_task() -> None:
    found = dict(re.findall(r"^(\w+)=(.*)$", RECORDED["environment"]["stdout"], re.MULTILINE))
    names = re.findall(r"PBS_\w+", Torque.array_index + Torque.native_id)
    assert {name: found[name] for name in names} == {"PBS_ARRAYID": "3", "PBS_JOBID": "53[3].torque-here"}
    assert "PBS_ARRAY_INDEX" not in found  # which is PBS's


def script(**changes: Any) -> str:
    tasks = changes.pop("tasks", 1)
    return Torque().script(replace(job.JOB, resources=Resources(**changes)), job.PATHS, tasks=tasks)


def options(text: str) -> list[list[str]]:
    """Split as qsub's make_argv does: no escapes within quotes."""
    lines = [line.removeprefix("#PBS ") for line in text.splitlines() if line.startswith("#PBS ")]
    return [[a or b or c for a, b, c in re.findall(r"'([^']*)'|\"([^\"]*)\"|(\S+)", line)] for line in lines]


def test_a_task_alone_is_no_array() -> None:
    single = script()
    assert "-t" not in [option[0] for option in options(single)]
    assert "\ntask=0\n" in single
    later = Torque().script(replace(job.JOB, max_parallel=None), job.PATHS, offset=1000, tasks=1)
    assert "\ntask=1000\n" in later
    part = Torque().script(job.JOB, job.PATHS, offset=1000, tasks=9)
    assert ["-t", "0-8%8"] in options(part)
    assert "task=$((1000 + ${PBS_ARRAYID:-0}))" in part
    assert not [text for text in (single, later, part) if ["-r", "n"] not in options(text)]


def test_tasks_of_an_array_leave_nothing_in_the_spool(tmp_path: Path) -> None:
    text = script(tasks=2).replace(f"exec sh {shlex.quote(job.PATHS.wrapper)}", "exec true")
    text = text.replace(shlex.quote(job.PATHS.logs), shlex.quote(str(tmp_path)))
    for name, stays in (("1-0.torque-here.OU", False), ("data", True)):
        with (tmp_path / name).open("w") as output:
            subprocess.run(["sh", "-c", text], stdout=output, check=True)
        assert (tmp_path / name).exists() is stays
    assert "readlink" not in script()


@pytest.mark.parametrize(("limit", "sleeps"), [(1, (1, 0)), (5, (4, 0)), (100, (90, 9)), (7200, (7140, 59))])
def test_the_wrapper_is_told_that_the_time_limit_is_near_and_ended_before_it(
    limit: int, sleeps: tuple[int, int]
) -> None:
    """MOM kills the shell that started it, and all the rest at once."""
    text = script(time=timedelta(seconds=limit))
    (line,) = [line for line in text.splitlines() if "XCPU" in line]
    first, second = sleeps
    tell = f"sleep {first} && kill -XCPU $$ && sleep {second} && kill -TERM $$"
    assert line == f"({tell}) </dev/null >/dev/null 2>&1 &"
    assert "XCPU" not in script()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"memory_bytes": 1}, ["-l", "mem=1kb"]),
        ({"cores": 3, "gpus": 2}, ["-l", "nodes=1:ppn=3:gpus=2"]),
        ({"constraint": "bigmem:infiniband"}, ["-l", "nodes=1:ppn=1:bigmem:infiniband"]),
        ({"time": timedelta(seconds=59.5)}, ["-l", "walltime=00:01:00"]),
        ({"time": timedelta(days=5)}, ["-l", "walltime=120:00:00"]),
        ({"backend_options": {"l": {"vmem": "8gb"}}}, ["-l", "vmem=8gb"]),
        ({"backend_options": {"p": -10}}, ["-p", "-10"]),
        ({"backend_options": {"depend": "afterok:1.a"}}, ["-W", "depend=afterok:1.a"]),
        ({"backend_options": {"h": True}}, ["-h"]),
        ({"backend_options": {"r": True}}, ["-r", "y"]),
        ({"queue": "gpu; rm -rf ~"}, ["-q", "gpu; rm -rf ~"]),
        ({"account": "it's $(id) `id` \\ #é"}, ["-A", "it's $(id) `id` \\ #é"]),
    ],
)
def test_options(asked: dict[str, Any], expected: list[str]) -> None:
    text = script(**asked)
    assert expected in options(text)
    assert text.count("\n#PBS") == len(options(text))
    assert [option[0] for option in options(text)].count("-r") == 1


@pytest.mark.parametrize("value", ["a\nb", "a\n#PBS -q other", "a\0b", "a\x1b[2J", "\"both' kinds"])
@pytest.mark.parametrize("name", ["queue", "account", "constraint", "depend", "l"])
def test_what_cannot_be_said_is_refused_by_name(name: str, value: str) -> None:
    given = {"l": {"name": value}} if name == "l" else {name: value}
    asked = given if name in {"queue", "account", "constraint"} else {"backend_options": given}
    with pytest.raises(ConfigError, match=r"^(the resource ')?" + ("name" if name == "l" else name)):
        script(**asked)


@pytest.mark.proves("several nodes", "torque", refused="UnsupportedResource")
@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"nodes": 2}, UnsupportedResource, "MPI"),
        ({"partition": "a"}, UnsupportedResource, "queue="),
        ({"qos": "a"}, UnsupportedResource, "qos"),
        ({"gpu_type": "a100", "gpus": 1}, UnsupportedResource, "constraint="),
        ({"constraint": "a+4"}, ConfigError, "constraint"),  # would be four nodes more
        ({"constraint": "2:ppn=64"}, ConfigError, "constraint"),
        ({"modules": ("a\nb",)}, ConfigError, "modules"),
        ({"backend_options": {"o": "x"}}, ConfigError, "set by clustrix"),
        ({"backend_options": {"v": "A=1"}}, ConfigError, "environment_variables"),
        ({"backend_options": {"dependd": "x"}}, UnknownOption, "'depend'"),
        ({"backend_options": {"l": {"nodes": "2"}}}, ConfigError, "twice"),
        ({"backend_options": {"l": "nodes=2"}}, ConfigError, "table"),
        ({"backend_options": {"l": {"a b": 1}}}, ConfigError, "a b"),
    ],
)
def test_impossible_requests(asked: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        script(**asked)
    assert words in str(caught.value)
