"""``task.sh NUMBER``: run one task outside of its container and write down how it ended. The same for every scheduler.

It is the parent of the task's command, passes signals on to it, and leaves ``ends/NUMBER.json`` by rename. Whether
memory ran out is read from the cgroup of this process, before and after: ``memory.events`` (cgroup v2,
https://docs.kernel.org/admin-guide/cgroup-v2.html) or ``memory.oom_control`` (v1). A runtime whose processes live in
another cgroup says it instead: it writes a word of `clustrix.model.job.EndKind` to the file ``$CLUSTRIX_NOTE``.

SIGXCPU says that the time limit is near; whoever sends it (a scheduler, ahead of the limit) writes nothing down. The
worker is told by SIGTERM if user code has something to save (`clustrix.worker.preemption`).

A cgroup may be shared with strangers, so a kill counts against a task only if the task has failed, too: an outcome
that is a value comes before all this.
"""

from __future__ import annotations

import shlex
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clustrix.model.job import JobSpec
    from clustrix.model.paths import JobPaths

_TEXT = Template("""#!/bin/sh
# Runs task $$1 of the job and writes down how it ended.
umask 077
n=$$1
case $$n in ''|*[!0-9]*) echo "usage: task.sh NUMBER" >&2; exit 64;; esac
CLUSTRIX_NATIVE_ID="$native_id"
CLUSTRIX_NOTE=$ends/$$n.note
export CLUSTRIX_NATIVE_ID CLUSTRIX_NOTE
late=$ends/$$n.late hook=$ends/$$n.hook
# Every program that is started here takes a millisecond of every task: the shell does what it can do itself.
sweep() { for old; do [ ! -e "$$old" ] || rm -f "$$old"; done; }
sweep $ends/"$$n".json "$$CLUSTRIX_NOTE" "$$late" "$$hook"

# Sets kills.
count_oom_kills() {
  while IFS=: read -r hierarchy controllers path; do
    case $$hierarchy:,$$controllers, in
      0:,,) tree=/sys/fs/cgroup file=memory.events;;
      *,memory,*) tree=/sys/fs/cgroup/memory file=memory.oom_control;;
      *) continue;;
    esac
    # Where this machine is a container itself, its own cgroup is all that is mounted.
    events=$$tree$$path/$$file
    [ -r "$$events" ] || events=$$tree/$$file
    while read -r name count; do
      if [ "$$name" = oom_kill ]; then kills=$$count; return; fi
    done 2>/dev/null <"$$events"
  done 2>/dev/null </proc/self/cgroup
  kills=0
}

count_oom_kills
before=$$kills
cd $work || exit 66
told= child=
# A command in the background ignores INT (POSIX), so it is told to terminate.
leave() { told=1; [ -z "$$child" ] || kill -TERM "$$child" 2>/dev/null; }
trap leave TERM INT HUP
# The time limit is near. Who has something to save begins now; others may still come to their end. Not by `:`, which
# would end this shell where the disk is full (POSIX).
trap 'true >"$$late"; [ ! -e "$$hook" ] || leave' XCPU
for signal in USR1 USR2; do trap "kill -$$signal"' $$child 2>/dev/null' $$signal; done
$argv "$$n" >>$logs/"$$n".out 2>&1 </dev/null &
child=$$!
# It is told what came before its number was known, once it is certainly no copy of this shell any more.
if [ -n "$$told" ]; then sleep 1; leave; fi
while :; do
  wait $$child
  code=$$?
  # wait returns early when a signal is passed on.
  kill -0 $$child 2>/dev/null || break
done

kind=exited
exit_code=$$code
number=null
if [ $$code -gt 128 ] && [ $$code -le 192 ]; then
  kind=signalled
  exit_code=null
  number=$$((code - 128))
fi
count_oom_kills
if [ "$$kills" -gt "$$before" ]; then kind=out-of-memory; fi
if [ -s "$$CLUSTRIX_NOTE" ]; then read -r kind <"$$CLUSTRIX_NOTE"; fi
if [ $$code -ne 0 ] && [ -n "$$told" ] && [ -e "$$late" ]; then kind=time-limit; fi
if [ $$code -ne 0 ] && [ -e $cancelled ]; then kind=cancelled; fi
sweep "$$CLUSTRIX_NOTE" "$$late" "$$hook"
read -r node 2>/dev/null </proc/sys/kernel/hostname || node=$$(uname -n)
case $$node in *[!A-Za-z0-9._-]*) node=$$(printf %s "$$node" | tr -dc 'A-Za-z0-9._-');; esac
printf '{"kind": "%s", "exit_code": %s, "signal": %s, "node": "%s"}\\n' \\
  "$$kind" $$exit_code $$number "$$node" >$ends/"$$n.$$$$.new" &&
  mv -f $ends/"$$n.$$$$.new" $ends/"$$n".json
exit $$code
""")


def text(spec: JobSpec, paths: JobPaths, *, native_id: str) -> str:
    """Write the wrapper of a job; ``native_id`` is the sh expression of the scheduler's id (`Dialect.native_id`)."""
    return _TEXT.substitute(
        native_id=native_id,
        argv=shlex.join(spec.argv),
        cancelled=shlex.quote(paths.cancelled),
        ends=shlex.quote(paths.ends),
        logs=shlex.quote(paths.logs),
        work=shlex.quote(paths.work),
    )
