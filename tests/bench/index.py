"""A package index on loopback, so that every contender fetches the same files over the same wire."""

from __future__ import annotations

import hashlib
import html
import re
import subprocess
import sys
import threading
import zipfile
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

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
    """Write the pages of a simple index (PEP 503) that links to the wheels, with their metadata (PEP 658) as PyPI."""
    files: dict[str, list[Path]] = defaultdict(list)
    for wheel in sorted(wheels.glob("*.whl")):
        files[parse_wheel_filename(wheel.name)[0]].append(wheel)
    (site / "files").mkdir()
    for name, found in files.items():
        page = site / "simple" / name / "index.html"
        page.parent.mkdir(parents=True)
        links = "\n".join(_link(wheel, site) for wheel in found)
        page.write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")


def _link(wheel: Path, site: Path) -> str:
    (site / "files" / wheel.name).symlink_to(wheel)
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]*\.dist-info/METADATA", name))
        metadata = archive.read(name)
    (site / "files" / f"{wheel.name}.metadata").write_bytes(metadata)
    known = f'data-core-metadata="sha256={hashlib.sha256(metadata).hexdigest()}"'
    name = html.escape(wheel.name)
    return f'<a href="/files/{name}#sha256={_sha256(wheel)}" {known}>{name}</a><br>'


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
