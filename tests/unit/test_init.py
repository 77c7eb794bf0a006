"""The public names: all there, each loaded when asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clustrix
from clustrix import errors

PUBLIC = {
    "ClusterConfig",
    "ClusterExecutor",
    "DiskUsage",
    "FileInfo",
    "Image",
    "Job",
    "JobArray",
    "cluster",
    "cluster_count_files",
    "cluster_du",
    "cluster_exists",
    "cluster_find",
    "cluster_glob",
    "cluster_isdir",
    "cluster_isfile",
    "cluster_ls",
    "cluster_stat",
    "configure",
    "job",
    "jobs",
    "on_preempt",
}


def test_the_public_names_are_these_and_every_error() -> None:
    assert set(clustrix._HOMES) == PUBLIC
    for name in (*PUBLIC, *errors.__all__):
        assert getattr(clustrix, name).__name__ == name
        assert name in dir(clustrix)


def test_what_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        clustrix.nothing  # noqa: B018


def test_importing_the_decorator_reads_no_configuration_and_starts_no_machinery() -> None:
    code = (
        "import sys; from clustrix import cluster\n"
        "@cluster\ndef f(): return 1\n"
        "print(*sorted(m for m in sys.modules if m.startswith('clustrix') or m in ('dataclasses', 'inspect', 'json')))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["clustrix", "clustrix.decorator", "clustrix.errors"]
