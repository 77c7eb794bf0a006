"""Answers of the API that go on: logs, and what happens to pods.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

from clustrix.errors import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.kubernetes.connection import Cluster

    Document = dict[str, Any]

WATCH_SECONDS = 280
_GONE = 410


class Expired(ConnectionLost):
    """A resource version is too old to go on from."""


class Stream:
    """Iterate over an answer that goes on, as it comes."""

    def __init__(self, answer: Any) -> None:  # noqa: ANN401 - urllib3.HTTPResponse
        self._answer = answer
        self._begun = False
        self._closed = False

    def close(self) -> None:
        """End it, from any thread; iterating raises ConnectionLost then."""
        self._closed = True
        if not self._begun:
            self._answer.close()
            return
        # Whoever reads it closes it: that cannot be done under a reader's feet.
        connection = getattr(self._answer, "connection", None)
        line = getattr(connection, "sock", None)
        if line is not None:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def __iter__(self) -> Iterator[bytes]:
        """Give the bytes; ConnectionLost when it breaks or was closed."""
        from urllib3.exceptions import HTTPError

        self._begun = True
        try:
            yield from self._answer.stream(1 << 16)
        except (HTTPError, OSError, ValueError, AttributeError) as error:
            raise ConnectionLost(f"a stream was {'closed' if self._closed else f'cut: {error}'}") from error
        finally:
            self._answer.close()
        if self._closed:
            raise ConnectionLost("a stream was closed")

    def lines(self) -> Iterator[bytes]:
        """Give whole lines."""
        rest = b""
        for chunk in self:
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest


class PodWatch:
    """Iterate over what happens to pods, as (type, pod): what is there first, as ADDED, then (SYNCED, {}), then news.

    Streams that the server ends are taken up again. After what the server has forgotten all is listed anew, as
    ADDED: what was deleted meanwhile is not told.
    """

    def __init__(self, cluster: Cluster, selector: str) -> None:
        self._cluster = cluster
        self._selector = selector
        self._stream: Stream | None = None
        self._closed = False

    def close(self) -> None:
        """End it, from any thread; iterating raises ConnectionLost then."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()

    def __iter__(self) -> Iterator[tuple[str, Document]]:
        """Report; ConnectionLost when it breaks."""
        place = self._cluster.path("pods")
        while True:
            found, version = self._cluster.listing(place, labelSelector=self._selector)
            yield from (("ADDED", pod) for pod in found)
            yield "SYNCED", {}
            with contextlib.suppress(Expired):
                yield from self._news(place, version)

    def _news(self, place: str, version: str) -> Iterator[tuple[str, Document]]:
        while True:
            query = {
                "watch": "true",
                "labelSelector": self._selector,
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": WATCH_SECONDS,
            }
            self._stream = stream = self._cluster.stream(place, query)
            if stream is None:
                raise ConnectionLost("a watch was refused")
            if self._closed:
                stream.close()
                raise ConnectionLost("a watch was closed")
            for line in stream.lines():
                event = json.loads(line)
                kind, thing = event["type"], event["object"]
                if kind == "ERROR":
                    text = str(thing.get("message"))
                    raise Expired(text) if thing.get("code") == _GONE else ConnectionLost(text)
                version = thing["metadata"]["resourceVersion"]
                if kind != "BOOKMARK":
                    yield kind, thing
