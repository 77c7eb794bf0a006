"""A TCP proxy on loopback that cuts or delays: what bad lines do to a connection."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Proxy:
    """Forward connections to ``target``; ``cut_when`` sees every piece that is about to pass and may end it all.

    ``up`` and ``down`` count the bytes that passed towards the server and back.
    """

    def __init__(self, target: tuple[str, int], *, delay: float = 0.0) -> None:
        self._target = target
        self._delay = delay
        self.up = self.down = self.connections = 0
        self.cut_when: Callable[[str, bytes], bool] = lambda direction, data: False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._pairs.append((near, far))
            for source, sink, direction in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._forward, args=(source, sink, direction), daemon=True).start()

    def cut(self) -> None:
        """End every connection."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def _forward(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        # A long line holds many pieces at once: each is late, and none waits for the one before it.
        under_way: queue.Queue[tuple[float, bytes]] = queue.Queue(1 << 10)
        threading.Thread(target=self._deliver, args=(under_way, source, sink, direction), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.cut_when(direction, data):
                    self.cut()
                    break
                under_way.put((time.monotonic() + self._delay, data))
        under_way.put((0.0, b""))

    def _deliver(
        self, under_way: queue.Queue[tuple[float, bytes]], source: socket.socket, sink: socket.socket, direction: str
    ) -> None:
        piece = (0.0, b"")
        with contextlib.suppress(OSError):
            while (piece := under_way.get())[1]:
                time.sleep(max(0.0, piece[0] - time.monotonic()))
                sink.sendall(piece[1])
                setattr(self, direction, getattr(self, direction) + len(piece[1]))
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        while piece[1]:  # whoever still receives must not wait for room
            piece = under_way.get()


@contextlib.contextmanager
def proxy(target: tuple[str, int], *, delay: float = 0.0) -> Iterator[Proxy]:
    server = Proxy(target, delay=delay)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
