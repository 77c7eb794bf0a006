"""How much a call and a map cost beyond what SLURM and Apptainer need themselves."""

from __future__ import annotations

import json
import os
import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import ground as grounds
from live import beds, proxies
from measure import Bar, Measure, Table

if TYPE_CHECKING:
    from ground import Ground

CALL, FLOOR = "clustrix, a call", "sbatch of apptainer exec python3 -c pass"
TASKS, PACKED, RAW = "clustrix, 50 tasks", "clustrix, packed", "sbatch --array of 50 times the floor"
DELAY_SECONDS = 0.050


def measure(ground: Ground, rounds: int) -> Measure:
    """Call and map over SSH on the test bed, in turn with raw submissions over the same connection."""
    base = grounds.servers.bases()["debian"].layout
    with ExitStack() as stack:
        bed = stack.enter_context(beds.bed("slurm", ground.fresh("bed")))
        far = stack.enter_context(proxies.proxy((bed.host, bed.port), delay=DELAY_SECONDS))
        directory = ground.fresh("slurm")
        (directory / "requirements.txt").write_text(f"{grounds.CHANGE[0]}\n")
        host_key = bed.known_hosts.read_text().split(maxsplit=1)[1]
        known = directory / "known_hosts"
        known.write_text("".join(f"[{bed.host}]:{port} {host_key}\n" for port in (bed.port, far.port)))
        (directory / "ssh_config").write_text(
            f"Host *\n  IdentityFile {bed.key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {known}\n"
        )
        target = {
            "backend": "slurm",
            "host": bed.host,
            "username": bed.user,
            "ssh_config": str(directory / "ssh_config"),
            "base": f"oci:{base}",
            "environment": str(directory / "requirements.txt"),
        }
        targets = {"near": {**target, "port": bed.port}, "far": {**target, "port": far.port}}
        (directory / "clustrix.json").write_text(json.dumps({"targets": targets, "target": "near"}))
        environment = {
            **os.environ,
            "CLUSTRIX_STATE_DIR": str(directory / "state"),
            "UV_DEFAULT_INDEX": ground.index,
        }
        argv = (ground.scientific, grounds.HERE / "slurm_often.py", str(rounds))
        samples = json.loads(grounds.run(*argv, cwd=directory, env=environment).splitlines()[-1])
        slurm = bed.root("sinfo --version").split()[1]
        apptainer = bed.root("apptainer --version").split()[-1]
    for name, values in samples.items():
        print(f"  {name}: {statistics.median(values):.3f}", flush=True)
    return found(samples, {"SLURM": slurm, "Apptainer": apptainer})


def found(samples: dict[str, Any], versions: dict[str, str]) -> Measure:
    """Say what was found."""
    middle = {name: statistics.median(values) for name, values in samples.items()}
    over = [call - floor for call, floor in zip(samples["call"], samples["floor"], strict=True)]
    text = (
        "Over SSH on the test bed of the live tests: a log-in node, a controller and two nodes in one container. The"
        " floor is `sbatch` of `apptainer exec SIF python3 -c pass && touch FILE`, submitted and noticed over the same"
        " warm connection; it returns no value. The image stands there before the clock starts. The map computes 50"
        " items: as 50 tasks of one array (`chunksize=1`), and packed, as `.map` does by itself; its raw counterpart is"
        " an array of 50 times the floor. A submission is a warm `.submit`; from afar the connection goes through a"
        f" proxy that holds back every piece for {DELAY_SECONDS * 1000:.0f} ms each way."
    )
    tables = [
        Table("a call, from submission to value", {CALL: samples["call"], FLOOR: samples["floor"]}),
        Table("a map of 50", {TASKS: samples["tasks"], PACKED: samples["packed"], RAW: samples["array"]}),
        Table("clustrix, a map of 1,000, packed", {"one submission": samples["thousand"]}),
        Table("a submission", {"clustrix, near": samples["near"], "clustrix, from afar": samples["far"]}),
    ]
    bars = [
        Bar("SLURM, a call: over the floor", statistics.median(over), 0.25, "s"),
        Bar("SLURM, a map of 50 as 50 tasks: times the raw array", middle["tasks"] / middle["array"], 1.15, "x"),
        Bar("SLURM, a map of 50, packed: times the raw array", middle["packed"] / middle["array"], 1 / 3, "x"),
        Bar("SLURM, a warm submission: round trips", max(samples["round_trips"]), 2, ""),
        Bar("SLURM, a warm submission from 50 ms afar: longer than near", middle["far"] - middle["near"], 0.25, "s"),
    ]
    return Measure("SLURM", text, tables, bars, versions)
