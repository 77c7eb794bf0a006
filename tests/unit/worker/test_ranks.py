"""Ranks of one task, as real processes: one value of all, or the failure of the first that failed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def site(tmp_path, bundle_cache):
    from worker_site import Site

    return Site(tmp_path, bundle_cache)


def ranks(site, function, *args, size=2):
    """Start every rank of one call, as srun does, and let it end."""
    paths = site.submit(function, [args], workdir=None)
    Path(paths.of_ranks(0)).mkdir(parents=True)
    Path(paths.ends).mkdir(exist_ok=True)
    *command, directory, number = site.argv(paths)
    started = [
        subprocess.Popen(
            [*command, "--rank", directory, number],
            env={**os.environ, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate(timeout=60)[0] for process in started]
    return paths, [process.returncode for process in started], said


def of_rank():
    return os.environ["RANK"]


def test_the_value_is_that_of_rank_0_and_waits_for_all(site):
    paths, codes, said = ranks(site, of_rank)
    assert codes == [0, 0], said
    assert not list(Path(paths.outcomes).iterdir())
    left = sorted(Path(paths.of_ranks(0)).iterdir())
    assert [file.name for file in left] == ["0.json", "0.pkl"]
    for file in left:  # as whoever started them does
        file.rename(Path(paths.outcomes, file.name))
    assert site.read(paths) == "0"


def fail_elsewhere():
    if os.environ["RANK"] != "0":
        raise KeyError(os.environ["RANK"])


def test_what_another_rank_raises_is_the_outcome_at_once(site):
    paths, codes, said = ranks(site, fail_elsewhere, size=3)
    assert codes == [0, 1, 1], said  # whoever started them ends the rest
    with pytest.raises(KeyError):
        site.read(paths)


def save_and_leave():
    import signal

    from clustrix.worker.preemption import on_preempt

    @on_preempt
    def save():
        return f"saved by {os.environ['RANK']}"

    os.kill(os.getpid(), signal.SIGTERM)


def test_rank_0_saves_for_all(site):
    from clustrix.errors import Preempted

    paths, codes, said = ranks(site, save_and_leave)
    assert codes == [143, 0], said
    with pytest.raises(Preempted) as caught:
        site.read(paths)
    assert caught.value.checkpoint == "saved by 0"
