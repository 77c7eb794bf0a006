"""A package index on loopback, so that every contender fetches the same files over the same wire."""

from __future__ import annotations

import hashlib
import html
import io
import subprocess
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import parse_wheel_filename

if TYPE_CHECKING:
    from collections.abc import Iterator


def fetch_wheels(requirements: Path, directory: Path) -> None:
    """Bring the wheels of a pinned requirements file into a directory, once."""
    stamp = directory / f".{hashlib.sha256(requirements.read_bytes()).hexdigest()}"
    if not stamp.exists():
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*argv, "--dest", str(directory), "--requirement", str(requirements)], check=True)
        stamp.touch()


def write_pages(wheels: Path, site: Path) -> None:
    """Write the pages of a simple index (PEP 503) that links to the wheels."""
    files: dict[str, list[Path]] = defaultdict(list)
    for wheel in sorted(wheels.glob("*.whl")):
        files[parse_wheel_filename(wheel.name)[0]].append(wheel)
    (site / "files").symlink_to(wheels)
    for name, found in files.items():
        page = site / "simple" / name / "index.html"
        page.parent.mkdir(parents=True)
        links = (
            f'<a href="/files/{html.escape(wheel.name)}#sha256={_sha256(wheel)}">{html.escape(wheel.name)}</a><br>'
            for wheel in found
        )
        page.write_text("<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that close early are no news."""


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Let the kernel copy what can be large."""
        outputfile.flush()
        if isinstance(source, io.BufferedReader):
            self.connection.sendfile(source)
        else:  # a listing, made in memory
            super().copyfile(source, outputfile)


@contextmanager
def serve(site: Path) -> Iterator[str]:
    """Serve a directory on a free loopback port and give the URL of the index."""
    server = _Server(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
    finally:
        server.shutdown()
        server.server_close()
