"""SLURM's dialect, against what a real one printed (tests/golden/slurm, recorded by record.py there)."""

from __future__ import annotations

import json
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
)
from clustrix.model.job import EndKind, JobId, JobSpec, State, TaskStatus
from clustrix.model.paths import JobPaths
from clustrix.model.resources import Resources
from clustrix.schedulers.slurm import Slurm
from clustrix.transports.base import Completed

GOLDEN = Path(__file__).parents[2] / "golden" / "slurm"
RECORDED = json.loads((GOLDEN / "transcripts.json").read_text())
PATHS = JobPaths("/scratch/ü 100%/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV")
SPEC = JobSpec(
    id=JobId("hpc", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    name="fit; rm -rf ~\n#é",
    items=50,
    slices=tuple((n, n + 1) for n in range(50)),
    workers=50,
    max_parallel=8,
    argv=("true",),
    resources=Resources(
        cores=4,
        memory_bytes=1_500_000_000,
        time=timedelta(days=1, hours=2, seconds=3.5),
        gpus=2,
        gpu_type="a100",
        partition="gpu",
        account="proj:sub",
        qos="high",
        constraint="[rack1*2&rack2*4]|ib",
        modules=("apptainer/1.4", "cuda"),
        backend_options={
            "comment": 'it\'s "fine"; $(id) `id` \\ ~ #é',
            "mail_type": "END,FAIL",
            "exclusive": True,
            "hold": False,
        },
    ),
)


def completed(answer: dict[str, Any]) -> Completed:
    return Completed(answer["returncode"], answer["stdout"].encode(), answer["stderr"].encode())


def recorded(scenario: str) -> list[dict[int, TaskStatus]]:
    """Read a recorded scenario, in the order of its jobs."""
    jobs, answers = RECORDED[scenario]["jobs"], RECORDED[scenario]["answers"]
    found = Slurm().parse_status(jobs, [completed(answer) for answer in answers])
    return [dict(found[job]) if job in found else {} for job in jobs]


def status(
    queue: str = "",
    accounting: str = "",
    *,
    queue_fails: Completed | None = None,
    accounting_fails: Completed | None = None,
) -> dict[int, TaskStatus]:
    answers = (
        queue_fails or Completed(0, queue.encode(), b""),
        accounting_fails or Completed(0, accounting.encode(), b""),
    )
    return dict(Slurm().parse_status(["7"], answers).get("7", {}))


def test_the_script() -> None:
    script = Slurm().script(SPEC, PATHS, offset=0, tasks=50)
    assert script == (GOLDEN / "script.sh").read_text()


def test_the_script_of_a_later_part_and_of_one_task() -> None:
    later = Slurm().script(SPEC, PATHS, offset=1001, tasks=20)
    assert "#SBATCH --array=0-19%8\n" in later
    assert "task=$((1001 + ${SLURM_ARRAY_TASK_ID:-0}))\n" in later
    assert "#SBATCH --output=/dev/null\n" in later
    assert 'logs\'/"$task".out 2>&1\nmodule load' in later
    single = Slurm().script(replace(SPEC, resources=Resources()), PATHS)
    assert "array" not in single.partition("task=")[0]
    assert single.startswith("#!/bin/sh\n")
    assert "logs/0.out\n" in single
    assert "\ntask=0\n" in single


def test_the_script_is_sound_shell() -> None:
    for offset, tasks in ((0, 1), (0, 50), (1001, 2)):
        script = Slurm().script(SPEC, PATHS, offset=offset, tasks=tasks)
        subprocess.run(["sh", "-n"], input=script.encode(), check=True)


@pytest.mark.parametrize("value", ["a\nb", "a\0b", "a\x1b[2J"])
@pytest.mark.parametrize("name", ["partition", "account", "qos", "constraint", "modules", "comment"])
def test_what_is_not_one_line_is_refused(name: str, value: str) -> None:
    asked = {"modules": (value,), "comment": {"comment": value}}.get(name, value)
    resources = Resources(**{"backend_options" if name == "comment" else name: asked})
    with pytest.raises(ConfigError, match=name):
        Slurm().script(replace(SPEC, resources=resources), PATHS)


@pytest.mark.parametrize("value", ["gpu; rm -rf ~", "$(id)", "a b", "ü", "--wrap=x", "'\"", "#", "a\\"])
def test_whatever_is_one_line_stays_one_value(value: str) -> None:
    script = Slurm().script(replace(SPEC, resources=Resources(partition=value, modules=(value,))), PATHS)
    (line,) = [line for line in script.splitlines() if "partition" in line]
    assert shlex.split(line.removeprefix("#SBATCH ")) == [f"--partition={value}"]  # sbatch reads backslashes as sh does
    (load,) = [line for line in script.splitlines() if line.startswith("module load")]
    assert shlex.split(load) == ["module", "load", value, "||", "exit"]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (Resources(partition="a", queue="b"), ConfigError, "same thing"),
        (Resources(gpu_type="a100"), ConfigError, "without gpus"),
        (Resources(backend_options={"comments": "x"}), UnknownOption, "'comment'"),
        (Resources(backend_options={"output": "x"}), ConfigError, "set by clustrix"),
        (Resources(backend_options={"mem": "1G"}, memory_bytes=1), ConfigError, "set by clustrix"),
        (Resources(backend_options={"comment": ["x"]}), ConfigError, "comment"),
    ],
)
def test_impossible_requests(asked: Resources, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Slurm().script(replace(SPEC, resources=asked), PATHS)


def test_requeue_is_off_unless_asked() -> None:
    script = Slurm().script(replace(SPEC, resources=Resources(backend_options={"requeue": True})), PATHS)
    assert "--no-requeue" not in script
    assert "#SBATCH --requeue\n" in script


def test_submission() -> None:
    slurm = Slurm()
    assert slurm.parse_submit(completed(RECORDED["accepted"])).isdigit()
    assert slurm.parse_submit(Completed(0, b"module loaded\n4711;alpha\n", b"")) == "4711"
    for answer in RECORDED["refusals"].values():
        with pytest.raises(SubmitRejected) as refused:
            slurm.parse_submit(completed(answer))
        assert answer["stderr"].splitlines()[0].removeprefix("sbatch: error: ") in str(refused.value)
    with pytest.raises(BackendError, match="does not answer") as down:
        slurm.parse_submit(completed(RECORDED["no controller to submit to"]))
    assert not isinstance(down.value, SubmitRejected)
    with pytest.raises(UnparsableOutput):
        slurm.parse_submit(Completed(0, b"Submitted\n", b""))


def test_the_name_is_unique_and_can_be_looked_for() -> None:
    slurm = Slurm()
    name = slurm.find_argv(SPEC)[-1]
    assert name == "fit__rm_-rf_____-01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert f"--job-name={name}\n" in slurm.script(SPEC, PATHS)
    assert slurm.parse_find(Completed(0, b"9\n12\n12\n12_4\n", b"")) == "12"
    assert slurm.parse_find(Completed(0, b"", b"")) is None
    with pytest.raises(BackendError):
        slurm.parse_find(Completed(1, b"", b"Unable to contact slurm controller"))


def test_ends() -> None:
    done, failed, killed, memory = (tasks[0] for tasks in recorded("ended"))
    assert (done.state, done.end.kind, done.end.exit_code, done.node) == (State.SUCCEEDED, EndKind.EXITED, 0, "hpc-n1")
    assert (failed.state, failed.end.kind, failed.end.exit_code) == (State.FAILED, EndKind.EXITED, 3)
    assert (killed.state, killed.end.kind, killed.end.signal) == (State.FAILED, EndKind.SIGNALLED, 9)
    assert (memory.state, memory.end.kind) == (State.FAILED, EndKind.OUT_OF_MEMORY)
    limit, cancelled = (tasks[0] for tasks in recorded("limits"))
    assert limit.state is State.RUNNING  # COMPLETING: its processes are still being ended
    assert (cancelled.state, cancelled.end.kind) == (State.CANCELLED, EndKind.CANCELLED)
    assert recorded("node failure")[0][0].end.kind is EndKind.NODE_FAILURE


def test_waiting() -> None:
    array, resources, never, held = recorded("waiting")
    assert sorted(array) == list(range(10))
    assert [array[task].state for task in (0, 1, 2, 3, 9)] == [
        State.RUNNING, State.FAILED, State.RUNNING, State.WAITING, State.WAITING,
    ]  # fmt: skip
    assert array[1].end.exit_code == 4
    assert "may run at a time" in array[9].reason
    assert resources[0].reason == "the resources that it asks for are not free"
    assert resources[0].expected_start.timestamp() == 1795617922
    assert never[0].end.kind is EndKind.UNSCHEDULABLE
    assert held[0].state is State.WAITING
    cancelled = recorded("cancelled array")[0]
    assert {task: found.end.kind for task, found in cancelled.items()} == {
        task: EndKind.EXITED if task == 1 else EndKind.CANCELLED for task in range(10)
    }


def test_no_answer_is_not_the_same_as_unknown() -> None:
    assert recorded("unknown") == [{}]
    assert [bool(tasks) for tasks in recorded("unknown among others")] == [False, True]
    with pytest.raises(BackendError, match="Unable to contact"):
        recorded("no controller")
    with pytest.raises(BackendError, match="sacct failed"):
        recorded("no accounting server")  # one job is unknown to the controller
    unknown = Completed(1, b"", b"slurm_load_jobs error: Invalid job id specified")
    disabled = Completed(1, b"", b"Slurm accounting storage is disabled")
    assert status(queue_fails=unknown, accounting_fails=disabled) == {}
    with pytest.raises(BackendError):
        status(queue_fails=Completed(127, b"", b"sh: squeue: not found"))


@pytest.mark.parametrize(
    ("accounting", "kind"),
    [
        ("7|OUT_OF_ME+|0:125|n1\n", EndKind.OUT_OF_MEMORY),
        ("7|CANCELLED by 1000|0:0|n1\n", EndKind.CANCELLED),
        ("7|CANCELLED+|0:0|n1\n", EndKind.CANCELLED),
        ("7|FAILED|1:0|n1\n7.batch|FAILED|1:0|n1\n7.0|OUT_OF_MEMORY|0:125|n1\n", EndKind.OUT_OF_MEMORY),
        ("7|FAILED|0:125|n1\n", EndKind.OUT_OF_MEMORY),
        ("7|DEADLINE|0:0|n1\n", EndKind.TIME_LIMIT),
        ("7|PREEMPTED|0:0|n1\n", EndKind.PREEMPTED),
        ("7|BOOT_FAIL|0:0|n1\n", EndKind.NODE_FAILURE),
        ("7|COMPLETED|0:0|n1\n7.0|OUT_OF_MEMORY|0:125|n1\n", EndKind.EXITED),
        ("7_[0-0]|CANCELLED by 0|0:0|None assigned\n", EndKind.CANCELLED),
    ],
)
def test_ends_that_only_the_accounting_knows(accounting: str, kind: EndKind) -> None:
    assert status(accounting=accounting)[0].end.kind is kind


def test_what_the_controller_has_forgotten_is_not_running() -> None:
    assert status(accounting="7|RUNNING|0:0|n1\n") == {}


@pytest.mark.parametrize(
    ("printed", "tasks"),
    [("N/A", [0]), ("3", [3]), ("4-7%2", [4, 5, 6, 7]), ("0,2-3,9", [0, 2, 3, 9]), ("[1,4-8:2%4]", [1, 4, 6, 8])],
)
def test_array_ranges(printed: str, tasks: list[int]) -> None:
    assert list(status(f"7|{printed}|PENDING|N/A||Priority\n")) == tasks


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("None", ""),
        ("Priority", "jobs with a higher priority come first"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "a node that it needs is not available (UnavailableNodes:n1)"),
        ("AssocGrpCpuLimit", "assoc grp cpu limit"),
    ],
)
def test_reasons(reason: str, words: str) -> None:
    found = status(f"7|N/A|PENDING|N/A||{reason}\n")[0]
    assert (found.state, found.reason, found.end) == (State.WAITING, words, None)


@pytest.mark.parametrize("reason", ["QOSMaxWallDurationPerJobLimit", "AssocMaxCpuPerJobLimit", "BadConstraints"])
def test_reasons_that_never_pass(reason: str) -> None:
    assert status(f"7|N/A|PENDING|N/A||{reason}\n")[0].end.kind is EndKind.UNSCHEDULABLE


@pytest.mark.parametrize("printed", ["7|N/A|WAITING_FOR_GODOT|N/A||None\n", "nonsense\n", "7|x|PENDING|N/A||None\n"])
def test_what_nobody_understands(printed: str) -> None:
    with pytest.raises(UnparsableOutput):
        status(printed)


def test_limits() -> None:
    assert Slurm().parse_limits(completed(RECORDED["limits of the site"])).max_array_index == 1000
    assert Slurm().parse_limits(Completed(1, b"", b"")).max_array_index is None
