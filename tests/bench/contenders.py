"""What a user would pick instead, started as a user would start it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

DOCKERFILE = """\
FROM {base}
COPY uv /usr/local/bin/uv
RUN uv venv --quiet --python python3.11 /opt/venv
COPY requirements.txt /requirements.txt
RUN uv pip install --quiet --python /opt/venv --index-url {index} {bytecode} --requirement /requirements.txt
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
"""


@dataclass(frozen=True)
class DockerWithUv:
    """``docker build`` and ``docker push`` of the Dockerfile that uv's own guide shows, base already present."""

    base: str
    index: str
    context: Path
    bytecode: bool

    def build_and_push(self, requirements: str, reference: str, *, cold: bool) -> None:
        """Build an image of a requirements file and push it; ``cold`` uses no layer of an earlier build."""
        self.context.mkdir(parents=True, exist_ok=True)
        if not (self.context / "uv").exists():
            shutil.copy(find_uv_bin(), self.context / "uv")
        (self.context / "requirements.txt").write_text(requirements)
        bytecode = "--compile-bytecode" if self.bytecode else ""
        text = DOCKERFILE.format(base=self.base, index=self.index, bytecode=bytecode)
        (self.context / "Dockerfile").write_text(text)
        fresh = ["--no-cache"] if cold else []
        run("docker", "build", "--quiet", "--network=host", *fresh, "--tag", reference, str(self.context))
        run("docker", "push", "--quiet", reference)


def run(*argv: str, **options: object) -> str:
    """Run a command to its end; its output if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return str(done.stdout)
