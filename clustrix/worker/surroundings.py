"""What a job finds where it runs; `clustrix doctor --deep` asks one for it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path


def describe(words: str) -> dict[str, object]:
    """Print ``words``, so that the way of the output is tried too, and tell what there is.

    ``clock`` is in seconds since the epoch, what is ``free`` in bytes.
    """
    print(words, flush=True)
    work = str(Path.cwd())
    return {
        "node": os.uname().nodename,
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "clock": time.time(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "work": work,
        "work_free": shutil.disk_usage(work).free,
        "scratch": tempfile.gettempdir(),
        "scratch_free": shutil.disk_usage(tempfile.gettempdir()).free,
    }
