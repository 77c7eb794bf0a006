"""What travels with a submission: a tar archive (POSIX.1-2001) made while it is read, so that no file is held whole."""

from __future__ import annotations

import io
import tarfile
import time
from typing import TYPE_CHECKING

from clustrix.errors import StoreError
from clustrix.transports.base import Pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

_CHUNK = 1 << 20


def parcel(files: Mapping[str, bytes | Path]) -> BinaryIO:
    """Open a tar archive of ``files`` (name -> content), which belong to their owner alone.

    Reading raises StoreError when a file changes on the way.
    """
    return io.BufferedReader(Pieces(_pieces(files)), _CHUNK)


def _pieces(files: Mapping[str, bytes | Path]) -> Iterator[bytes]:
    now = int(time.time())
    for name, content in files.items():
        header = tarfile.TarInfo(name)
        header.mode = 0o600
        header.mtime = now  # what is old may be swept away
        header.size = len(content) if isinstance(content, bytes) else content.stat().st_size
        yield header.tobuf(tarfile.PAX_FORMAT)
        if isinstance(content, bytes):
            yield content
        else:
            yield from _whole(content, header.size)
        yield bytes(-header.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _whole(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk
    if left:
        raise StoreError(f"{path} was cut short while it was sent")
