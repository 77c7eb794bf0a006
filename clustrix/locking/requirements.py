"""What a requirements file asks of us beside its requirements: hashes to hold to, and options that nobody may drop.

Format: https://pip.pypa.io/en/stable/reference/requirements-file-format/.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clustrix.errors import LockError
from clustrix.model.environment import normalise

if TYPE_CHECKING:
    from pathlib import Path

_BY_UV = {
    "-r",
    "--requirement",
    "-c",
    "--constraint",
    "-e",
    "--editable",
    "-i",
    "--index-url",
    "--extra-index-url",
    "--no-index",
    "-f",
    "--find-links",
    "--no-binary",
    "--only-binary",
}
"""Options that uv reads from the file by itself."""
_BY_US = {"--pre", "--require-hashes"}
_INDEXES = {"-i", "--index-url", "--extra-index-url", "-f", "--find-links"}
_USER = re.compile(r"https?://[^/@\s]+@")
_COMMENT = re.compile(r"(^|\s)#.*$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HASH = re.compile(r"--hash[= ]sha256:([0-9a-fA-F]{64})")


@dataclass
class Requirements:
    """Hold what was found: the allowed sha256 by normalised name, names without any, and whether ``--pre`` is given."""

    hashes: dict[str, frozenset[str]] = field(default_factory=dict)
    unhashed: list[str] = field(default_factory=list)
    prereleases: bool = False
    require_hashes: bool = False
    files: list[Path] = field(default_factory=list)


def read(path: Path) -> Requirements:
    """Read a requirements file and those it includes.

    Raises:
        LockError: it cannot be read, has an option that we cannot honour, or hashes for some requirements only.

    """
    found = Requirements()
    _read(path, found)
    if found.unhashed and (found.hashes or found.require_hashes):
        raise LockError(
            f"{path} has hashes, but none for {', '.join(found.unhashed)}",
            remedy="Give every requirement its hashes (uv pip compile --generate-hashes), or none.",
        )
    return found


def _read(path: Path, found: Requirements) -> None:
    if path in found.files:
        return
    found.files.append(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(
            f"cannot read {path}: {error}", remedy="Check the path, or the -r or -c line that names it."
        ) from error
    for raw in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        line = _COMMENT.sub("", raw).strip()
        if line.startswith("-"):
            _option(line, path, found)
        elif line:
            _requirement(line, path, found)


def _option(line: str, path: Path, found: Requirements) -> None:
    words = shlex.split(line)
    name, _, value = words[0].partition("=")
    if name[:2] in {"-r", "-c", "-e", "-i", "-f"} and not name.startswith("--"):
        name, value = name[:2], value or words[0][2:]
    if name not in _BY_UV | _BY_US:
        raise LockError(
            f"{path}: {name} cannot be honoured here",
            remedy="Remove it, or set the like in uv's configuration (https://docs.astral.sh/uv/reference/settings/).",
        )
    if name in _INDEXES and _USER.search(line):
        raise LockError(
            f"{path}: the URL after {name} holds a user or password",
            remedy="Put it into ~/.netrc or UV_INDEX: files are fetched by their lock, which holds no secrets.",
        )
    found.prereleases |= name == "--pre"
    found.require_hashes |= name == "--require-hashes"
    if name in {"-r", "--requirement"}:
        _read(path.parent / (value or words[1]), found)
    elif name in {"-e", "--editable"}:
        found.unhashed.append(value or words[1])


def _requirement(line: str, path: Path, found: Requirements) -> None:
    requirement = line.partition(" --")[0].strip()
    options = {word.partition("=")[0] for word in line.split() if word.startswith("--")}
    if unknown := sorted(options - {"--hash"}):
        raise LockError(f"{path}: {requirement}: {unknown[0]} cannot be honoured here", remedy="Remove it.")
    hashes = frozenset(found_hash.lower() for found_hash in _HASH.findall(line))
    if "--hash" in options and not hashes:
        raise LockError(f"{path}: {requirement} has no sha256 among its hashes", remedy="Lock with sha256.")
    match = _NAME.match(requirement)
    if not hashes or match is None:
        found.unhashed.append(requirement)
        return
    name = normalise(match[0])
    found.hashes[name] = found.hashes.get(name, frozenset()) | hashes
