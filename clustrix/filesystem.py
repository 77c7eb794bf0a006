"""Look at files where jobs run: the same answers from this machine, over SSH and inside a job.

One way for all nine functions: a walk (`clustrix.walk`) gives what lies below a path, and what is meant of it is chosen
and counted here.

Rules, on every side:

- Without a target (no ``target=``, and none configured) and inside a job it is this machine that is looked at.
- A relative path is below the working directory of this machine or job, and below the home directory of the account at
  another machine. ``~`` is the home directory. All paths that are given back are absolute.
- The path that is asked for is followed if it is a link; a link below it is one, and what it leads to is not entered.
- Names that begin with a dot are names like others. Lists are in the order of ``LC_ALL=C sort``.
- A file function raises what Python's own do: FileNotFoundError, NotADirectoryError, PermissionError, another OSError.
  A directory that may not be read is such an error and never a smaller answer; what vanishes during a walk is not
  there.
"""

from __future__ import annotations

import errno
import os
from fnmatch import fnmatchcase
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, Literal

from clustrix import walk
from clustrix.errors import ConfigError, UnknownOption, UnsupportedResource
from clustrix.inplace import inside_a_job
from clustrix.model.files import DiskUsage, FileInfo, matches, split, usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.model.files import Entry
    from clustrix.transports.base import Transport

__all__ = [
    "DiskUsage",
    "FileInfo",
    "cluster_count_files",
    "cluster_du",
    "cluster_exists",
    "cluster_find",
    "cluster_glob",
    "cluster_isdir",
    "cluster_isfile",
    "cluster_ls",
    "cluster_stat",
]

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_KINDS = {"file": "f", "directory": "d", "link": "l"}


def cluster_ls(path: str | os.PathLike[str] = ".", *, target: str | None = None) -> list[FileInfo]:
    """List what is in a directory, hidden names and links as such included; a path that is no directory lists itself.

    Raises:
        OSError: FileNotFoundError, PermissionError and the like, as `os.listdir`.
        ClustrixError: the target does not exist, cannot be reached, or has no files that can be looked at.

    """
    root, *below = sorted(_walk(path, target, depth=1), key=lambda entry: entry.order)
    return [entry.info() for entry in (below if root.kind == "d" else [root])]


def cluster_find(
    pattern: str = "*",
    path: str | os.PathLike[str] = ".",
    *,
    type: Literal["file", "directory", "link"] | None = None,  # noqa: A002 - as find(1) calls it
    target: str | None = None,
) -> list[FileInfo]:
    """List what lies below a directory, at any depth, and has a name that matches ``pattern`` (as `fnmatch`).

    Raises:
        OSError: as `cluster_ls`; also where a directory below may not be read.
        ConfigError: a pattern with a slash, which no name has, or another ``type``.
        ClustrixError: as `cluster_ls`.

    """
    if type is not None and type not in _KINDS:
        raise UnknownOption("type", type, tuple(_KINDS))
    found = _named(pattern, path, target, kind=_KINDS.get(type or ""))
    return [entry.info() for entry in sorted(found, key=lambda entry: entry.order)]


def cluster_stat(path: str | os.PathLike[str], *, target: str | None = None) -> FileInfo:
    """Describe a file or directory; of a link, what it leads to. Errors as `cluster_ls`."""
    [entry] = _walk(path, target, depth=0)
    return entry.info()


def cluster_exists(path: str | os.PathLike[str], *, target: str | None = None) -> bool:
    """Tell whether a path leads to something; PermissionError where that cannot be seen, else as `cluster_ls`."""
    return _kind(path, target) is not None


def cluster_isdir(path: str | os.PathLike[str], *, target: str | None = None) -> bool:
    """Tell whether a path leads to a directory; errors as `cluster_exists`."""
    return _kind(path, target) == "d"


def cluster_isfile(path: str | os.PathLike[str], *, target: str | None = None) -> bool:
    """Tell whether a path leads to a regular file; errors as `cluster_exists`."""
    return _kind(path, target) == "f"


def cluster_glob(pattern: str, path: str | os.PathLike[str] = ".", *, target: str | None = None) -> list[str]:
    """List the absolute paths that a pattern means: ``data/**/*.csv``.

    ``*``, ``?`` and ``[ab]`` stay within a name, ``**`` is any number of directories, also none; a slash at the end
    means directories alone. A pattern that is relative begins at ``path``, in which these characters mean themselves.
    Everything from the first of them on is looked at, as deep as the pattern reaches. No match is an empty list.

    Raises:
        OSError: PermissionError where a directory may not be read, and the like.
        ClustrixError: as `cluster_ls`.

    """
    return [info.path for info in matching(pattern, path, target=target)]


def matching(pattern: str, path: str | os.PathLike[str] = ".", *, target: str | None = None) -> list[FileInfo]:
    """Describe what `cluster_glob` lists."""
    plain, parts = split(pattern)
    base = plain if walk.at_home(plain) else PurePosixPath(_text(path), plain)
    depth = None if "**" in parts else len(parts)
    try:
        found = [
            entry
            for entry in _walk(base, target, depth=depth)
            if matches(parts, tuple(filter(None, entry.below.split("/"))))
            and (entry.kind == "d" or not pattern.endswith("/"))
        ]
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return []
    return [entry.info() for entry in sorted(found, key=lambda entry: entry.order)]


def cluster_du(path: str | os.PathLike[str] = ".", *, target: str | None = None) -> DiskUsage:
    """Sum up the sizes of all files below a path; links are not followed. Errors as `cluster_find`."""
    return usage(_walk(path, target))


def cluster_count_files(path: str | os.PathLike[str] = ".", pattern: str = "*", *, target: str | None = None) -> int:
    """Count the regular files below a directory, at any depth, whose names match. Errors as `cluster_find`."""
    return sum(1 for _ in _named(pattern, path, target, kind="f"))


def _named(pattern: str, path: str | os.PathLike[str], target: str | None, *, kind: str | None) -> Iterator[Entry]:
    if "/" in pattern:
        raise ConfigError(f"no name matches {pattern!r}, which holds a slash", remedy="Use cluster_glob for paths.")
    for entry in _walk(path, target):
        if entry.below:
            if kind in {None, entry.kind} and fnmatchcase(entry.below.rpartition("/")[2], pattern):
                yield entry
        elif entry.kind != "d":
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), entry.path)


def _kind(path: str | os.PathLike[str], target: str | None) -> str | None:
    try:
        [entry] = _walk(path, target, depth=0)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None
    return entry.kind


def _text(path: str | os.PathLike[str]) -> str:
    """Write a path with slashes, and refuse what no system takes."""
    text = path.as_posix() if isinstance(path, PurePath) else os.fspath(path)
    if "\0" in text:
        raise ValueError("embedded null byte")
    return str(PurePosixPath(text))


def _walk(path: str | os.PathLike[str], target: str | None, *, depth: int | None = None) -> Iterator[Entry]:
    """Give what is asked for, and then, down to ``depth``, what lies below it, in no order."""
    text = _text(path)
    transport = _transport(target)
    return walk.here(text, depth) if transport is None else walk.there(transport, text, depth)


def _transport(name: str | None) -> Transport | None:
    """Open the way to a target; None where it is this machine."""
    if inside_a_job():
        return None
    from clustrix import config
    from clustrix import target as targets

    current = config.load()
    chosen = name or current.default_target()
    if chosen is None:
        return None
    found = targets.of(current.resolve(chosen))
    if found.on_cluster:
        raise UnsupportedResource(
            f"target {found.name} is a cluster: it has volumes, which only its pods see, and no file system of its own",
            remedy="Call it in a function that runs there and mounts the volume: @cluster(mounts=[...]).",
        )
    return None if found.here else found.transport
