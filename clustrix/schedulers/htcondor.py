"""HTCondor: commands of condor_submit(1), attributes and codes of the manual's appendix "Job ClassAd Attributes".

Facts are those of a pool of version 23.9.6 (tests/golden/htcondor). A script carries its submit description in lines
that begin with ``#CONDOR``; files are those of a file system that all machines share. A job that ended is in
condor_history alone; tasks that ``max_materialize`` holds back are in neither list until their turn comes.
"""

from __future__ import annotations

import json
import re
import shlex
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from clustrix.errors import (
    BackendError,
    ConfigError,
    SubmitRejected,
    UnknownOption,
    UnparsableOutput,
)
from clustrix.model.job import End, EndKind, State, TaskStatus
from clustrix.schedulers.base import Limits, job_name, one_line, printable, refuse, task_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clustrix.model.job import JobSpec
    from clustrix.model.paths import JobPaths
    from clustrix.model.resources import Resources
    from clustrix.transports.base import Completed

_OPTIONS = {
    *(
        "accounting_group_user",
        "concurrency_limits",
        "hold",
        "keep_claim_idle",
        "max_idle",
        "nice_user",
        "notification",
    ),
    *("notify_user", "priority", "rank", "request_disk", "require_gpus"),
}
_OWN = {
    *("accounting_group", "allowed_job_duration", "arguments", "batch_name", "environment", "error", "executable"),
    *("getenv", "initialdir", "input", "job_max_vacate_time", "max_materialize", "output", "periodic_remove", "queue"),
    *("request_cpus", "request_gpus", "request_memory", "should_transfer_files", "transfer_executable", "universe"),
}

# What a version does not know it ignores with a warning; then the job is not what was asked for.
_SUBMIT = r"""
said=$(sed -n 's/^#CONDOR //p' "$1" | condor_submit -terse - 2>&1)
status=$?
case $said in *"was unused by condor_submit"*)
  condor_rm "$(printf '%s\n' "$said" | sed -n 's/^\([0-9]*\)[.]0 - .*/\1/p')" >/dev/null
  status=1;;
esac
[ "$status" = 0 ] || exec >&2
printf '%s\n' "$said"
exit "$status"
"""
# A job is moved into its cgroup when it runs already, and what it has started by then stays outside, without a limit.
_SETTLED = (
    "round=0\n"
    "until grep -qs '/condor_.*slot' /proc/$$/cgroup || [ $round = 20 ]; do sleep 0.05; round=$((round + 1)); done"
)
_ATTRIBUTES = (
    "ClusterId,ProcId,JobStatus,LastJobStatus,NumJobStarts,TotalSubmitProcs,ExitBySignal,ExitCode,ExitSignal,"
    "HoldReasonCode,HoldReasonSubCode,HoldReason,LastHoldReasonCode,LastHoldReasonSubCode,LastHoldReason,"
    "RemoveReason,VacateReason,LastRejMatchReason,RemoteHost,LastRemoteHost"
)
# What the queue knows, which arrays have tasks that are not in it yet, what the history knows of the others, and of
# some that wait whether any machine of the pool could run them if it were empty.
_STATUS = f"""
list=$(condor_q -json -attributes {_ATTRIBUTES} -constraint "$1") || exit
printf '%s\\n%%%% factories\\n' "$list"
condor_q -factory -json -attributes ClusterId -constraint "$1" || exit
missing=$(($2 - $(printf '%s\\n' "$list" | grep -c '"ProcId"')))
echo '%% history'
[ "$missing" -le 0 ] || condor_history -json -attributes {_ATTRIBUTES} -constraint "$1" -limit "$missing" || exit
echo '%% analysis'
never=$(condor_q -af ClusterId ProcId -constraint "($1) && JobStatus == 1 && LastRejMatchTime =!= undefined" |
  awk '!seen[$1]++ {{ print $1 "." $2 }}' | head -n 10)
[ -z "$never" ] || condor_q -better-analyze $never
exit 0
"""
_FIND = """
condor_q -json -attributes ClusterId,ProcId,TotalSubmitProcs -constraint "$1" || exit
condor_q -factory -json -attributes ClusterId,TotalSubmitProcs -constraint "$1" || exit
condor_history -json -attributes ClusterId,ProcId,TotalSubmitProcs -constraint "$1"
"""
# condor_rm fails if none of the jobs is there any more.
_CANCEL = r"""
said=$(condor_rm "$@" 2>&1) && exit
status=$?
printf '%s\n' "$said" | grep -v -e '^$' -e "Couldn't find/remove all jobs" -e 'marked for removal' >&2 || exit 0
exit $status
"""
_UNREACHABLE = re.compile(
    r"Failed to connect|Can't find address|Failed to fetch ads|Unable to locate|communication error"
)

# JobStatus.
_IDLE, _RUNNING, _REMOVED, _COMPLETED, _HELD, _TRANSFERRING, _SUSPENDED = range(1, 8)
# HoldReasonCode: what the pool did to a job that ran. The policies of pools without cgroups hold with 21 or 26.
_BY_POOL = {34: EndKind.OUT_OF_MEMORY, 46: EndKind.TIME_LIMIT, 47: EndKind.TIME_LIMIT}
_POLICIES, _MEMORY_EXCEEDED = {21, 26}, 102
_WITHHELD = {1: "it is held", 15: "it is held", 16: "its files are on their way"}
"""Held because somebody wants it so, and to be released by them."""
_SIGNALS = 64


class Htcondor:
    """Speak HTCondor."""

    name = "htcondor"
    commands = ("condor_submit", "condor_q", "condor_history", "condor_rm", "condor_config_val")
    variables = ("CONDOR_CONFIG",)
    array_index = "${1:-0}"
    native_id = "${CLUSTRIX_NATIVE_ID:-}"

    def script(self, spec: JobSpec, paths: JobPaths, *, offset: int = 0, tasks: int = 1) -> str:
        """Write the batch script; ConfigError, UnknownOption, UnsupportedResource."""
        limit = spec.max_parallel
        script = _argument(_value("root", paths.script_from(offset)))
        description = {
            "universe": "vanilla",
            "executable": "/bin/sh",
            "transfer_executable": "false",
            "should_transfer_files": "NO",
            "arguments": f'"{script} $(Process) $(Cluster).$(Process)"',
            "getenv": "HOME, PATH, USER, LOGNAME, SHELL, LANG",
            "initialdir": "/",
            # What a task prints goes to its log below.
            "output": "/dev/null",
            "error": "/dev/null",
            "batch_name": job_name(spec),
            **({"max_materialize": limit} if limit is not None and limit < tasks else {}),
            **_resources(spec.resources),
        }
        lines = [
            "#!/bin/sh",
            f"# {printable(spec.name)}, job {spec.id.ulid}, tasks {offset} to {offset + tasks - 1}",
            *(f"#CONDOR {name} = {value}" for name, value in description.items()),
            f"#CONDOR queue {tasks}",
            "",
            f"task=$(({offset} + {self.array_index}))",
            "export CLUSTRIX_NATIVE_ID=$2",
            _SETTLED,
            f'exec >>{shlex.quote(paths.logs)}/"$task".out 2>&1',
            f"exec {task_command(spec.resources.modules, paths.wrapper)}",
            "",
        ]
        return "\n".join(lines)

    def submit_argv(self, spec: JobSpec, script: str) -> tuple[str, ...]:
        """Submit the description that a script carries."""
        del spec
        return ("sh", "-c", _SUBMIT, "sh", script)

    def parse_submit(self, completed: Completed) -> str:
        """Read ``4711.0 - 4711.7``, the first and the last task: ``4711.0-7``."""
        said = completed.stderr_text or completed.stdout_text
        match = re.search(r"^(\d+)\.0 - \1\.(\d+)$", completed.stdout_text, re.MULTILINE)
        if completed.returncode == 0 and match:
            return f"{match[1]}.0-{match[2]}"
        if completed.returncode == 0:
            raise UnparsableOutput(f"condor_submit printed no cluster: {said!r}")
        words = re.sub(r"\s+", " ", said).removeprefix("ERROR: ")
        if _UNREACHABLE.search(said):
            raise BackendError(f"HTCondor does not answer: {words}")
        raise SubmitRejected(f"HTCondor refused the job: {words or f'condor_submit ended with {completed.returncode}'}")

    def find_argv(self, spec: JobSpec) -> tuple[str, ...]:
        """Look for a job by its name, which holds its ULID."""
        return ("sh", "-c", _FIND, "sh", f'JobBatchName == "{job_name(spec)}"')

    def parse_find(self, completed: Completed) -> str | None:
        """Read the id of the newest job of that name."""
        if completed.returncode != 0:
            raise BackendError(f"condor_q failed: {completed.stderr_text or completed.returncode}")
        found = {int(job["ClusterId"]): int(job["TotalSubmitProcs"]) for job in _jobs(completed.stdout_text)}
        return f"{max(found)}.0-{found[max(found)] - 1}" if found else None

    def status_argv(self, native_ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Ask for all of them at once, in the queue and in the history."""
        constraint = " || ".join(f"ClusterId == {_cluster(native_id)}" for native_id in native_ids)
        return (("sh", "-c", _STATUS, "sh", constraint, str(sum(_tasks(native_id) for native_id in native_ids))),)

    def parse_status(
        self, native_ids: Sequence[str], answers: Sequence[Completed]
    ) -> Mapping[str, Mapping[int, TaskStatus]]:
        """Read what queue and history say; a task that an array no longer has is lost."""
        (answer,) = answers
        if answer.returncode != 0:
            said = answer.stderr_text.partition("\n\n")[0]  # what follows is advice to administrators
            raise BackendError(f"HTCondor does not answer: {said or answer.returncode}")
        queued, *sections = re.split(r"^%% \w+\n", answer.stdout.decode(errors="replace"), flags=re.MULTILINE)
        if len(sections) != 3:  # noqa: PLR2004 - factories, history, analysis
            raise UnparsableOutput(f"condor_q broke off: {answer.stdout[-200:]!r}")
        factories, history, analysis = sections
        never = _never(analysis)
        known: dict[int, dict[int, TaskStatus]] = {}
        for job in _jobs(queued):
            known.setdefault(int(job["ClusterId"]), {})[int(job["ProcId"])] = _status(job, never, queued=True)
        for job in _jobs(history):
            known.setdefault(int(job["ClusterId"]), {})[int(job["ProcId"])] = _status(job, never, queued=False)
        growing = {int(job["ClusterId"]) for job in _jobs(factories)}
        found: dict[str, Mapping[int, TaskStatus]] = {}
        for native_id in native_ids:
            cluster = _cluster(native_id)
            if tasks := known.get(cluster, {}):
                absent = (
                    TaskStatus(state=State.WAITING, reason="as many tasks as max_parallel allows are before it")
                    if cluster in growing
                    else TaskStatus(state=State.LOST, reason="neither condor_q nor condor_history knows it")
                )
                found[native_id] = {task: tasks.get(task, absent) for task in range(_tasks(native_id))}
            elif cluster in growing:
                found[native_id] = {}
        return found

    def cancel_argv(self, native_ids: Sequence[str]) -> tuple[str, ...]:
        """Remove jobs, and what of them is still to come."""
        return ("sh", "-c", _CANCEL, "sh", *(str(_cluster(native_id)) for native_id in native_ids))

    def limits_argv(self) -> tuple[str, ...] | None:
        """Ask the daemon that keeps the queue."""
        return ("condor_config_val", "-schedd", "MAX_JOBS_PER_SUBMISSION")

    def parse_limits(self, completed: Completed) -> Limits:
        """Read MAX_JOBS_PER_SUBMISSION."""
        said = completed.stdout_text
        return Limits(max_array_index=int(said) - 1 if completed.returncode == 0 and said.isdigit() else None)


def _resources(asked: Resources) -> dict[str, object]:
    """Turn a request into commands of a submit description, in the order in which people read them."""
    _refuse(asked)
    given = dict(asked.backend_options)
    again = given.pop("requeue", False)
    if not isinstance(again, bool):
        raise ConfigError(f"the backend option 'requeue' must be true or false, not {again!r}")
    commands: dict[str, object] = {"request_cpus": asked.cores}
    if asked.memory_bytes is not None:
        commands["request_memory"] = f"{-(-asked.memory_bytes // 1024)}K"
    if asked.gpus:
        commands["request_gpus"] = asked.gpus
    if asked.account is not None:
        commands["accounting_group"] = _value("account", asked.account)
    if asked.time is not None:
        commands["allowed_job_duration"] = -(-asked.time // timedelta(seconds=1))
    # Enough to save something, and less than the ten minutes that pools give otherwise.
    commands["job_max_vacate_time"] = 30
    # A job that HTCondor started a second time would find its work taken, and leave.
    once = [] if again else ["NumJobStarts == 0"]
    if (requirements := given.pop("requirements", None)) is not None:
        once.insert(0, f"({_value('requirements', requirements)})")
    if once:
        commands["requirements"] = " && ".join(once)
    # What has ended leaves the queue.
    ended = " || ".join(f"HoldReasonCode == {code}" for code in _BY_POOL)
    interrupted = "" if again else f" || (JobStatus == {_IDLE} && NumJobStarts > 0)"
    commands["periodic_remove"] = f"(JobStatus == {_HELD} && ({ended})){interrupted}"
    attributes = _own_attributes(given.pop("attributes", {}))
    return commands | _options(given) | attributes


def _options(given: Mapping[str, object]) -> dict[str, object]:
    """Take what stands in a description as it is."""
    for name in given:
        if name in _OWN:
            raise ConfigError(
                f"the backend option {name!r} is set by clustrix itself",
                remedy="Use cores, memory, time, gpus, account, environment_variables, max_parallel or attributes.",
            )
        if name not in _OPTIONS:
            raise UnknownOption("HTCondor option", name, sorted(_OPTIONS | {"attributes", "requeue", "requirements"}))
    return {name: _value(name, value) for name, value in given.items() if value is not None}


def _refuse(asked: Resources) -> None:
    expression = "Say what a machine must have, with backend_options={\"requirements\": 'OpSysMajorVer == 9'}."
    remedies = {
        "partition": expression,
        "queue": expression,
        "qos": "Leave it out.",
        "constraint": expression,
        "gpu_type": 'Say it as HTCondor does, with backend_options={"require_gpus": \'DeviceName == "..."\'}.',
    }
    refuse(asked, "HTCondor", remedies)


def _own_attributes(attributes: object) -> dict[str, object]:
    """Write a user's own attributes of the job, values as ClassAd literals."""
    if not isinstance(attributes, dict):
        raise ConfigError(f"the backend option 'attributes' must be a table of names and values, not {attributes!r}")
    written: dict[str, object] = {}
    for name, value in attributes.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII):
            raise ConfigError(f"attributes: {name!r} is no name of a ClassAd attribute")
        text = _value(f"attributes: {name}", value)
        quoted = text if isinstance(value, (bool, int, float)) else json.dumps(text, ensure_ascii=False)
        written[f"My.{name}"] = quoted
    return written


def _value(name: str, value: object) -> str:
    """Give a user's value as it may stand in a description, where a ``$`` or a last backslash means something.

    ``$(DOLLAR)`` would do for most, but is itself looked at twice (23.9.6), and ``$$(Name)`` later once more.
    """
    text = str(value).lower() if isinstance(value, bool) else one_line(name, value)
    if "$" in text or text.endswith("\\") or text != text.strip():
        raise ConfigError(f"{name}={text!r} cannot be said to HTCondor", remedy="It may hold no $, nor end in \\.")
    return text


def _argument(text: str) -> str:
    """Quote an argument within ``arguments = "..."``."""
    return "'" + text.replace("'", "''").replace('"', '""') + "'"


def _cluster(native_id: str) -> int:
    return int(native_id.partition(".")[0])


def _tasks(native_id: str) -> int:
    return int(native_id.partition("-")[2]) + 1


def _jobs(text: str) -> Iterator[dict[str, Any]]:
    """Read the lists that condor_q and condor_history print one after the other; an empty one may be nothing at all."""
    decoder = json.JSONDecoder(strict=False)
    rest = text.strip()
    while rest:
        try:
            jobs, end = decoder.raw_decode(rest)
        except ValueError as error:
            raise UnparsableOutput(f"condor_q printed no JSON ({error}): {rest[:200]!r}") from None
        yield from jobs
        rest = rest[end:].strip()


def _status(job: Mapping[str, Any], never: Mapping[int, str], *, queued: bool) -> TaskStatus:
    status = job["JobStatus"]
    _, _, node = str(job.get("RemoteHost") or job.get("LastRemoteHost") or "").rpartition("@")
    if status in {_RUNNING, _TRANSFERRING, _SUSPENDED} or (
        status == _REMOVED and queued and job.get("LastJobStatus") == _RUNNING
    ):
        return TaskStatus(state=State.RUNNING, node=node or None)
    started = job.get("NumJobStarts", 0) > 0
    end: End | None = None
    if status == _COMPLETED:
        end = _exit(job)
    elif status == _REMOVED:
        end = _removed(job, started=started)
    elif status == _HELD and job.get("HoldReasonCode") not in _WITHHELD:
        end = _held(job, "")
    elif status == _IDLE and int(job["ClusterId"]) in never:
        end = End(kind=EndKind.UNSCHEDULABLE, message=never[int(job["ClusterId"])])
    elif status not in {_IDLE, _HELD}:
        raise UnparsableOutput(f"HTCondor speaks of the job status {status!r}")
    if end is None:
        held = _WITHHELD.get(job.get("HoldReasonCode", 0), "") if status == _HELD else ""
        reason = f"{held}: {job.get('HoldReason', '')}" if held else str(job.get("LastRejMatchReason", "")).strip()
        return TaskStatus(state=State.WAITING, reason=reason)
    succeeded = end.kind is EndKind.EXITED and end.exit_code == 0
    cancelled = end.kind is EndKind.CANCELLED
    return TaskStatus(
        state=State.SUCCEEDED if succeeded else State.CANCELLED if cancelled else State.FAILED,
        reason=end.message if end.kind is EndKind.UNSCHEDULABLE else "",
        node=node or None,
        end=End(kind=end.kind, exit_code=end.exit_code, signal=end.signal, message=end.message, node=node or None),
    )


def _exit(job: Mapping[str, Any]) -> End:
    """Tell how a job ended by itself; shells write a signal as 128 and more."""
    code = job.get("ExitSignal") if job.get("ExitBySignal") else job.get("ExitCode")
    if not isinstance(code, int):
        raise UnparsableOutput(f"HTCondor does not say how {job['ClusterId']}.{job['ProcId']} ended")
    number = code if job.get("ExitBySignal") else code - 128
    if 0 < number <= _SIGNALS:
        return End(kind=EndKind.SIGNALLED, signal=number, message=f"HTCondor saw signal {number}")
    return End(kind=EndKind.EXITED, exit_code=code, message=f"HTCondor saw exit code {code}")


def _held(job: Mapping[str, Any], last: str) -> End:
    """Tell why a job is held, or was the last time (``Last``); unless it ran into a limit it will not run as it is."""
    code, words = job.get(f"{last}HoldReasonCode"), str(job.get(f"{last}HoldReason", "no reason given"))
    kind = _BY_POOL.get(code, EndKind.UNSCHEDULABLE) if isinstance(code, int) else EndKind.UNSCHEDULABLE
    if code in _POLICIES and job.get(f"{last}HoldReasonSubCode") == _MEMORY_EXCEEDED:
        kind = EndKind.OUT_OF_MEMORY
    return End(kind=kind, message=f"HTCondor held it (code {code}): {words}")


def _removed(job: Mapping[str, Any], *, started: bool) -> End:
    """Tell why a job was removed: somebody did, or it had ended otherwise before."""
    words = str(job.get("RemoveReason", "no reason given"))
    if job.get("LastJobStatus") == _HELD and job.get("LastHoldReasonCode") not in _WITHHELD:
        return _held(job, "Last")
    if "PeriodicRemove" in words and started:
        why = job.get("VacateReason") or "no reason given"
        return End(kind=EndKind.PREEMPTED, message=f"HTCondor took the machine away: {why}")
    return End(kind=EndKind.CANCELLED, message=f"HTCondor removed it: {words}")


def _never(text: str) -> dict[int, str]:
    """Read what ``condor_q -better-analyze`` says of jobs that no machine of the pool could ever run."""
    never: dict[int, str] = {}
    for block in re.split(r"^The Requirements expression for job \S+ is$", text, flags=re.MULTILINE):
        summary = re.search(r"^0*(\d+)\.\d+: +Run analysis summary.* Of (\d+) machines", block, re.MULTILINE)
        if summary is None or summary[2] == "0" or "No machines matched" not in block:
            continue
        steps = dict(re.findall(r"^(\[\d+\]) +\d+ +(.*)$", block, re.MULTILINE))
        failed = re.search(r"^\[\d+\] +0 +(.*)$", block, re.MULTILINE)
        # A condition may speak of the steps before it.
        why = " ".join(steps.get(word, word) for word in (failed[1] if failed else "its requirements").split())
        asked = re.findall(r"^\s+(Request\w+) = (\S+(?: \(\w+\))?)\s*$", block, re.MULTILINE)
        values = ", ".join(f"{name} = {value}" for name, value in asked if re.search(rf"\b{name}\b", why))
        never[int(summary[1])] = f"no machine of the pool meets {why}" + (f", where {values}" if values else "")
    return never
