"""How layers are compressed, and read again.

Both formats may be concatenated (RFC 1952, section 2.2; RFC 8878, section 3), so a layer can be put together from
pieces that were compressed once and for all.
"""

from __future__ import annotations

import contextlib
import gzip
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from clustrix.errors import ConfigError, ImageError, MissingExtra
from clustrix.oci.manifest import DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMPRESSIONS = ("gzip", "zstd")
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


@dataclass(frozen=True, slots=True)
class Codec:
    """Make compressors; ``identity`` changes with whatever may change their output.

    ``embeds`` says that what was deflated elsewhere can stand between the outputs of two compressors, as a gzip member.
    """

    identity: str
    media_type: str
    compressor: Callable[[], Compressor]
    reader: Callable[[BinaryIO], BinaryIO]
    errors: tuple[type[Exception], ...]
    embeds: bool = False


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


@contextlib.contextmanager
def uncompressed(blob: BinaryIO, media_type: str) -> Iterator[BinaryIO]:
    """Read a layer as the tar it is, with constant memory; `ImageError` if it is damaged or of an unknown kind."""
    if media_type == OCI_LAYER:
        yield blob
        return
    kinds = {OCI_LAYER_GZIP: "gzip", DOCKER_LAYER_GZIP: "gzip", OCI_LAYER_ZSTD: "zstd"}
    if media_type not in kinds:
        raise ImageError(f"a layer is of a kind that cannot be read here: {media_type}")
    how = codec(kinds[media_type])
    try:
        with how.reader(blob) as reader:
            yield reader
    except how.errors as error:
        raise ImageError(f"a layer is damaged: {error}") from error


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
    reader: Any
    if module is zlib:
        identity, level = f"zlib-{zlib.ZLIB_RUNTIME_VERSION}-{_ZLIB_LEVEL}", _ZLIB_LEVEL
        reader = gzip.GzipFile
    else:
        from isal import ISAL_VERSION, igzip

        identity, level = f"isal-{ISAL_VERSION}-{_ISAL_LEVEL}", _ISAL_LEVEL
        reader = igzip.IGzipFile
    return Codec(
        identity,
        OCI_LAYER_GZIP,
        lambda: module.compressobj(level, wbits=_GZIP),
        lambda blob: reader(fileobj=blob, mode="rb"),
        (EOFError, module.error, gzip.BadGzipFile),
        embeds=True,
    )


def _zstd() -> Codec:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return Codec(
            f"zstd-{zstd.zstd_version}-{_ZSTD_LEVEL}",
            OCI_LAYER_ZSTD,
            lambda: zstd.ZstdCompressor(_ZSTD_LEVEL),
            zstd.ZstdFile,
            (EOFError, zstd.ZstdError),
        )
    try:
        import zstandard
    except ImportError:
        raise MissingExtra("zstandard", "zstd", needed_for="zstd compression before Python 3.14") from None
    return Codec(
        f"zstandard-{zstandard.__version__}-{_ZSTD_LEVEL}",
        OCI_LAYER_ZSTD,
        lambda: zstandard.ZstdCompressor(_ZSTD_LEVEL).compressobj(),
        lambda blob: zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True, closefd=False),
        (EOFError, zstandard.ZstdError),
    )
