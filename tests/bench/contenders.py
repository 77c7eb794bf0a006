"""What a user would pick instead, started as a user would start it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import ground as grounds
from uv import find_uv_bin

# As https://docs.astral.sh/uv/guides/integration/docker/ shows it.
DOCKERFILE = """\
FROM {base}
RUN uv venv --quiet --python python3.11 /opt/venv
COPY requirements.txt /requirements.txt
RUN --mount=type=cache,id={cache},target=/root/.cache/uv \\
    uv pip install --quiet --link-mode copy --python /opt/venv --index-url {index} {bytecode} \\
    --requirement /requirements.txt
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
"""
ENGINE_CLI = "/usr/bin/docker"
"""Debian's: it speaks BuildKit with the engine itself; newer ones do so through a plug-in that Debian does not have."""


@dataclass(frozen=True)
class DockerWithUv:
    """``docker build`` (BuildKit) and ``docker push``; the base, with uv in it, is there and in the registry already.

    uv's cache is kept between builds in a cache mount, which a cold build has a new one of.
    """

    base: str
    index: str
    context: Path
    bytecode: bool

    def build_and_push(self, requirements: str, reference: str, *, cache: str, cold: bool) -> None:
        """Build an image of a requirements file and push it; ``cold`` uses no layer of an earlier build."""
        self.context.mkdir(parents=True, exist_ok=True)
        (self.context / "requirements.txt").write_text(requirements)
        text = DOCKERFILE.format(
            base=self.base,
            index=self.index,
            cache=cache,
            bytecode="--compile-bytecode" if self.bytecode else "",
        )
        (self.context / "Dockerfile").write_text(text)
        fresh = ["--no-cache"] if cold else []
        build = [ENGINE_CLI, "build", "--quiet", "--network=host", *fresh, "--tag", reference, str(self.context)]
        grounds.run(*build, env={**os.environ, "DOCKER_BUILDKIT": "1"})
        grounds.run(ENGINE_CLI, "push", "--quiet", reference)


def base_with_uv(base: str, reference: str, context: Path) -> str:
    """Put uv on top of a base and push that, before anything is timed; its reference."""
    shutil.copy(find_uv_bin(), context / "uv")
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY uv /usr/local/bin/uv\n")
    grounds.run(ENGINE_CLI, "pull", "--quiet", base)
    grounds.run(ENGINE_CLI, "build", "--quiet", "--tag", reference, context)
    grounds.run(ENGINE_CLI, "push", "--quiet", reference)
    return reference


def forget(references: list[str]) -> None:
    """Remove images, which may not be there, and what BuildKit keeps of them."""
    for arguments in (
        ("rmi", "--force", *references),
        ("builder", "prune", "--force", "--filter", "type=exec.cachemount"),
        ("builder", "prune", "--force"),
    ):
        subprocess.run([ENGINE_CLI, *arguments], capture_output=True, check=False)
