"""SLURM: options as sbatch(1) has them, states and reasons as squeue(1) and sacct(1) print them.

squeue with ``--states=all`` is asked first: it knows what scontrol knows, ended jobs too until MinJobAge. sacct adds
exit codes, what happened to steps, and jobs that are older; a site may have no accounting.
"""

from __future__ import annotations

import re
import shlex
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from clustrix.errors import (
    BackendError,
    ConfigError,
    SubmitRejected,
    UnknownOption,
    UnparsableOutput,
)
from clustrix.model.job import End, EndKind, State, TaskStatus
from clustrix.schedulers import srun
from clustrix.schedulers.base import Limits, job_name, notice, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from clustrix.model.job import JobSpec
    from clustrix.model.paths import JobPaths
    from clustrix.model.resources import Resources
    from clustrix.transports.base import Completed

_OWN = {
    "array",
    "job-name",
    "output",
    "error",
    "open-mode",
    "parsable",
    "wrap",
    "wait",
    "export",
    "chdir",
    "input",
    "test-only",
}
_OPTIONS = {
    # values
    "acctg-freq", "batch", "bb", "begin", "clusters", "cluster-constraint", "comment", "core-spec", "cpu-freq",
    "cpus-per-gpu", "deadline", "delay-boot", "dependency", "exclude", "extra", "gpu-bind", "gpu-freq", "gres",
    "gres-flags", "hint", "licenses", "mail-type", "mail-user", "mcs-label", "mem-bind", "mem-per-cpu", "mem-per-gpu",
    "network", "nice", "nodefile", "nodelist", "power", "prefer", "priority", "profile", "reservation", "segment",
    "signal", "sockets-per-node", "cores-per-socket", "threads-per-core", "switches", "thread-spec", "time-min", "tmp",
    "tres-per-task", "wckey",
    # flags, some with an optional value
    "contiguous", "exclusive", "hold", "kill-on-invalid-dep", "oversubscribe", "reboot", "requeue", "spread-job",
    "use-min-nodes",
    # for ranks
    "mpi", "ntasks-per-node",
}  # fmt: skip

# JOB STATE CODES of squeue(1). What is not here is on its way: it holds its nodes or will get them.
_WAITING = {
    "PENDING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
    "CONFIGURING",
    "POWER_UP_NODE",
}
_RUNNING = {
    "RUNNING",
    "COMPLETING",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
    "EXPEDITING",
    "UPDATE_DB",
}
_ENDS = {
    "COMPLETED": EndKind.EXITED,
    "FAILED": EndKind.EXITED,
    "CANCELLED": EndKind.CANCELLED,
    "REVOKED": EndKind.CANCELLED,
    "TIMEOUT": EndKind.TIME_LIMIT,
    "DEADLINE": EndKind.TIME_LIMIT,
    "OUT_OF_MEMORY": EndKind.OUT_OF_MEMORY,
    "NODE_FAIL": EndKind.NODE_FAILURE,
    "BOOT_FAIL": EndKind.NODE_FAILURE,
    "LAUNCH_FAILED": EndKind.NODE_FAILURE,
    "PREEMPTED": EndKind.PREEMPTED,
}
_STATES = {EndKind.CANCELLED: State.CANCELLED}
_OOM_SIGNAL = 125  # what slurmstepd writes for a step whose memory ran out

# JOB REASON CODES of squeue(1) that people meet; others are told by their own name, word by word.
_REASONS = {
    "BeginTime": "its begin time has not come",
    "Dependency": "it waits for another job",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its quality of service is not valid",
    "JobArrayTaskLimit": "as many tasks of its array run as may run at a time",
    "JobHeldAdmin": "an administrator holds it",
    "JobHeldUser": "its owner holds it",
    "Licenses": "a licence is not free",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition starts no jobs",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives",
    "PartitionTimeLimit": "it asks for more time than its partition gives",
    "Priority": "jobs with a higher priority come first",
    "QOSMaxJobsPerUserLimit": "as many jobs of its owner run as may run at a time",
    "ReqNodeNotAvail": "a node that it needs is not available",
    "Reservation": "its reservation has not begun",
    "Resources": "the resources that it asks for are not free",
}
_NEVER = re.compile(
    r"PartitionTimeLimit|PartitionNodeLimit|BadConstraints|DependencyNeverSatisfied|InvalidAccount|InvalidQOS"
    r"|(?:Assoc|QOS)Max\w+Per(?:Job|Node)\w*"
)

_SIGXCPU = 24  # of Linux; every version takes a number, whichever names it knows
_NOWHERE = "/dev/null"
_FORMAT = "%F|%K|%T|%S|%N|%r"
_SQUEUE = ("env", "SLURM_BITSTR_LEN=0", "SLURM_TIME_FORMAT=%s", "squeue", "--noheader", "--states=all")
_FIND = """squeue --noheader --states=all --format=%F --name="$1" || exit
sacct --noheader --parsable2 --allocations --starttime=now-7days --format=JobID --name="$1" 2>/dev/null
exit 0"""
_CANCEL = """scancel --quiet "$@" || exit
jobs=$(IFS=,; echo "$*"); round=0
while [ $round -lt 20 ] &&
  squeue --noheader --states=RUNNING,COMPLETING,SUSPENDED --format=%A --jobs="$jobs" 2>/dev/null | grep -q .
do sleep 0.5; round=$((round + 1)); done
exit 0"""
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled|command not found|: not found|No such file", re.IGNORECASE)


class Slurm:
    """Speak SLURM, 18.08 and later."""

    name = "slurm"
    commands = ("sbatch", "squeue", "scancel", "scontrol")
    variables: tuple[str, ...] = ()
    array_index = "${SLURM_ARRAY_TASK_ID:-0}"
    native_id = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"

    def script(self, spec: JobSpec, paths: JobPaths, *, offset: int = 0, tasks: int = 1) -> str:
        """Write the batch script; ConfigError, UnknownOption, UnsupportedResource."""
        options = {
            "job-name": job_name(spec),
            "output": _output(paths, offset, tasks),
            "open-mode": "append",
            **({"array": _array(tasks, spec.max_parallel)} if tasks > 1 else {}),
            **_resources(spec.resources),
        }
        modules = [shlex.quote(one_line("modules", name)) for name in spec.resources.modules]
        wrapper, logs = shlex.quote(paths.wrapper), shlex.quote(paths.logs)
        lines = [
            # Only a login shell is sure to know the module command.
            "#!/bin/bash -l" if modules else "#!/bin/sh",
            f"# {printable(spec.name)}, job {spec.id.ulid}, tasks {offset} to {offset + tasks - 1}",
            *(f"#SBATCH {_option(name, value)}" for name, value in options.items()),
            "",
            f"task=$(({offset} + {self.array_index}))" if tasks > 1 else f"task={offset}",
            *([f'exec >>{logs}/"$task".out 2>&1'] if options["output"] == _NOWHERE else []),
            *([f"module load {' '.join(modules)} || exit"] if modules else []),
            f'exec sh {wrapper} "$task"',
            "",
        ]
        return "\n".join(lines)

    def submit_argv(self, spec: JobSpec, script: str) -> tuple[str, ...]:
        """Submit a script."""
        del spec
        return ("sbatch", "--parsable", script)

    def parse_submit(self, completed: Completed) -> str:
        """Read the number that ``--parsable`` prints, with the cluster's name behind a semicolon in a federation."""
        lines = completed.stdout_text.split()
        number = lines[-1].partition(";")[0] if lines else ""
        if completed.returncode == 0 and number.isdigit():
            return number
        said = completed.stderr_text or completed.stdout_text
        if completed.returncode == 0:
            raise UnparsableOutput(f"sbatch printed no job number: {said!r}")
        words = "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in said.splitlines())
        if _unreachable(said):
            raise BackendError(f"SLURM does not answer: {words}")
        raise SubmitRejected(f"SLURM refused the job: {words or f'sbatch ended with {completed.returncode}'}")

    def find_argv(self, spec: JobSpec) -> tuple[str, ...]:
        """Look for a job by its name, which holds its ULID."""
        return ("sh", "-c", _FIND, "sh", job_name(spec))

    def parse_find(self, completed: Completed) -> str | None:
        """Read the number of the newest job of that name."""
        if completed.returncode != 0:
            raise BackendError(f"squeue failed: {completed.stderr_text or completed.returncode}")
        numbers = re.findall(r"^(\d+)", completed.stdout_text, re.MULTILINE)
        return max(numbers, key=int) if numbers else None

    def status_argv(self, native_ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Ask the controller, then the accounting."""
        jobs = f"--jobs={','.join(native_ids)}"
        # Without a start sacct looks no further back than midnight.
        sacct = (
            "sacct",
            "--noheader",
            "--parsable2",
            "--starttime=now-60days",
            "--format=JobID,State,ExitCode,NodeList",
        )
        return ((*_SQUEUE, f"--format={_FORMAT}", jobs), (*sacct, jobs))

    def parse_status(
        self, native_ids: Sequence[str], answers: Sequence[Completed]
    ) -> Mapping[str, Mapping[int, TaskStatus]]:
        """Read both; a job that neither knows is left out, unless one of them could not be asked."""
        queue, accounting = answers
        said = queue.stderr_text
        # One unknown job is an error for squeue, several are none.
        if queue.returncode != 0 and "Invalid job id" not in said:
            raise BackendError(f"squeue failed: {said or queue.returncode}")
        found: dict[str, dict[int, TaskStatus]] = {}
        for job, task, status in _accounted(accounting.stdout_text):
            # Whatever squeue has forgotten is over, also if the accounting has not heard of it yet.
            if status.state.ended:
                found.setdefault(job, {})[task] = status
        for job, task, status in _queued(queue.stdout_text):
            known = found.setdefault(job, {})
            # Of an end the accounting knows more; of anything else the controller knows it first.
            if not (status.state.ended and task in known):
                known[task] = status
        unknown = [job for job in native_ids if job not in found]
        if unknown and accounting.returncode != 0 and not _NO_ACCOUNTING.search(accounting.stderr_text):
            raise BackendError(f"sacct failed: {accounting.stderr_text or accounting.returncode}")
        return {job: found[job] for job in native_ids if job in found}

    def cancel_argv(self, native_ids: Sequence[str]) -> tuple[str, ...]:
        """Cancel jobs, and give their processes ten seconds to end; SLURM goes on to kill them after its KillWait."""
        return ("sh", "-c", _CANCEL, "sh", *native_ids)

    def launch_argv(self, spec: JobSpec, paths: JobPaths) -> tuple[str, ...]:
        """Start ranks by srun."""
        return srun.argv(spec, paths)

    def interfaces_argv(self) -> tuple[str, ...]:
        """Ask srun."""
        return ("srun", "--mpi=list")

    def parse_interfaces(self, completed: Completed) -> frozenset[str]:
        """Read what srun knows."""
        return srun.parse_interfaces(completed)

    def limits_argv(self) -> tuple[str, ...] | None:
        """Ask for the configuration."""
        return ("scontrol", "show", "config")

    def parse_limits(self, completed: Completed) -> Limits:
        """Read MaxArraySize, which is one more than the highest index."""
        match = re.search(r"^MaxArraySize\s*=\s*(\d+)", completed.stdout_text, re.MULTILINE)
        return Limits(max_array_index=max(int(match[1]) - 1, 0) if match else None)


def _resources(asked: Resources) -> dict[str, object]:
    """Turn a request into options, in the order in which people read them."""
    if asked.partition and asked.queue and asked.partition != asked.queue:
        raise ConfigError(
            f"partition={asked.partition!r} and queue={asked.queue!r} are the same thing on SLURM", remedy="Give one."
        )
    if asked.gpu_type and not asked.gpus:
        raise ConfigError(f"gpu_type={asked.gpu_type!r} without gpus", remedy="Say how many: gpus=1.")
    if asked.mpi is not None and asked.ranks == 1:
        raise ConfigError(f"mpi={asked.mpi!r} is for several ranks, and the task is one", remedy="Set nodes.")
    kind = f"{asked.gpu_type}:" if asked.gpu_type else ""
    options: dict[str, object] = {
        "partition": asked.partition or asked.queue,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "nodes": asked.nodes,
        "ntasks": asked.ranks,
        "ntasks-per-node": asked.ranks_per_node if asked.ranks > 1 else None,
        "cpus-per-task": asked.cores,
        # Of a node; what was asked for is of a rank.
        "mem": None if asked.memory_bytes is None else f"{-(-asked.memory_bytes * asked.ranks_per_node // 1024)}K",
        "time": None if asked.time is None else _clock(asked.time),
        "gres": f"gpu:{kind}{asked.gpus}" if asked.gpus else None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    for given, value in asked.backend_options.items():
        name = given.replace("_", "-").lstrip("-")
        if name in {"ntasks-per-node", "mpi"}:  # both are srun's, too
            continue
        if name in _OWN or name in options:
            raise ConfigError(
                f"the backend option {given!r} is set by clustrix itself",
                remedy="Use cores, memory, time, gpus, nodes, partition, account, qos or constraint.",
            )
        if name not in _OPTIONS:
            raise UnknownOption("SLURM option", given, sorted(_OPTIONS))
        if value is False or value is None:
            continue
        options[name] = None if value is True else value
    if "requeue" not in options:
        options["no-requeue"] = None
    options.setdefault("signal", f"B:{_SIGXCPU}@{notice(asked.time)}")
    return options


def _output(paths: JobPaths, offset: int, tasks: int) -> str:
    """Place SLURM's own words beside the output of their task; its ``%a`` knows nothing of an offset."""
    if offset and tasks > 1:
        return _NOWHERE
    escaped = type(paths)(paths.directory.replace("%", "%%"))
    return escaped.log("%a" if tasks > 1 else offset)


def _option(name: str, value: object) -> str:
    """Write an option, a backslash before whatever is not plain, as sbatch reads them."""
    if value is None:
        return f"--{name}"
    return f"--{name}=" + re.sub(r"([^\w./,:=@%+-])", r"\\\1", one_line(name, value))


def _array(tasks: int, max_parallel: int | None) -> str:
    return f"0-{tasks - 1}" + (f"%{max_parallel}" if max_parallel is not None and max_parallel < tasks else "")


def _clock(length: timedelta) -> str:
    """Write days-hours:minutes:seconds, seconds rounded up."""
    seconds = -(-length // timedelta(seconds=1))
    days, seconds = divmod(seconds, 86_400)
    return f"{days}-{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _queued(text: str) -> Iterator[tuple[str, int, TaskStatus]]:
    """Read what squeue prints in `_FORMAT`."""
    for line in text.splitlines():
        fields = line.split("|", 5)
        if len(fields) != 6 or not fields[0].isdigit():  # noqa: PLR2004 - the fields of _FORMAT
            raise UnparsableOutput(f"squeue printed {line!r}")
        job, indices, state, start, node, reason = fields
        status = _status(state, reason=reason, start=start, node=node)
        for task in _indices(indices):
            yield job, task, status


def _accounted(text: str) -> Iterator[tuple[str, int, TaskStatus]]:
    """Read what sacct prints; the cause of an end may stand on a step alone."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 3]  # noqa: PLR2004 - the fields asked for
    steps: dict[str, list[list[str]]] = {}
    for row in rows:
        whole, dot, _ = row[0].partition(".")
        if dot:
            steps.setdefault(whole, []).append(row)
    for whole, state, exit_code, node in (row for row in rows if "." not in row[0]):
        job, _, indices = whole.partition("_")
        of_steps = [(step[1], step[2]) for step in steps.get(whole, [])]
        status = _status(state, exit_code=exit_code, node=node, steps=of_steps)
        for task in _indices(indices or "N/A"):
            yield job, task, status


def _status(
    printed: str,
    *,
    reason: str = "",
    start: str = "",
    node: str = "",
    exit_code: str = "",
    steps: Iterable[tuple[str, str]] = (),
) -> TaskStatus:
    state = _whole(printed)
    where = node if node and node != "None assigned" else None
    if state in _WAITING:
        word, _, rest = reason.partition(",")
        words = (
            "" if word in {"", "None"} else _REASONS.get(word, _spelled(word)) + (f" ({rest.strip()})" if rest else "")
        )
        if _NEVER.fullmatch(word):
            return TaskStatus(
                state=State.FAILED,
                reason=words,
                end=End(
                    kind=EndKind.UNSCHEDULABLE, message=f"{words} ({word}); it stays in the queue until it is cancelled"
                ),
            )
        expected = datetime.fromtimestamp(int(start), timezone.utc) if start.isdigit() else None
        return TaskStatus(state=State.WAITING, reason=words, expected_start=expected)
    if state in _RUNNING:
        return TaskStatus(state=State.RUNNING, node=where)
    kind = _ENDS[state]
    code, signal = _exit(exit_code)
    if state == "FAILED" and (
        signal == _OOM_SIGNAL or any(_whole(of) == "OUT_OF_MEMORY" or _exit(how)[1] == _OOM_SIGNAL for of, how in steps)
    ):
        kind = EndKind.OUT_OF_MEMORY
    if kind is EndKind.EXITED and signal:
        kind = EndKind.SIGNALLED
    succeeded = state == "COMPLETED"
    return TaskStatus(
        state=State.SUCCEEDED if succeeded else _STATES.get(kind, State.FAILED),
        node=where,
        end=End(
            kind=kind,
            exit_code=code if kind is EndKind.EXITED else None,
            signal=signal if kind is EndKind.SIGNALLED else None,
            message=f"SLURM says {printed}" + (f", exit code {exit_code}" if exit_code else ""),
        ),
    )


def _whole(printed: str) -> str:
    """Name a state that has an addition (``CANCELLED by 1000``) or was cut (``OUT_OF_ME+``)."""
    word = printed.split(maxsplit=1)[0] if printed.strip() else ""
    known = (*_WAITING, *_RUNNING, *_ENDS)
    if word in known:
        return word
    fitting = {name for name in known if word.endswith("+") and name.startswith(word[:-1])}
    if len(fitting) != 1:
        raise UnparsableOutput(f"SLURM speaks of the state {printed!r}")
    return fitting.pop()


def _exit(printed: str) -> tuple[int | None, int | None]:
    """Read ``code:signal``."""
    match = re.fullmatch(r"(\d+):(\d+)", printed)
    return (int(match[1]), int(match[2]) or None) if match else (None, None)


def _indices(printed: str) -> Iterable[int]:
    """Read the tasks of one line: ``N/A`` (no array: task 0), ``3``, ``4-7%2``, ``[1,3-9:2%4]``."""
    if printed in {"N/A", ""}:
        return (0,)
    found: list[int] = []
    for part in printed.strip("[]").partition("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match is None:
            raise UnparsableOutput(f"SLURM speaks of the array tasks {printed!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1))
    return found


def _spelled(reason: str) -> str:
    """Take a reason's name apart: ``AssocGrpCpuLimit`` is ``assoc grp cpu limit``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", reason).strip("()").lower()


def _unreachable(said: str) -> bool:
    return any(
        mark in said for mark in ("Unable to contact", "Socket timed out", "Connection refused", "Zero Bytes were")
    )
