"""What is said of files, the same on every side; and which of them a pattern means."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST = datetime.min.replace(tzinfo=timezone.utc)
_LAST = datetime.max.replace(tzinfo=timezone.utc)
_MAGIC = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Describe one file, directory or link; ``open`` and `pathlib.Path` take it as its path.

    ``path`` is absolute. ``size_bytes`` is the apparent size, as ``ls -l`` shows it: of a file its length, of a link
    the length of what it says. ``modified`` is in UTC, to the microsecond. ``mode`` holds the permission bits
    (``0o644``). At most one of ``is_file``, ``is_dir`` and ``is_link`` is true: pipes, sockets and devices are none
    of them. Bytes of a name that are no UTF-8 are kept by surrogates (PEP 383).
    """

    name: str
    path: str
    size_bytes: int
    modified: datetime
    mode: int
    is_file: bool
    is_dir: bool
    is_link: bool

    def __fspath__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Sum up what lies below a path.

    ``total_bytes`` is the sum of the apparent sizes of its regular files, one with several names (hard links) counted
    once. ``files`` counts the names of regular files, ``directories`` those below the path without itself, ``others``
    links, pipes, sockets and devices.
    """

    path: str
    total_bytes: int
    files: int
    directories: int
    others: int


class Entry(NamedTuple):
    """Hold what a walk finds: ``below`` is the path below ``root``, empty for the root itself.

    ``kind`` is find(1)'s letter: ``f``, ``d``, ``l``, or that of something else. ``inode`` (device and number) is that
    of a file with several names, else None.
    """

    root: str
    below: str
    kind: str
    size_bytes: int
    modified_ns: int
    mode: int
    inode: tuple[int, int] | None

    @property
    def path(self) -> str:
        """Join both parts."""
        return f"{self.root.rstrip('/')}/{self.below}" if self.below else self.root

    @property
    def order(self) -> bytes:
        """Sort as ``LC_ALL=C sort`` does."""
        return self.path.encode("utf-8", "surrogateescape")

    def info(self) -> FileInfo:
        """Describe it to people; a time that `datetime` does not know becomes the nearest that it does."""
        try:
            modified = _EPOCH + timedelta(microseconds=self.modified_ns // 1000)
        except OverflowError:
            modified = _LAST if self.modified_ns > 0 else _FIRST
        return FileInfo(
            name=PurePosixPath(self.path).name or self.path,
            path=self.path,
            size_bytes=self.size_bytes,
            modified=modified,
            mode=self.mode,
            is_file=self.kind == "f",
            is_dir=self.kind == "d",
            is_link=self.kind == "l",
        )


def usage(entries: Iterable[Entry]) -> DiskUsage:
    """Sum up a walk; its root counts if it is no directory."""
    path = ""
    total = files = directories = others = 0
    seen: set[tuple[int, int]] = set()
    for entry in entries:
        path = entry.root
        if entry.kind == "f":
            files += 1
            total += 0 if entry.inode in seen else entry.size_bytes
            if entry.inode:
                seen.add(entry.inode)
        elif entry.kind != "d":
            others += 1
        elif entry.below:
            directories += 1
    return DiskUsage(path, total, files, directories, others)


def split(pattern: str) -> tuple[str, tuple[str, ...]]:
    """Part a pattern: the path that it begins with, and the parts from the first that holds ``*``, ``?`` or ``[`` on.

    ``**`` at the end means everything below, as ``**/*`` does; what follows another ``**`` at once adds nothing.
    """
    parts = PurePosixPath(pattern).parts
    plain = next((number for number, part in enumerate(parts) if _MAGIC & set(part)), len(parts))
    magic: list[str] = []
    for part in parts[plain:]:
        if not (part == "**" and magic and magic[-1] == "**"):
            magic.append(part)
    if magic and magic[-1] == "**":
        magic.append("*")
    return str(PurePosixPath(*parts[:plain])), tuple(magic)


def matches(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """Tell whether a pattern means a path, part by part: ``**`` is any number of directories, the rest as `fnmatch`.

    Names that begin with a dot are names like others, as for `pathlib.Path.glob`; case counts everywhere.
    """
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(matches(pattern[1:], parts[number:]) for number in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches(pattern[1:], parts[1:])
