"""What installing a wheel comes to: which member goes where, which scripts are made. Names and texts in, a plan out.

https://packaging.python.org/en/latest/specifications/binary-distribution-format/ and, for RECORD, INSTALLER and
entry_points.txt, the specifications beside it. Paths of a plan are below the environment's root, with ``/``.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import posixpath
import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from clustrix.errors import UnsupportedPackage
from clustrix.model import fingerprint
from clustrix.model.environment import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

INSTALLER = b"clustrix\n"
_FILENAME = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-(?P<build>\d[^-]*))?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)
# `module:attribute`, then extras, which no installer looks at any more.
_ENTRY = re.compile(r"(?P<module>\w+(?:\.\w+)*)\s*:\s*(?P<attribute>\w+(?:\.\w+)*)\s*(?:\[.*\])?")
_KERNEL_LINE = 127  # what Linux reads of a first line (BINPRM_BUF_SIZE, before 5.1)

Row = tuple[str, str, str]
"""A row of RECORD: path relative to site-packages, hash (``sha256=...`` or empty), size (or empty)."""


@dataclass(frozen=True, slots=True)
class Member:
    """Send a member of the wheel to ``path``; a ``script`` passes through `localise` on its way."""

    source: str
    path: str
    executable: bool = False
    script: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """Describe a console script: ``name`` calls ``module:attribute``."""

    name: str
    module: str
    attribute: str

    def text(self, interpreter: str) -> bytes:
        """Write the script for the environment's Python at the absolute path ``interpreter``."""
        root = self.attribute.partition(".")[0]
        return (
            _first_line(interpreter) + f"import sys\nfrom {self.module} import {root}\n"
            f'if __name__ == "__main__":\n    sys.exit({self.attribute}())\n'
        ).encode()


@dataclass(frozen=True, slots=True)
class Plan:
    """Say what a wheel puts where: its members (without RECORD, which is written anew) and its console scripts.

    ``name`` (normalised) and ``version`` are those of its .dist-info directory; ``fingerprint`` is what is measured
    once it is installed; ``rows`` are its RECORD with the paths that they have then.
    """

    name: str
    version: str
    fingerprint: str
    site: str  # lib/python3.11/site-packages
    dist_info: str  # below site
    members: tuple[Member, ...]
    scripts: tuple[Script, ...]
    rows: tuple[Row, ...]

    @property
    def record_path(self) -> str:
        """Place RECORD."""
        return f"{self.site}/{self.dist_info}/RECORD"

    @property
    def installer_path(self) -> str:
        """Place INSTALLER."""
        return f"{self.site}/{self.dist_info}/INSTALLER"

    def record(self, written: Mapping[str, bytes], bytecode: Iterable[str] = ()) -> bytes:
        """Write RECORD: ``written`` are the files that were changed or made here, ``bytecode`` paths without a hash."""
        rows = {path: (path, hashed, size) for path, hashed, size in self.rows}
        for path, content in written.items():
            place = _relative(path, self.site)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows[place] = (place, f"sha256={digest}", str(len(content)))
        for path in (*bytecode, self.record_path):
            place = _relative(path, self.site)
            rows[place] = (place, "", "")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows[path] for path in sorted(rows))
        return text.getvalue().encode()


def tags_of(filename: str) -> frozenset[str]:
    """List the tags (``cp311-cp311-manylinux_2_17_x86_64``) in the name of a wheel.

    Raises `UnsupportedPackage` if it is none.
    """
    match = _FILENAME.fullmatch(filename)
    if match is None:
        raise UnsupportedPackage(f"{filename!r} is not the name of a wheel")
    parts = (match["python"].split("."), match["abi"].split("."), match["platform"].split("."))
    return frozenset("-".join(tag) for tag in product(*parts))


def plan(filename: str, modes: Mapping[str, int], read: Callable[[str], bytes], *, minor: str) -> Plan:
    """Plan a wheel for Python ``minor`` (``3.11``), given the Unix mode of each member and how to read a small one.

    For a `zipfile.ZipFile`: ``plan(name, {i.filename: i.external_attr >> 16 for i in z.infolist()}, z.read, ...)``.
    Raises `UnsupportedPackage`: it is no wheel of version 1, or would write outside of the environment.
    """
    info = _dist_info(filename, modes)
    data = info.removesuffix(".dist-info") + ".data"
    for needed in ("METADATA", "RECORD", "WHEEL"):
        if f"{info}/{needed}" not in modes:
            raise UnsupportedPackage(f"{filename} is no wheel: it has no {needed}")
    wheel = _headers(read(f"{info}/WHEEL"))
    if [major for major in wheel.get("wheel-version", ()) if major.partition(".")[0] != "1"]:
        raise UnsupportedPackage(
            f"{filename} is a wheel of version {wheel['wheel-version'][0]}; only version 1 is known"
        )
    name, _, version = info.removesuffix(".dist-info").partition("-")
    name = normalise(name)
    site = f"lib/python{minor}/site-packages"
    schemes = {
        "purelib": site,
        "platlib": site,
        "data": "",
        "scripts": "bin",
        "headers": f"include/site/python{minor}/{name}",
    }

    def place(member: str) -> str:
        parts = member.split("/")
        if member.startswith("/") or "\\" in member or ".." in parts:
            raise UnsupportedPackage(f"{filename} would write outside of its environment: {member!r}")
        if parts[0] != data:
            return f"{site}/{member}"
        if len(parts) < 3 or parts[1] not in schemes:  # noqa: PLR2004 - data directory, scheme, file
            raise UnsupportedPackage(f"{filename} holds a file for a place nobody knows: {member!r}")
        return posixpath.join(schemes[parts[1]], *parts[2:])

    members = [
        Member(
            source,
            place(source),
            executable=bool(mode & 0o111) or source.startswith(f"{data}/scripts/"),
            script=source.startswith(f"{data}/scripts/"),
        )
        for source, mode in modes.items()
        if not source.endswith("/") and source not in {f"{info}/RECORD", f"{info}/INSTALLER"}
    ]
    record = read(f"{info}/RECORD").decode()
    rows = [
        (_relative(place(row[0]), site), row[1], row[2])
        for row in csv.reader(record.splitlines())
        if len(row) > 2  # noqa: PLR2004 - path, hash, size
    ]
    entry_points = f"{info}/entry_points.txt"
    return Plan(
        name=name,
        version=version,
        fingerprint=fingerprint.wheel(name, version, wheel.get("tag", ()), record),
        site=site,
        dist_info=info,
        members=tuple(sorted(members, key=lambda member: member.path)),
        scripts=_scripts(filename, read(entry_points).decode()) if entry_points in modes else (),
        rows=tuple(rows),
    )


def localise(content: bytes, interpreter: str) -> bytes:
    """Put ``interpreter`` in the first line of a script of a wheel, where ``#!python`` stands for it."""
    line, _, rest = content.partition(b"\n")
    if not line.startswith(b"#!python"):
        return content
    return _first_line(interpreter).encode() + rest


def pyvenv_cfg(interpreter: str, version: str) -> bytes:
    """Write pyvenv.cfg (PEP 405) for an environment whose ``bin/python`` links to ``interpreter``."""
    home = posixpath.dirname(interpreter)
    return f"home = {home}\ninclude-system-site-packages = false\nversion = {version}\n".encode()


def links(interpreter: str, minor: str) -> dict[str, str]:
    """Give the symbolic links of an environment: path -> target."""
    return {
        "bin/python": interpreter,
        "bin/python3": "python",
        f"bin/python{minor}": "python",
        "lib64": "lib",  # where some distributions' Pythons look for compiled packages
    }


def _relative(path: str, site: str) -> str:
    return path[len(site) + 1 :] if path.startswith(f"{site}/") else posixpath.relpath(path, site)


def _first_line(interpreter: str) -> str:
    if len(interpreter) + len("#!\n") <= _KERNEL_LINE and " " not in interpreter:
        return f"#!{interpreter}\n"
    # A line that is sh and Python at once, as pip writes it.
    return f"#!/bin/sh\n'''exec' \"{interpreter}\" \"$0\" \"$@\"\n' '''\n"


def _dist_info(filename: str, members: Iterable[str]) -> str:
    tags_of(filename)
    found = {member.partition("/")[0] for member in members if member.partition("/")[0].endswith(".dist-info")}
    wanted = normalise(filename.partition("-")[0])
    own = [name for name in found if normalise(name.partition("-")[0]) == wanted]
    if len(own) != 1:
        raise UnsupportedPackage(f"{filename} is no wheel: its .dist-info directories are {sorted(found)}")
    return own[0]


def _headers(text: bytes) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for line in text.decode(errors="replace").splitlines():
        if not line:
            break
        key, colon, value = line.partition(":")
        if colon and not key[:1].isspace():
            headers.setdefault(key.lower(), []).append(value.strip())
    return headers


def _scripts(filename: str, text: str) -> tuple[Script, ...]:
    import configparser  # not for those who only find an environment in place

    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names are case-sensitive
    parser.read_string(text)
    scripts = {}
    for section in ("console_scripts", "gui_scripts"):
        for name, value in parser.items(section) if parser.has_section(section) else ():
            match = _ENTRY.fullmatch(value.strip())
            if match is None or "/" in name or name in {"", ".", ".."}:
                raise UnsupportedPackage(f"{filename} declares a script that cannot be made: {name} = {value}")
            scripts[name] = Script(name, match["module"], match["attribute"])
    return tuple(scripts[name] for name in sorted(scripts))
