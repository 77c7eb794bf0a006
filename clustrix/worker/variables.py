"""Environment variables of a job, set before anything of the user's is imported."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Read once, when a process starts: by the dynamic linker, the C library, OpenSSL, the interpreter.
_READ_AT_START = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_TUNABLES", "LC_", "LANG", "TZ", "OPENSSL_")
_RESTARTED = "CLUSTRIX_RESTARTED"

# What numeric libraries read when they are loaded; without it they start a thread for every core of the machine.
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def apply(variables: Mapping[str, str], *, cores: int | None) -> None:
    """Set ``variables``; start this process again, once, if one of them is only read at its start.

    Thread counts become ``cores`` unless the job, the image or the site set them.
    """
    if os.environ.pop(_RESTARTED, None) is None and any(map(_needs_start, variables.items())):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        # -I would ignore the user's PYTHON variables. Those of the host are gone, and -s stands for the rest of it.
        os.execve(sys.executable, [sys.executable, "-s", *sys.argv], {**kept, **variables, _RESTARTED: "1"})  # noqa: S606
    os.environ.update(variables)
    if cores is not None:
        for name in _THREADS:
            os.environ.setdefault(name, str(cores))


def _needs_start(variable: tuple[str, str]) -> bool:
    name, value = variable
    if name.startswith("PYTHON"):
        return True
    return name.startswith(_READ_AT_START) and os.environ.get(name) != value
