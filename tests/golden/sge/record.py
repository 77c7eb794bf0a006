"""Record what a real SGE prints: ``python -m tests.golden.sge.record`` writes transcripts.json beside this file."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.schedulers.sge import Sge
from tests.live import beds, sites

if TYPE_CHECKING:
    from clustrix.transports.ssh import SSH

HERE = Path(__file__).parent
ENVIRONMENT = ". /etc/profile.d/sge.sh; "


def record(ssh: SSH, bed: beds.Bed) -> dict[str, Any]:
    """Make every situation, and keep the answers to the dialect's own commands."""
    sge = Sge()
    name = bed.root("hostname").strip()
    found: dict[str, Any] = {"version": ssh.run("qstat -help").stdout.decode().splitlines()[0].strip()}

    def ask(argv: tuple[str, ...]) -> dict[str, Any]:
        done = ssh.run(shlex.join(argv))
        texts = (data.decode().replace(name, "hpc") for data in (done.stdout, done.stderr))
        return dict(zip(("returncode", "stdout", "stderr"), (done.returncode, *texts), strict=True))

    def submit(*options: str, script: str = "true") -> str:
        plain = ("-S", "/bin/sh", "-o", "/dev/null", "-j", "y", "-r", "n")
        argv = shlex.join(["qsub", "-terse", *plain, *options])
        return sge.parse_submit(ssh.run(f"printf '%s\\n' {shlex.quote(script)} | {argv}"))

    def until(job: str, pattern: str, command: str = "qstat") -> None:
        number = job.partition(".")[0]
        text = {"qstat": f"qstat | grep '^ *{number} '", "qacct": f"qacct -j {number}"}[command]
        deadline = time.monotonic() + 60
        while not re.search(pattern, ssh.run(text).stdout.decode()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{job}: {pattern}")
            time.sleep(0.2)

    def keep(scenario: str, *jobs: str) -> None:
        (argv,) = sge.status_argv(jobs)
        found[scenario] = {"jobs": jobs, "answers": [ask(argv)]}

    greedy = "for _ in range(4): os.fork() or (bytearray(1 << 27), time.sleep(60))\ntime.sleep(60)"
    memory = f"python3 -c 'import os, time\n{greedy}'"
    limits = submit("-l", "h_rt=2", script="sleep 300"), submit("-l", "h_vmem=300M,h_rt=300", script=memory)
    deleted = submit(script="sleep 300")
    ended = [submit(script=script) for script in ("exit 0", "exit 3", "exit 137", "kill -9 $$", "exit 99", "exit 100")]
    for job in ended[:4]:
        until(job, "exit_status", "qacct")
    until(ended[4], "Rq|exit_status", "qacct")
    until(ended[5], "Eqw")
    keep("ended", *ended)
    until(deleted, " r ")
    ssh.run(f"qdel {deleted} {' '.join(ended[4:])}")
    for job in (*limits, deleted):
        until(job, "exit_status", "qacct")
    keep("limits", *limits, deleted)
    fill = submit("-pe", "smp", "4", script="sleep 300")
    until(fill, " r ")
    jobs = {
        "full": submit(),
        "never": submit("-l", "arch=foo"),
        "held": submit("-h"),
        "dependent": submit("-hold_jid", fill),
        "error": submit("-o", "/nonexistent/x"),
    }
    waiting = (fill, *jobs.values())
    time.sleep(3)
    keep("waiting", *waiting)
    ssh.run(f"qdel {' '.join(waiting)}")
    until(fill, "exit_status", "qacct")
    error = submit("-o", "/nonexistent/x", "-t", "1-2")
    until(error, "Eqw")
    keep("error state", error)
    array = submit("-t", "1-10", "-tc", "2", script="[ $SGE_TASK_ID != 2 ] || exit 4; sleep 300")
    until(array, " r .*\n.* r .*\n.*qw")
    until(array, "taskid +2", "qacct")
    keep("array", array)
    ssh.run(f"qdel {array.partition('.')[0]}")
    until(array, "taskid +3", "qacct")
    keep("cancelled array", array)
    keep("unknown", "99999")
    keep("unknown among others", "99999", ended[0])
    named = submit("-N", "cx.unique", "-h", "-t", "1-3")
    found["find"] = {
        "id": named,
        "waiting array": ask(("sh", "-c", sge.find_argv(spec("cx.unique"))[2], "sh", "cx.unique")),
        "nobody": ask(("sh", "-c", sge.find_argv(spec("nope"))[2], "sh", "cx.nope")),
    }
    ssh.run(f"qdel {named.partition('.')[0]}")
    refusals = {
        "queue": ["-q", "nope"],
        "project": ["-P", "nope"],
        "resource": ["-l", "nope=1"],
        "parallel environment": ["-pe", "nope", "2"],
        "array": ["-t", "1-100000"],
        "memory": ["-l", "h_vmem=1gib"],
        "priority": ["-p", "10"],
    }
    command = ["qsub", "-terse", "-b", "y"]
    found["refusals"] = {key: ask((*command, *options, "true")) for key, options in refusals.items()}
    found["accepted"] = ask((*command, "-h", "true"))
    found["accepted array"] = ask((*command, "-h", "-t", "1-8", "true"))
    found["cancel with others that ended"] = ask(sge.cancel_argv([ended[0], found["accepted"]["stdout"].strip()]))
    found["limits of the site"] = ask(sge.limits_argv() or ())
    bed.root(f"{ENVIRONMENT}mv /var/lib/gridengine/default/common/accounting /tmp/accounting")
    keep("no accounting", "99999")
    bed.root(f"{ENVIRONMENT}qconf -km; sleep 3")
    keep("no master", ended[0])
    found["no master to submit to"] = ask((*command, "true"))
    return found


def spec(name: str) -> Any:
    """Make what the dialect takes to look for a job; its name is not used."""
    from dataclasses import replace

    from tests.golden.job import JOB

    return replace(JOB, name=name)


def main() -> None:
    """Record."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bed = stack.enter_context(beds.bed("sge", directory / "bed"))
        found = record(stack.enter_context(contextlib.closing(sites.ssh(bed, directory))), bed)
    (HERE / "transcripts.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
