"""Record what a real SLURM prints: ``python -m tests.golden.slurm.record`` writes transcripts.json beside this file."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.schedulers.slurm import Slurm
from tests.live import beds, sites

if TYPE_CHECKING:
    from clustrix.transports.ssh import SSH

HERE = Path(__file__).parent


def record(ssh: SSH, bed: beds.Bed) -> dict[str, Any]:
    """Make every situation, and keep the answers to the dialect's own commands."""
    slurm = Slurm()
    name = bed.root("hostname").strip()
    found: dict[str, Any] = {"version": ssh.run("sbatch --version").stdout.decode().strip()}

    def ask(*argvs: tuple[str, ...]) -> list[dict[str, Any]]:
        answers = []
        for argv in argvs:
            done = ssh.run(shlex.join(argv))
            texts = (data.decode().replace(name, "hpc") for data in (done.stdout, done.stderr))
            answers.append(dict(zip(("returncode", "stdout", "stderr"), (done.returncode, *texts), strict=True)))
        return answers

    def submit(*options: str, script: str = "true") -> str:
        done = ssh.run(
            shlex.join(["sbatch", "--parsable", "--no-requeue", "--output=/dev/null", *options, "--wrap", script])
        )
        return slurm.parse_submit(done)

    def until(job: str, pattern: str, command: str = "squeue -h -t all -o '%T' -j") -> None:
        deadline = time.monotonic() + 60
        while not re.search(pattern, ssh.run(f"{command} {job}").stdout.decode()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{job}: {pattern}")
            time.sleep(0.2)

    def keep(scenario: str, *jobs: str) -> None:
        found[scenario] = {"jobs": jobs, "answers": ask(*slurm.status_argv(jobs))}

    accounted = "sacct -n -P -o state -j"
    done = submit(script="exit 0")
    failed = submit(script="exit 3")
    killed = submit(script="kill -9 $$")
    memory = submit("--mem=50", script="python3 -c 'x = bytearray(300 * 1024 * 1024); import time; time.sleep(60)'")
    for job, state in ((done, "COMPLETED"), (failed, "FAILED"), (killed, "FAILED"), (memory, "OUT_OF_ME")):
        until(job, state, accounted)
    keep("ended", done, failed, killed, memory)
    limit = submit("--time=1", script="sleep 300")
    until(limit, "RUNNING")
    bed.root(f"scontrol update jobid={limit} EndTime=now")
    until(limit, "TIMEOUT", accounted)
    gone = submit(script="sleep 300")
    until(gone, "RUNNING")
    ssh.run(f"scancel {gone}")
    until(gone, "CANCELLED", accounted)
    keep("limits", limit, gone)
    array = submit(
        "--array=0-9%2", script="[ $SLURM_ARRAY_TASK_ID != 1 ] || exit 4; [ $SLURM_ARRAY_TASK_ID = 1 ] || sleep 300"
    )
    until(array, "FAILED")
    until(array, "RUNNING\\s+RUNNING")
    wait = submit("--mem=3900", "--nodes=2", "--time=5")
    never = submit("--partition=short", "--time=30")
    held = submit("--hold")
    time.sleep(3)
    keep("waiting", array, wait, never, held)
    ssh.run(f"scancel {array} {wait} {never} {held}")
    until(array, "^(CANCELLED|FAILED|\\s)*$")
    keep("cancelled array", array)
    keep("unknown", "99999")
    keep("unknown among others", "99999", done)
    down = submit(script="sleep 300")
    until(down, "RUNNING")
    node = ssh.run(f"squeue -h -o %N -j {down}").stdout.decode().strip()
    bed.root(f"scontrol update nodename={node} state=down reason=test")
    until(down, "NODE_FAIL")
    time.sleep(2)
    keep("node failure", down)
    bed.root(f"scontrol update nodename={node} state=resume || true")

    refusals = {
        "partition": ["--partition=nope"],
        "account": ["--account=nope"],
        "memory": ["--mem=100G"],
        "cores": ["--cpus-per-task=99"],
        "gpus": ["--gres=gpu:1"],
        "constraint": ["--constraint=nope"],
        "array": ["--array=0-5000"],
        "time": ["--time=nonsense"],
    }
    found["refusals"] = {
        key: ask(("sbatch", "--parsable", *options, "--wrap", "true"))[0] for key, options in refusals.items()
    }
    found["accepted"] = ask(("sbatch", "--parsable", "--job-name=cx.unique", "--wrap", "true"))[0]
    found["limits of the site"] = ask(slurm.limits_argv() or ())[0]
    bed.root("pkill slurmdbd; sleep 2")
    keep("no accounting server", "99999", done)
    bed.root("pkill slurmctld; sleep 2")
    keep("no controller", done)
    found["no controller to submit to"] = ask(("timeout", "60", "sbatch", "--parsable", "--wrap", "true"))[0]
    return found


def main() -> None:
    """Record."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bed = stack.enter_context(beds.bed("slurm", directory / "bed"))
        found = record(stack.enter_context(contextlib.closing(sites.ssh(bed, directory))), bed)
    (HERE / "transcripts.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
