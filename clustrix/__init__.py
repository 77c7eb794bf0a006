"""Run a Python function somewhere else, inside an image of exactly the environment it was written in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clustrix.catalogue import job as job
    from clustrix.catalogue import jobs as jobs
    from clustrix.config import configure as configure
    from clustrix.decorator import cluster as cluster
    from clustrix.executor import ClusterExecutor as ClusterExecutor
    from clustrix.handle import Job as Job
    from clustrix.handle import JobArray as JobArray
    from clustrix.model.image import Image as Image
    from clustrix.model.settings import ClusterConfig as ClusterConfig
    from clustrix.worker.preemption import on_preempt as on_preempt

_HOMES = {
    "ClusterConfig": "clustrix.model.settings",
    "ClusterExecutor": "clustrix.executor",
    "Image": "clustrix.model.image",
    "Job": "clustrix.handle",
    "JobArray": "clustrix.handle",
    "cluster": "clustrix.decorator",
    "configure": "clustrix.config",
    "job": "clustrix.catalogue",
    "jobs": "clustrix.catalogue",
    "on_preempt": "clustrix.worker.preemption",
}
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562); every error is one."""
    from importlib import import_module

    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in import_module("clustrix.errors").__all__:
        value = getattr(import_module("clustrix.errors"), name)
    else:
        raise AttributeError(f"module 'clustrix' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    from clustrix.errors import __all__ as errors

    return sorted({*globals(), *_HOMES, *errors})
