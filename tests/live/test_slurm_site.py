# ruff: noqa: F811 - fixtures of another file
"""A SLURM site looked after from the command line: what lies there, and whether all of the way works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from clustrix import catalogue, cli, errors
from tests.conformance.backends import LONG

from .test_slurm import ROOT, cache, desk, line, placed  # noqa: F401 - fixtures
from .test_slurm_faults import far  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.desk import Desk

pytestmark = pytest.mark.live


def clustrix(*argv: str, status: int = 0) -> Any:
    done = CliRunner().invoke(cli.main, [*argv, "--json"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def test_gc_removes_the_old_and_nothing_that_runs(far: Callable[..., Any], desk: Desk) -> None:
    ended = far("def one(): return 1").submit()
    assert ended.result(LONG) == 1
    waits = far("import time\ndef rest(): time.sleep(1000)").submit()
    try:
        jobs = [f"{ROOT}/jobs/{job.id.ulid}" for job in (ended, waits)]
        # The wrapper writes down its end a moment after the outcome.
        desk.transport.run(f"until [ -e '{jobs[0]}/ends/0.json' ]; do sleep 0.1; done")
        desk.transport.run(f"find '{ROOT}' -exec touch -h -d '40 days ago' {{}} +")
        (told,) = clustrix("gc", "--target", "hpc", "--dry-run")["targets"]
        assert str(ended.id) in told["jobs"]
        assert told["kept"] == {str(waits.id): "it has not ended"}
        assert told["root"] == ROOT
        assert told["free_bytes"] > 0
        assert told["sizes"]["sifs"] > 10 << 20
        (told,) = clustrix("gc", "--target", "hpc")["targets"]
        left = desk.transport.run(f"cd '{ROOT}' && ls jobs; ls bundles sifs blobs/sha256").stdout.decode().split()
        assert waits.id.ulid in left
        assert ended.id.ulid not in left
        assert [name for name in left if name.endswith(".sif")]  # what runs is in it
        assert not [path for path in told["shared"] if path.startswith("sifs/") and path.endswith(".sif")]
        assert waits.status().state.value in {"running", "waiting"}
    finally:
        waits.cancel()
    with pytest.raises(errors.UnknownJob):
        catalogue.find(str(ended.id))
