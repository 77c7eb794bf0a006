"""Run a Python function somewhere else, inside an image of exactly the environment it was written in."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as type checkers know it; `typing` is slow to import, and what workers import avoids it
if TYPE_CHECKING:
    from types import ModuleType

    from clustrix.catalogue import job as job
    from clustrix.catalogue import jobs as jobs
    from clustrix.config import configure as configure
    from clustrix.decorator import cluster as cluster
    from clustrix.executor import ClusterExecutor as ClusterExecutor
    from clustrix.filesystem import cluster_count_files as cluster_count_files
    from clustrix.filesystem import cluster_du as cluster_du
    from clustrix.filesystem import cluster_exists as cluster_exists
    from clustrix.filesystem import cluster_find as cluster_find
    from clustrix.filesystem import cluster_glob as cluster_glob
    from clustrix.filesystem import cluster_isdir as cluster_isdir
    from clustrix.filesystem import cluster_isfile as cluster_isfile
    from clustrix.filesystem import cluster_ls as cluster_ls
    from clustrix.filesystem import cluster_stat as cluster_stat
    from clustrix.handle import Job as Job
    from clustrix.handle import JobArray as JobArray
    from clustrix.model.files import DiskUsage as DiskUsage
    from clustrix.model.files import FileInfo as FileInfo
    from clustrix.model.image import Image as Image
    from clustrix.model.settings import ClusterConfig as ClusterConfig
    from clustrix.worker.preemption import on_preempt as on_preempt

_HOMES = {
    "ClusterConfig": "clustrix.model.settings",
    "ClusterExecutor": "clustrix.executor",
    "DiskUsage": "clustrix.model.files",
    "FileInfo": "clustrix.model.files",
    "Image": "clustrix.model.image",
    "Job": "clustrix.handle",
    "JobArray": "clustrix.handle",
    "cluster": "clustrix.decorator",
    "cluster_count_files": "clustrix.filesystem",
    "cluster_du": "clustrix.filesystem",
    "cluster_exists": "clustrix.filesystem",
    "cluster_find": "clustrix.filesystem",
    "cluster_glob": "clustrix.filesystem",
    "cluster_isdir": "clustrix.filesystem",
    "cluster_isfile": "clustrix.filesystem",
    "cluster_ls": "clustrix.filesystem",
    "cluster_stat": "clustrix.filesystem",
    "configure": "clustrix.config",
    "job": "clustrix.catalogue",
    "jobs": "clustrix.catalogue",
    "on_preempt": "clustrix.worker.preemption",
}
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562); every error is one."""
    if name in _HOMES:
        value = getattr(_imported(_HOMES[name]), name)
    elif name in _imported("clustrix.errors").__all__:
        value = getattr(_imported("clustrix.errors"), name)
    else:
        raise AttributeError(f"module 'clustrix' has no attribute {name!r}")
    globals()[name] = value
    return value


def _imported(name: str) -> ModuleType:
    __import__(name)  # as `importlib.import_module` does, whose own import every job would pay for
    return sys.modules[name]


def __dir__() -> list[str]:
    from clustrix.errors import __all__ as errors

    return sorted({*globals(), *_HOMES, *errors})
