"""Files of this machine that go into an image: scanned for secrets, written as one reproducible layer."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import BuildError, CredentialsInLayer
from clustrix.model import credentials
from clustrix.model.image import VENV

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clustrix.build.baseimage import Base
    from clustrix.build.tar import TarStream

_CHUNK = 1 << 20
_OURS = VENV.rpartition("/")[0]
_REMEDY = "Leave it out of the image; give it to the job when it runs, as an environment variable or a mount."


@dataclass(frozen=True, slots=True)
class Entry:
    """Place one file, link or (empty) directory of this machine at ``path`` of the image."""

    path: str
    source: Path
    sha256: str = ""
    size: int = 0
    executable: bool = False
    link: str | None = None
    directory: bool = False

    def identity(self) -> list[object]:
        """Say what of it is seen in the image."""
        return [self.path, self.sha256, self.executable, self.link, self.directory]


def collect(files: tuple[tuple[str, str], ...]) -> tuple[Entry, ...]:
    """Read everything once: list it sorted by its place in the image, with its digest.

    ``files`` are (path here, absolute path there); a target that ends in ``/`` is a directory to put a file into.
    Raises `CredentialsInLayer`, and `BuildError` for what cannot be read or copied.
    """
    entries: dict[str, Entry] = {}
    for source, target in files:
        for entry in _walk(Path(source).expanduser(), target):
            entries[entry.path] = entry
    return tuple(entries[path] for path in sorted(entries))


def refuse_secrets(texts: Mapping[str, str]) -> None:
    """Look for secrets in texts that go into an image (``what it is`` -> text); `CredentialsInLayer`."""
    for what, text in texts.items():
        if found := credentials.by_content(text.encode()):
            raise CredentialsInLayer(f"{what} holds {found}", remedy=_REMEDY)


def write(entries: tuple[Entry, ...], stream: TarStream, base: Base) -> None:
    """Write entries into a layer; directories of the base keep their owner and mode, and its links are followed.

    Raises `BuildError` if a file changed since `collect` looked at it.
    """
    for entry in entries:
        path = base.place(entry.path)
        parts = path.split("/")
        for end in range(1, len(parts)):
            parent = "/".join(parts[:end])
            mode, uid, gid = base.directories.get(parent, (0o755, 0, 0))
            stream.directory(parent, mode, (uid, gid))
        if entry.directory:
            mode, uid, gid = base.directories.get(path, (0o755, 0, 0))
            stream.directory(path, mode, (uid, gid))
        elif entry.link is not None:
            stream.link(path, entry.link)
        else:
            stream.file(path, entry.size, _content(entry), executable=entry.executable)


def _walk(source: Path, target: str) -> Iterator[Entry]:
    place = target.strip("/")
    if ".." in place.split("/") or f"/{place}/".startswith(f"{_OURS}/"):
        raise BuildError(
            f"files cannot be added at {target!r}", remedy=f"Use another place than {_OURS}, without '..'."
        )
    if source.is_dir():
        yield from _directory(source, place, source.resolve())
    else:
        if target.endswith("/"):
            place = f"{place}/{source.name}".lstrip("/")
        if not place:
            raise BuildError(f"{source} cannot become {target!r}: that is a directory")
        yield _file(source, place)


def _directory(directory: Path, place: str, root: Path) -> Iterator[Entry]:
    try:
        children = sorted(directory.iterdir())
    except OSError as error:
        raise BuildError(f"{directory} cannot be read: {error.strerror}") from error
    if not children and place:
        yield Entry(place, directory, directory=True)
    for child in children:
        path = f"{place}/{child.name}".lstrip("/")
        if child.is_symlink():
            yield _link(child, path, root)
        elif child.is_dir():
            yield from _directory(child, path, root)
        else:
            yield _file(child, path)


def _link(link: Path, path: str, root: Path) -> Entry:
    target = os.readlink(link)  # noqa: PTH115 - as it is written, not as a Path spells it
    if Path(target).is_absolute() or not link.resolve().is_relative_to(root):
        raise BuildError(
            f"the link {link} leads out of {root}, to {target}", remedy="Replace it with what it points at."
        )
    return Entry(path, link, link=target)


def _file(source: Path, path: str) -> Entry:
    if found := credentials.by_name(str(source.absolute())) or credentials.by_name(path):
        raise CredentialsInLayer(f"{source} is refused: {found}", remedy=_REMEDY)
    digest, size, before = hashlib.sha256(), 0, b""
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BuildError(f"{source} is neither a file nor a directory")
        with source.open("rb") as file:
            while data := file.read(_CHUNK):
                if found := credentials.by_content(before + data):
                    raise CredentialsInLayer(f"{source} holds {found}", remedy=_REMEDY)
                before = data[-credentials.OVERLAP :]
                digest.update(data)
                size += len(data)
    except OSError as error:
        raise BuildError(f"{source} cannot be read: {error.strerror}") from error
    return Entry(path, source, digest.hexdigest(), size, executable=bool(status.st_mode & 0o111))


def _content(entry: Entry) -> Iterator[bytes]:
    digest = hashlib.sha256()
    left = entry.size
    with entry.source.open("rb") as file:
        while data := file.read(min(_CHUNK, left)):
            left -= len(data)
            digest.update(data)
            yield data
    if left or digest.hexdigest() != entry.sha256:
        raise BuildError(f"{entry.source} changed while it was copied", remedy="Build again.")
