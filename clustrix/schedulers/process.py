"""A plain host: no scheduler, each task in a session of its own that outlives whoever started it.

The native id is ``machine:ulid``. A process is recognised by the path of its job's directory among its arguments and by
``CLUSTRIX_NATIVE_ID`` in its environment, so that a process id that somebody else has by now cannot be mistaken.
Linux is read through ``/proc`` (proc(5)); elsewhere ``ps`` (POSIX) must do, and a process that left its session *and*
lost its parent is not found there.
"""

from __future__ import annotations

import re
import shlex
from string import Template
from typing import TYPE_CHECKING

from clustrix.errors import BackendError, SubmitRejected, UnknownOption, UnsupportedResource
from clustrix.model.job import State, TaskStatus
from clustrix.schedulers.base import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.model.job import JobSpec
    from clustrix.model.paths import JobPaths
    from clustrix.transports.base import Completed

# A Mac's name changes with its network.
_MACHINE = """
machine() { if [ "$(uname -s)" = Darwin ]; then sysctl -n kern.uuid; else uname -n; fi; }
"""

_PROCESSES = """
processes() {
  if [ -r /proc/self/cmdline ]; then grep -as '/jobs/[0-9A-Z]\\{26\\}' /proc/[0-9]*/cmdline | tr '\\000' ' '
  else ps -A -ww -o pid= -o args=; fi
}
"""

_LAUNCH = (
    _MACHINE
    + """
CLUSTRIX_NATIVE_ID=$(machine):$2
export CLUSTRIX_NATIVE_ID
start=setsid
if ! command -v setsid >/dev/null 2>&1; then start=nohup; set -m; fi
lane=$3
while [ "$lane" -lt "$4" ]; do
  $start sh "$1" "$lane" </dev/null >/dev/null 2>&1 &
  lane=$((lane + 1))
done
printf '%s\\n' "$CLUSTRIX_NATIVE_ID"
"""
)

_LIST = _MACHINE + _PROCESSES + "machine; processes; exit 0\n"
_FIND = _MACHINE + _PROCESSES + 'printf "%s:%s\\n" "$(machine)" "$1"; processes; exit 0\n'

# pid:start, parent, session and state of every process. The name in the second field of stat may hold anything.
_TABLE = """
table() {
  if [ -r /proc/self/stat ]; then
    cat /proc/[0-9]*/stat 2>/dev/null | awk '{ pid = $1; sub(/^.*\\) /, ""); print pid ":" $20, $2, $4, $1 }'
  else ps -A -o pid= -o ppid= -o pgid= -o stat= | awk '{ print $1 ":0", $2, $3, $4 }'; fi
}
family() {
  table | awk -v known="$*" '
    BEGIN { n = split(known, list, " "); for (i = 1; i <= n; i++) old[list[i]] = 1 }
    $4 !~ /^[ZX]/ {
      pid = $1; sub(/:.*/, "", pid); name[pid] = $1; parent[pid] = $2; session[pid] = $3
      if ($1 in old || (pid in old)) in_it[pid] = 1
    }
    END {
      do {
        more = 0
        for (pid in name) if (!(pid in in_it) && (parent[pid] in in_it || session[pid] in in_it)) in_it[pid] = more = 1
      } while (more)
      for (pid in in_it) print name[pid]
    }'
}
"""

_CANCEL = (
    _PROCESSES
    + _TABLE
    + """
marked() {
  for id; do
    if [ -r /proc/self/environ ]; then
      grep -lasF "CLUSTRIX_NATIVE_ID=$id" /proc/[0-9]*/environ | sed 's|^/proc/||; s|/.*||'
    else processes | grep -E "/jobs/${id##*:}(/(task|script)[.]sh)? [0-9]+ *\\$" | awk '{ print $1 }'; fi
  done
}
told=
round=0
family=
while [ "$round" -lt 150 ]; do
  family=$(family $family $(marked "$@"))
  [ -n "$family" ] || exit 0
  for process in $family; do
    case " $told " in
      *" $process "*) [ "$round" -lt 25 ] || kill -KILL "${process%:*}" 2>/dev/null;;
      *) kill -TERM "${process%:*}" 2>/dev/null; told="$told $process";;
    esac
  done
  round=$((round + 1))
  sleep 0.2
done
echo "still running after 30 s:" $family >&2
exit 1
"""
)

_ONE_TASK = Template("""#!/bin/sh
# Task $$1 of $name.
exec sh $wrapper "$$1"
""")

_TIMED = Template("""#!/bin/sh
# Task $$1 of $name, at most $seconds s long.
$table
run() {
  sh $wrapper "$$1" &
  task=$$!
  (
    trap '[ "$$!" = "$$task" ] || kill $$!; exit' TERM  # it may come before there is a sleep
    sleep $seconds &
    wait $$!
    kill -0 $$$$ 2>/dev/null || exit
    true >$ends/"$$1".late  # not by : which would end this shell where the disk is full (POSIX)
    kill -TERM $$task
    round=0
    while kill -0 $$task 2>/dev/null && [ $$round -lt 25 ]; do sleep 0.2; round=$$((round + 1)); done
    for process in $$(family $$task); do
      [ "$${process%:*}" = $$task ] || kill -KILL "$${process%:*}" 2>/dev/null
    done
  ) &
  timer=$$!
  wait $$task
  kill -TERM $$timer 2>/dev/null
  wait $$timer
}
$run
""")

_LANES = Template("""
# One of several lanes: each takes the next task that nobody has taken.
task=$first
while [ "$$task" -lt $last ]; do
  mkdir $ends/"$$task".taken 2>/dev/null && $run "$$task"
  task=$$((task + 1))
done
""")

_PROCESS = re.compile(r"/jobs/([0-9A-Z]{26})(/script\.sh|/task\.sh)? (\d+) *$")


class Process:
    """Start, watch and end the processes of jobs."""

    name = "process"
    commands: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    array_index = "${1:-0}"
    native_id = "${CLUSTRIX_NATIVE_ID:-}"

    def script(self, spec: JobSpec, paths: JobPaths, *, offset: int = 0, tasks: int = 1) -> str:
        """Write what each session runs; with ``max_parallel`` the sessions are lanes that share the tasks."""
        _refuse(spec)
        limit = spec.resources.time
        lanes = _lanes(spec, tasks) < tasks
        places = {
            "name": re.sub(r"[^\w.-]", "_", spec.name),
            "wrapper": shlex.quote(paths.wrapper),
            "ends": shlex.quote(paths.ends),
            "first": offset,
            "last": offset + tasks,
        }
        if limit is None:
            if not lanes:
                return _ONE_TASK.substitute(places)
            return "#!/bin/sh" + _LANES.substitute(places, run=f"sh {places['wrapper']}")
        run = _LANES.substitute(places, run="run") if lanes else 'run "$1"'
        seconds = max(1, round(limit.total_seconds()))
        return _TIMED.substitute(places, run=run, table=_TABLE, seconds=seconds)

    def submit_argv(self, spec: JobSpec, script: str) -> tuple[str, ...]:
        """Start the sessions."""
        return ("sh", "-c", _LAUNCH, "sh", script, spec.id.ulid, "0", str(_lanes(spec, spec.workers)))

    def parse_submit(self, completed: Completed) -> str:
        """Read the native id."""
        words = completed.stdout.decode(errors="replace").split()
        if completed.returncode != 0 or len(words) != 1 or ":" not in words[0]:
            said = completed.stderr_text or completed.stdout_text
            raise SubmitRejected(f"no process could be started: {said}")
        return words[0]

    def find_argv(self, spec: JobSpec) -> tuple[str, ...]:
        """Say what the native id would be, and list processes."""
        return ("sh", "-c", _FIND, "sh", spec.id.ulid)

    def parse_find(self, completed: Completed) -> str | None:
        """Read the native id, if any process of the job is there."""
        native_id, running = _running(completed)
        return native_id if native_id.rpartition(":")[2] in running else None

    def status_argv(self, native_ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """List the processes of all jobs at once."""
        del native_ids
        return (("sh", "-c", _LIST),)

    def parse_status(
        self, native_ids: Sequence[str], answers: Sequence[Completed]
    ) -> Mapping[str, Mapping[int, TaskStatus]]:
        """Tell which tasks run; a job without a process is left out, unless another machine would have to be asked."""
        machine, running = _running(answers[0])
        found: dict[str, Mapping[int, TaskStatus]] = {}
        for native_id in native_ids:
            where, _, ulid = native_id.rpartition(":")
            if where != machine:
                reason = f"it was started on {where}, and this is {machine}: its processes cannot be seen from here"
                found[native_id] = {0: TaskStatus(state=State.SUBMITTED, reason=reason, node=where)}
            elif ulid in running:
                found[native_id] = {n: TaskStatus(state=State.RUNNING, node=machine) for n in running[ulid]}
        return found

    def cancel_argv(self, native_ids: Sequence[str]) -> tuple[str, ...]:
        """End every process of the jobs: TERM, and KILL after five seconds; fails if one is left after thirty."""
        return ("sh", "-c", _CANCEL, "sh", *native_ids)

    def limits_argv(self) -> tuple[str, ...] | None:
        """Ask nothing: a plain host has no limits of its own."""
        return None

    def parse_limits(self, completed: Completed) -> Limits:
        """Read nothing."""
        del completed
        return Limits()


def _lanes(spec: JobSpec, tasks: int) -> int:
    return min(tasks, spec.max_parallel or tasks)


def _refuse(spec: JobSpec) -> None:
    """Refuse what only a scheduler can give."""
    asked = spec.resources
    for name in ("partition", "queue", "account", "qos", "constraint", "gpu_type"):
        if getattr(asked, name):
            raise UnsupportedResource(
                f"{name}={getattr(asked, name)!r} means nothing on a host without a scheduler",
                remedy=f"Leave {name} out, or name a target that has a scheduler.",
            )
    if asked.nodes > 1:
        raise UnsupportedResource(f"nodes={asked.nodes}: a host without a scheduler is one node")
    if asked.modules:
        raise UnsupportedResource(
            f"modules={list(asked.modules)}: environment modules are loaded on schedulers only",
            remedy="Bring what they hold in the image or the environment.",
        )
    for option in asked.backend_options:
        raise UnknownOption("backend option", option, ("none, on a host without a scheduler",))


def _running(completed: Completed) -> tuple[str, Mapping[str, set[int]]]:
    """Read the first line (the machine's name) and, per job, which tasks run; a lane alone keeps its job known."""
    machine, _, processes = completed.stdout.decode(errors="replace").partition("\n")
    if completed.returncode != 0 or not machine:
        said = completed.stderr_text
        raise BackendError(f"the processes of the host cannot be listed: {said or 'no answer'}")
    running: dict[str, set[int]] = {}
    for line in processes.splitlines():
        if match := _PROCESS.search(line):
            tasks = running.setdefault(match[1], set())
            if match[2] != "/script.sh":
                tasks.add(int(match[3]))
    return machine, running
