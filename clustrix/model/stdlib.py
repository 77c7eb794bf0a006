"""JSON, pickles and SHA-256 by the parts in C that the standard library makes them of.

A worker starts in every task. `json`, `pickle`, `hashlib` and `hmac` import regular expressions and enumerations and
load OpenSSL, which is half of the time in which it starts, more where files are read through FUSE, as Apptainer does
for ordinary users. Where a Python does not have these parts, or wants other arguments, the modules themselves serve.
"""

from __future__ import annotations

import sys

try:
    from _pickle import PickleBuffer, Pickler, load, loads
except ImportError:  # another implementation than CPython
    from pickle import PickleBuffer, Pickler, load, loads

try:
    if sys.version_info >= (3, 12):
        from _sha2 import sha256 as _sha256
    else:
        from _sha256 import sha256 as _sha256  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha256 as _sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["PickleBuffer", "Pickler", "Sha256", "decode", "encode", "hmac_sha256", "load", "loads"]

_FEW = 1 << 20  # bytes, which the small implementation counts before OpenSSL would be loaded


class _Strict:
    """Hold what `json.JSONDecoder` has for its scanner."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def _refuse(value: object) -> object:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _json() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    try:
        from _json import encode_basestring_ascii, make_encoder, make_scanner

        scan = make_scanner(_Strict)  # type: ignore[arg-type]
        # In this order: no search for cycles, no indentation, no blanks, sorted keys.
        pieces = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", True, False, True)  # noqa: FBT003
    except (ImportError, TypeError):
        import json

        return lambda value: json.dumps(value, sort_keys=True, separators=(",", ":")), json.loads

    def read(text: str) -> Any:  # noqa: ANN401
        text = text.strip(" \t\n\r")
        try:
            value, end = scan(text, 0)
        except StopIteration:
            raise ValueError("no JSON") from None
        if end != len(text):
            raise ValueError("more than one value")
        return value

    return lambda value: "".join(pieces(value, 0)), read


_write, _read = _json()


def encode(value: object) -> str:
    """Write JSON in canonical form: sorted keys, no blanks, ASCII."""
    return _write(value)


def decode(text: bytes) -> Any:  # noqa: ANN401
    """Read JSON in UTF-8; ValueError."""
    return _read(text.decode())


class Sha256:
    """Count as `hashlib.sha256` does."""

    __slots__ = ("_digest", "_held")

    def __init__(self, data: bytes = b"") -> None:
        self._held = bytearray(data)
        self._digest: Any = None

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Count some bytes more."""
        if self._digest is not None:
            self._digest.update(data)
        elif len(self._held) + len(data) <= _FEW:
            self._held += data
        else:
            import hashlib

            self._digest = hashlib.sha256(self._held)
            self._digest.update(data)

    def digest(self) -> bytes:
        """Give the 32 bytes."""
        digest: bytes = (self._digest or _small(self._held)).digest()
        return digest

    def hexdigest(self) -> str:
        """Give them in 64 digits."""
        return self.digest().hex()


def _small(data: bytearray) -> Any:  # noqa: ANN401
    loaded = sys.modules.get("hashlib")  # no slower than ours for little data, and much faster for more
    return _sha256(data) if loaded is None else loaded.sha256(data)


def hmac_sha256(key: bytes, text: bytes) -> bytes:
    """Sign a text (RFC 2104) with a key of at most 64 bytes; `hmac.digest` of whoever reads it has to agree."""
    inner, outer = (bytes(byte ^ pad for byte in key.ljust(64, b"\0")) for pad in (0x36, 0x5C))
    return Sha256(outer + Sha256(inner + text).digest()).digest()
