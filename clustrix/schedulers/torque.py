"""Torque: options of qsub(1B), states and exit statuses as ``qstat -f -x`` prints them.

Facts are those of a server of version 6.1.2 (tests/golden/torque). PBS, from which it comes, is another scheduler.
"""

from __future__ import annotations

import html
import re
import shlex
from datetime import timedelta
from typing import TYPE_CHECKING

from clustrix.errors import BackendError, ConfigError, SubmitRejected, UnknownOption, UnparsableOutput
from clustrix.model.job import End, EndKind, State, TaskStatus
from clustrix.schedulers import directives
from clustrix.schedulers.base import Limits, job_name, notice, one_line, printable, refuse, task_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clustrix.model.job import JobSpec
    from clustrix.model.paths import JobPaths
    from clustrix.model.resources import Resources
    from clustrix.transports.base import Completed

_OWN = {"A", "N", "S", "V", "d", "e", "j", "k", "l", "o", "q", "t", "v"}
_OPTIONS = {"M", "a", "c", "h", "m", "n", "p", "r"}
_ATTRIBUTES = {"depend", "group_list", "umask"}
"""What is said with -W."""
_PROPERTY = re.compile(r"[A-Za-z][\w.:-]*", re.ASCII)

# PBS has commands of the same names. Its qsub would accept most of what is meant for this one.
_SUBMIT = """
version=$(qstat --version 2>&1)
case $version in *pbs_version*) printf '%s\\n' "$version" >&2; exit 1;; esac
exec qsub "$1"
"""
_PBS = re.compile(r"pbs_version\s*=\s*(\S+)")
# Torque tells the tasks of an array to print to /dev/null-0, /dev/null-1 ... MOM delivers nothing there, and leaves the
# empty files of its spool behind.
_UNSPOOL = ('spooled=$(readlink "/proc/$$/fd/1")', 'case $spooled in *.OU) rm -f "$spooled";; esac')
# qdel fails if one of several jobs has ended meanwhile.
_CANCEL = r"""
said=$(qdel "$@" 2>&1) && exit
status=$?
printf '%s\n' "$said" | grep -v -e 'nonexistent job id' -e 'invalid state for job' -e 'cancel in progress' >&2 || exit 0
exit $status
"""
_TAKEN_FOR = "the scheduler there is not Torque, it is PBS {}"
_SET = "Set `backend: pbs`."
_UNREACHABLE = re.compile(r"[Cc]annot connect to (?:default )?server|Unable to communicate with|trqauthd|Time ?out")
_UNKNOWN = re.compile(r"Unknown Job Id Error (\S+)")
_VARIABLES = re.compile(r"<Variable_List>.*</Variable_List>", re.DOTALL)
_JOB = re.compile(r"<Job>(.*?)</Job>", re.DOTALL)
_FACT = re.compile(r"<(\w+)>([^<]*)</\1>")

# job_state of qstat(1B): T moves, W waits for its time; S is suspended, E exits.
_WAITING = set("QHWT")
_RUNNING = set("RES")
_ENDED = "C"
# exit_status: what MOM did to a job is negative or, where a signal ended the shell that started it, 256 and more. Only
# who deletes a job signals that one: it ends with its script.
_BY_MOM = {-10: EndKind.OUT_OF_MEMORY, -11: EndKind.TIME_LIMIT, -12: EndKind.TIME_LIMIT}
_SIGNALLED = 256
_DELETED = _SIGNALLED + 15
_STARTED = "Job started"
_DEPENDED = "as result of dependency"


class Torque:
    """Speak Torque."""

    name = "torque"
    commands = ("qsub", "qstat", "qdel", "qselect")
    variables: tuple[str, ...] = ()
    array_index = "${PBS_ARRAYID:-0}"
    native_id = "$PBS_JOBID"

    def script(self, spec: JobSpec, paths: JobPaths, *, offset: int = 0, tasks: int = 1) -> str:
        """Write the batch script; ConfigError, UnknownOption, UnsupportedResource."""
        limit = spec.max_parallel
        most = f"%{limit}" if limit is not None and limit < tasks else ""
        options = [
            # The login shell of an account may be any.
            ("S", "/bin/sh"),
            ("N", job_name(spec)),
            # What a task prints goes to its log below; what MOM adds would be copied to where the job was.
            ("o", "/dev/null"),
            ("j", "oe"),
            *([("t", f"0-{tasks - 1}{most}")] if tasks > 1 else []),
            *_resources(spec.resources),
        ]
        lines = [
            "#!/bin/sh",
            f"# {printable(spec.name)}, job {spec.id.ulid}, tasks {offset} to {offset + tasks - 1}",
            *(directives.directive(name, value) for name, value in options),
            "",
            f"task=$(({offset} + {self.array_index}))" if tasks > 1 else f"task={offset}",
            *(_UNSPOOL if tasks > 1 else []),
            f'exec >>{shlex.quote(paths.logs)}/"$task".out 2>&1',
            *_warn(spec.resources.time),
            f"exec {task_command(spec.resources.modules, paths.wrapper)}",
            "",
        ]
        return "\n".join(lines)

    def submit_argv(self, spec: JobSpec, script: str) -> tuple[str, ...]:
        """Submit a script, if this is Torque."""
        del spec
        return ("sh", "-c", _SUBMIT, "sh", script)

    def parse_submit(self, completed: Completed) -> str:
        """Read ``4711.server`` or, of an array, ``4711[].server``."""
        lines = completed.stdout_text.split()
        if completed.returncode == 0 and lines and re.fullmatch(r"\d+(\[\])?(\.\S+)?", lines[-1]):
            return lines[-1]
        said = completed.stderr_text or completed.stdout_text
        if other := _PBS.search(said):
            raise SubmitRejected(_TAKEN_FOR.format(other[1]), remedy=_SET)
        if completed.returncode == 0:
            raise UnparsableOutput(f"qsub printed no job id: {said!r}")
        words = _words(said)
        if _UNREACHABLE.search(said):
            raise BackendError(f"Torque does not answer: {words}")
        raise SubmitRejected(f"Torque refused the job: {words or f'qsub ended with {completed.returncode}'}")

    def find_argv(self, spec: JobSpec) -> tuple[str, ...]:
        """Look for a job by its name, which holds its ULID; of an array the first task is found, named so with -0."""
        return ("sh", "-c", 'qselect -N "$1" && qselect -N "$1-0"', "sh", job_name(spec))

    def parse_find(self, completed: Completed) -> str | None:
        """Read the id of the newest job of that name."""
        if completed.returncode != 0:
            raise BackendError(f"qselect failed: {completed.stderr_text or completed.returncode}")
        found = re.findall(r"^\d+(?:\[0\])?(?:\.\S+)?$", completed.stdout_text, re.MULTILINE)
        newest = max(found, key=lambda job: int(re.split(r"\D", job)[0]), default=None)
        return newest and newest.replace("[0]", "[]")

    def status_argv(self, native_ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Ask for all of them at once, with their subjobs."""
        return (("qstat", "-f", "-x", "-t", *native_ids),)

    def parse_status(
        self, native_ids: Sequence[str], answers: Sequence[Completed]
    ) -> Mapping[str, Mapping[int, TaskStatus]]:
        """Read what qstat says; only a job that it calls unknown is left out."""
        (answer,) = answers
        said = answer.stderr_text
        if _UNREACHABLE.search(said):
            raise BackendError(f"Torque does not answer: {_words(said)}")
        unknown = {_key(native_id) for native_id in _UNKNOWN.findall(said)}
        known: dict[str, dict[int, TaskStatus]] = {}
        for native_id, job in _jobs(answer.stdout_text):
            tasks = known.setdefault(_key(native_id), {})
            subjob = re.match(r"\d+\[(\d*)\]", native_id)
            if subjob is None or subjob[1]:
                tasks[int(subjob[1]) if subjob else 0] = _status(job)
        for tasks in known.values():
            # They are made in order, and forgotten one by one.
            tasks |= {task: TaskStatus(state=State.LOST) for task in range(max(tasks, default=0)) if task not in tasks}
        silent = [job for job in native_ids if _key(job) not in known and _key(job) not in unknown]
        if silent:
            raise BackendError(f"qstat says nothing of {', '.join(silent)}: {said or 'no reason given'}")
        return {job: known[_key(job)] for job in native_ids if _key(job) in known}

    def cancel_argv(self, native_ids: Sequence[str]) -> tuple[str, ...]:
        """Delete jobs."""
        return ("sh", "-c", _CANCEL, "sh", *native_ids)

    def version_argv(self) -> tuple[str, ...]:
        """Ask qstat, which prints it to either stream."""
        return ("qstat", "--version")

    def parse_version(self, completed: Completed) -> str:
        """Read ``Version: 6.1.2``; ConfigError if it is PBS."""
        said = completed.stdout_text or completed.stderr_text
        if other := _PBS.search(said):
            raise ConfigError(_TAKEN_FOR.format(other[1]), remedy=_SET)
        version = re.search(r"[Vv]ersion:\s*(\S+)", said)
        return f"Torque {version[1]}" if version else said

    def limits_argv(self) -> tuple[str, ...] | None:
        """Ask for the server's attributes."""
        return ("qstat", "-B", "-f")

    def parse_limits(self, completed: Completed) -> Limits:
        """Read max_job_array_size, the most subjobs of an array."""
        match = re.search(r"max_job_array_size = (\d+)", completed.stdout_text)
        return Limits(max_array_index=int(match[1]) - 1 if match else None)


def _resources(asked: Resources) -> Iterator[tuple[str, object]]:
    """Turn a request into options, in the order in which people read them."""
    _refuse(asked)
    given = dict(asked.backend_options)
    node = f"nodes=1:ppn={asked.cores}" + (f":gpus={asked.gpus}" if asked.gpus else "")
    if asked.constraint is not None:
        node += f":{_properties(asked.constraint)}"
    whole: dict[str, object] = {"nodes": node}
    if asked.memory_bytes is not None:
        whole["mem"] = f"{-(-asked.memory_bytes // 1024)}kb"
    if asked.time is not None:
        whole["walltime"] = directives.clock(asked.time)
    directives.add("l", whole, given.pop("l", {}))
    for name, option in (("queue", "q"), ("account", "A")):
        if (value := getattr(asked, name)) is not None:
            yield option, directives.sayable(name, value)
    yield "l", whole.pop("nodes")
    yield from (("l", f"{name}={value}") for name, value in whole.items())
    if "r" not in given:
        yield "r", "n"
    yield from _extras(given)


def _extras(given: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Turn a user's other options into those of qsub; True is a switch."""
    for name, value in given.items():
        if name in _OWN:
            raise ConfigError(
                f"the backend option {name!r} is set by clustrix itself",
                remedy="Use cores, memory, time, gpus, queue, account, constraint, environment_variables or l.",
            )
        if name not in _OPTIONS | _ATTRIBUTES:
            raise UnknownOption("Torque option", name, sorted(_OPTIONS | _ATTRIBUTES | {"l"}))
        if value is not False and value is not None:
            text = ("" if name in {"h", "n"} else "y") if value is True else directives.sayable(name, value)
            yield ("W", f"{name}={text}") if name in _ATTRIBUTES else (name, text)


def _refuse(asked: Resources) -> None:
    remedies = {
        "partition": "Name a queue with queue=.",
        "qos": 'Where the site has Moab or Maui: backend_options={"l": {"qos": "name"}}.',
        "gpu_type": "Name the property that its nodes have here with constraint=.",
    }
    refuse(asked, "Torque", remedies)


def _properties(constraint: str) -> str:
    """Give the properties that a node must have, joined by ``:``; a number or ``+`` would mean more nodes."""
    text = one_line("constraint", constraint)
    if not _PROPERTY.fullmatch(text):
        raise ConfigError(
            f"constraint={text!r} cannot be said to Torque", remedy="Name properties of nodes, joined by a colon."
        )
    return text


def _warn(limit: timedelta | None) -> Iterator[str]:
    """Tell the wrapper, which will be this process, that the time limit is near, and end it a second before.

    MOM, which looks now and then, warns of nothing and leaves the wrapper no time to write down what happened.
    """
    if limit is not None:
        ahead = notice(limit)
        seconds = max(1, limit // timedelta(seconds=1) - ahead)
        tell = f"sleep {seconds} && kill -XCPU $$ && sleep {ahead - 1} && kill -TERM $$"
        yield f"({tell}) </dev/null >/dev/null 2>&1 &"


def _words(said: str) -> str:
    """Write a complaint as one line: each thing once, and not how the command is used."""
    lines = (line.strip("[]. \t") for line in said.partition("usage:")[0].splitlines())
    return "; ".join(dict.fromkeys(line.removeprefix("qsub: ") for line in lines if line))


def _key(native_id: str) -> str:
    """Name a job or, of a subjob, its array, whatever the server calls itself."""
    return re.sub(r"\[\d*\]", "[]", native_id.partition(".")[0])


def _jobs(text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Read the documents that qstat printed one after the other; older ones write ``&`` and ``<`` as they are."""
    if rest := _JOB.sub("", re.sub(r"<\?xml[^>]*\?>|</?Data>", "", text)).strip():
        raise UnparsableOutput(f"qstat printed no XML: {rest[:200]!r}")
    for job in _JOB.findall(text):
        said = {name: html.unescape(value) for name, value in reversed(_FACT.findall(_VARIABLES.sub("", job)))}
        if "Job_Id" not in said or "job_state" not in said:
            raise UnparsableOutput(f"qstat speaks of a job without id or state: {job[:200]!r}")
        yield said["Job_Id"], said


def _status(job: Mapping[str, str]) -> TaskStatus:
    state, comment = job["job_state"], job.get("comment", "")
    node = job.get("exec_host", "").partition("/")[0] or None
    if state in _RUNNING:
        return TaskStatus(state=State.RUNNING, node=node)
    if state in _WAITING:
        return TaskStatus(state=State.WAITING, reason=_reason(job, state, comment))
    if state != _ENDED:
        raise UnparsableOutput(f"Torque speaks of the state {state!r}")
    code = int(job["exit_status"]) if "exit_status" in job else None
    end = End(kind=EndKind.UNSCHEDULABLE) if _DEPENDED in comment else _end(code)
    words = "nothing" if not comment or comment.startswith(_STARTED) else comment
    message = f"Torque says {words}, " + ("it never ran" if code is None else f"exit status {code}")
    succeeded = end.kind is EndKind.EXITED and end.exit_code == 0
    cancelled = end.kind is EndKind.CANCELLED
    return TaskStatus(
        state=State.SUCCEEDED if succeeded else State.CANCELLED if cancelled else State.FAILED,
        node=node,
        end=End(kind=end.kind, exit_code=end.exit_code, signal=end.signal, message=message, node=node),
    )


def _end(code: int | None) -> End:
    """Tell what an exit status means; what has none was deleted before it ran."""
    if code is None or code == _DELETED:
        return End(kind=EndKind.CANCELLED)
    if code < 0:
        return End(kind=_BY_MOM.get(code, EndKind.NODE_FAILURE))
    number = code - (_SIGNALLED if code > _SIGNALLED else 128)
    if 0 < number <= 64:  # noqa: PLR2004 - as many signals as there are
        return End(kind=EndKind.SIGNALLED, signal=number)
    return End(kind=EndKind.EXITED, exit_code=code)


def _reason(job: Mapping[str, str], state: str, comment: str) -> str:
    if state == "W":
        return "its begin time has not come"
    if state == "H":
        holds = job.get("Hold_Types", "")
        if "l" in holds:
            return "as many tasks of the array run as may"
        return "it waits for another job" if "s" in holds and "depend" in job else "it is held"
    return "" if comment.startswith(_STARTED) else comment.removeprefix("Not Running: ")
