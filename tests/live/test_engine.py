"""Bases that Docker or Podman makes first: of a Dockerfile, and with apt packages from a repository inside of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from clustrix import bases, errors
from clustrix.build import engine
from clustrix.model.image import Image

from . import servers
from .stranger import Stranger, shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.locking.index import Index

pytestmark = pytest.mark.live

# A package, and the repository that serves it: nothing is fetched from anywhere.
DOCKERFILE = r"""
FROM {base}
COPY greeting /etc/greeting
RUN mkdir -p /repo/hello/DEBIAN /repo/hello/usr/bin && cd /repo \
 && printf 'Package: hello-tool\nVersion: 1.0\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: t\n' \
    >hello/DEBIAN/control \
 && printf '#!/bin/sh\necho hello\n' >hello/usr/bin/hello-tool && chmod 755 hello/usr/bin/hello-tool \
 && dpkg-deb --build hello hello.deb \
 && (cat hello/DEBIAN/control; stat --printf 'Filename: ./hello.deb\nSize: %s\n' hello.deb; \
     sha256sum hello.deb | sed 's/ .*//; s/^/SHA256: /') >Packages \
 && rm -r hello && echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list
LABEL test.clustrix.dev=engine
ENV GREETING=/etc/greeting
USER 1000
"""
SCRIPT = """
# /// script
# dependencies = ["tiny"]
# ///
from clustrix import Image, cluster

@cluster(image=Image.from_dockerfile("Dockerfile").apt_install("hello-tool"))
def look():
    import os, subprocess, tiny
    said = subprocess.run(["hello-tool"], capture_output=True, text=True, check=True).stdout
    return open(os.environ["GREETING"]).read(), said, tiny.VERSION

print(*look())
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with shop(tmp_path_factory.mktemp("shop"), {"tiny": None}) as index:
        yield index


@pytest.fixture(scope="module")
def stranger(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """One for all: what an engine made is taken from it once."""
    servers.need("engine")
    stranger = Stranger(tmp_path_factory.mktemp("engine"), index)
    yield stranger
    assert stranger.left_behind() == []
    stranger.forget_images()
    ours = ["--filter", "label=test.clustrix.dev=engine"]  # somebody else may be in the middle of a build
    subprocess.run(["docker", "image", "prune", "--all", "--force", *ours], capture_output=True, check=False)


@pytest.fixture
def dockerfile(stranger: Stranger) -> Path:
    servers.need("bases")
    base = servers.run([str(servers.IMAGES / "python" / "build"), servers.BASE_PYTHON, "bookworm"]).strip()
    (stranger.project / "greeting").write_text("hi there")
    path = stranger.project / "Dockerfile"
    path.write_text(DOCKERFILE.format(base=base))
    return path


def test_a_function_runs_on_what_an_engine_made(stranger: Stranger, dockerfile: Path) -> None:
    stranger.configured(runtime="docker")
    done = stranger("run", stranger.script(SCRIPT))
    assert (done.status, done.out) == (0, "hi there hello\n 1.0\n"), done.err


def test_a_dockerfile_is_looked_at_once_a_process(
    stranger: Stranger, dockerfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTRIX_STATE_DIR", str(stranger.state))
    order, told = Image.from_dockerfile(str(dockerfile)), []
    where = {"minor": servers.BASE_PYTHON, "machine": "x86_64", "before": told.append}
    first = bases.of(order, None, **where)
    dockerfile.with_name("greeting").write_text("changed")
    assert bases.of(order, None, **where) is first
    assert told == [f"docker builds {dockerfile}"]
    monkeypatch.setattr(bases, "_asked", {})  # as in another process
    assert bases.of(order, None, **where).digest != first.digest


@pytest.mark.parametrize("command", ["docker", "podman"])
def test_packages_go_on_a_base_once(
    stranger: Stranger, dockerfile: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    servers.need(command if command == "podman" else "engine")
    told = stranger(
        "build", "--requirements", _nothing(stranger), "--dockerfile", dockerfile, "--output", "oci:out", "--json"
    )
    assert told.status == 0, told.err
    below = f"oci:{stranger.project / 'out'}"
    monkeypatch.setattr(engine, "COMMANDS", (command,))
    monkeypatch.setenv("CLUSTRIX_STATE_DIR", str(stranger.state))
    if command == "podman":
        shutil.rmtree(stranger.state / "cache" / "engine")
    order = Image.from_environment(base=below).apt_install("hello-tool")
    where = {"minor": servers.BASE_PYTHON, "machine": "x86_64"}
    with pytest.raises(errors.BuildError, match="an engine makes the base first"):
        bases.of(order, None, **where, make=False)
    made = bases.of(order, None, **where)
    layers = json.loads((stranger.project / "out" / "index.json").read_bytes())
    assert len(layers["manifests"]) == 1
    under = bases.of(Image.from_environment(base=below), None, **where)
    assert made.manifest.layers[: len(under.manifest.layers)] == under.manifest.layers
    assert len(made.manifest.layers) > len(under.manifest.layers)
    assert made.config.settings["User"] == "1000"
    monkeypatch.setattr(engine, "COMMANDS", ())  # nobody is asked again
    assert bases.of(order, None, **where) == made
    with pytest.raises(errors.RuntimeUnavailable, match="neither is installed"):
        bases.of(order.apt_install("another"), None, **where)


def _nothing(stranger: Stranger) -> Path:
    path = stranger.project / "requirements.txt"
    path.write_text("tiny\n")
    return path


@pytest.mark.parametrize(
    ("package", "words", "remedy"),
    [
        ("not-there", "Unable to locate package not-there", "engine's own"),
        ("no name; rm -rf /", "is no apt package", "name=version"),
    ],
)
def test_what_apt_cannot_install(stranger: Stranger, dockerfile: Path, package: str, words: str, remedy: str) -> None:
    requirements = _nothing(stranger)
    done = stranger("build", "--requirements", requirements, "--dockerfile", dockerfile, "--apt", package)
    assert done.status != 0
    assert words in done.err
    assert remedy in done.err


def test_a_base_without_apt(stranger: Stranger, base_layout: Path) -> None:
    done = stranger("build", "--requirements", _nothing(stranger), "--base", f"oci:{base_layout}", "--apt", "gdal-bin")
    assert done.status != 0
    assert "has no apt-get" in done.err


def test_a_dockerfile_that_fails_or_is_not_there(stranger: Stranger, base_layout: Path) -> None:
    requirements = _nothing(stranger)
    absent = stranger("build", "--requirements", requirements, "--dockerfile", "absent")
    assert absent.status != 0
    tag = servers.bases()["debian"].tag
    words = f"{uuid.uuid4()} is broken"  # other runs may have left what they made
    (stranger.project / "Dockerfile").write_text(f"FROM {tag}\nRUN echo {words} >&2; exit 3\n")
    done = stranger("build", "--requirements", requirements, "--dockerfile", "Dockerfile")
    assert done.status != 0
    assert words in done.err
    # The step that failed ran in a container.
    listed = ["docker", "ps", "--all", "--no-trunc", "--format", "{{.Command}}"]
    left = subprocess.run(listed, capture_output=True, check=True)
    assert words.encode() not in left.stdout
    both = stranger(
        "build", "--requirements", requirements, "--dockerfile", "Dockerfile", "--base", f"oci:{base_layout}"
    )
    assert "a base or a Dockerfile, not both" in both.err
