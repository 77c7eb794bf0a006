"""Zip files whose bytes depend on what is in them and on nothing else."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Name a zip file by its content: ``digest`` is ``sha256:...``, ``path`` is where it is here."""

    digest: str
    path: Path


def write(entries: Iterable[tuple[str, bytes | Path]], directory: Path) -> Bundle:
    """Zip ``entries`` (name in the zip -> content) to ``<directory>/<sha256>.zip``, in the order of their names."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=directory, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, content in sorted(entries, key=lambda entry: entry[0]):
                info = zipfile.ZipInfo(name, _EPOCH)
                info.create_system = 3  # Unix, also where this is not
                info.external_attr = 0o100644 << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content if isinstance(content, bytes) else content.read_bytes())
        digest = _sha256(Path(temporary))
        path = directory / f"{digest}.zip"
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return Bundle(f"sha256:{digest}", path)


def find(digest: str, directory: Path) -> Bundle | None:
    """Find what `write` made earlier."""
    path = directory / f"{digest.removeprefix('sha256:')}.zip"
    return Bundle(digest, path) if path.is_file() else None


def save(path: Path, content: bytes) -> None:
    """Replace a small file at once: whoever reads beside us sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
