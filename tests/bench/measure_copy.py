"""How fast a big file goes to a login node and comes back, and how much memory that needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import ground as grounds
from live import beds
from measure import Bar, Measure, Table, alternate, middle

if TYPE_CHECKING:
    from ground import Ground

BYTES = 1 << 30
OURS, THEIRS = {"put": "clustrix, up", "get": "clustrix, down"}, {"put": "scp, up", "get": "scp, down"}
LIMIT_RATIO, LIMIT_MB = 1.3, 200


def measure(ground: Ground, rounds: int) -> Measure:
    """Copy 1 GB there and back over SSH, in turn with scp; each with a login of its own."""
    with ExitStack() as stack:
        bed = stack.enter_context(beds.bed("login", ground.fresh("bed")))
        directory = ground.fresh("copy")
        config = directory / "ssh_config"
        config.write_text(
            f"Host *\n  User {bed.user}\n  IdentityFile {bed.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {bed.known_hosts}\n  LogLevel ERROR\n"
        )
        original = directory / "original"
        with original.open("wb") as file:
            for _ in range(BYTES >> 20):
                file.write(os.urandom(1 << 20))
        peaks: list[float] = []

        def ours(verb: str) -> float:
            here = original if verb == "put" else directory / "back"
            argv = [sys.executable, grounds.HERE / "copy_once.py", verb, here, "/home/alice/ours"]
            start = time.perf_counter()
            peaks.append(grounds.peak_bytes(*argv, bed.host, bed.port, config, env=dict(os.environ)) / 1e6)
            return time.perf_counter() - start

        def theirs(verb: str) -> float:
            there = f"{bed.user}@{bed.host}:theirs"
            ends = (str(original), there) if verb == "put" else (there, str(directory / "back"))
            start = time.perf_counter()
            subprocess.run(["scp", "-q", "-F", str(config), "-P", str(bed.port), *ends], check=True)
            return time.perf_counter() - start

        cases = {name: partial(ours, verb) for verb, name in OURS.items()}
        cases |= {name: partial(theirs, verb) for verb, name in THEIRS.items()}
        for case in cases.values():
            case()  # everything is in the page cache, and stands there for the way back
        samples = alternate(cases, rounds)
        sums = bed.root("sha256sum /home/alice/ours /home/alice/theirs")
        assert len({line.split()[0] for line in sums.splitlines()}) == 1, sums
        version = _version(bed.root("/usr/sbin/sshd -V 2>&1 || true"))
    return found(samples, peaks, version)


def found(samples: dict[str, list[float]], peaks: list[float], version: str) -> Measure:
    """Say what was found."""
    text = (
        "A file of 1 GB that cannot be compressed, to a login node on the same machine and back, in whole processes"
        " that log in first. clustrix verifies every copy by sha256 and would go on after a cut; scp does neither."
    )
    ratios = [
        Bar(
            f"copy of 1 GB, {verb}: times scp",
            middle(samples, OURS[verb]) / middle(samples, THEIRS[verb]),
            LIMIT_RATIO,
            "x",
        )
        for verb in OURS
    ]
    return Measure(
        "Copies over SSH",
        text,
        [
            Table(f"1 GB, {name}", {OURS[verb]: samples[OURS[verb]], THEIRS[verb]: samples[THEIRS[verb]]})
            for verb, name in (("put", "up"), ("get", "down"))
        ],
        [*ratios, Bar("copy of 1 GB: peak memory", max(peaks), LIMIT_MB, "MB")],
        {"OpenSSH": version},
    )


def _version(said: str) -> str:
    match = re.search(r"OpenSSH_([\w.]+)", said)
    return match[1] if match else "unknown"
