"""Layers as reproducible tar streams: sorted, owned by root, dated 1980, modes 0644 and 0755.

POSIX.1-1988 headers ("ustar"), and the 2001 extended ones (pax, through `tarfile`) for names that do not fit.
https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md
"""

from __future__ import annotations

import hashlib
import struct
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from clustrix.build.compression import Codec
    from clustrix.oci.layout import BlobWriter

MTIME = 315_532_800  # 1980-01-01, the first date a zip file knows
END = bytes(1024)
FILE, LINK, DIRECTORY = b"0", b"2", b"5"
_BLOCK = 512
_BATCH = 1 << 20
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_NAME, _PREFIX, _SIZE = 100, 155, 8 << 30
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no name, no time, unknown system

Piece = tuple[bytes, bytes]
"""What a compressed file holds next, and what it comes to uncompressed; either may be empty."""


def header(
    path: str, *, kind: bytes = FILE, size: int = 0, mode: int = 0o644, owner: tuple[int, int] = (0, 0), link: str = ""
) -> bytes:
    """Write the header of one entry."""
    name = path.encode(errors="surrogateescape") + (b"/" if kind == DIRECTORY else b"")
    target = link.encode(errors="surrogateescape")
    prefix = b""
    if len(name) > _NAME:
        cut = name.find(b"/", len(name) - _NAME - 1, len(name) - 1)
        prefix, name = (name[:cut], name[cut + 1 :]) if 0 < cut <= _PREFIX else (b"", name)
    if len(name) > _NAME or len(target) > _NAME or size >= _SIZE or not (name + prefix + target).isascii():
        return _extended(path, kind=kind, size=size, mode=mode, owner=owner, link=link)
    fields = [
        name,
        b"%07o\0" % mode,
        b"%07o\0" % owner[0],
        b"%07o\0" % owner[1],
        b"%011o\0" % size,
        b"%011o\0" % MTIME,
        b"        ",
        kind,
        target,
        b"ustar\0",
        b"00",
        b"",
        b"",
        b"0000000\0",
        b"0000000\0",
        prefix,
    ]
    fields[6] = b"%06o\0 " % sum(_HEADER.pack(*fields))
    return _HEADER.pack(*fields)


def _extended(path: str, *, kind: bytes, size: int, mode: int, owner: tuple[int, int], link: str) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.type, entry.size, entry.mode, entry.mtime, entry.linkname = kind, size, mode, MTIME, link
    entry.uid, entry.gid = owner
    return entry.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape")


class TarStream:
    """Write entries, compressed, into a blob, and digest them uncompressed on the way, with constant memory.

    Parent directories are written when first needed; where that is left to somebody else (not ``own_directories``),
    they are only listed in ``directories``. ``check`` is called now and then; what it raises ends the writing.
    No path may come twice: Docker refuses such layers.
    """

    def __init__(
        self,
        blob: BlobWriter,
        codec: Codec,
        *,
        own_directories: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._blob = blob
        self._codec = codec
        self._compressor = codec.compressor()
        self._hash = hashlib.sha256()
        self._own_directories = own_directories
        self.directories: set[str] = set()
        self._check = check
        self._batch: list[bytes] = []
        self._batched = 0

    def directory(self, path: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
        """Add a directory, once."""
        if path and path not in self.directories:
            self._parents(path)
            self.directories.add(path)
            if self._own_directories:
                self.raw(header(path, kind=DIRECTORY, mode=mode, owner=owner))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._parents(path)
        self.raw(header(path, kind=LINK, mode=0o777, link=target))

    def file(self, path: str, size: int, content: Iterable[bytes], *, executable: bool = False) -> None:
        """Add a file of exactly ``size`` bytes."""
        self._parents(path)
        self.raw(header(path, size=size, mode=0o755 if executable else 0o644))
        written = 0
        for piece in content:
            self.raw(piece)
            written += len(piece)
        if written != size:
            raise ValueError(f"{path} has {written} bytes, not the {size} that were announced")
        if size % _BLOCK:
            self.raw(bytes(_BLOCK - size % _BLOCK))

    def embed(self, path: str, size: int, crc: int, content: Iterable[Piece], *, executable: bool = False) -> None:
        """Add a file as `file` does, whose bytes were deflated before and are not again (RFC 1952, section 2.3).

        For codecs that `embeds` alone: they begin a new member with every compressor.
        """
        self._parents(path)
        self.raw(header(path, size=size, mode=0o755 if executable else 0o644))
        self._write()
        self._blob.write(self._compressor.flush() + _GZIP_HEADER)
        written = 0
        for deflated, piece in content:
            self._check()
            self._hash.update(piece)
            self._blob.write(deflated)
            written += len(piece)
        if written != size:
            raise ValueError(f"{path} has {written} bytes, not the {size} that were announced")
        self._blob.write(struct.pack("<II", crc, size & 0xFFFF_FFFF))
        self._compressor = self._codec.compressor()
        if size % _BLOCK:
            self.raw(bytes(_BLOCK - size % _BLOCK))

    def raw(self, data: bytes) -> None:
        """Add bytes that are already in the format."""
        self._batch.append(data)
        self._batched += len(data)
        if self._batched >= _BATCH:
            self._write()

    def finish(self) -> str:
        """Write what is left; return the digest of the uncompressed stream (the diff id, if it is a whole layer)."""
        self._write()
        self._blob.write(self._compressor.flush())
        return "sha256:" + self._hash.hexdigest()

    def _write(self) -> None:
        data = b"".join(self._batch)
        self._batch, self._batched = [], 0
        self._check()
        self._hash.update(data)
        self._blob.write(self._compressor.compress(data))

    def _parents(self, path: str) -> None:
        self.directory(path.rpartition("/")[0])
