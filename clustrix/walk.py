r"""Walk below a path, on this machine or on another one, and give the same entries.

This machine is walked with `os.scandir`. Another is asked once, over the connection that its target has anyway, for
``find -H PATH -printf FORMAT`` of GNU findutils (find(1), "-printf format"): names are arbitrary bytes, so records end
with ``\0``. What find complains of is read from its standard error, in the C locale.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from pathlib import Path, PurePosixPath
from string import Template
from typing import TYPE_CHECKING

from clustrix.errors import ConnectionLost, TransportError
from clustrix.model.files import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clustrix.transports.base import Transport

# Descriptor 3 is the answer; what find says on its standard error comes behind it, with its exit status.
_WALK = Template(r"""
LC_ALL=C; export LC_ALL
cd /
exec 3>&1
find / -maxdepth 0 -printf . >/dev/null 2>&1 || { printf 'none\0'; exit 0; }
root=$$(printf %b $path.); root=$${root%.}
case $$root in /*) ;; *) root=$${HOME:?}/$$root;; esac
printf 'root %s\0' "$$root"
said=$$(find -H "$$root" $depth -printf '%y %s %m %T@ %D %i %n %P\0' 2>&1 >&3)
printf 'end %d %s\0' "$$?" "$$said"
""")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")
_COMPLAINT = re.compile(r"find: .(.*).: (.*)")
# As glibc and musl say them (strerror(3)).
_ERRNO = {
    "File name too long": errno.ENAMETOOLONG,
    "Filename too long": errno.ENAMETOOLONG,
    "Input/output error": errno.EIO,
    "I/O error": errno.EIO,
    "No such file or directory": errno.ENOENT,
    "Not a directory": errno.ENOTDIR,
    "Operation not permitted": errno.EPERM,
    "Permission denied": errno.EACCES,
    "Stale file handle": errno.ESTALE,
    "Symbolic link loop": errno.ELOOP,
    "Too many levels of symbolic links": errno.ELOOP,
    "Too many symbolic links": errno.ELOOP,
}
_LETTERS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}
_OTHER = "?"
_COMPLAINED = 1  # the exit status of find where something went wrong, which it has told


def at_home(path: str) -> bool:
    """Tell whether a path begins at the home directory."""
    return path == "~" or path.startswith("~/")


def here(path: str, depth: int | None) -> Iterator[Entry]:
    """Walk on this machine; OSError."""
    root = Path.cwd() / (Path.home() / path[2:] if at_home(path) else path)
    first = _seen(str(root), "", root.stat())
    yield first
    todo = [(str(root), "")] if first.kind == "d" and depth != 0 else []
    while todo:
        directory, below = todo.pop()
        try:
            names = os.scandir(directory)
        except FileNotFoundError:
            if below:
                continue
            raise
        with names:
            for name in names:
                try:
                    entry = _seen(first.root, f"{below}{name.name}", name.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue
                yield entry
                if entry.kind == "d" and (depth is None or entry.below.count("/") + 1 < depth):
                    todo.append((name.path, f"{entry.below}/"))


def _seen(root: str, below: str, about: os.stat_result) -> Entry:
    kind = _LETTERS.get(stat.S_IFMT(about.st_mode), _OTHER)
    inode = (about.st_dev, about.st_ino) if about.st_nlink > 1 and kind != "d" else None
    return Entry(root, below, kind, about.st_size, about.st_mtime_ns, stat.S_IMODE(about.st_mode), inode)


def there(transport: Transport, path: str, depth: int | None) -> Iterator[Entry]:
    """Walk at another machine, in one round trip; OSError, TransportError."""
    relative = path[2:] if at_home(path) else path
    script = _WALK.substitute(path=_escaped(relative), depth="" if depth is None else f"-maxdepth {depth}")
    root = ""
    known = False
    with transport.stream(script) as pieces:
        for record in _records(pieces):
            word, _, rest = record.partition(" ")
            if word == "none":
                raise TransportError(
                    f"{transport.address} has no find of GNU findutils, whose -printf is needed to look at files",
                    remedy="Have it installed there, or call the function inside a job.",
                )
            if word == "root":
                root = str(PurePosixPath(rest))
            elif word == "end":
                status, _, said = rest.partition(" ")
                _complain(int(status), said, root, known=known)
                return
            else:
                entry = _read(root, record)
                if entry.kind == "l" and not entry.below:  # find falls back to a link that leads nowhere
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
                known = True
                yield entry
    raise ConnectionLost(f"{transport.address} broke off while it listed {root or path}")


def _escaped(path: str) -> str:
    """Write a path for ``printf %b``, so that any byte travels in a script of plain ASCII."""
    pieces = (chr(byte) if byte in _PLAIN else f"\\0{byte:03o}" for byte in path.encode("utf-8", "surrogateescape"))
    return shlex.quote("".join(pieces))


def _records(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\0")
        for record in whole:
            yield record.decode("utf-8", "surrogateescape")


def _read(root: str, record: str) -> Entry:
    kind, size, mode, modified, device, inode, names, below = record.split(" ", 7)
    seconds, _, fraction = modified.partition(".")
    return Entry(
        root,
        below,
        kind if kind in _LETTERS.values() else _OTHER,
        int(size),
        int(seconds) * 1_000_000_000 + int(fraction[:9]),
        int(mode, 8),
        (int(device), int(inode)) if int(names) > 1 and kind != "d" else None,
    )


def _complain(status: int, said: str, root: str, *, known: bool) -> None:
    """Raise what find could not do; that something below went away meanwhile is no error."""
    for line in said.splitlines():
        match = _COMPLAINT.fullmatch(line)
        number = _ERRNO.get(match[2]) if match else None
        if match is None or number is None:
            raise OSError(errno.EIO, line, root)
        if not (known and number == errno.ENOENT):
            raise OSError(number, os.strerror(number), match[1] if known else root)
    if status not in {0, _COMPLAINED} or not known or (status and not said):
        raise TransportError(f"find ended with status {status} below {root} and did not say why")
