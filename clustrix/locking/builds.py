"""Build wheels from source trees, repositories and sdists, once, into a cache addressed by what they are built from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import LockError, UnsupportedPackage
from clustrix.locking import fetching, indexes, piptools, uv
from clustrix.locking.target import UV
from clustrix.model.lock import LockedFile
from clustrix.worker import installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from clustrix.locking.resolution import Locker
    from clustrix.locking.target import Target

_NOT_SOURCE = frozenset(
    {".git", ".hg", ".venv", "venv", ".tox", ".nox", "__pycache__", ".eggs", "node_modules", ".mypy_cache"}
    | {".pytest_cache", ".ruff_cache", ".idea", ".vscode"}
)
_OUTPUT = frozenset({"build", "dist"})
"""What build back-ends write to the top of a source tree."""
_LARGEST = 1 << 30
"""Bytes of a source tree that can only be data."""


def from_directory(
    name: str, directory: Path, subdirectory: str | None, locker: Locker, *, any_code: bool = False
) -> LockedFile:
    """Build a source tree, in a copy of it: nothing is written beside the user's files.

    With ``any_code`` a wheel will do that was built before its Python code was edited: to see what it is made of.

    Raises:
        UnsupportedPackage: the wheel does not fit the target.
        LockError: the tree does not exist or cannot be built.

    """
    if not directory.is_dir():
        raise LockError(
            f"{name}: its source {directory} does not exist", remedy="Put it back, or uninstall the package."
        )

    sources = _sources(name, directory)

    def prepare(work: Path) -> Path:
        for source in sources:
            copy = work / "source" / source.relative_to(directory)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
        if (directory / ".git").exists():
            (work / "source" / ".git").symlink_to(directory / ".git")  # versions may be derived from the repository
        return work / "source" / (subdirectory or "")

    return _build(name, ["directory", _digest(directory, sources, any_code=any_code), subdirectory], prepare, locker)


def from_repository(name: str, url: str, *, commit: str, subdirectory: str | None, locker: Locker) -> LockedFile:
    """Build one commit of a Git repository; ``url`` is without ``git+``.

    Raises:
        UnsupportedPackage: the wheel does not fit the target.
        LockError: there is no git, or the commit cannot be had or built.

    """

    def prepare(work: Path) -> Path:
        source = work / "source"
        _git(name, "clone", "--quiet", "--no-checkout", url, str(source))
        _git(name, "-C", str(source), "checkout", "--quiet", "--detach", commit)
        _git(name, "-C", str(source), "submodule", "--quiet", "update", "--init", "--recursive")
        return source / (subdirectory or "")

    return _build(name, ["git", commit, subdirectory], prepare, locker)


def from_sdist(name: str, sdist: LockedFile, locker: Locker) -> LockedFile:
    """Build an sdist.

    Raises:
        UnsupportedPackage: the wheel does not fit the target.
        HashMismatch: the sdist is not the one that was locked.
        LockError: it cannot be fetched or built.

    """

    def prepare(work: Path) -> Path:  # noqa: ARG001 - an sdist is built as it is
        return fetching.files([sdist], locker.cache)[0]

    return _build(name, ["sdist", sdist.sha256], prepare, locker)


def stamp(directory: Path) -> str:
    """Give a text that changes whenever a file of a source tree is added, edited or removed; by times and sizes."""
    rows = []
    for path in _listed(directory):
        status = path.stat()
        rows.append(f"{path} {status.st_mtime_ns} {status.st_size}")
    return hashlib.sha256("\0".join(rows).encode("utf-8", "surrogateescape")).hexdigest()


def _digest(directory: Path, sources: Sequence[Path], *, any_code: bool = False) -> str:
    digest = hashlib.sha256(b"any code" if any_code else b"")
    for path in sources:
        skipped = any_code and path.suffix == ".py" and path.name != "setup.py"
        content = "" if skipped else hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(directory).as_posix()}\0{content}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _sources(name: str, directory: Path) -> list[Path]:
    """List the files that a wheel is built from.

    Raises:
        LockError: they are so large that there must be data among them.

    """
    found = _listed(directory)
    size = sum(path.stat().st_size for path in found)
    if size > _LARGEST:
        raise LockError(
            f"the source of {name} in {directory} has {size >> 20} MiB",
            remedy="Let Git ignore the data in it, or keep the data elsewhere.",
        )
    return found


def _listed(directory: Path) -> list[Path]:
    """List the files of a source tree: those that Git does not ignore, or all but what caches and builds leave."""
    argv = ["git", "-C", str(directory), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."]
    try:
        listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\0")
        found = [directory / path for path in sorted(set(listed)) if path]
    except (OSError, subprocess.CalledProcessError):
        found = list(_walk(directory))
    return [path for path in found if path.is_file() and path.suffix != ".pyc"]


def _walk(directory: Path) -> Iterator[Path]:
    for where, directories, names in os.walk(directory):
        skipped = _NOT_SOURCE | (_OUTPUT if Path(where) == directory else frozenset())
        directories[:] = sorted(each for each in directories if each not in skipped and not each.endswith(".egg-info"))
        yield from (Path(where) / name for name in sorted(names))


def _build(name: str, identity: list[str | None], prepare: Callable[[Path], Path], locker: Locker) -> LockedFile:
    here = installed.platform()
    key = hashlib.sha256(json.dumps([*identity, locker.target.minor, str(here)]).encode()).hexdigest()
    place = locker.cache / "built" / key
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=place.parent) as work:
            output = Path(work) / "output"
            source = prepare(Path(work))
            _run_build(name, source, output, locker)
            try:
                output.rename(place)
            except OSError:
                # Somebody else built the same meanwhile: theirs is in use already.
                if not place.is_dir():
                    raise
    wheel = next(place.glob("*.whl"))
    _check_fit(name, wheel.name, locker.target)
    content = wheel.read_bytes()
    return LockedFile(wheel.name, hashlib.sha256(content).hexdigest(), wheel.absolute().as_uri(), len(content))


def _run_build(name: str, source: Path, output: Path, locker: Locker) -> None:
    cwd = source if source.is_dir() else source.parent
    try:
        if locker.tool == UV:
            own = installed.interpreter().minor == locker.target.minor
            python = sys.executable if own else locker.target.minor
            arguments = ["build", "--wheel", "--out-dir", str(output), "--python", python, str(source)]
            uv.run(arguments, cwd=cwd, environment=indexes.uv_environment())
        else:
            piptools.build(source, output, locker.target)
    except LockError as error:
        raise LockError(
            f"cannot build a wheel of {name}: {error.message[-4000:]}",
            remedy="There is none for the target: install what the build needs, or take a version that has a wheel.",
        ) from error
    wheels = list(output.glob("*.whl"))
    if len(wheels) != 1:
        raise LockError(f"building {name} made {len(wheels)} wheels, not one")
    for other in output.iterdir():
        if other not in wheels:
            other.unlink()


def _check_fit(name: str, filename: str, target: Target) -> None:
    here = installed.platform()
    fits = target.rank(filename) is not None
    newer = here is not None and here.glibc > target.platform.glibc
    if fits and not (newer and not filename.endswith("-any.whl") and "manylinux" not in filename):
        return
    raise UnsupportedPackage(
        f"{name} has no wheel for {target.platform}, and the one built here ({filename}) does not fit it",
        remedy="Lock on a machine like the target with a glibc not newer than its base, or provide a wheel.",
    )


def _git(name: str, *arguments: str) -> None:
    variables = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(["git", *arguments], env=variables, capture_output=True, text=True, check=False)  # noqa: S607
    except FileNotFoundError as error:
        raise LockError(
            f"{name} comes from a Git repository, and git is not installed", remedy="Install git."
        ) from error
    if done.returncode:
        raise LockError(
            f"cannot get the source of {name}: git says:\n{done.stderr.strip()}",
            remedy="Its commit must be pushed, and the repository readable without a prompt.",
        )
