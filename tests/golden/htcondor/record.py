"""Record what a real HTCondor prints: ``python -m tests.golden.htcondor.record`` writes transcripts.json here."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.model.paths import JobPaths
from clustrix.model.resources import Resources
from clustrix.schedulers.htcondor import Htcondor
from tests.golden.job import JOB
from tests.live import beds, sites

if TYPE_CHECKING:
    from clustrix.transports.ssh import SSH

HERE = Path(__file__).parent
CONFIGURE = "cat >/etc/condor/config.d/record.conf <<'END'\n{}\nEND\ncondor_reconfig -schedd; condor_reconfig -startd"


def record(ssh: SSH, bed: beds.Bed) -> dict[str, Any]:
    """Make every situation, and keep the answers to the dialect's own commands."""
    condor = Htcondor()
    name = bed.root("hostname").strip()
    found: dict[str, Any] = {"version": ssh.run("condor_version").stdout.decode().splitlines()[0].strip("$ ")}

    def ask(argv: tuple[str, ...]) -> dict[str, Any]:
        done = ssh.run(shlex.join(argv))
        texts = (data.decode().replace(name, "pool") for data in (done.stdout, done.stderr))
        return dict(zip(("returncode", "stdout", "stderr"), (done.returncode, *texts), strict=True))

    def submission(script: str, *options: str, tasks: int = 1) -> tuple[str, ...]:
        # What the dialect itself writes, with another program and other options; of two the last one holds.
        own = condor.script(replace(JOB, resources=Resources(), max_parallel=None), JobPaths("/scratch"), tasks=tasks)
        described = [line for line in own.splitlines() if line.startswith("#CONDOR ")]
        lines = [*described[:-1], *(f"#CONDOR {option}" for option in options), described[-1], script]
        place = f"/home/alice/{len(sent)}.sh"  # jobs have a /tmp of their own
        sent.append(place)
        lines = [re.sub(r"'[^']*'", place, line) if "arguments" in line else line for line in lines]
        ssh.run(f"cat >{place} <<'END'\n" + "\n".join(lines) + "\nEND\n")
        return condor.submit_argv(JOB, place)

    def submit(script: str, *options: str, tasks: int = 1) -> str:
        return condor.parse_submit(ssh.run(shlex.join(submission(script, *options, tasks=tasks))))

    def until(job: str, states: str, command: str = "condor_q") -> None:
        cluster = job.partition(".")[0]
        deadline = time.monotonic() + 60
        while (said := ssh.run(f"{command} {cluster} -af JobStatus").stdout.decode().split()) != states.split():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{job}: {said}, not {states}")
            time.sleep(0.2)

    def keep(scenario: str, *jobs: str) -> None:
        (argv,) = condor.status_argv(jobs)
        found[scenario] = {"jobs": jobs, "answers": [ask(argv)]}

    sent: list[str] = []
    ended = [submit(script) for script in ("exit 0", "exit 3", "exit 137", "kill -9 $$", "exit 255")]
    for job in ended:
        until(job, "4", "condor_history")
    keep("ended", *ended)
    memory = "exec python3 -c 'bytearray(1 << 29)'"
    limits = submit("sleep 300", "allowed_job_duration = 2"), submit(memory, "request_memory = 128")
    deleted, vacated = submit("sleep 300"), submit("sleep 300")
    held = "periodic_remove = false"
    stays = submit(memory, "request_memory = 128", held), submit("sleep 300", "allowed_job_duration = 2", held)
    until(vacated, "2")
    until(deleted, "2")
    time.sleep(3)  # that it started is known some time later
    ssh.run(f"condor_vacate_job -fast {vacated.partition('.')[0]}; condor_rm {deleted.partition('.')[0]}")
    for job in (*limits, deleted, vacated):
        until(job, "3", "condor_history")
    for job in stays:
        until(job, "5")
    keep("limits", *limits, deleted, vacated)
    keep("held at a limit", *stays)
    ssh.run("condor_rm -all")
    fill = submit("sleep 300", "request_cpus = 4")
    until(fill, "2")
    jobs = (
        submit("true"),
        submit("true", 'requirements = Arch == "foo"', tasks=2),
        submit("true", "request_memory = 1048576", "request_gpus = 1"),
        submit("true", "hold = true"),
    )
    time.sleep(4)
    keep("waiting", fill, *jobs)
    ssh.run("condor_rm -all")
    bed.root(CONFIGURE.format("use POLICY: HOLD_IF_MEMORY_EXCEEDED\nCGROUP_MEMORY_LIMIT_POLICY = none"))
    polled = submit(
        "exec python3 -c 'import time; a = b\"x\" * (1 << 29); time.sleep(60)'", "request_memory = 128", held
    )
    until(polled, "5")
    keep("held by a policy", polled)
    bed.root("rm /etc/condor/config.d/record.conf; condor_reconfig -startd")
    ssh.run("condor_rm -all")
    array = submit("[ $1 != 1 ] || exit 4; sleep 300", "max_materialize = 2", tasks=10)
    until(array, "2 2")
    until(array, "4", "condor_history")
    keep("array", array)
    ssh.run(f"condor_rm {array.partition('.')[0]}")
    until(array, "")
    keep("cancelled array", array)
    keep("unknown", "99999.0-0")
    keep("unknown among others", "99999.0-0", ended[0])
    named = submit("true", "batch_name = cx.unique", "hold = true", tasks=3)
    late = submit("true", "batch_name = cx.late", "hold = true", "max_materialize = 1", tasks=3)
    over = submit("true", "batch_name = cx.over", tasks=2)
    until(over, "")
    found["find"] = {
        key: {"id": job, "answer": ask((*condor.find_argv(JOB)[:-1], f'JobBatchName == "cx.{key}"'))}
        for key, job in {"unique": named, "late": late, "over": over, "nobody": None}.items()
    }
    refusals = {
        "group": ("accounting_group = a b",),
        "expression": ("request_disk = x y",),
        "requirements": ("requirements = (Arch ==",),
    }
    found["refusals"] = {key: ask(submission("true", *options)) for key, options in refusals.items()}
    found["refusals"]["array"] = ask(submission("true", tasks=20_001))
    found["accepted"] = ask(submission("true"))
    found["accepted array"] = ask(submission("true", tasks=8))
    found["cancel with others that ended"] = ask(condor.cancel_argv([ended[0], named]))
    found["cancel what ended"] = ask(condor.cancel_argv(ended[:2]))
    found["limits of the site"] = ask(condor.limits_argv() or ())
    bed.root("condor_off -fast -daemon schedd; while pgrep -x condor_schedd; do sleep 0.1; done")
    keep("no queue", ended[0])
    found["no queue to submit to"] = ask(submission("true"))
    found["no queue to remove from"] = ask(condor.cancel_argv(ended[:1]))
    found["no queue to ask for limits"] = ask(condor.limits_argv() or ())
    return found


def main() -> None:
    """Record."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bed = stack.enter_context(beds.bed("htcondor", directory / "bed"))
        found = record(stack.enter_context(contextlib.closing(sites.ssh(bed, directory))), bed)
    (HERE / "transcripts.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
