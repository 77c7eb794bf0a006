# ruff: noqa: F811 - fixtures of another file
"""The file functions over SSH, by the same suite as on this machine; and in a job, compared with this machine."""

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
from .test_spine import HEAD, index, stranger  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.transports.base import Transport

    from .beds import Bed
    from .stranger import Stranger

pytestmark = pytest.mark.live

JOB = """
@cluster(cores=2, parallel=True)
def look(place):
    sizes, processes = {}, set()
    for path in cluster_glob("**/*.csv", place):
        sizes[path] = os.path.getsize(path)
        processes.add(os.getpid())
    own = os.getpid() in processes
    return own, sizes, cluster_ls(place), cluster_find(path=place), cluster_du(place), cluster_exists(place + "/absent")

place = sys.argv[1]
own, sizes, *there = look(place)
here = [cluster_ls(place), cluster_find(path=place), cluster_du(place), cluster_exists(place + "/absent")]
print(own, sorted(sizes.values()), there == here, there[2].files)
"""


@pytest.mark.proves("file functions", "local venv")
def test_the_same_answers_in_a_job(stranger: Stranger, tmp_path: Path) -> None:
    place = tmp_path / "data"
    (place / "below").mkdir(parents=True)
    for number in range(4):
        (place / "below" / f"{number}.csv").write_text("x" * number)
    (place / "caf\udce9\n").symlink_to("below")
    stranger.configured(runtime="venv")
    names = "cluster, cluster_du, cluster_exists, cluster_find, cluster_glob, cluster_ls"
    done = stranger("run", stranger.script(f"{HEAD}import os\nfrom clustrix import {names}\n{JOB}"), place)
    assert (done.status, done.out) == (0, "False [0, 1, 2, 3] True 4\n"), done.err


@pytest.fixture(scope="module", params=["ssh", "openssh"])
def place(request: pytest.FixtureRequest, ssh_host: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("project")
    sites.project(ssh_host, place, backend="ssh", transport=request.param)
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", sockets)  # connections of our own
        yield place
        targets.of(load(place).resolve("hpc")).transport.close()


@pytest.mark.proves("file functions", "ssh host")
class TestOverSSH(Files):
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
        transport.run("mkdir -p many && cd many && seq 2000 | xargs touch")
        try:
            assert len(cluster_ls("many", target=target)) == 2_000
            assert cluster_count_files("~/many", "1*", target=target) == 1_111
        finally:
            transport.run("rm -rf many")
        with pytest.raises(FileNotFoundError) as failed:
            cluster_find(path="many", target=target)
        assert failed.value.filename == "/home/alice/many"
