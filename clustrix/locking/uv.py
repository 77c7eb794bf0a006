"""Run uv: find it, check its version, put its complaints into our errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from clustrix.errors import ClustrixError, LockError, UnsupportedPackage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MINIMUM = (0, 8)
"""The first version whose ``pip compile`` and ``export`` write pylock.toml with sizes and hashes."""

# In uv's words: "NAME==1.0 has no wheels ...", "no version of NAME==1.0", "NAME was not found in the package registry",
# "only NAME<=2.0 is available".
_NAME = r"([A-Za-z0-9][\w.-]*)"
_CULPRIT = re.compile(rf"no version of {_NAME}|{_NAME}(?:[<>=!~][^ ]*)? (?:has no wheels|was not found|is available)")
_UNSATISFIABLE = "No solution found when resolving dependencies"


@cache
def find() -> str:
    """Give the path of uv: the one that is installed beside us, else the one on PATH.

    Raises:
        LockError: there is none, or it is too old.

    """
    try:
        from uv import find_uv_bin

        program: str | None = find_uv_bin()
    except (ImportError, FileNotFoundError):
        program = shutil.which("uv")
    if program is None:
        raise LockError("uv is not installed", remedy="Install it with: pip install uv (or lock with pip-tools).")
    check_version(program)
    return program


@cache
def version() -> str:
    """Give the version of the uv that `find` finds; raises as that does."""
    return check_version(find())


@cache
def check_version(program: str) -> str:
    """Give the version of a uv.

    Raises:
        LockError: it does not run, or is older than `MINIMUM`.

    """
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LockError(f"{program} does not run: {error}", remedy="Install uv again: pip install -U uv") from error
    found = re.match(r"uv (\d+)\.(\d+)(\S*)", answer)
    if found is None or (int(found[1]), int(found[2])) < MINIMUM:
        wanted = ".".join(map(str, MINIMUM))
        raise LockError(f"{program} is {answer.strip() or 'no uv'}; {wanted} is needed", remedy="pip install -U uv")
    return f"{found[1]}.{found[2]}{found[3]}"


def run(
    arguments: Sequence[str], *, cwd: Path | None = None, stdin: str = "", environment: Mapping[str, str] | None = None
) -> str:
    """Run uv and give its output; ``environment`` is added to ours.

    Raises:
        UnsupportedPackage: a package cannot be had; named, with uv's own explanation.
        LockError: anything else that uv refuses.

    """
    # What uv finds is fetched next: by what takes as long to import as uv takes to work.
    threading.Thread(target=import_module, args=("clustrix.oci.client",)).start()
    # Nothing that nobody asked for: no interpreter is downloaded.
    variables = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1", **(environment or {})}
    done = subprocess.run(
        [find(), *arguments], cwd=cwd, input=stdin, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise _error(done.stderr.strip())
    return done.stdout


def _error(words: str) -> ClustrixError:
    if "needs to be updated, but `--locked`" in words:
        return LockError("uv.lock is out of date: pyproject.toml has changed since", remedy="Update it with: uv lock")
    if _UNSATISFIABLE in words:
        names = ", ".join(dict.fromkeys(one or other for one, other in _CULPRIT.findall(words)))
        return UnsupportedPackage(
            f"{names or 'a package'} cannot be had for the target; uv says:\n{words}",
            remedy="Change the version, or name the index that has it (UV_INDEX, UV_FIND_LINKS, pip's configuration).",
        )
    remedy = None
    if "401 Unauthorized" in words or "403 Forbidden" in words:
        remedy = "Put the credentials for the index into ~/.netrc, UV_INDEX or UV_INDEX_NAME_PASSWORD."
    elif "Failed to fetch" in words or "error sending request" in words:
        remedy = "Check the network, and which index is configured for uv or pip."
    elif "Failed to initialize cache" in words:
        remedy = "Set UV_CACHE_DIR to a directory that you may write to."
    return LockError(f"uv says:\n{words}", remedy=remedy)
