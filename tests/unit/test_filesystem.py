"""Where the file functions look: at a target, here, or in the job that they are called in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clustrix import cluster_count_files, cluster_find, cluster_ls, configure, filesystem
from clustrix import target as targets
from clustrix.errors import ConfigError, UnknownOption, UnsupportedResource
from clustrix.transports.local import Local

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)


def test_a_configured_target_is_looked_at_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [info.path for info in cluster_ls()] == [f"{tmp_path}/.git"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "there").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(targets.Target, "transport", Local())
    configure(targets={"hpc": {"backend": "ssh", "host": "h"}})
    assert [info.name for info in cluster_ls()] == ["there"]
    assert [info.name for info in cluster_ls(target="local")] == [".git", "home"]
    with pytest.raises(UnknownOption, match="hcp"):
        cluster_ls(target="hcp")
    monkeypatch.setenv("CLUSTRIX_IN_JOB", "hpc/X")
    assert [info.name for info in cluster_ls(target="hpc")] == [".git", "home"]


def test_a_cluster_has_no_files_of_its_own() -> None:
    configure(targets={"pods": {"backend": "kubernetes"}})
    with pytest.raises(UnsupportedResource, match="mounts the volume"):
        cluster_ls("/data")


def test_what_cannot_be_meant_is_refused() -> None:
    for ask in (lambda: cluster_find("a/*"), lambda: cluster_count_files(".", "a/*")):
        with pytest.raises(ConfigError, match="cluster_glob"):
            ask()
    with pytest.raises(UnknownOption, match="type 'dir'"):
        cluster_find(type="dir")  # type: ignore[arg-type]
    assert set(filesystem.__all__) - {"DiskUsage", "FileInfo"} == {
        name for name in vars(filesystem) if name.startswith("cluster_")
    }
