"""A package index on loopback (PEP 503) that can refuse, lie and vanish."""

from __future__ import annotations

import base64
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from clustrix.model.environment import normalise

if TYPE_CHECKING:
    from pathlib import Path


class Index:
    """Serve the files of a directory; their names say which package they are of."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.requests: list[str] = []
        self.password: str | None = None
        """What the user ``me`` has to send, if anything."""
        self.instead: dict[str, list[int | bytes]] = {}
        """By file name, what to answer first: statuses, or the beginning of a body that is then cut off."""
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                index.answer(self)

            do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/simple/"

    def file_url(self, path: Path) -> str:
        return f"http://{self.host}/files/{path.name}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        wanted = "Basic " + base64.b64encode(f"me:{self.password}".encode()).decode()
        if self.password is not None and request.headers.get("Authorization") != wanted:
            self._send(request, 401, b"who are you?", {"WWW-Authenticate": "Basic"})
            return
        kind, _, name = request.path.strip("/").partition("/")
        body = self._page(name) if kind == "simple" else self._file(name)
        instead = self.instead.get(name, [])
        if instead and isinstance(instead[0], int):
            self._send(request, instead.pop(0), b"not now")  # type: ignore[arg-type]
        elif instead:
            request.send_response(200)
            request.send_header("Content-Length", str(len(body or b"") + 1))
            request.end_headers()
            request.wfile.write(instead.pop(0))  # type: ignore[arg-type]
            request.close_connection = True
        elif body is None:
            self._send(request, 404, b"no such thing")
        else:
            self._send(request, 200, body)

    def _page(self, name: str) -> bytes | None:
        found = [path for path in sorted(self.files.iterdir()) if _project(path) == name]
        links = [f'<a href="/files/{p.name}#sha256={_sha256(p)}">{p.name}</a>' for p in found]
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode() if found else None

    def _file(self, name: str) -> bytes | None:
        path = self.files / name
        return path.read_bytes() if path.is_file() else None

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


def _project(path: Path) -> str:
    return normalise(path.name.removesuffix(".tar.gz").split("-")[0])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
