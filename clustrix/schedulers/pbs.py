"""PBS Professional and OpenPBS: options of qsub(1B), states and exit statuses as ``qstat -f -F json`` prints them.

Facts are those of a server of version 23.06.06 (tests/golden/pbs). Torque, which comes from it, is another scheduler.
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
from clustrix.schedulers import directives
from clustrix.schedulers.base import Limits, job_name, notice, printable, refuse, task_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clustrix.model.job import JobSpec
    from clustrix.model.paths import JobPaths
    from clustrix.model.resources import Resources
    from clustrix.transports.base import Completed

_OWN = {"A", "C", "J", "N", "S", "V", "e", "j", "k", "l", "o", "q", "v"}
_OPTIONS = {"M", "P", "a", "c", "h", "m", "p", "r"}
_ATTRIBUTES = {"depend", "group_list", "sandbox", "umask"}
"""What is said with -W."""

# Asked for several jobs, a qstat built from later sources than 23.06.06 tells in JSON of the first alone. With -E both
# tell all that they know, and say nothing of the others: those are asked for one by one. A server without history
# refuses -x.
_STATUS = r"""
ask() {
  answer=$(qstat "$@")
  status=$?
  printf '%s\n' "$answer"
  [ $status != 255 ] || exit $status
}
history=-x
ask -x -E -t -f -F json "$@"
case $answer in *'"Jobs"'*) ;; *)
  history=
  ask -E -t -f -F json "$@";;
esac
all=$answer
for id; do
  case $all in *"\"${id%%.*}."*) ;; *) ask $history -t -f -F json "$id";; esac
done
exit $status
"""
_FIND = r"""
exec 3>&1
said=$(qselect -x -N "$1" 2>&1 >&3)
status=$?
printf '%s\n' "$said" >&2
case $said in *history*) qselect -N "$1" >&3; status=$?;; esac
exit $status
"""
# qdel fails if one of several jobs has ended meanwhile, or is about to.
_CANCEL = r"""
said=$(qdel "$@" 2>&1) && exit
status=$?
printf '%s\n' "$said" | grep -v -e 'Job has finished' -e 'Unknown Job Id' -e 'invalid for state' >&2 || exit 0
exit $status
"""
# Torque has commands of the same names, whose options differ. Without -f qsub leaves a process behind for a minute.
_SUBMIT = """
version=$(qstat --version 2>&1)
case $version in *pbs_version*) ;; *[Vv]ersion:*) printf '%s\\n' "$version" >&2; exit 1;; esac
exec qsub -f "$1"
"""
_TORQUE = re.compile(r"^[Vv]ersion:\s*(\S+)", re.MULTILINE)
_TAKEN_FOR = "the scheduler there is not PBS, it is Torque {}"
_SET = "Set `backend: torque`."
_UNREACHABLE = re.compile(r"cannot connect to server|Connection refused|Couldn't connect|Unknown Host|pbsconf error")
_UNKNOWN = re.compile(r"Unknown Job Id (\S+)|(\S+) Job has finished, use -x")
_FORGETFUL = "not configured to maintain job history"
_NEVER = "Can Never Run"

# job_state of qstat(1B): T moves, W waits for its time, M went to another server; S and U are suspended, B is an array
# that began.
_WAITING = set("QHWTM")
_RUNNING = set("RESUB")
_ENDED = set("FX")
# Exit_status: what PBS itself did to a job is negative or, where a signal ended it, 256 and more.
_BY_PBS = {-29: EndKind.TIME_LIMIT, -28: EndKind.TIME_LIMIT, -27: EndKind.OUT_OF_MEMORY, -26: EndKind.OUT_OF_MEMORY}
_SIGNALLED = 256
_TERMINATED = 91
"""The substate of a job that somebody deleted."""


class Pbs:
    """Speak PBS."""

    name = "pbs"
    commands = ("qsub", "qstat", "qdel", "qselect")
    variables: tuple[str, ...] = ()
    array_index = "${PBS_ARRAY_INDEX:-0}"
    native_id = "$PBS_JOBID"

    def script(self, spec: JobSpec, paths: JobPaths, *, offset: int = 0, tasks: int = 1) -> str:
        """Write the batch script; ConfigError, UnknownOption, UnsupportedResource."""
        limit = spec.max_parallel
        most = f"%{limit}" if limit is not None and limit < tasks else ""
        options = [
            # The login shell of an account may be any.
            ("S", "/bin/sh"),
            ("N", job_name(spec)),
            # What a task prints goes to its log below. PBS copies the rest when the task has ended, and for as long as
            # it tries to, half a minute where the job was removed meanwhile, it keeps the task's place.
            ("o", "/dev/null"),
            ("j", "oe"),
            *([("J", f"0-{tasks - 1}{most}")] if tasks > 1 else []),
            *_resources(spec.resources, array=tasks > 1),
        ]
        lines = [
            "#!/bin/sh",
            f"# {printable(spec.name)}, job {spec.id.ulid}, tasks {offset} to {offset + tasks - 1}",
            *(directives.directive(name, value) for name, value in options),
            "",
            f"task=$(({offset} + {self.array_index}))" if tasks > 1 else f"task={offset}",
            f'exec >>{shlex.quote(paths.logs)}/"$task".out 2>&1',
            *_warn(spec.resources.time),
            f"exec {task_command(spec.resources.modules, paths.wrapper)}",
            "",
        ]
        return "\n".join(lines)

    def submit_argv(self, spec: JobSpec, script: str) -> tuple[str, ...]:
        """Submit a script, if this is PBS."""
        del spec
        return ("sh", "-c", _SUBMIT, "sh", script)

    def parse_submit(self, completed: Completed) -> str:
        """Read ``4711.server`` or, of an array, ``4711[].server``."""
        lines = completed.stdout_text.split()
        if completed.returncode == 0 and lines and re.fullmatch(r"\d+(\[\])?(\.\S+)?", lines[-1]):
            return lines[-1]
        said = completed.stderr_text or completed.stdout_text
        if other := _TORQUE.search(said):
            raise SubmitRejected(_TAKEN_FOR.format(other[1]), remedy=_SET)
        if completed.returncode == 0:
            raise UnparsableOutput(f"qsub printed no job id: {said!r}")
        words = "; ".join(line.removeprefix("qsub: ").strip() for line in said.partition("usage:")[0].splitlines())
        if _UNREACHABLE.search(said):
            raise BackendError(f"PBS does not answer: {words}")
        raise SubmitRejected(f"PBS refused the job: {words or f'qsub ended with {completed.returncode}'}")

    def find_argv(self, spec: JobSpec) -> tuple[str, ...]:
        """Look for a job by its name, which holds its ULID."""
        return ("sh", "-c", _FIND, "sh", job_name(spec))

    def parse_find(self, completed: Completed) -> str | None:
        """Read the id of the newest job of that name."""
        if completed.returncode != 0:
            raise BackendError(f"qselect failed: {completed.stderr_text or completed.returncode}")
        found = re.findall(r"^\d+(?:\[\])?(?:\.\S+)?$", completed.stdout_text, re.MULTILINE)
        return max(found, key=lambda job: int(re.split(r"\D", job)[0])) if found else None

    def status_argv(self, native_ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Ask for all of them at once, with their subjobs and their history."""
        return (("sh", "-c", _STATUS, "sh", *native_ids),)

    def parse_status(
        self, native_ids: Sequence[str], answers: Sequence[Completed]
    ) -> Mapping[str, Mapping[int, TaskStatus]]:
        """Read what qstat says; only a job that it calls unknown is left out."""
        (answer,) = answers
        said = answer.stderr_text
        if answer.returncode == 255 or _UNREACHABLE.search(said):  # noqa: PLR2004 - the server is down
            raise BackendError(f"PBS does not answer: {said or 'nothing was said'}")
        unknown = {_key(first or second) for first, second in _UNKNOWN.findall(said)}
        remembers = _FORGETFUL not in said
        known: dict[str, dict[int, TaskStatus]] = {}
        for document in _documents(answer.stdout.decode(errors="replace")):
            for native_id, job in document.get("Jobs", {}).items():
                tasks = known.setdefault(_key(native_id), {})
                subjob = re.match(r"\d+\[(\d*)\]", native_id)
                # What is said of an array as a whole is what happened to the last of its subjobs.
                if subjob is None or subjob[1]:
                    tasks[int(subjob[1]) if subjob else 0] = _status(job, remembers=remembers)
        silent = [job for job in native_ids if _key(job) not in known and _key(job) not in unknown]
        if silent:
            raise BackendError(f"qstat says nothing of {', '.join(silent)}: {said or 'no reason given'}")
        return {job: known[_key(job)] for job in native_ids if _key(job) in known}

    def cancel_argv(self, native_ids: Sequence[str]) -> tuple[str, ...]:
        """Delete jobs."""
        return ("sh", "-c", _CANCEL, "sh", *native_ids)

    def version_argv(self) -> tuple[str, ...]:
        """Ask qstat."""
        return ("qstat", "--version")

    def parse_version(self, completed: Completed) -> str:
        """Read ``pbs_version = 23.06.06``; ConfigError if it is Torque."""
        said = completed.stdout_text or completed.stderr_text
        if other := _TORQUE.search(said):
            raise ConfigError(_TAKEN_FOR.format(other[1]), remedy=_SET)
        version = re.search(r"pbs_version\s*=\s*(\S+)", said)
        return f"PBS {version[1]}" if version else said

    def limits_argv(self) -> tuple[str, ...] | None:
        """Ask for the server's attributes."""
        return ("qstat", "-B", "-f", "-F", "json")

    def parse_limits(self, completed: Completed) -> Limits:
        """Read max_array_size, the most subjobs of an array."""
        match = re.search(r'"max_array_size":\s*(\d+)', completed.stdout_text)
        return Limits(max_array_index=int(match[1]) - 1 if match else None)


def _resources(asked: Resources, *, array: bool) -> Iterator[tuple[str, object]]:
    """Turn a request into options, in the order in which people read them."""
    _refuse(asked)
    given = dict(asked.backend_options)
    chunk: dict[str, object] = {"ncpus": asked.cores}
    if asked.memory_bytes is not None:
        chunk["mem"] = f"{-(-asked.memory_bytes // 1024)}kb"
    if asked.gpus:
        chunk["ngpus"] = asked.gpus
    whole: dict[str, object] = {} if asked.time is None else {"walltime": directives.clock(asked.time)}
    directives.add("select", chunk, given.pop("select", {}), reserved=":+=")
    directives.add("l", whole, given.pop("l", {}))
    for name, option in (("queue", "q"), ("account", "A")):
        if (value := getattr(asked, name)) is not None:
            yield option, directives.sayable(name, value)
    yield "l", "select=1:" + ":".join(f"{name}={value}" for name, value in chunk.items())
    yield from (("l", f"{name}={value}") for name, value in whole.items())
    # PBS wants arrays to be rerunnable; a subjob that it started a second time would find its work taken, and leave.
    if not array and "r" not in given:
        yield "r", "n"
    for name, value in given.items():
        if name in _OWN:
            raise ConfigError(
                f"the backend option {name!r} is set by clustrix itself",
                remedy="Use cores, memory, time, gpus, queue, account, environment_variables, select or l.",
            )
        if name not in _OPTIONS | _ATTRIBUTES:
            raise UnknownOption("PBS option", name, sorted(_OPTIONS | _ATTRIBUTES | {"select", "l"}))
        if value is not False and value is not None:
            text = ("" if name == "h" else "y") if value is True else directives.sayable(name, value)
            yield ("W", f"{name}={text}") if name in _ATTRIBUTES else (name, text)


def _warn(limit: timedelta | None) -> Iterator[str]:
    """Tell the wrapper, which will be this process, that the time limit is near: PBS itself does not."""
    if limit is not None:
        seconds = limit // timedelta(seconds=1) - notice(limit)
        yield f"(sleep {max(1, seconds)} && kill -XCPU $$) </dev/null >/dev/null 2>&1 &"


def _refuse(asked: Resources) -> None:
    table = 'Ask for it as the site names it, with backend_options={"select": {"name": "value"}}.'
    remedies = {
        "partition": "Name a queue with queue=.",
        "qos": "Leave it out.",
        "constraint": table,
        "gpu_type": table,
    }
    refuse(asked, "PBS", remedies)


def _key(native_id: str) -> str:
    """Name a job or, of a subjob, its array, whatever the server calls itself."""
    return re.sub(r"\[\d*\]", "[]", native_id.partition(".")[0])


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """Read the documents that qstat printed one after the other; control characters of users may stand in them."""
    decoder = json.JSONDecoder(strict=False)
    rest = text.strip()
    while rest:
        try:
            document, end = decoder.raw_decode(rest)
        except ValueError as error:
            raise UnparsableOutput(f"qstat printed no JSON ({error}): {rest[:200]!r}") from None
        yield document
        rest = rest[end:].strip()


def _status(job: Mapping[str, Any], *, remembers: bool) -> TaskStatus:
    state, comment = str(job["job_state"]), str(job.get("comment", ""))
    node = str(job.get("exec_host", "")).partition("/")[0] or None
    if state in _RUNNING:
        return TaskStatus(state=State.RUNNING, node=node)
    if state in _WAITING:
        if comment.startswith(_NEVER):
            end = End(kind=EndKind.UNSCHEDULABLE, message=comment)
            return TaskStatus(state=State.FAILED, reason=comment, end=end)
        return TaskStatus(state=State.WAITING, reason=_reason(job, state, comment))
    if state not in _ENDED:
        raise UnparsableOutput(f"PBS speaks of the state {state!r}")
    code = job.get("Exit_status")
    gone = int(job.get("substate", 0)) == _TERMINATED
    if not gone and "resources_used" not in job:
        # What is said of a subjob that was deleted while it waited is the array's, and 0, 1 or nothing as its status.
        # The same is said of every one that has ended for as long as its array has not, where there is no history.
        if state == "X" and not remembers:
            return TaskStatus(state=State.LOST)
        gone = code in {0, 1} or (state == "X" and code is None)
    end = End(kind=EndKind.CANCELLED) if gone else _end(code)
    message = f"PBS says {comment or 'nothing'}, " + ("it never ran" if code is None else f"exit status {code}")
    succeeded = end.kind is EndKind.EXITED and end.exit_code == 0
    cancelled = end.kind is EndKind.CANCELLED
    return TaskStatus(
        state=State.SUCCEEDED if succeeded else State.CANCELLED if cancelled else State.FAILED,
        node=node,
        end=End(kind=end.kind, exit_code=end.exit_code, signal=end.signal, message=message, node=node),
    )


def _end(code: int | None) -> End:
    """Tell what an exit status means; what has none never ran."""
    if code is None:
        return End(kind=EndKind.UNSCHEDULABLE)
    if code < 0:
        return End(kind=_BY_PBS.get(code, EndKind.NODE_FAILURE))
    number = code - (_SIGNALLED if code > _SIGNALLED else 128)
    if 0 < number <= 64:  # noqa: PLR2004 - as many signals as there are
        return End(kind=EndKind.SIGNALLED, signal=number)
    return End(kind=EndKind.EXITED, exit_code=code)


def _reason(job: Mapping[str, Any], state: str, comment: str) -> str:
    if state == "W":
        return "its begin time has not come"
    if state == "H":
        depends = "s" in str(job.get("Hold_Types", "")) and "depend" in job
        return "it waits for another job" if depends else "it is held"
    return "" if comment.startswith("Job Array Began") else comment.removeprefix("Not Running: ")
