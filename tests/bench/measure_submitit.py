"""How long many short calls take here and with submitit."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import ground as grounds
from cluster import cluster
from measure import Bar, Measure, Table, alternate, middle

if TYPE_CHECKING:
    from ground import Ground

ITEMS, THEIRS = 1000, 200
MOST_ROUNDS = 2
OURS, PEER = f"clustrix, {ITEMS:,} calls", f"submitit, {THEIRS} calls"


def measure(ground: Ground, rounds: int) -> Measure:
    """Map over SSH in turn with submitit on the log-in node of the same SLURM."""
    with cluster(ground, "slurm", "slurm") as (bed, directory, environment):
        # It and what it needs are Python alone, so the bed's own Python runs it.
        names = "submitit, cloudpickle, typing_extensions"
        code = f"import {names}\nfor one in ({names}): print(*getattr(one, '__path__', [one.__file__]))"
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for place in grounds.run(ground.peers, "-c", code).split():
                tar.add(place, arcname=f"peers/{place.rpartition('/')[2]}")
            tar.add(grounds.HERE / "submitit_once.py", arcname="peers/submitit_once.py")
        bed.container.put_archive("/opt", archive.getvalue())

        def ours() -> float:
            argv = (ground.scientific, grounds.HERE / "map_once.py", str(ITEMS))
            return float(grounds.run(*argv, cwd=directory, env=environment).splitlines()[-1])

        def theirs() -> float:
            return float(
                bed.ssh(f"PYTHONPATH=/opt/peers python3 /opt/peers/submitit_once.py {THEIRS}").splitlines()[-1]
            )

        samples = alternate({OURS: ours, PEER: theirs}, min(rounds, MOST_ROUNDS))
    return found(samples, ground.versions(ground.peers, "submitit"))


def found(samples: dict[str, list[float]], versions: dict[str, str]) -> Measure:
    """Say what was found."""
    text = (
        f"A map of {ITEMS:,} calls that return their argument, on the SLURM of the test bed: clustrix over SSH, in the"
        f" image of the environment; submitit on the log-in node itself, without a container, one array of {THEIRS}"
        " tasks. It is given a fifth of the calls, because all of them would take it minutes."
    )
    ratio = middle(samples, OURS) / middle(samples, PEER)
    return Measure(
        "Many short calls",
        text,
        [Table("SLURM, short calls", samples)],
        [Bar(f"SLURM, a map of {ITEMS:,}: times what submitit needs for {THEIRS}", ratio, 0.2, "x")],
        versions,
    )
