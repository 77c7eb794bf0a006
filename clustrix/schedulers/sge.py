"""Grid Engine (SGE 6.2 and its descendants): options as qsub(1) has them, states of qstat(1), records of accounting(5).

qstat forgets a job the moment it ends; qacct learns of it some seconds later, and never of one that was deleted while
it waited. Lines of options in a script have no escapes: a blank, a quote, a ``#`` or a letter beyond ASCII is dropped
or makes qsub fail (8.1.9), so that values with them are refused.
"""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

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

_OWN = {"N", "P", "S", "V", "b", "cwd", "e", "j", "o", "pe", "q", "sync", "t", "tc", "terse", "v", "wd"}
_OPTIONS = {"A", "M", "R", "ac", "ar", "binding", "hold_jid", "js", "m", "notify", "p", "r", "w"}
_NAMES = {"parallel_environment": "smp", "memory_resource": "h_vmem", "gpu_resource": "gpu"}
"""What sites name as they like, and the names that most of them chose."""
_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@=+*~-]+")

# What qstat knows; of waiting jobs why, and whether they could run if the cluster were empty; of the others, and of
# arrays that qstat does not list whole, what qacct knows.
_STATUS = r"""
list=$(qstat -xml -u "$(id -un)") || exit
jobs() {
  printf '%s\n' "$list" | awk '/<JB_job_number>/ { gsub(/[^0-9]/, ""); job = $0 } /<state>'"$1"'/ { print job }' |
    sort -u | tr '\n' ' '
}
here=$(jobs) waits=$(jobs 'qw<')
known= gone= waiting=
for id; do
  case " $here" in *" $id "*) known="$known $id";; *) gone="$gone $id";; esac
  case " $waits" in *" $id "*) waiting="$waiting $id";; esac
done
details= verified=
[ -z "$known" ] || details=$(qstat -j "$(echo $known | tr ' ' ',')" 2>/dev/null)
# The master works for each of these.
[ -z "$waiting" ] || verified=$(qalter -w v $(echo $waiting | cut -d ' ' -f 1-20) 2>&1)
printf '%s\n' "$list" '%% details' "$details" '%% verified' "$verified"
partial=$(printf '%s\n' "$list" "$details" | awk '
  /<JB_job_number>/ { gsub(/[^0-9]/, ""); job = $0; size = 1 }
  /<tasks>/ {
    gsub(/<[^>]*>/, ""); size = 0; n = split($0, parts, ",")
    for (i = 1; i <= n; i++) {
      m = split(parts[i], p, /[-:]/)
      size += m < 2 ? 1 : int((p[2] - p[1]) / (m > 2 ? p[3] : 1)) + 1
    }
  }
  /<\/job_list>/ { listed[job] += size }
  /^job_number:/ { job = $2 }
  /^job-array tasks:/ { m = split($3, p, /[-:]/); if (p[2] - p[1] + 1 > listed[job]) print job }')
for id in $gone $partial; do
  printf '%%%% account %s\n' "$id"
  qacct -j "$id" 2>&1
  printf '%%%% returned %d\n' $?
done
"""
_FIND = r"""
qstat -xml -j "$1" || exit
printf '\n%%%% account\n'
qacct -j "$1" 2>&1
exit 0
"""
# qdel fails if one of several jobs has ended meanwhile.
_CANCEL = r"""
said=$(qdel "$@" 2>&1) && exit
status=$?
printf '%s\n' "$said" | grep -v -e 'does not exist' -e 'deletion$' -e 'has deleted' >&2 || exit 0
exit $status
"""
_UNREACHABLE = re.compile(r"unable to (send|contact|receive)|can't resolve|got select error|commlib|doesn't exist$")
_NOTHING_ACCOUNTED = re.compile(r"not found|no jobs running|No such file|Permission denied", re.IGNORECASE)

_NO_MESSAGE = "There are no messages available"

# FAILED of accounting(5). 100: the job was ended by a signal that nobody but the scheduler sends to the whole of it.
_LIMIT, _KILLED = 37, 100
_REQUEUED = {24, 25}
_NEVER_STARTED = {26, 27, 28, 29, 30}


class Sge:
    """Speak Grid Engine."""

    name = "sge"
    commands = ("qsub", "qstat", "qdel", "qalter", "qacct")
    variables = ("SGE_ROOT", "SGE_CELL", "SGE_QMASTER_PORT", "SGE_EXECD_PORT")
    array_index = "$((SGE_TASK_ID - 1))"
    native_id = "$JOB_ID${SGE_TASK_ID:+.$SGE_TASK_ID}"

    def script(self, spec: JobSpec, paths: JobPaths, *, offset: int = 0, tasks: int = 1) -> str:
        """Write the batch script; ConfigError, UnknownOption, UnsupportedResource."""
        limit = spec.max_parallel
        options = {
            "S": "/bin/sh",
            "N": job_name(spec),
            # qsub knows no way to write down every path; what a task prints goes to its log below.
            "o": "/dev/null",
            "j": "y",
            **({"t": f"1-{tasks}"} if tasks > 1 else {}),
            **({"tc": limit} if limit is not None and limit < tasks else {}),
            **_resources(spec.resources),
        }
        lines = [
            "#!/bin/sh",
            f"# {printable(spec.name)}, job {spec.id.ulid}, tasks {offset} to {offset + tasks - 1}",
            *(f"#$ {_option(name, value)}" for name, value in options.items()),
            "",
            # Outside of an array it is "undefined".
            f"task=$((SGE_TASK_ID + {offset} - 1))" if tasks > 1 else f"task={offset}; unset SGE_TASK_ID",
            f'exec >>{shlex.quote(paths.logs)}/"$task".out 2>&1',
            "trap : USR1 USR2 TERM",
            task_command(spec.resources.modules, paths.wrapper),
            "code=$?",
            "# 99 would queue the job again, and 100 leave it there as an error.",
            "case $code in 99|100) code=1;; esac",
            "exit $code",
            "",
        ]
        return "\n".join(lines)

    def submit_argv(self, spec: JobSpec, script: str) -> tuple[str, ...]:
        """Submit a script."""
        del spec
        return ("qsub", "-terse", script)

    def parse_submit(self, completed: Completed) -> str:
        """Read ``4711`` or, of an array, ``4711.1-8:1``."""
        lines = completed.stdout_text.split()
        if completed.returncode == 0 and lines and (match := re.fullmatch(r"(\d+)(\.1-\d+:1)?", lines[-1])):
            return match[0]
        said = completed.stderr_text or completed.stdout_text
        if completed.returncode == 0:
            raise UnparsableOutput(f"qsub printed no job number: {said!r}")
        words = " ".join(line for line in said.splitlines() if line != "Exiting.")
        words = words.removeprefix("Unable to run job: ")
        if _UNREACHABLE.search(said):
            raise BackendError(f"SGE does not answer: {words}")
        environment = "parallel environment" in said
        raise SubmitRejected(
            f"SGE refused the job: {words or f'qsub ended with {completed.returncode}'}",
            remedy='List them with "qconf -spl" and set backend_options: {parallel_environment: NAME}.'
            if environment
            else None,
        )

    def find_argv(self, spec: JobSpec) -> tuple[str, ...]:
        """Look for a job by its name, which holds its ULID."""
        return ("sh", "-c", _FIND, "sh", job_name(spec))

    def parse_find(self, completed: Completed) -> str | None:
        """Read the id of the newest job of that name."""
        if completed.returncode != 0:
            raise BackendError(f"qstat failed: {completed.stderr_text or completed.returncode}")
        listed, _, accounted = completed.stdout_text.partition("%% account")
        sizes: dict[int, int] = {}
        for record in _records(accounted):
            number = int(record["jobnumber"])
            sizes[number] = max(sizes.get(number, 0), _task(record) + 1 if record["taskid"].isdigit() else 0)
        if "<unknown_jobs" not in listed:
            for element in _xml(listed).iter("element"):
                if job := element.findtext("JB_job_number"):
                    last = int(element.findtext(".//JB_ja_structure//RN_max") or 0)
                    sizes[int(job)] = last if last > 1 else 0
        if not sizes:
            return None
        newest = max(sizes)
        return f"{newest}.1-{sizes[newest]}:1" if sizes[newest] else str(newest)

    def status_argv(self, native_ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Ask for the user's jobs once and, where that does not tell enough, for single jobs of these."""
        return (("sh", "-c", _STATUS, "sh", *(_number(native_id) for native_id in native_ids)),)

    def parse_status(
        self, native_ids: Sequence[str], answers: Sequence[Completed]
    ) -> Mapping[str, Mapping[int, TaskStatus]]:
        """Read what qstat and qacct say; a task that an array no longer has is lost."""
        (answer,) = answers
        if answer.returncode != 0:
            raise BackendError(f"qstat failed: {answer.stderr_text or answer.returncode}")
        listed, *sections = re.split(r"^%% (\w+) ?(.*)\n?", answer.stdout.decode(errors="replace"), flags=re.MULTILINE)
        texts = {(name, of): text for name, of, text in zip(sections[::3], sections[1::3], sections[2::3], strict=True)}
        reasons, errors = _details(texts.get(("details", ""), ""))
        never = _never(texts.get(("verified", ""), ""))
        queued = _queued(listed.strip(), reasons, errors, never)
        found: dict[str, Mapping[int, TaskStatus]] = {}
        for native_id in native_ids:
            number = _number(native_id)
            said = texts.get(("account", number), "")
            if said and "jobnumber" not in said and not _NOTHING_ACCOUNTED.search(said):
                raise BackendError(f"qacct failed: {said.strip()}")
            tasks = {_task(record): _ended(record) for record in _records(said) if _failed(record)[0] not in _REQUEUED}
            tasks |= queued.get(number, {})
            if tasks and number not in queued:
                lost = TaskStatus(state=State.LOST, reason="neither qstat nor qacct knows it")
                tasks = {task: tasks.get(task, lost) for task in range(_tasks(native_id))} | tasks
            if tasks or number in queued:
                found[native_id] = tasks
        return found

    def cancel_argv(self, native_ids: Sequence[str]) -> tuple[str, ...]:
        """Delete jobs."""
        return ("sh", "-c", _CANCEL, "sh", *(_number(native_id) for native_id in native_ids))

    def limits_argv(self) -> tuple[str, ...] | None:
        """Ask for the configuration."""
        return ("qconf", "-sconf")

    def parse_limits(self, completed: Completed) -> Limits:
        """Read max_aj_tasks, the most tasks of an array; 0 is no limit."""
        match = re.search(r"^max_aj_tasks\s+(\d+)", completed.stdout_text, re.MULTILINE)
        return Limits(max_array_index=int(match[1]) - 1 if match and int(match[1]) else None)


def _resources(asked: Resources) -> dict[str, object]:
    """Turn a request into options, in the order in which people read them."""
    _refuse(asked)
    given = dict(asked.backend_options)
    names = {name: _plain(name, given.pop(name, default)) for name, default in _NAMES.items()}
    requests = _requests(asked, names, given.pop("l", {}))
    options: dict[str, object] = {
        "q": None if asked.queue is None else _plain("queue", asked.queue),
        "P": None if asked.account is None else _plain("account", asked.account),
        "pe": (names["parallel_environment"], asked.cores) if asked.cores > 1 else None,
        "l": ",".join(f"{_plain('l', name)}={_plain(name, value)}" for name, value in requests.items()) or None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name in _OWN:
            raise ConfigError(
                f"the backend option {name!r} is set by clustrix itself",
                remedy="Use cores, memory, time, gpus, queue, account, environment_variables or parallel_environment.",
            )
        if name not in _OPTIONS:
            raise UnknownOption("SGE option", name, sorted(_OPTIONS | set(_NAMES) | {"l"}))
        if value is not False and value is not None:
            options[name] = ("" if name == "notify" else "y") if value is True else value
    # A job that SGE started a second time would find its work taken, and leave.
    options.setdefault("r", "n")
    return options


def _refuse(asked: Resources) -> None:
    table = 'Ask for it as the site names it, with backend_options={"l": {"name": "value"}}.'
    remedies = {
        "partition": "Name a queue with queue=.",
        "qos": "Leave it out.",
        "constraint": table,
        "gpu_type": table,
    }
    refuse(asked, "SGE", remedies)


def _requests(asked: Resources, names: Mapping[str, str], extras: object) -> dict[str, object]:
    """Say what goes with ``-l``."""
    if not isinstance(extras, dict):
        raise ConfigError(f"the backend option 'l' must be a table of resources and their values, not {extras!r}")
    requests: dict[str, object] = {}
    if asked.time is not None:
        requests["h_rt"] = -(-asked.time // timedelta(seconds=1))
    if asked.memory_bytes is not None:
        # Grid Engine counts memory per slot, and a slot is a core.
        requests[names["memory_resource"]] = f"{-(-asked.memory_bytes // (asked.cores * 1024))}K"
    if asked.gpus:
        requests[names["gpu_resource"]] = asked.gpus
    for name, value in extras.items():
        if name in requests:
            raise ConfigError(f"the resource {name!r} is asked for twice", remedy="Use memory, time and gpus, or l.")
        requests[name] = str(value).upper() if isinstance(value, bool) else value
    return requests


def _option(name: str, value: object) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return " ".join((f"-{name}", *(_plain(name, each) for each in values if each != "")))


def _plain(name: str, value: object) -> str:
    """Give a value as it may stand in a line of options."""
    text = one_line(name, value)
    if not _PLAIN.fullmatch(text) or (text.startswith("-") and not isinstance(value, int)):
        raise ConfigError(
            f"{name}={text!r} cannot be said to SGE",
            remedy="It reads letters, digits and . , : / @ = + * ~ - _ alone, and no - in front.",
        )
    return text


def _number(native_id: str) -> str:
    return native_id.partition(".")[0]


def _tasks(native_id: str) -> int:
    match = re.fullmatch(r"\d+\.1-(\d+):1", native_id)
    return int(match[1]) if match else 1


def _xml(text: str) -> ET.Element:
    try:
        return ET.fromstring(text)  # noqa: S314 - qstat's own words
    except ET.ParseError as error:
        raise UnparsableOutput(f"qstat printed no XML ({error}): {text[:200]!r}") from None


def _queued(
    text: str, reasons: Mapping[str, str], errors: Mapping[tuple[str, int], str], never: Mapping[str, str]
) -> dict[str, dict[int, TaskStatus]]:
    """Read the list that ``qstat -xml`` prints: job -> task -> status."""
    found: dict[str, dict[int, TaskStatus]] = {}
    for entry in _xml(text).iter("job_list"):
        number, state = entry.findtext("JB_job_number") or "", entry.findtext("state") or ""
        _, _, node = (entry.findtext("queue_name") or "").partition("@")
        for task in _range(entry.findtext("tasks")):
            reason = reasons.get(number, "")
            if "E" in state:
                why = errors.get((number, task)) or reason or "no reason given"
                end = End(kind=EndKind.UNSCHEDULABLE, message=f"SGE put it into the error state {state}: {why}")
                status = TaskStatus(state=State.FAILED, reason=why, end=end)
            elif "q" not in state and "w" not in state:
                status = TaskStatus(state=State.RUNNING, node=node or None)
            elif number in never and "h" not in state:
                end = End(kind=EndKind.UNSCHEDULABLE, message=never[number])
                status = TaskStatus(state=State.FAILED, reason=never[number], end=end)
            else:
                held = "it is held" if "h" in state else ""
                status = TaskStatus(state=State.WAITING, reason=reason or held)
            found.setdefault(number, {})[task] = status
    return found


def _range(printed: str | None) -> Iterator[int]:
    """Read the tasks of one entry, ``2,5-9:2``, which count from 1; an entry without is task 0."""
    for part in (printed or "1").split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip())
        if match is None:
            raise UnparsableOutput(f"SGE speaks of the tasks {printed!r}")
        yield from range(int(match[1]) - 1, int(match[2] or match[1]), int(match[3] or 1))


def _details(text: str) -> tuple[dict[str, str], dict[tuple[str, int], str]]:
    """Read why jobs wait, and why tasks are in the error state, from what ``qstat -j`` prints."""
    reasons: dict[str, str] = {}
    errors: dict[tuple[str, int], str] = {}
    for block in re.split(r"^=+$", text, flags=re.MULTILINE):
        number = re.search(r"^job_number: +(\d+)", block, re.MULTILINE)
        if number is None:
            continue
        for task, why in re.findall(r"^error reason +(\d+): +(.*)", block, re.MULTILINE):
            errors[number[1], int(task) - 1] = re.sub(r"^\S+ \S+ \[\d+:\d+\]: ", "", why)
        if info := re.search(r"^scheduling info: +(.*(?:\n +.*)*)", block, re.MULTILINE):
            # What concerns this job alone comes last.
            lines = dict.fromkeys(line.strip() for line in reversed(info[1].splitlines()))
            reasons[number[1]] = "; ".join(line for line in lines if line and line != _NO_MESSAGE)
    return reasons, errors


def _never(text: str) -> dict[str, str]:
    """Read what ``qalter -w v`` says of jobs that no queue could run if the whole cluster were empty."""
    never: dict[str, str] = {}
    because: list[str] = []
    for line in text.splitlines():
        if not line.startswith("verification:"):
            because.append(line)
            continue
        whys = [match for match in (re.fullmatch(r"Job (\d+) (.*)", why) for why in because) if match]
        if "no suitable queues" in line and whys:
            never[whys[-1][1]] = "; ".join(dict.fromkeys(match[2] for match in whys))
        because = []
    return never


def _records(text: str) -> Iterator[dict[str, str]]:
    """Read the records that qacct prints: lines of a name and a value."""
    for block in re.split(r"^=+$", text, flags=re.MULTILINE):
        record = {name: value.strip() for name, value in re.findall(r"^(\w+) +(.*)$", block, re.MULTILINE)}
        if {"jobnumber", "taskid", "exit_status"} <= record.keys():
            yield record


def _task(record: Mapping[str, str]) -> int:
    return int(record["taskid"]) - 1 if record["taskid"].isdigit() else 0


def _failed(record: Mapping[str, str]) -> tuple[int, str]:
    """Read the field ``failed``: ``37  : qmaster enforced h_rt, h_cpu, or h_vmem limit``."""
    code, _, words = record.get("failed", "0").partition(":")
    return int(code) if code.strip().isdigit() else 0, words.strip()


def _ended(record: Mapping[str, str]) -> TaskStatus:
    code, words = _failed(record)
    status = int(record["exit_status"].split()[0])
    number = status - 128 if 128 < status <= 192 and code in {0, _LIMIT, _KILLED} else None  # noqa: PLR2004 - sh's
    kind = EndKind.EXITED if number is None else EndKind.SIGNALLED
    if code in {_LIMIT, _KILLED}:
        kind = _broken_limit(record) or (EndKind.TIME_LIMIT if code == _LIMIT else EndKind.CANCELLED)
    elif code in _NEVER_STARTED:
        kind = EndKind.UNSCHEDULABLE
    elif code:
        kind = EndKind.NODE_FAILURE
    message = f"SGE says exit status {record['exit_status']}" + (f", failed {code}: {words}" if code else "")
    succeeded = kind is EndKind.EXITED and status == 0
    state = State.CANCELLED if kind is EndKind.CANCELLED else State.SUCCEEDED if succeeded else State.FAILED
    node = record.get("hostname")
    return TaskStatus(
        state=state,
        node=node,
        end=End(
            kind=kind,
            exit_code=status if kind is EndKind.EXITED else None,
            signal=number if kind is EndKind.SIGNALLED else None,
            message=re.sub(r"\s+", " ", message),
            node=node,
        ),
    )


def _broken_limit(record: Mapping[str, str]) -> EndKind | None:
    """Tell which of the limits that were asked for was passed: SGE has one code for all of them."""
    asked = dict(re.findall(r"\b(h_rt|h_vmem)=([^,\s]+)", record.get("category", "")))
    slots = int(record["slots"]) if record.get("slots", "").isdigit() else 1
    used, wall = _amount(record.get("maxvmem", "")), _amount(record.get("ru_wallclock", ""))
    if "h_vmem" in asked and used >= _amount(asked["h_vmem"]) * slots:
        return EndKind.OUT_OF_MEMORY
    return EndKind.TIME_LIMIT if "h_rt" in asked and wall >= _amount(asked["h_rt"]) else None


def _amount(printed: str) -> float:
    """Read ``348.090MB``, ``250M``, ``4s``, ``3600`` or ``1:00:00``; 0 for what is none."""
    if re.fullmatch(r"\d+:\d+:\d+", printed):
        hours, minutes, seconds = (int(part) for part in printed.split(":"))
        return hours * 3600 + minutes * 60 + seconds
    match = re.match(r"(\d+(?:\.\d+)?)([KMGT]?)", printed, re.IGNORECASE)
    return float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ") if match else 0.0
