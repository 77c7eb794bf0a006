"""The file functions over SSH, against what the same suite wants of this machine; and in a job of SLURM's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clustrix import cluster_count_files, cluster_find, cluster_ls
from clustrix import target as targets
from clustrix.config import load
from tests.conformance.files import Files

from . import sites

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.transports.base import Transport

    from .beds import Bed

pytestmark = pytest.mark.live


class TestOverSSH(Files):
    @pytest.fixture(scope="class", params=["ssh", "openssh"])
    def place(
        self, request: pytest.FixtureRequest, ssh_host: Bed, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Path]:
        place = tmp_path_factory.mktemp("project")
        sites.project(ssh_host, place, backend="ssh", transport=request.param)
        with tempfile.TemporaryDirectory(dir="/tmp") as sockets, pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", sockets)  # connections of our own
            yield place
            targets.of(load(place).resolve("hpc")).transport.close()

    @pytest.fixture
    def target(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.chdir(place)
        load.cache_clear()
        return "hpc"

    @pytest.fixture
    def transport(self, target: str) -> Transport:
        return targets.of(load().resolve(target)).transport

    @pytest.fixture
    def there(self, transport: Transport) -> Iterator[str]:
        place = transport.run("mktemp -d").stdout.decode().strip()
        yield place
        transport.run(f"rm -rf {place}")

    @pytest.fixture
    def unprivileged(self, transport: Transport) -> None:
        assert transport.run("id -u").stdout != b"0\n"

    def test_a_large_directory_below_home(self, transport: Transport, target: str) -> None:
        transport.run("mkdir -p many && cd many && seq 20000 | xargs touch")
        try:
            assert len(cluster_ls("many", target=target)) == 20_000
            assert cluster_count_files("~/many", "1*", target=target) == 11_111
        finally:
            transport.run("rm -rf many")
        with pytest.raises(FileNotFoundError) as failed:
            cluster_find(path="many", target=target)
        assert failed.value.filename == "/home/alice/many"
