"""The container engine of this machine: whether one answers, and for how long none is tried after it failed."""

from __future__ import annotations

import os
import shutil
import time

from clustrix import config
from clustrix.records import Records

_DOCKER_SOCKET = "/var/run/docker.sock"
_UNIX = "unix://"
_HOUR = 3600


def runtime() -> tuple[str, str]:
    """Choose for this machine: (``docker`` or ``venv``, why)."""
    engine, why = answering()
    return (engine, why) if engine else ("venv", why)


def answering() -> tuple[str | None, str]:
    """Find an engine of this machine that answers: (its runtime's name or None, why)."""
    if shutil.which("docker") is None:
        return None, "there is no command docker"
    address = os.environ.get("DOCKER_HOST") or f"{_UNIX}{_DOCKER_SOCKET}"
    if not address.startswith(_UNIX):
        return None, f"DOCKER_HOST={address} is another machine"
    import socket

    path = address.removeprefix(_UNIX)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(path)
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            answer = connection.recv(4096)
    except (OSError, AttributeError) as error:
        return None, f"{path}: {error}"
    return ("docker", path) if b" 200 " in answer.split(b"\r\n", 1)[0] else (None, f"{path} gave no good answer")


def avoid(why: str) -> None:
    """Choose ``venv`` for the next hour where nothing is configured: looking for a base image again takes a while."""
    Records(config.cache_directory()).put("choices", "runtime", {"until": time.time() + _HOUR, "why": why})


def avoided() -> str | None:
    """Say why containers are not chosen for now; None if they may be."""
    found = Records(config.cache_directory()).get("choices", "runtime")
    return str(found["why"]) if found and float(found["until"]) > time.time() else None
