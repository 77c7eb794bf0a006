"""Lock with pip-tools and pip where uv is not allowed: for the platform and Python that they run on.

pip-compile (https://pip-tools.readthedocs.io) chooses versions; pip's installation report
(https://pip.pypa.io/en/stable/reference/installation-report/) says which files they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from clustrix.errors import LockError, MissingExtra, UnsupportedPackage
from clustrix.locking.pylock import Entry
from clustrix.model.environment import normalise
from clustrix.model.lock import LockedFile
from clustrix.worker import installed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clustrix.locking.target import Target

_NOT_FOUND = ("No matching distribution found", "ResolutionImpossible", "Could not find a version")


def pins(lines: Sequence[str], target: Target) -> list[Entry]:
    """Find the files of exact requirements.

    Raises:
        UnsupportedPackage: one cannot be had, or not for the target.
        LockError: the target is of another platform or Python than this one.
        MissingExtra: pip-tools is not installed.

    """
    with tempfile.TemporaryDirectory(prefix="clustrix-") as work:
        path = Path(work, "requirements.txt")
        path.write_text("\n".join(lines), encoding="utf-8")
        return _report(path, target)


def resolve(lines: Sequence[str], constraints: Sequence[str], target: Target) -> list[Entry]:
    """Choose versions for requirements and all that they require, and find their files; raises as `pins` does."""
    with tempfile.TemporaryDirectory(prefix="clustrix-") as work:
        path, limits = Path(work, "requirements.in"), Path(work, "constraints.txt")
        limits.write_text("\n".join(constraints), encoding="utf-8")
        path.write_text("\n".join([f"-c {limits}", *lines]), encoding="utf-8")
        return requirements(path, target, exact=False, prereleases=False)


def requirements(path: Path, target: Target, *, exact: bool, prereleases: bool) -> list[Entry]:
    """Find the files of a requirements file, ``exact`` if it is a lock already; raises as `pins` does."""
    if exact:
        return _report(path, target)
    with tempfile.TemporaryDirectory(prefix="clustrix-") as work:
        output = Path(work, "requirements.txt")
        options = [
            "--generate-hashes",
            "--allow-unsafe",
            "--no-strip-extras",
            "--quiet",
            "--no-header",
            "--no-annotate",
        ]
        arguments = ["compile", *options, *(["--pre"] if prereleases else []), "--output-file", str(output), str(path)]
        _run(["piptools", *arguments], target, cwd=path.parent)
        return _report(output, target)


def build(source: Path, output: Path, target: Target) -> None:
    """Build a wheel of a source tree or an sdist into ``output``; `LockError` in pip's words."""
    _run(["pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(output), str(source)], target)


def version() -> str:
    """Give the versions of pip-tools and of the pip it uses."""
    from importlib import metadata

    return f"{metadata.version('pip-tools')} with pip {metadata.version('pip')}"


def _report(path: Path, target: Target) -> list[Entry]:
    arguments = ["install", "--dry-run", "--quiet", "--no-deps", "--ignore-installed", "--report", "-"]
    answer = _run(["pip", *arguments, "--requirement", str(path)], target, cwd=path.parent)
    rows = json.loads(answer)["install"]
    return [_entry(row["metadata"], row["download_info"], target) for row in rows]


def _entry(described: dict[str, str], download: dict[str, dict[str, dict[str, str]]], target: Target) -> Entry:
    name, version = normalise(described["name"]), described["version"]
    url = str(download["url"])
    if "archive_info" not in download:
        raise UnsupportedPackage(f"{name} comes from {url}, which pip-tools cannot lock", remedy="Lock with uv.")
    parts = urlsplit(url)
    filename = unquote(parts.path).rpartition("/")[2]
    sha256 = download["archive_info"].get("hashes", {}).get("sha256", "")
    clean = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    file = LockedFile(filename, sha256, clean)
    if not filename.endswith(".whl"):
        return Entry(name=name, version=version, sdist=file)
    if target.rank(filename) is None:
        raise target.unsupported(name, version)
    return Entry(name=name, version=version, wheel=file)


def _run(arguments: Sequence[str], target: Target, cwd: Path | None = None) -> str:
    if find_spec("piptools") is None:
        raise MissingExtra("pip-tools", "pip-tools", needed_for="locking without uv")
    here, python = installed.platform(), installed.interpreter()
    if here is None or here.machine != target.platform.machine or python.minor != target.minor:
        raise LockError(
            f"pip-tools locks for the Python and platform it runs on, not for {target.minor} on {target.platform}",
            remedy="Use uv, or lock on a machine like the target.",
        )
    command = [sys.executable, "-m", *arguments]
    variables = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip()[-4000:]
        kind = UnsupportedPackage if any(phrase in words for phrase in _NOT_FOUND) else LockError
        raise kind(f"{arguments[0]} says:\n{words}", remedy="Change the version, or name the index that has it.")
    return done.stdout
