"""Whom TLS connections trust."""

from __future__ import annotations

import ssl
import threading
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self


class LateTrust(ssl.SSLContext):
    """Trust whom `httpx` trusts by default, or ``cafile``, but read their certificates at the first TLS connection.

    Reading takes 20 ms a client, which nobody has to spend who speaks plain HTTP.
    """

    def __new__(cls, cafile: str | None = None) -> Self:  # noqa: ARG004, D102 - see __init__
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, cafile: str | None = None) -> None:
        self._cafile = cafile
        self._protocols: list[str] = []
        self._lock = threading.Lock()
        self._made: ssl.SSLContext | None = None

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Keep them for the real context."""
        self._protocols = list(alpn_protocols)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:  # noqa: ANN401
        """Do what the real context does."""
        return self._context().wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:  # noqa: ANN401
        """Do what the real context does."""
        return self._context().wrap_bio(*arguments, **options)

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._made is None:
                own = self._cafile is not None
                self._made = ssl.create_default_context(cafile=self._cafile) if own else httpx.create_ssl_context()
                self._made.set_alpn_protocols(self._protocols)
            return self._made
