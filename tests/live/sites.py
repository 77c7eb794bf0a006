"""What suites need to run on a test bed: a login, an image that jobs run in, a desk that submits them.

A module that imports the fixtures has one of its own, ``place``, which says on which bed and under which scheduler.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import pytest

from clustrix import config
from clustrix.model.image import BuiltImage
from clustrix.model.paths import SitePaths
from clustrix.model.progress import SILENT
from clustrix.model.resources import Mount
from clustrix.oci.layout import Layout
from clustrix.runtimes.apptainer import Apptainer
from clustrix.runtimes.base import Artifact
from clustrix.transports.ssh import SSH
from tests.conformance.desk import Desk, Unreliable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from clustrix.model.job import Placed
    from clustrix.schedulers.base import Dialect

    from .beds import Bed


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Name a bed, its scheduler, the root of what lies there, and what else of the host jobs see."""

    bed: Bed
    dialect: Dialect
    root: str
    mounts: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def line(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSH]:
    with contextlib.closing(ssh(place.bed, tmp_path_factory.mktemp("login"))) as transport:
        yield transport


@pytest.fixture(scope="module")
def placed(place: Place, line: SSH, base_layout: Path) -> Placed:
    return Apptainer().ensure(artifact(base_layout), line, SitePaths(place.root), progress=SILENT)


@pytest.fixture
def desk(place: Place, line: SSH, placed: Placed, cache: Path) -> Iterator[Desk]:
    def wrap(argv: Sequence[str]) -> tuple[str, ...]:
        mounts = [Mount(seen, seen) for seen in (place.root, *place.mounts)]
        return Apptainer().wrap(placed, argv, mounts=mounts, variables={}, gpus=0, memory_bytes=None, cores=1)

    desk = Desk(place.dialect, Unreliable(line), place.root, cache, interpreter=(placed.interpreter,), wrap=wrap)
    yield desk
    desk.transport.dead = False
    desk.clear()


def ssh(bed: Bed, directory: Path, *, port: int | None = None) -> SSH:
    """Reach a bed with its key, through ``port`` of a proxy where one is given."""
    config = directory / "ssh_config"
    known = directory / "known_hosts"
    host_key = bed.known_hosts.read_text().split(maxsplit=1)[1]
    known.write_text("".join(f"[{bed.host}]:{number} {host_key}\n" for number in {bed.port, port or bed.port}))
    config.write_text(
        f"Host *\n  User {bed.user}\n  IdentityFile {bed.key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {known}\n"
        "  GlobalKnownHostsFile none\n"
    )
    return SSH(bed.host, port=port or bed.port, config_file=str(config))


def artifact(layout: Path) -> Artifact:
    """Describe the only image of a layout."""
    opened = Layout(layout)
    found = opened.resolve()
    image = BuiltImage(
        config_digest=opened.manifest(found.digest).config.digest,
        manifest_digest=found.digest,
        platform="linux/amd64",
    )
    return Artifact(image=image, layout=layout)


def project(bed: Bed, directory: Path, **settings: object) -> None:
    """Write the configuration of a project whose target ``hpc`` is a bed, as people have it."""
    (directory / ".git").mkdir(exist_ok=True)
    (directory / "ssh_config").write_text(
        f"Host bed\n  HostName {bed.host}\n  Port {bed.port}\n  User {bed.user}\n  IdentityFile {bed.key}\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {bed.known_hosts}\n"
    )
    rows = {"backend": "slurm", "host": "bed", "ssh_config": directory / "ssh_config", **settings}
    (directory / "clustrix.yml").write_text(
        "targets:\n  hpc:\n" + "".join(f"    {name}: {value}\n" for name, value in rows.items())
    )
    config.load.cache_clear()
