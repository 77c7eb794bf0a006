"""SLURM, for real: over SSH, in a SIF, with the suite of every backend and what only SLURM does."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from clustrix import errors, handle
from clustrix.model.job import State
from clustrix.model.paths import SitePaths
from clustrix.model.progress import SILENT
from clustrix.model.resources import Mount, Resources
from clustrix.runtimes.apptainer import Apptainer
from clustrix.schedulers.slurm import Slurm
from tests.conformance.backends import LONG, Backends
from tests.conformance.desk import Desk, Unreliable

from . import sites

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from clustrix.model.job import Placed
    from clustrix.transports.ssh import SSH

    from .beds import Bed

pytestmark = pytest.mark.live

ROOT = "/home/alice/a root"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def line(slurm_cluster: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSH]:
    with contextlib.closing(sites.ssh(slurm_cluster, tmp_path_factory.mktemp("login"))) as transport:
        yield transport


@pytest.fixture(scope="module")
def placed(line: SSH, base_layout: Path) -> Placed:
    return Apptainer().ensure(sites.artifact(base_layout), line, SitePaths(ROOT), progress=SILENT)


@pytest.fixture
def desk(line: SSH, placed: Placed, cache: Path) -> Iterator[Desk]:
    def wrap(argv: Sequence[str]) -> tuple[str, ...]:
        mounts = [Mount(ROOT, ROOT)]
        return Apptainer().wrap(placed, argv, mounts=mounts, variables={}, gpus=0, memory_bytes=None, cores=1)

    desk = Desk(Slurm(), Unreliable(line), ROOT, cache, interpreter=(placed.interpreter,), wrap=wrap)
    yield desk
    desk.transport.dead = False
    desk.clear()


class TestSlurm(Backends):
    """The suite of every backend."""
