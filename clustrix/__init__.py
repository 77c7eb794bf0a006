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
