# pathlib would take a seventh of the time in which a worker starts.
"""Outcomes in the log of a container, for clusters whose pods may not send anything: text lines with checksums.

An outcome is a tar archive of its files, as in `clustrix.worker.delivery`, compressed (zlib) and cut into lines::

    clustrix-outcome/1 <item> <part> <parts> <CRC-32 of the rest> <base64>

Other lines of the log are nobody's business. A kubelet keeps 10 MiB of a log by default (``containerLogMaxSize``), so a
pod writes at most `LIMIT` characters.
"""

from __future__ import annotations

import binascii
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

LIMIT = 6 << 20
"""The most characters of all outcomes of a pod."""
_VERSION = b"clustrix-outcome/1"
_LINE = 6000  # bytes that a line holds; a kubelet cuts lines at 16 KiB
_OVERHEAD = 80  # characters of a line beside them, at most
_CHUNK = 1 << 20


def pack(open_archive: Callable[[], BinaryIO], room: int) -> bytes | None:
    """Compress an archive; None if its lines would be more than ``room`` characters."""
    most = max(0, room) * 3 // 4
    packer, parts, size = zlib.compressobj(), [], 0
    with open_archive() as file:
        while chunk := file.read(_CHUNK):
            parts.append(packer.compress(chunk))
            size += len(parts[-1])
            if size > most:  # before it is whole: memory is small here
                return None
    parts.append(packer.flush())
    packed = b"".join(parts)
    return packed if length(packed) <= room else None


def length(packed: bytes) -> int:
    """Count the characters of the lines of a packed outcome, at most."""
    return 4 * len(packed) // 3 + 4 + (len(packed) // _LINE + 1) * _OVERHEAD


def lines(index: int, packed: bytes) -> Iterator[bytes]:
    """Write the lines of a packed outcome."""
    parts = -(-len(packed) // _LINE)
    for part in range(parts):
        text = binascii.b2a_base64(packed[part * _LINE : (part + 1) * _LINE], newline=False)
        yield b"%s %d %d %d %08x %s\n" % (_VERSION, index, part, parts, zlib.crc32(text), text)


def read(log: bytes) -> dict[int, bytes]:
    """Find the outcomes in a log, by item: archives. Of what is damaged or incomplete there is none."""
    found: dict[int, dict[int, bytes]] = {}
    counts: dict[int, int] = {}
    for line in log.splitlines():
        if line.startswith(_VERSION + b" "):
            try:
                _, item, part, parts, checksum, text = line.split(b" ")
                if zlib.crc32(text) == int(checksum, 16):
                    found.setdefault(int(item), {})[int(part)] = binascii.a2b_base64(text)
                    counts[int(item)] = int(parts)
            except ValueError:
                continue
    whole = {
        index: _unpack(b"".join(there[part] for part in sorted(there)))
        for index, there in found.items()
        if there.keys() == set(range(len(there))) and len(there) == counts[index]
    }
    return {index: archive for index, archive in whole.items() if archive is not None}


def _unpack(packed: bytes) -> bytes | None:
    try:
        return zlib.decompress(packed)
    except zlib.error:
        return None
