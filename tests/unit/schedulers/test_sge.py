"""SGE's dialect, against what an SGE 8.1.9 printed (tests/golden/sge, recorded by record.py there)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from clustrix.backends.batch import BatchBackend
from clustrix.errors import (
    BackendError,
    ConfigError,
    SubmitRejected,
    UnknownOption,
    UnparsableOutput,
    UnsupportedResource,
)
from clustrix.model.job import EndKind, JobRecord, State, TaskStatus
from clustrix.model.resources import Resources
from clustrix.schedulers.sge import Sge
from clustrix.transports.base import Completed
from clustrix.transports.local import Local
from tests.golden import job

RECORDED: dict[str, Any] = json.loads((Path(job.__file__).parent / "sge" / "transcripts.json").read_text())
OK = (State.SUCCEEDED, EndKind.EXITED, 0)
GONE = (State.CANCELLED, EndKind.CANCELLED)
WAITS = (State.WAITING,)


def completed(answer: dict[str, Any]) -> Completed:
    return Completed(answer["returncode"], answer["stdout"].encode(), answer["stderr"].encode())


def recorded(scenario: str) -> list[dict[int, TaskStatus]]:
    """Read a recorded scenario, in the order of its jobs."""
    jobs, answers = RECORDED[scenario]["jobs"], RECORDED[scenario]["answers"]
    found = Sge().parse_status(jobs, [completed(answer) for answer in answers])
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


def test_ends() -> None:
    assert briefly("ended") == [
        {0: OK},
        {0: (State.FAILED, EndKind.EXITED, 3)},
        {0: (State.FAILED, EndKind.SIGNALLED, 9)},  # the exit code 137
        {0: GONE},  # all of it was killed
        {0: WAITS},  # 99 queued it again
        {0: (State.FAILED, EndKind.UNSCHEDULABLE)},  # 100 is an error to SGE
    ]
    assert recorded("ended")[1][0].node == "hpc"


def test_limits_have_one_code_and_are_told_apart() -> None:
    late, greedy, deleted = recorded("limits")
    assert brief(late[0]) == (State.FAILED, EndKind.TIME_LIMIT)
    assert brief(greedy[0]) == (State.FAILED, EndKind.OUT_OF_MEMORY)
    assert brief(deleted[0]) == GONE
    assert late[0].end is not None
    assert late[0].end.message.endswith("failed 37: qmaster enforced h_rt, h_cpu, or h_vmem limit")


def test_why_jobs_wait() -> None:
    running, full, never, held, dependent, error = recorded("waiting")
    assert running == {0: TaskStatus(state=State.RUNNING, node="hpc")}
    assert "dropped because it is full" in full[0].reason
    assert brief(never[0]) == (State.FAILED, EndKind.UNSCHEDULABLE)
    assert never[0].reason == '(-l arch=foo) cannot run at host "hpc" because it offers only hl:arch=lx-amd64'
    assert held[0].reason.startswith("Job is in hold state")
    assert dependent[0].reason.startswith("job dropped because of job dependencies")
    assert {status.state for status in (full[0], held[0], dependent[0], error[0])} == {State.WAITING}


def test_the_error_state_of_each_task_has_its_reason() -> None:
    (tasks,) = recorded("error state")
    assert sorted(tasks) == [0, 1]
    for status in tasks.values():
        assert brief(status) == (State.FAILED, EndKind.UNSCHEDULABLE)
        assert status.reason == 'error: can\'t open output file "/nonexistent/x": No such file or directory'


def test_an_array_is_read_from_qstat_and_qacct() -> None:
    (tasks,) = briefly("array")
    expected = {0: (State.RUNNING,), 1: (State.FAILED, EndKind.EXITED, 4), 2: (State.RUNNING,)}
    assert tasks == expected | dict.fromkeys(range(3, 10), WAITS)


def test_tasks_that_were_deleted_while_they_waited_are_nowhere() -> None:
    (tasks,) = briefly("cancelled array")
    expected = {0: GONE, 1: (State.FAILED, EndKind.EXITED, 4), 2: GONE}
    assert tasks == expected | dict.fromkeys(range(3, 10), (State.LOST,))


def test_only_what_nobody_knows_is_left_out() -> None:
    assert recorded("unknown") == [{}]
    assert briefly("unknown among others") == [{}, {0: OK}]
    assert recorded("no accounting") == [{}]  # a site may have none that users can read


def test_no_answer_is_no_end() -> None:
    with pytest.raises(BackendError, match="unable to send message to qmaster"):
        recorded("no master")
    listed = "<?xml version='1.0'?><job_info><queue_info/><job_info/></job_info>\n"
    broken = f"{listed}%% details\n%% verified\n%% account 7\nqacct: corrupt\n%% returned 1\n"
    with pytest.raises(BackendError, match="qacct failed: qacct: corrupt"):
        Sge().parse_status(["7"], [Completed(0, broken.encode(), b"")])
    with pytest.raises(UnparsableOutput, match="no XML"):
        Sge().parse_status(["7"], [Completed(0, b"<job_info", b"")])


def test_accounted_only_some_seconds_after_the_end() -> None:
    """Neither list nor account has it yet: it is left out, and asked for again."""
    listed = "<?xml version='1.0'?><job_info><queue_info/><job_info/></job_info>\n%% details\n%% verified\n"
    lagging = f"{listed}%% account 7\nerror: job id 7 not found\n%% returned 1\n"
    assert Sge().parse_status(["7"], [Completed(0, lagging.encode(), b"")]) == {}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"failed": "100 : assumedly after job", "category": "-l h_rt=60", "ru_wallclock": "61s"}, EndKind.TIME_LIMIT),
        ({"failed": "37", "category": "-l h_vmem=1G -pe smp 2", "slots": "2", "maxvmem": "1.5G"}, EndKind.TIME_LIMIT),
        ({"failed": "37", "category": "-l h_vmem=1G", "slots": "2", "maxvmem": "2048.0MB"}, EndKind.OUT_OF_MEMORY),
        ({"failed": "37", "category": "-l h_rt=01:00:00", "ru_wallclock": "3601"}, EndKind.TIME_LIMIT),
        ({"failed": "100 : assumedly after job", "category": "-l h_rt=60", "ru_wallclock": "5"}, EndKind.CANCELLED),
        ({"failed": "28  : changing into working directory"}, EndKind.UNSCHEDULABLE),
        ({"failed": "8   : in prolog"}, EndKind.NODE_FAILURE),
        ({"failed": "19  : before writing exit_status"}, EndKind.NODE_FAILURE),
        ({"exit_status": "139 (Segmentation fault)"}, EndKind.SIGNALLED),
        ({"exit_status": "255 (Unknown signal 127)"}, EndKind.EXITED),
    ],
)
def test_records_of_accounting(fields: dict[str, str], expected: EndKind) -> None:
    record = {"jobnumber": "7", "taskid": "undefined", "failed": "0", "exit_status": "137 (Killed)", **fields}
    lines = "".join(f"{name:<12} {value}\n" for name, value in record.items())
    text = f"<job_info/>\n%% details\n%% verified\n%% account 7\n{'=' * 62}\n{lines}%% returned 0\n"
    status = Sge().parse_status(["7"], [Completed(0, text.encode(), b"")])["7"][0]
    assert status.end is not None
    assert status.end.kind is expected


COMMANDS = {
    "qstat": "case $1 in -xml) cat list;; -j) cat details;; esac",
    "qalter": 'echo "$*" >>verified; exit 1',
    "qacct": 'echo "$2" >>asked; echo "error: job id $2 not found"; exit 1',
    "qdel": "cat said; exit 1",
}


def run(directory: Path, argv: tuple[str, ...]) -> Completed:
    """Run a command of the dialect where these commands stand in for SGE's."""
    for name, text in COMMANDS.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o700)
    environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}
    done = subprocess.run(argv, capture_output=True, env=environment, cwd=directory, check=False)
    return Completed(done.returncode, done.stdout, done.stderr)


def test_qacct_is_asked_for_what_qstat_does_not_list_and_for_nothing_else(tmp_path: Path) -> None:
    entry = "<job_list>\n<JB_job_number>{}</JB_job_number>\n<state>r</state>\n<tasks>{}</tasks>\n</job_list>\n"
    entries = [entry.format(*row) for row in ((5, "1"), (5, "2,5-9:2"), (6, "1-4:1"), (7, "3"))]
    single = "<job_list>\n<JB_job_number>8</JB_job_number>\n<state>r</state>\n</job_list>\n"
    (tmp_path / "list").write_text(f"<job_info>\n{''.join(entries)}{single}</job_info>\n")
    blocks = [f"job_number:  {job}\njob-array tasks:  1-{last}:1\n" for job, last in ((5, 9), (6, 4), (7, 3))]
    (tmp_path / "details").write_text(f"{'=' * 62}\n".join([*blocks, "job_number:  8\n"]))
    (argv,) = Sge().status_argv(["5.1-9:1", "6.1-4:1", "7.1-3:1", "8", "9"])
    found = Sge().parse_status(["5.1-9:1", "6.1-4:1", "8", "9"], [run(tmp_path, argv)])
    assert {job: sorted(tasks) for job, tasks in found.items()} == {
        "5.1-9:1": [0, 1, 4, 6, 8],
        "6.1-4:1": [0, 1, 2, 3],
        "8": [0],
    }
    assert sorted((tmp_path / "asked").read_text().split()) == ["5", "7", "9"]
    assert not (tmp_path / "verified").exists()  # none of them waits
    waits = single.replace("<state>r<", "<state>qw<")
    (tmp_path / "list").write_text(f"<job_info>\n{single}{waits.replace('>8<', '>9<')}{waits}</job_info>\n")
    run(tmp_path, argv)
    assert (tmp_path / "verified").read_text() == "-w v 8 9\n"


@pytest.mark.parametrize(
    ("said", "ended"),
    [
        ('denied: job "9" does not exist\nalice has registered the job 8 for deletion', True),
        ("job 9 is already in deletion", True),
        ("alice has deleted job-array task 9.4", True),
        ("error: commlib error: got select error (Connection refused)", False),
        ('denied: job "9" does not exist\nbob - you are not allowed to delete job 8', False),
    ],
)
def test_cancelling_what_has_ended_is_no_failure(tmp_path: Path, said: str, *, ended: bool) -> None:
    (tmp_path / "said").write_text(f"{said}\n")
    done = run(tmp_path, Sge().cancel_argv(["8", "9.1-4:1"]))
    assert (done.returncode == 0) is ended


def test_found_by_name() -> None:
    assert Sge().find_argv(job.JOB)[-1].endswith(job.JOB.id.ulid)
    assert Sge().parse_find(completed(RECORDED["find"]["waiting array"])) == RECORDED["find"]["id"]
    assert Sge().parse_find(completed(RECORDED["find"]["nobody"])) is None
    malformed = b"<?xml version='1.0'?>\n<unknown_jobs  xmlns:xsd=\"x\"><>\n<ST_name>n</ST_name></>"  # SGE 6.2
    nobody = malformed + b"</unknown_jobs>\n%% account\nerror: job name n not found\n"
    assert Sge().parse_find(Completed(0, nobody, b"")) is None
    record = b"jobnumber    %d\ntaskid       %s\nexit_status  0\n"
    records = b"=====\n".join(record % row for row in ((7, b"undefined"), (12, b"2"), (12, b"3"), (9, b"1")))
    ended = malformed + b"</unknown_jobs>\n%% account\n" + records
    assert Sge().parse_find(Completed(0, ended, b"")) == "12.1-3:1"
    with pytest.raises(BackendError, match="refused"):
        Sge().parse_find(Completed(1, b"", b"refused"))


def test_accepted() -> None:
    assert Sge().parse_submit(completed(RECORDED["accepted"])).isdigit()
    assert Sge().parse_submit(completed(RECORDED["accepted array"])).endswith(".1-8:1")
    with pytest.raises(UnparsableOutput):
        Sge().parse_submit(Completed(0, b"hello\n", b""))


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("queue", 'unknown queue "nope"'),
        ("project", 'project "nope" does not exist'),
        ("resource", 'unknown resource "nope"'),
        ("parallel environment", "qconf -spl"),
        ("array", "more than 75000 tasks"),
        ("memory", "is not a memory value"),
        ("priority", "requires operator privileges"),
    ],
)
def test_refused_in_its_own_words(refusal: str, words: str) -> None:
    with pytest.raises(SubmitRejected) as caught:
        Sge().parse_submit(completed(RECORDED["refusals"][refusal]))
    assert words in str(caught.value)
    assert "Exiting" not in str(caught.value)


def test_a_master_that_is_down_refuses_nothing() -> None:
    with pytest.raises(BackendError, match="SGE does not answer") as caught:
        Sge().parse_submit(completed(RECORDED["no master to submit to"]))
    assert not isinstance(caught.value, SubmitRejected)


def test_limits() -> None:
    assert Sge().parse_limits(completed(RECORDED["limits of the site"])).max_array_index == 74_999
    assert Sge().parse_limits(Completed(0, b"max_aj_tasks   0\n", b"")).max_array_index is None
    assert Sge().parse_limits(Completed(1, b"", b"")).max_array_index is None


def script(**changes: Any) -> str:
    return Sge().script(replace(job.JOB, resources=Resources(**changes)), job.PATHS)


def test_tasks_count_from_one() -> None:
    part = Sge().script(job.JOB, job.PATHS, offset=75_000, tasks=9)
    assert "\n#$ -t 1-9\n#$ -tc 8\n" in part
    assert "\ntask=$((SGE_TASK_ID + 75000 - 1))\n" in part
    assert "-tc" not in Sge().script(job.JOB, job.PATHS, tasks=8)
    single = script()
    assert "#$ -t" not in single
    assert "\ntask=0; unset SGE_TASK_ID\n" in single  # which is "undefined"


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 3), (99, 1), (100, 1), (137, 137)])
def test_no_exit_code_means_something_to_sge(tmp_path: Path, code: int, expected: int) -> None:
    from clustrix.model.paths import JobPaths

    paths = JobPaths(str(tmp_path / "it's"))
    Path(paths.logs).mkdir(parents=True)
    Path(paths.wrapper).write_text(f"echo $1 ${{SGE_TASK_ID:-alone}}; exit {code}\n")
    text = Sge().script(replace(job.JOB, resources=Resources()), paths)
    done = subprocess.run(["sh"], input=text.encode(), env={**os.environ, "SGE_TASK_ID": "undefined"}, check=False)
    assert done.returncode == expected
    assert Path(paths.log(0)).read_text() == "0 alone\n"


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"cores": 3, "memory_bytes": 2**30}, "#$ -l h_vmem=349526K"),  # a third, rounded up
        ({"cores": 3}, "#$ -pe smp 3"),
        ({"cores": 2, "backend_options": {"parallel_environment": "threaded"}}, "#$ -pe threaded 2"),
        ({"memory_bytes": 1, "backend_options": {"memory_resource": "m_mem_free"}}, "#$ -l m_mem_free=1K"),
        ({"gpus": 2, "backend_options": {"gpu_resource": "gpu_card"}}, "#$ -l gpu_card=2"),
        ({"time": timedelta(seconds=59.5)}, "#$ -l h_rt=60"),
        ({"backend_options": {"l": {"arch": "lx*", "exclusive": True}}}, "#$ -l arch=lx*,exclusive=TRUE"),
        ({"queue": "all.q@*"}, "#$ -q all.q@*"),
        ({"account": "proj"}, "#$ -P proj"),
        ({"backend_options": {"p": -10}}, "#$ -p -10"),
        ({"backend_options": {"notify": True}}, "#$ -notify"),
        ({"backend_options": {"R": True}}, "#$ -R y"),
        ({"backend_options": {"r": "y"}}, "#$ -r y"),
        ({}, "#$ -r n"),
    ],
)
def test_options(asked: dict[str, Any], line: str) -> None:
    assert line in script(**asked).splitlines()


@pytest.mark.parametrize("value", ["gpu; rm -rf ~", "a\nb", "a\n#$ -q b", "a b", "a#b", "it's", '"', "$HOME", "`id`"])
@pytest.mark.parametrize("name", ["queue", "account", "A", "l", "parallel_environment", "memory_resource"])
def test_what_cannot_be_said_is_refused_by_name(name: str, value: str) -> None:
    options = {"backend_options": {"l": {"name": value}} if name == "l" else {name: value}}
    asked = {name: value} if name in {"queue", "account"} else options
    with pytest.raises(ConfigError, match=f"^{'name' if name == 'l' else name}"):
        script(**asked, cores=2, memory_bytes=1)


@pytest.mark.parametrize("value", ["ü", "-sync", "a\\"])
def test_more_that_cannot_be_said(value: str) -> None:
    with pytest.raises(ConfigError):
        script(queue=value)


@pytest.mark.proves("several nodes", "sge", refused="UnsupportedResource")
@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"nodes": 2}, UnsupportedResource, "MPI"),
        ({"partition": "a"}, UnsupportedResource, "queue="),
        ({"qos": "a"}, UnsupportedResource, "qos"),
        ({"constraint": "a"}, UnsupportedResource, '"l"'),
        ({"gpu_type": "a100", "gpus": 1}, UnsupportedResource, '"l"'),
        ({"modules": ("a\nb",)}, ConfigError, "modules"),
        ({"backend_options": {"o": "x"}}, ConfigError, "set by clustrix"),
        ({"backend_options": {"v": "A=1"}}, ConfigError, "environment_variables"),
        ({"backend_options": {"hold_jids": "7"}}, UnknownOption, "'hold_jid'"),
        ({"backend_options": {"l": {"h_rt": 2}}, "time": timedelta(seconds=1)}, ConfigError, "twice"),
        ({"backend_options": {"l": "arch=foo"}}, ConfigError, "table"),
    ],
)
def test_impossible_requests(asked: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        script(**asked)
    assert words in str(caught.value)


def test_modules_are_loaded_in_a_login_shell() -> None:
    text = script(modules=("apptainer/1.4", "$(id)"))
    (line,) = [line for line in text.splitlines() if line.startswith("bash -lc ")]
    assert line.endswith("apptainer/1.4 '$(id)'")


def test_variables_that_only_a_login_shell_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites set SGE_ROOT in start-up files, and no command works without it."""
    home, root = tmp_path / "home", "/opt/s g'e"
    home.mkdir()
    (home / ".profile").write_text(f"echo noise; export SGE_ROOT={shlex.quote(root)} SGE_CELL=cell\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.setenv("SGE_CELL", "stale")
    monkeypatch.delenv("SGE_ROOT", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "qdel").write_text(f"#!/bin/sh\nenv | grep ^SGE_ | sort >{tmp_path}/seen\n")
    (tmp_path / "qdel").chmod(0o700)
    record = JobRecord(
        id=job.JOB.id, name="", function="", created=0, items=1, workers=1, root=str(tmp_path), target={}, native_id="7"
    )
    BatchBackend(Sge(), Local(), str(tmp_path)).cancel([record])
    assert (tmp_path / "seen").read_text() == f"SGE_CELL=cell\nSGE_ROOT={root}\n"
