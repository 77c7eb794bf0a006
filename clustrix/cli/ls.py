"""``clustrix ls``: files here and at targets."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from clustrix.cli import output

if TYPE_CHECKING:
    from clustrix.model.files import FileInfo


def _complete(_context: object, _parameter: object, incomplete: str) -> list[str]:
    """Complete the name of a target, up to its colon."""
    return [f"{name}:" for name in output.complete_targets(None, None, incomplete)]


@click.command("ls")
@click.argument("path", metavar="[[TARGET:]PATH]", default=".", shell_complete=_complete)
@click.option("-l", "--long", is_flag=True, help="Show permissions, size and time of change (UTC), too.")
@click.option("-r", "--recursive", is_flag=True, help="List everything below a directory.")
@click.option("--glob", is_flag=True, help="PATH is a pattern: *, ?, [ab], and ** for any number of directories.")
@click.option("--du", is_flag=True, help="Sum up the sizes of all files below.")
@output.as_json
def command(path: str, *, long: bool, recursive: bool, glob: bool, du: bool, as_json: bool) -> None:
    """List files at a target or here.

    Without TARGET: it is the target that the configuration says, or this machine. A relative path is below the home
    directory at another machine and below the working directory here. Names that begin with a dot are listed, too. A
    path of this machine with a colon is written ./a:b.

    \b
    Examples:
      clustrix ls hpc:
      clustrix ls -l hpc:/scratch/me
      clustrix ls --glob 'hpc:data/**/*.csv'
      clustrix ls --du hpc:data --json
    """
    if recursive + glob + du > 1:
        raise click.UsageError("--recursive, --glob and --du exclude each other")
    if du and long:
        raise click.UsageError("--long is for lists, and --du gives a sum")
    target, place = _parted(path)
    try:
        found = _asked(place, target, recursive=recursive, glob=glob, du=du)
    except OSError as error:
        output.note(f"error[{type(error).__name__}]: {_shown(str(error.filename))}: {error.strerror}")
        sys.exit(1)
    if as_json:
        output.emit(found if isinstance(found, dict) else [_row(info) for info in found])
    elif isinstance(found, dict):
        output.facts(found | {"path": _shown(found["path"])})
    else:
        _tell(found, long=long, whole=recursive or glob)


def _parted(path: str) -> tuple[str | None, str]:
    """Part ``target:path`` as scp does: what stands before a colon, and holds no slash, is a target."""
    name, colon, rest = path.partition(":")
    return (name, rest or ".") if colon and name and "/" not in name else (None, path)


def _asked(place: str, target: str | None, *, recursive: bool, glob: bool, du: bool) -> dict[str, Any] | list[FileInfo]:
    from clustrix import filesystem

    if du:
        return asdict(filesystem.cluster_du(place, target=target))
    if glob:
        return filesystem.matching(place, target=target)
    if recursive:
        return filesystem.cluster_find("*", place, target=target)
    return filesystem.cluster_ls(place, target=target)


def _row(info: FileInfo) -> dict[str, object]:
    return asdict(info) | {"modified": info.modified.isoformat(), "mode": f"{info.mode:04o}"}


def _tell(found: list[FileInfo], *, long: bool, whole: bool) -> None:
    names = [_shown(info.path if whole else info.name) for info in found]
    if not long:
        for name in names:
            click.echo(name)
        return
    rows = [
        (_letters(info), output.size(info.size_bytes), f"{info.modified:%Y-%m-%d %H:%M:%S}", name)
        for info, name in zip(found, names, strict=True)
    ]
    output.table(("mode", "size", "modified", "name"), rows)


def _letters(info: FileInfo) -> str:
    import stat

    kind = stat.S_IFDIR if info.is_dir else stat.S_IFLNK if info.is_link else stat.S_IFREG if info.is_file else 0
    return stat.filemode(kind | info.mode)


def _shown(name: str) -> str:
    """Write what would move the cursor, or is no text, as in a Python string: a name must not forge lines."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1].replace("\\udc", "\\x") for letter in name)
