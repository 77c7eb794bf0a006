"""PBS's dialect, against what an OpenPBS 23.06.06 printed (tests/golden/pbs)."""

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
from clustrix.model.paths import JobPaths
from clustrix.model.resources import Resources
from clustrix.schedulers.pbs import Pbs
from clustrix.transports.base import Completed
from tests.golden import job

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(job.__file__).parent / "pbs" / "transcripts.json").read_text(encoding="utf-8")
)["recorded"]
OK = (State.SUCCEEDED, EndKind.EXITED, 0)


def completed(name: str) -> Completed:
    answer = RECORDED[name]
    return Completed(answer["returncode"], answer["stdout"].encode(), answer["stderr"].encode())


def asked(name: str) -> list[str]:
    ids = re.findall(r"\d+(?:\[\d*\])?\.(?:hpc-pbs|pbs-here)", RECORDED[name]["command"])
    return [re.sub(r"\[\d+\]", "[]", native_id) for native_id in ids]


def recorded(name: str) -> dict[int, TaskStatus]:
    """Read the tasks of the one job that a recorded command asked for."""
    (native_id,) = asked(name)
    return dict(Pbs().parse_status([native_id], [completed(name)]).get(native_id, {}))


def brief(status: TaskStatus) -> tuple[Any, ...]:
    """Give state, kind of end, and exit code or signal."""
    end = status.end
    if end is None:
        return (status.state,)
    number = end.exit_code if end.kind is EndKind.EXITED else end.signal
    return (status.state, end.kind, number) if number is not None else (status.state, end.kind)


@pytest.mark.proves("success", "pbs", recorded=True)
@pytest.mark.proves("segfault", "pbs", recorded=True)
@pytest.mark.proves("kill -9", "pbs", recorded=True)
@pytest.mark.proves("time limit", "pbs", recorded=True)
@pytest.mark.proves("memory limit", "pbs", recorded=True)
@pytest.mark.proves("cancel running", "pbs", recorded=True)
@pytest.mark.proves("cancel queued", "pbs", recorded=True)
@pytest.mark.proves("unsatisfiable request", "pbs", recorded=True)
@pytest.mark.proves("node failure", "pbs", recorded=True)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qstat_xf_json_ok", OK),
        ("qstat_xf_json_exit3", (State.FAILED, EndKind.EXITED, 3)),
        ("qstat_xf_json_exit127", (State.FAILED, EndKind.EXITED, 127)),
        ("qstat_xf_json_exit255", (State.FAILED, EndKind.EXITED, 255)),
        ("qstat_xf_json_sigsegv", (State.FAILED, EndKind.SIGNALLED, 11)),
        ("qstat_xf_json_sigkill", (State.FAILED, EndKind.SIGNALLED, 9)),
        ("qstat_xf_json_sigterm", (State.FAILED, EndKind.SIGNALLED, 15)),
        ("qstat_xf_json_innerkill", (State.FAILED, EndKind.SIGNALLED, 9)),
        ("qstat_xf_json_qsig_kill_direct_exec", (State.FAILED, EndKind.SIGNALLED, 9)),  # 265
        ("qstat_xf_json_walltime_plain", (State.FAILED, EndKind.TIME_LIMIT)),  # -29
        ("qstat_xf_json_walltime_trap42", (State.FAILED, EndKind.TIME_LIMIT)),
        ("qstat_xf_json_walltime_ignoreterm", (State.FAILED, EndKind.TIME_LIMIT)),
        ("qstat_xf_json_walltime_direct_exec", (State.FAILED, EndKind.TIME_LIMIT)),
        ("qstat_xf_json_enforce_mem_killed", (State.FAILED, EndKind.OUT_OF_MEMORY)),  # -27
        ("qstat_xf_json_cput_killed", (State.FAILED, EndKind.SIGNALLED, 9)),  # 137
        ("qstat_xf_json_qdel_running", (State.CANCELLED, EndKind.CANCELLED)),  # 271
        ("qstat_xf_json_qdel_trap42", (State.CANCELLED, EndKind.CANCELLED)),
        ("qstat_xf_json_qdel_force", (State.CANCELLED, EndKind.CANCELLED)),  # 265
        ("qrerun_after_del_xf", (State.CANCELLED, EndKind.CANCELLED)),  # by root
        ("qstat_xf_json_qdel_queued", (State.CANCELLED, EndKind.CANCELLED)),  # no exit status
        ("qstat_xf_json_qdel_held", (State.CANCELLED, EndKind.CANCELLED)),
        ("qstat_depend_afterok_of_failed_json", (State.FAILED, EndKind.UNSCHEDULABLE)),  # substate 92, no exit status
        ("qstat_xf_json_dep_after_failed_parent", (State.FAILED, EndKind.UNSCHEDULABLE)),
        ("qstat_badout_stateE_json", (State.RUNNING,)),  # the exit status is there, the output not yet
        ("qstat_badout_final_json", OK),
        ("qstat_f_json_toobig", (State.FAILED, EndKind.UNSCHEDULABLE)),  # Can Never Run
        ("qstat_f_json_toobigmem", (State.FAILED, EndKind.UNSCHEDULABLE)),
        ("qstat_f_json_running", (State.RUNNING,)),
        ("qstat_f_json_multichunk", (State.RUNNING,)),
        ("server_restarted_qstat_job", OK),
        ("scheduling_on_again_qstat", OK),
        ("qrerun_after_qstat", (State.RUNNING,)),
        ("node_failure", (State.FAILED, EndKind.NODE_FAILURE)),  # -20: MoM was killed, and the job was not rerunnable
        ("qstat_json_name_0012", (State.WAITING,)),
        ("qstat_json_name_1e5", (State.WAITING,)),
    ],
)
def test_one_job(name: str, expected: tuple[Any, ...]) -> None:
    assert {task: brief(status) for task, status in recorded(name).items()} == {0: expected}


def test_what_a_status_tells_beside_the_state() -> None:
    limit = recorded("qstat_xf_json_walltime_plain")[0]
    assert limit.node == "hpc-pbs"
    assert limit.end is not None
    assert "exceeded resource walltime, exit status -29" in limit.end.message
    never = recorded("qstat_f_json_toobig")[0]
    assert never.reason == "Can Never Run: Insufficient amount of resource: ncpus (R: 64 A: 4 T: 4)"
    unborn = recorded("qstat_xf_json_qdel_held")[0]
    assert unborn.end is not None
    assert "it never ran" in unborn.end.message


@pytest.mark.proves("why it waits", "pbs", recorded=True)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qstat_f_json_queued", "Not enough free nodes available"),
        ("qstat_f_json_held", "it is held"),
        ("qstat_f_json_dep", "it waits for another job"),
        ("qstat_f_json_waiting", "its begin time has not come"),
        ("queue_stopped_qstat", "Queue not started."),
        ("node_offline_qstat", "Not enough free nodes available"),
        ("scheduling_off_qstat", ""),
    ],
)
def test_why_a_job_waits(name: str, reason: str) -> None:
    assert recorded(name) == {0: TaskStatus(state=State.WAITING, reason=reason)}


FAILED_7 = (State.FAILED, EndKind.EXITED, 7)
GONE = (State.CANCELLED, EndKind.CANCELLED)


@pytest.mark.proves("array with failed items", "pbs", recorded=True)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qstat_array_ok_t_xf_json", dict.fromkeys((1, 3, 5, 7, 9), OK)),
        # The array itself has exit status 0 in the next two: that of the last subjob.
        ("qstat_array_onefail_t_xf_json", {0: OK, 1: OK, 2: FAILED_7, 3: OK, 4: OK}),
        ("qstat_array_failfirst_t_xf_json", {0: FAILED_7, 1: OK, 2: OK}),
        ("qstat_array_faillast_t_xf_json", {0: OK, 1: OK, 2: FAILED_7}),
        ("qstat_array_allfail_t_xf_json", dict.fromkeys((0, 1), (State.FAILED, EndKind.EXITED, 9))),
        # Subjob 3 was deleted while it waited: exit status 0, and nothing was used.
        ("qstat_array_done_t_xf_json", {0: OK, 1: OK, 2: FAILED_7, 3: GONE, 4: OK}),
        ("qstat_array_mixed_t_f_json", {0: OK, 1: OK, 2: (State.RUNNING,), 3: GONE, 4: (State.RUNNING,)}),  # X, R
        ("qstat_array_qdel_t_xf_json", dict.fromkeys(range(6), GONE)),  # 271, and 1 for those that waited
        ("qstat_array_running_t_f_json", {n: (State.RUNNING if n < 2 else State.WAITING,) for n in range(5)}),
        ("qstat_array_maxrun_json", {n: (State.RUNNING if n < 2 else State.WAITING,) for n in range(6)}),
        ("qstat_array_subjob2_xf_json", {2: FAILED_7}),
        ("qstat_array_done_parent_xf_json", {}),  # without -t there is nothing to believe
        ("qstat_f_json_array_queued", {}),
        ("array_subjob_deleted_while_waiting", {0: (State.RUNNING,), 1: (State.WAITING,), 2: GONE}),
        ("array_subjob_deleted_done", {0: OK, 1: OK, 2: GONE}),  # the same, later
        ("array_being_deleted", {0: (State.RUNNING,), 1: GONE, 2: GONE, 3: GONE}),
        ("array_depend_failed", dict.fromkeys((0, 1), (State.FAILED, EndKind.UNSCHEDULABLE))),
    ],
)
def test_subjobs_are_read_and_not_the_array(name: str, expected: dict[int, tuple[Any, ...]]) -> None:
    assert {task: brief(status) for task, status in recorded(name).items()} == expected


@pytest.mark.parametrize(
    "name",
    ["qstat_x_unknown_json", "qstat_unknown_json", "qstat_unknown_finished_no_x", "qstat_after_qdel_x"],  # rc 153, 35
)
def test_only_what_pbs_calls_unknown_is_left_out(name: str) -> None:
    assert RECORDED[name]["returncode"] in {153, 35}
    assert recorded(name) == {}


def test_known_jobs_beside_an_unknown_one() -> None:
    name = "qstat_mixed_known_unknown_json_nox"  # rc 35
    assert list(Pbs().parse_status(asked(name), [completed(name)])) == ["154.hpc-pbs"]
    with pytest.raises(BackendError, match=r"nothing of 155\.hpc-pbs"):  # rc 153, and 155 was passed over
        Pbs().parse_status(asked("qstat_mixed_known_unknown_json"), [completed("qstat_mixed_known_unknown_json")])


@pytest.mark.parametrize("name", ["several_jobs_grouped", "several_jobs_grouped_23_06_06"])
def test_several_jobs(name: str) -> None:
    a, nobody, b, c = asked(name)
    assert json.loads(RECORDED[name]["stdout"])["pbs_version"] == "23.06.06"
    # Of what it does not know it says nothing with -E, so that this is asked for by itself.
    said = RECORDED["qstat_x_unknown_json"]["stderr"].replace(*asked("qstat_x_unknown_json"), nobody)
    answer = replace(completed(name), stderr=said.encode())
    found = Pbs().parse_status([a, nobody, b, c], [answer])
    waits = (State.WAITING,)
    assert {job: {task: brief(status) for task, status in tasks.items()} for job, tasks in found.items()} == {
        a: {0: waits},
        b: {0: waits, 1: waits},
        c: {0: OK},
    }
    with pytest.raises(BackendError, match="says nothing of"):  # without -E the first is all that this version tells
        Pbs().parse_status(asked("several_jobs"), [completed("several_jobs")])


def test_without_history_an_array_tells_nothing_of_subjobs_that_have_ended() -> None:
    """Subjob 0 ended with 0, subjob 1 with 1, and both are said to have 1."""
    answer = replace(completed("history_off_array"), stderr=RECORDED["history_off_qstat_x"]["stderr"].encode())
    (tasks,) = Pbs().parse_status(asked("history_off_array"), [answer]).values()
    assert [tasks[task].state for task in range(4)] == [State.LOST, State.LOST, State.RUNNING, State.RUNNING]


@pytest.mark.proves("server restart", "pbs", recorded=True)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("server_down_qstat", "PBS does not answer: Connection refused"),  # rc 255 is not "gone"
        ("other_user_qstat_hidden", "says nothing of"),  # rc 0, and no Jobs
        ("history_off_qstat_x", "not configured to maintain job history"),
    ],
)
def test_no_answer_is_no_end(name: str, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        recorded(name)


def test_what_is_no_json_or_no_state() -> None:
    with pytest.raises(UnparsableOutput):
        Pbs().parse_status(["1.a"], [Completed(0, b'{"Jobs": {"1.a": {"x": "a"b"}}}', b"")])
    with pytest.raises(UnparsableOutput, match="'Z'"):
        Pbs().parse_status(["1.a"], [Completed(0, b'{"Jobs": {"1.a": {"job_state": "Z"}}}', b"")])


QSTAT = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *Down*) echo 'qstat: cannot connect to server a (errno=15010)' >&2; echo '{}'; exit 255;;
  -x*OFF*) echo 'qstat: PBS is not configured to maintain job history 1.OFF' >&2; echo '{}'; exit 0;;
esac
together=
case "$*" in *-E*) together=yes;; esac
status=0 jobs= unknown=
for id; do
  case $id in
    9*) unknown="$unknown $id";;
    [0-9]*) [ -n "$jobs" ] && [ -z "$together" ] || jobs="$jobs${jobs:+,}\\"$id\\": {\\"job_state\\": \\"R\\"}";;
  esac
done
if [ -n "$unknown" ] && { [ -z "$jobs" ] || [ -z "$together" ]; }; then
  echo "qstat: Unknown Job Id ${unknown##* }" >&2
  status=153
fi
[ -n "$jobs" ] && echo "{\\"Jobs\\": {$jobs}}" || echo '{}'
exit $status
"""


@pytest.mark.parametrize(
    ("ids", "found", "calls"),
    [
        (["1.a", "2.a"], ["1.a", "2.a"], 1),  # qstat without -E would tell of the first alone
        (["1.a", "90.a", "2.a", "91.a"], ["1.a", "2.a"], 3),
        (["90.a", "91.a"], [], 4),
        (["1.OFF"], ["1.OFF"], 2),  # a server that keeps no history
        (["90.OFF", "1.OFF"], ["1.OFF"], 3),
    ],
)
def test_every_job_is_asked_for_in_one_round_trip(tmp_path: Path, ids: list[str], found: list[str], calls: int) -> None:
    (argv,) = Pbs().status_argv(ids)
    done = run(tmp_path, argv, qstat=QSTAT)
    assert list(Pbs().parse_status(ids, [done])) == found
    assert len((tmp_path / "calls").read_text().splitlines()) == calls


def test_a_server_that_is_down(tmp_path: Path) -> None:
    (argv,) = Pbs().status_argv(["1.Down"])
    with pytest.raises(BackendError, match="cannot connect"):
        Pbs().parse_status(["1.Down"], [run(tmp_path, argv, qstat=QSTAT)])


def run(directory: Path, argv: tuple[str, ...], **commands: str) -> Completed:
    """Run a command of the dialect where these commands stand in for PBS's."""
    for name, text in commands.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o700)
    path = f"{directory}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CALLS": str(directory / "calls")}
    done = subprocess.run(argv, capture_output=True, env=environment, check=False)
    return Completed(done.returncode, done.stdout, done.stderr)


def test_found_by_name(tmp_path: Path) -> None:
    argv = Pbs().find_argv(job.JOB)
    assert argv[-1].endswith(job.JOB.id.ulid)
    known = "#!/bin/sh\n[ \"$1 $2\" = '-x -N' ] && printf '%s\\n' '9[].a' '12[].a' '10.a'"
    assert Pbs().parse_find(run(tmp_path, argv, qselect=known)) == "12[].a"
    assert Pbs().parse_find(run(tmp_path, argv, qselect="#!/bin/sh\nexit 0")) is None
    # qselect of 23.06.06 ends with 0 where the server keeps no history, and prints why.
    off = (
        '#!/bin/sh\n[ "$1" != -x ] || { echo "qselect: PBS is not configured to maintain job history" >&2; exit 0; }\n'
    )
    assert Pbs().parse_find(run(tmp_path, argv, qselect=off + "echo 7.a")) == "7.a"
    with pytest.raises(BackendError, match="cannot connect"):
        Pbs().parse_find(run(tmp_path, argv, qselect="#!/bin/sh\necho 'qselect: cannot connect' >&2\nexit 16"))


@pytest.mark.parametrize(
    ("name", "ended"),
    [("qdel_running", True), ("qdel_again_finished", True), ("qdel_unknown", True), ("qdel_multi", True)]
    + [("qdel_exiting", True)]
    + [(name, False) for name in ("server_down_qdel", "other_user_qdel", "qdel_garbage")],
)
def test_cancelling_what_has_ended_is_no_failure(tmp_path: Path, name: str, *, ended: bool) -> None:
    answer = RECORDED[name]
    (tmp_path / "said").write_text(answer["stderr"])
    qdel = f"#!/bin/sh\ncat {shlex.quote(str(tmp_path / 'said'))} >&2\nexit {answer['returncode']}"
    done = run(tmp_path, Pbs().cancel_argv(["112.hpc-pbs"]), qdel=qdel)
    assert (done.returncode == 0) is ended
    assert ended or done.stderr


def test_accepted(tmp_path: Path) -> None:
    said = {
        "qstat": "#!/bin/sh\necho pbs_version = 23.06.06",
        "qsub": '#!/bin/sh\n[ "$*" = "-f /a b/script.sh" ] && echo 102.a',
    }
    done = run(tmp_path, Pbs().submit_argv(job.JOB, "/a b/script.sh"), **said)  # without -f a process stays behind
    assert Pbs().parse_submit(done) == "102.a"
    assert Pbs().parse_submit(completed("qsub_ok")) == "102.hpc-pbs"
    assert Pbs().parse_submit(completed("qsub_array")) == "131[].hpc-pbs"
    with pytest.raises(UnparsableOutput):
        Pbs().parse_submit(Completed(0, b"hello\n", b""))


@pytest.mark.proves("refusal in the scheduler's words", "pbs", recorded=True)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bad_queue", "Unknown queue"),
        ("queue_disabled", "Queue is not enabled"),
        ("queue_acl_denied", "Unauthorized Request"),
        ("over_queue_walltime", "Job violates queue and/or server resource limits"),
        ("max_queued_exceeded", "would exceed complex's per-user limit"),
        ("hook_reject", "site policy: please request a walltime"),
        ("unknown_resource_in_select", "Unknown resource: nosuchres"),
        ("bad_mem_unit", "Illegal attribute or resource value select.mem"),
        ("bad_walltime_days", "Illegal attribute or resource value Resource_List.walltime"),
        ("select_plus_ncpus", 'cannot be used with "select"'),
        ("array_too_big", "Array job exceeds server or queue size limit"),
        ("bad_array_single", "illegal -J value"),
        ("root_qsub", "Bad UID for job execution"),
        ("crlf_script", "script contains cr, lf"),
        ("env_dquote", "cannot send environment with the job"),
    ],
)
def test_refused_in_its_own_words(name: str, words: str) -> None:
    with pytest.raises(SubmitRejected) as caught:
        Pbs().parse_submit(completed(name))
    assert words in str(caught.value)
    assert "usage" not in str(caught.value)


@pytest.mark.parametrize("stream", ["", " >&2"])  # 6.1 prints its version to stdout, 4.2 and 5.1 to stderr
def test_torque_is_not_taken_for_pbs(tmp_path: Path, stream: str) -> None:
    qstat = f"#!/bin/sh\nprintf 'Version: 6.1.2\\nCommit: 661e092\\n'{stream}"
    done = run(tmp_path, Pbs().submit_argv(job.JOB, "script.sh"), qstat=qstat, qsub='#!/bin/sh\ntouch "$CALLS"')
    with pytest.raises(SubmitRejected, match=r"Torque 6\.1\.2\n.*backend: torque"):
        Pbs().parse_submit(done)
    assert not (tmp_path / "calls").exists()
    with pytest.raises(ConfigError, match=r"Torque 6\.1\.2\n.*backend: torque"):
        Pbs().parse_version(run(tmp_path, Pbs().version_argv(), qstat=qstat))
    assert Pbs().parse_version(Completed(0, b"pbs_version = 23.06.06\n", b"")) == "PBS 23.06.06"


@pytest.mark.parametrize("name", ["server_down_qsub", "server_down_qsub_f", "no_pbs_conf_qsub"])
def test_a_server_that_is_down_refuses_nothing(name: str) -> None:
    with pytest.raises(BackendError, match="PBS does not answer") as caught:
        Pbs().parse_submit(completed(name))
    assert not isinstance(caught.value, SubmitRejected)


def test_limits() -> None:
    assert Pbs().parse_limits(completed("qstat_B_json")).max_array_index == 9999
    assert Pbs().parse_limits(Completed(255, b"", b"")).max_array_index is None


def script(**changes: Any) -> str:
    tasks = changes.pop("tasks", 1)
    return Pbs().script(replace(job.JOB, resources=Resources(**changes)), job.PATHS, tasks=tasks)


def options(text: str) -> list[list[str]]:
    return [shlex.split(line.removeprefix("#PBS ")) for line in text.splitlines() if line.startswith("#PBS ")]


def test_a_task_alone_is_no_array() -> None:
    single = script()
    assert "-J" not in single
    assert ["-r", "n"] in options(single)
    assert "\ntask=0\n" in single
    later = Pbs().script(replace(job.JOB, max_parallel=None), job.PATHS, offset=10_000, tasks=1)
    assert "-J" not in later
    assert "\ntask=10000\n" in later
    part = Pbs().script(job.JOB, job.PATHS, offset=10_000, tasks=9)
    assert ["-J", "0-8%8"] in options(part)
    assert "-r n" not in part  # arrays must be rerunnable
    assert "task=$((10000 + ${PBS_ARRAY_INDEX:-0}))" in part


@pytest.mark.parametrize(("limit", "seconds"), [(5, 4), (100, 90), (7200, 7140)])
def test_the_wrapper_is_told_that_the_time_limit_is_near(limit: int, seconds: int) -> None:
    """PBS 23.06.06 sends nothing ahead of walltime; what the script leaves behind ends with its session."""
    text = script(time=timedelta(seconds=limit))
    (line,) = [line for line in text.splitlines() if "XCPU" in line]
    assert f"(sleep {seconds} && " in line
    assert "XCPU" not in script()
    told = (
        f"sleep() {{ command sleep 0.1; }}\ntrap 'echo told; exit' XCPU\n{line}\nwhile :; do command sleep 0.05; done"
    )
    done = subprocess.run(["sh"], input=told, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "told\n"


def test_the_environment_is_never_said_to_qsub() -> None:
    assert not {"-v", "-V"} & {option[0] for option in options(job.script("pbs"))}
    # What -v would make of it: quotes are lost, backslashes doubled, 007 becomes 7.
    jobs = json.loads(RECORDED["env_json"]["qstat"])["Jobs"]
    assert [said["Variable_List"]["X"] for said in jobs.values()] == ["{a:1}"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"memory_bytes": 1}, ["-l", "select=1:ncpus=1:mem=1kb"]),
        ({"cores": 3, "gpus": 2}, ["-l", "select=1:ncpus=3:ngpus=2"]),
        ({"time": timedelta(seconds=59.5)}, ["-l", "walltime=00:01:00"]),
        ({"time": timedelta(days=5)}, ["-l", "walltime=120:00:00"]),
        ({"backend_options": {"select": {"gpu_type": "a100"}}}, ["-l", "select=1:ncpus=1:gpu_type=a100"]),
        ({"backend_options": {"l": {"place": "excl"}}}, ["-l", "place=excl"]),
        ({"backend_options": {"P": "climate model", "p": -10}}, ["-P", "climate model"]),
        ({"backend_options": {"p": -10}}, ["-p", "-10"]),
        ({"backend_options": {"depend": "afterok:1.a"}}, ["-W", "depend=afterok:1.a"]),
        ({"backend_options": {"h": True}}, ["-h"]),
        ({"queue": "gpu; rm -rf ~"}, ["-q", "gpu; rm -rf ~"]),
        ({"account": "it's $(id) `id` \\ #é"}, ["-A", "it's $(id) `id` \\ #é"]),
    ],
)
def test_options(asked: dict[str, Any], expected: list[str]) -> None:
    text = script(**asked)
    # Quotes of a directive mean that nothing within is special; for these values sh reads them alike, if not expanded.
    lines = [line for line in text.splitlines() if line.startswith("#PBS ")]
    assert expected in [_read(line.removeprefix("#PBS ")) for line in lines]
    assert text.count("\n#PBS") == len(lines)


def _read(line: str) -> list[str]:
    """Split as qsub's make_argv does: no escapes within quotes."""
    return [a or b or c for a, b, c in re.findall(r"'([^']*)'|\"([^\"]*)\"|(\S+)", line)]


@pytest.mark.parametrize("value", ["a\nb", "a\n#PBS -q other", "a\0b", "a\x1b[2J", "\"both' kinds"])
@pytest.mark.parametrize("name", ["queue", "account", "P", "depend", "select", "l"])
def test_what_cannot_be_said_is_refused_by_name(name: str, value: str) -> None:
    given = {"select": {"select": {"name": value}}, "l": {"l": {"name": value}}}.get(name, {name: value})
    asked = given if name in {"queue", "account"} else {"backend_options": given}
    with pytest.raises(ConfigError, match=r"^(the resource ')?" + ("name" if name in {"select", "l"} else name)):
        script(**asked)


@pytest.mark.proves("several nodes", "pbs", refused="UnsupportedResource")
@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"nodes": 2}, UnsupportedResource, "MPI"),
        ({"partition": "a"}, UnsupportedResource, "queue="),
        ({"qos": "a"}, UnsupportedResource, "qos"),
        ({"constraint": "a"}, UnsupportedResource, "select"),
        ({"gpu_type": "a100", "gpus": 1}, UnsupportedResource, "select"),
        ({"modules": ("a\nb",)}, ConfigError, "modules"),
        ({"backend_options": {"o": "x"}}, ConfigError, "set by clustrix"),
        ({"backend_options": {"v": "A=1"}}, ConfigError, "environment_variables"),
        ({"backend_options": {"dependd": "x"}}, UnknownOption, "'depend'"),
        ({"backend_options": {"select": {"ncpus": 2}}}, ConfigError, "twice"),
        ({"backend_options": {"select": {"host": "a:ncpus=64"}}}, ConfigError, "host"),
        ({"backend_options": {"select": "1:ncpus=2"}}, ConfigError, "table"),
        ({"backend_options": {"l": {"a b": 1}}}, ConfigError, "a b"),
    ],
)
def test_impossible_requests(asked: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        script(**asked)
    assert words in str(caught.value)


def test_nothing_is_copied_to_where_a_job_was() -> None:
    """PBS 23.06.06 keeps a task's place for half a minute while it tries to copy output to a directory that is gone."""
    text = Pbs().script(job.JOB, JobPaths("/scratch/ü/jobs/x"), tasks=2)
    assert ["-o", "/dev/null"] in options(text)
    assert "/scratch/ü" not in "".join(line for line in text.splitlines() if line.startswith("#PBS"))
