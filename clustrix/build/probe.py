"""What a base image holds: its Pythons, its glibc, its odd directories. Read from its layers; nothing of it is run."""

from __future__ import annotations

import posixpath
import re
import tarfile
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from clustrix.build.compression import uncompressed
from clustrix.errors import BaseImageError, ImageError
from clustrix.model.image import VENV

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.oci.layout import Layout
    from clustrix.oci.manifest import ImageConfig, Manifest

FORMAT = "2"
"""Changes whenever the same layers would give another answer."""
LINKS_AT_MOST = 40  # as the kernel
_PLACES = ("/usr/local/bin", "/usr/bin")
_PYTHON = re.compile(r"python3\.\d+t?")
_LIBRARY = re.compile(r"libpython3\.\d+t?\.so.*")
_LIBC = re.compile(r"libc\.so\.6|libc-2\.\d+\.so|ld-musl-.*")
_GLIBC = re.compile(rb"GNU C Library [^\n\0]* version (\d+)\.(\d+)")
_VERSION = re.compile(rb"\0(3\.\d+\.\d+(?:(?:a|b|rc)\d+)?\+?)\0")
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(slots=True)
class _Tree:
    """Hold what a stack of layers amounts to, as far as it matters here."""

    links: dict[str, str] = field(default_factory=dict)
    directories: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    _parents: set[str] = field(default_factory=set)

    def place(self, path: str) -> str:
        """Take down that there is something at ``path``; give the directory of it."""
        directory = above = posixpath.dirname(path)
        while above not in self._parents:
            self._parents.add(above)
            above = posixpath.dirname(above)
        return directory

    def remove(self, path: str, *, itself: bool = True) -> None:
        for table in (self.links, self.directories, self.facts):
            if itself:
                table.pop(path, None)
            if path in self._parents:  # few are; to look through a table for every file takes a while
                for below in [other for other in table if not path or other.startswith(f"{path}/")]:
                    del table[below]

    def resolve(self, path: str) -> str:
        """Follow links, inside the image, also in the last part."""
        for _ in range(LINKS_AT_MOST):
            parts = path.strip("/").split("/")
            for end in range(1, len(parts) + 1):
                prefix = "/".join(parts[:end])
                if (target := self.links.get(prefix)) is not None:
                    joined = posixpath.join("/", posixpath.dirname(prefix), target, *parts[end:])
                    path = posixpath.normpath(joined)
                    break
            else:
                return path.strip("/")
        return ""


def probe(base: str, manifest: Manifest, config: ImageConfig, layout: Layout) -> dict[str, Any]:
    """Read the layers of ``base`` (its name, for errors) and say what they amount to, as JSON types.

    ``glibc`` is [major, minor]; ``pythons`` [absolute path, version] in the order of its PATH; ``directories`` those
    that do not belong to root with mode 0755, path -> [mode, uid, gid]; ``links`` those that lead to directories.
    Raises `BaseImageError`: no glibc, no Python, or layers that cannot be read.
    """
    tree = _Tree()
    try:
        for layer in manifest.layers:
            with (
                layout.open_blob(layer.digest) as blob,
                uncompressed(blob, layer.media_type) as stream,
                tarfile.open(fileobj=stream, mode="r|") as archive,
            ):
                _scan(archive, tree)
    except (tarfile.TarError, ImageError) as error:
        raise BaseImageError(f"the base image {base} cannot be read: {error}") from error
    names = {posixpath.basename(path) for path in (*tree.links, *tree.facts)}
    libc = [fact["glibc"] for fact in tree.facts.values() if "glibc" in fact]
    musl = sorted(name for name in names if name.startswith("ld-musl-"))
    if not libc:
        raise BaseImageError(
            f"the base image {base} has no glibc" + (f" but musl ({musl[0]})" if musl else ""),
            remedy="Wheels are made for glibc: use a Debian, Ubuntu or Red Hat base, such as python:3.12-slim.",
        )
    pythons = list(_pythons(tree, config))
    if not pythons:
        raise BaseImageError(
            f"the base image {base} has no Python (looked for python3.N in its PATH, {', '.join(_PLACES)})",
            remedy="Use a base with Python, such as python:3.12-slim.",
        )
    return {
        "glibc": max(libc),
        "pythons": pythons,
        "directories": {path: said for path, said in tree.directories.items() if said != (0o755, 0, 0)},
        "links": {path: to for path in tree.links if (to := tree.resolve(path)) in tree.directories},
    }


def _pythons(tree: _Tree, config: ImageConfig) -> Iterator[tuple[str, str]]:
    """Find every python3.N, with the version that stands in its binary or in its library."""
    listed = config.env.get("PATH", "").split(":")
    # An environment of ours, which is going to be replaced, has no Python but a link to one.
    places = [place.rstrip("/") for place in listed if place.startswith("/") and not place.startswith(f"{VENV}/")]
    known = {*tree.links, *tree.facts}
    seen = set()
    for place in dict.fromkeys([*places, *_PLACES]):
        directory = tree.resolve(place)
        for path in sorted(path for path in known if posixpath.dirname(path) == directory):
            name = posixpath.basename(path)
            real = tree.resolve(path)
            if not _PYTHON.fullmatch(name) or real not in tree.facts:
                continue
            minor = name.removeprefix("python").rstrip("t")
            libraries = [
                fact
                for other, fact in tree.facts.items()
                if _LIBRARY.fullmatch(posixpath.basename(other)) and f"lib{name}." in f"{posixpath.basename(other)}."
            ]
            versions = [
                v for fact in (tree.facts[real], *libraries) for v in fact["versions"] if v.startswith(f"{minor}.")
            ]
            if versions and real not in seen:
                seen.add(real)
                yield f"{place}/{name}", max(versions, key=len)


def _scan(archive: tarfile.TarFile, tree: _Tree) -> None:
    for entry in archive:
        path = posixpath.normpath("/" + entry.name).strip("/")
        directory, name = tree.place(path), posixpath.basename(path)
        if name == _OPAQUE:
            tree.remove(directory, itself=False)
        elif name.startswith(_WHITEOUT):
            tree.remove(posixpath.join(directory, name[len(_WHITEOUT) :]))
        elif entry.isdir():
            tree.links.pop(path, None)
            tree.directories[path] = (entry.mode, entry.uid, entry.gid)
        else:
            tree.remove(path)
            if entry.issym():
                tree.links[path] = entry.linkname
            elif entry.islnk():
                target = posixpath.normpath("/" + entry.linkname).strip("/")
                if target in tree.facts:
                    tree.facts[path] = tree.facts[target]
            elif entry.isreg() and _matters(name):
                file = archive.extractfile(entry)
                tree.facts[path] = _facts(name, file) if file is not None else {"versions": []}


def _matters(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in (_PYTHON, _LIBRARY, _LIBC))


def _facts(name: str, file: IO[bytes]) -> dict[str, Any]:
    data = file.read()
    if name.startswith("libc"):
        match = _GLIBC.search(data)
        return {"glibc": [int(match[1]), int(match[2])], "versions": []} if match else {"versions": []}
    # PY_VERSION (Include/patchlevel.h) is a string of its own in the binary, or in the shared library.
    return {"versions": sorted({version.decode() for version in _VERSION.findall(data)})}
