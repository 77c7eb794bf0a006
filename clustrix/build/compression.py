"""How layers are compressed, and read again.

Both formats may be concatenated (RFC 1952, section 2.2; RFC 8878, section 3), so a layer can be put together from
pieces that were compressed once and for all.
"""

from __future__ import annotations

import io
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from clustrix.errors import ConfigError, ImageError, MissingExtra
from clustrix.oci.manifest import DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD

if TYPE_CHECKING:
    from collections.abc import Callable

COMPRESSIONS = ("gzip", "zstd")
_CHUNK = 1 << 18
_GZIP = 31  # zlib's window bits for a gzip member without name and time
_ISAL_LEVEL = 2  # 587 MB/s at a ratio of 3.2; zlib's 6 is 40 MB/s at 3.7
_ZLIB_LEVEL = 4
_ZSTD_LEVEL = 3


class Compressor(Protocol):
    """Compress one piece."""

    def compress(self, data: bytes, /) -> bytes:
        """Take some bytes and give those that are ready."""

    def flush(self) -> bytes:
        """Give the rest."""


class Decompressor(Protocol):
    """Read one piece."""

    @property
    def eof(self) -> bool:
        """Say whether the piece has ended."""

    @property
    def unused_data(self) -> bytes:
        """Give what was found after its end."""

    def decompress(self, data: bytes, /) -> bytes:
        """Take some bytes and give what they stand for."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Make compressors; ``identity`` changes with whatever may change their output."""

    identity: str
    media_type: str
    compressor: Callable[[], Compressor]
    decompressor: Callable[[], Decompressor]
    error: type[Exception]


@cache
def codec(name: str) -> Codec:
    """Get ``gzip``, which every engine reads, or ``zstd``, which Docker reads from version 23 on.

    Raises:
        ConfigError: it is neither.
        MissingExtra: zstd needs Python 3.14 or the package zstandard.

    """
    if name == "gzip":
        return _gzip()
    if name == "zstd":
        return _zstd()
    raise ConfigError(f"unknown compression {name!r}", remedy=f"Known: {', '.join(COMPRESSIONS)}.")


class LayerReader(io.RawIOBase):
    """Read a layer uncompressed, however many pieces it was compressed in; `ImageError` if it is damaged."""

    def __init__(self, blob: BinaryIO, codec: Codec) -> None:
        self._blob, self._codec = blob, codec
        self._piece: Decompressor | None = None
        self._ready = b""

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer, as `io` has it
        """Fill a buffer as far as one step of decompression goes; 0 at the end."""
        while not self._ready:
            if self._piece is not None and self._piece.eof:
                data, self._piece = self._piece.unused_data, None
            else:
                data = b""
            data = data or self._blob.read(_CHUNK)
            if not data:
                if self._piece is not None:
                    raise ImageError("a layer is cut short")
                return 0
            self._piece = self._piece or self._codec.decompressor()
            try:
                self._ready = self._piece.decompress(data)
            except self._codec.error as error:
                raise ImageError(f"a layer is damaged: {error}") from error
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def uncompressed(blob: BinaryIO, media_type: str) -> BinaryIO:
    """Read a layer as the tar it is; `ImageError` for a kind of layer that nobody knows."""
    if media_type == OCI_LAYER:
        return blob
    kinds = {OCI_LAYER_GZIP: "gzip", DOCKER_LAYER_GZIP: "gzip", OCI_LAYER_ZSTD: "zstd"}
    if media_type not in kinds:
        raise ImageError(f"a layer is of a kind that cannot be read here: {media_type}")
    return io.BufferedReader(LayerReader(blob, codec(kinds[media_type])), _CHUNK)


@cache
def deflate() -> Any:  # noqa: ANN401 - a module
    """Get the fastest module that does what `zlib` does: isal's, or zlib where there is no wheel of isal."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


def _gzip() -> Codec:
    module = deflate()
    if module is zlib:
        identity, level = f"zlib-{zlib.ZLIB_RUNTIME_VERSION}-{_ZLIB_LEVEL}", _ZLIB_LEVEL
    else:
        from isal import ISAL_VERSION

        identity, level = f"isal-{ISAL_VERSION}-{_ISAL_LEVEL}", _ISAL_LEVEL
    return Codec(
        identity,
        OCI_LAYER_GZIP,
        lambda: module.compressobj(level, wbits=_GZIP),
        lambda: module.decompressobj(_GZIP),
        module.error,
    )


def _zstd() -> Codec:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return Codec(
            f"zstd-{zstd.zstd_version}-{_ZSTD_LEVEL}",
            OCI_LAYER_ZSTD,
            lambda: zstd.ZstdCompressor(_ZSTD_LEVEL),
            zstd.ZstdDecompressor,
            zstd.ZstdError,
        )
    try:
        import zstandard
    except ImportError:
        raise MissingExtra("zstandard", "zstd", needed_for="zstd compression before Python 3.14") from None
    return Codec(
        f"zstandard-{zstandard.__version__}-{_ZSTD_LEVEL}",
        OCI_LAYER_ZSTD,
        lambda: zstandard.ZstdCompressor(_ZSTD_LEVEL).compressobj(),
        lambda: zstandard.ZstdDecompressor().decompressobj(),
        zstandard.ZstdError,
    )
