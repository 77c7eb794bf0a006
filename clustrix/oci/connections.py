"""The connections of an HTTP client, to be cut while other threads wait for what may never come."""

from __future__ import annotations

import contextlib
import socket
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

_OPENED = ("connect_tcp.complete", "start_tls.complete")


class Connections:
    """Know every socket that an `httpx.Client` opens: ``httpx.Client(event_hooks={"request": [connections.follow]})``.

    Closing a client does not wake who reads from it, and a line that is dead says so after a minute.
    https://www.python-httpx.org/advanced/extensions/#trace
    """

    def __init__(self) -> None:
        self._streams = weakref.WeakSet[Any]()

    def follow(self, request: httpx.Request) -> None:
        """See which connection a request opens, if any."""
        request.extensions = {**request.extensions, "trace": self._trace}

    def cut(self) -> None:
        """End all of them: whoever reads or writes gets a `httpx.TransportError` now."""
        for stream in list(self._streams):
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which would take the TLS from under who reads.
                socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)

    def _trace(self, event: str, about: Mapping[str, Any]) -> None:
        if event.endswith(_OPENED):
            self._streams.add(about["return_value"])
