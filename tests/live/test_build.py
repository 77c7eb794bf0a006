"""Images of real wheels on real bases, run by engines, read by other people's programs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import pytest

import clustrix
from clustrix import locking
from clustrix.build.base import BuildResult, Recipe
from clustrix.build.baseimage import Base, resolve
from clustrix.build.layers import Layers
from clustrix.model.lock import Lock
from clustrix.model.source import RequirementsSource
from clustrix.oci.client import Client
from clustrix.oci.layout import Layout
from clustrix.publish import destination

from . import servers

pytestmark = pytest.mark.live

SOURCES = Path(clustrix.__file__).parents[1]
# Compiled code; a console script; a .pth file; files for share/.
REQUIREMENTS = "numpy\ntabulate\nsetuptools\njupyterlab-pygments\n"
INSIDE = """
import json, os, sys
sys.path.append("/src")
import numpy
from clustrix.worker import installed
with open("/opt/clustrix/fingerprint") as file:
    said = file.read().strip()
print(json.dumps({
    "sum": int(numpy.arange(10).sum()),
    "numpy": numpy.__file__,
    "compiled": os.path.exists(numpy.__cached__),
    "pth": "_distutils_hack" in sys.modules,
    "data": os.path.isdir(os.path.join(sys.prefix, "share/jupyter/labextensions/jupyterlab_pygments")),
    "base": sys.base_prefix,
    "path": [entry for entry in sys.path if "packages" in entry],
    "minor": "%d.%d" % sys.version_info[:2],
    "measured": installed.of_environment(),
    "said": said,
    "altered": [row.path for row in installed.altered()],
}))
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Shop:
    """Real wheels, and what they are built with."""

    place: Path
    lock: Lock
    wheels: dict[str, Path]

    def base(self, name: str, place: Path, client: Client | None = None) -> Base:
        return resolve(
            name,
            minor=self.lock.python,
            machine=self.lock.platform.machine,
            client=lambda: client or Client(),
            layout=Layout(place / "layout"),
            cache=place / "cache",
        )

    def recipe(self, base: Base, **more: object) -> Recipe:
        return Recipe(lock=self.lock, pylock=locking.write(self.lock), base=base, created=0, **more)  # type: ignore[arg-type]

    def build(self, base: str, place: Path, workers: int = 2, **more: object) -> BuildResult:
        recipe = self.recipe(self.base(base, place), **more)
        return Layers(Layout(place / "layout"), place / "cache", workers).build(recipe, self.wheels)


@pytest.fixture(scope="module")
def shop(bases: dict[str, servers.Base], tmp_path_factory: pytest.TempPathFactory) -> Shop:
    place = tmp_path_factory.mktemp("shop")
    (place / "requirements.txt").write_text(REQUIREMENTS)
    probed = resolve(
        f"oci:{bases['debian'].layout}",
        minor="3.11",
        machine=os.uname().machine,
        client=Client,
        layout=Layout(place / "layout"),
        cache=place / "cache",
    )
    _, python = probed.python("3.11")
    source = RequirementsSource(str(place / "requirements.txt"))
    lock = locking.lock(source, probed.platform, python.version, cache=place / "locking").lock
    return Shop(place, lock, locking.fetch(lock, place / "fetched"))


@contextlib.contextmanager
def loaded(result: BuildResult, layout: Path, name: str):
    """Have an image in the engine for a while."""
    destination(f"docker:{name}").publish(result.image, Layout(layout))
    try:
        yield name
    finally:
        with contextlib.closing(servers.docker_client()) as client:
            client.images.remove(name, force=True)


@pytest.mark.parametrize("base", ["debian", "usr-local"])
def test_an_image_runs_under_docker(shop: Shop, bases, docker_engine, tmp_path: Path, base: str) -> None:
    data = tmp_path / "data.txt"
    data.write_text("given\n")
    result = shop.build(
        f"oci:{bases[base].layout}", tmp_path, files=((str(data), "/srv/data.txt"),), variables=(("MODE", "fast"),)
    )
    name = f"clustrix-test/build-{base}:{os.getpid()}"
    with loaded(result, tmp_path / "layout", name):

        def run(*argv: str) -> str:
            options = ["--rm", "--read-only", "--network=none", "--user=1000:1000", f"--volume={SOURCES}:/src:ro"]
            return servers.run(["docker", "run", *options, name, *argv])

        said = json.loads(run("python", "-c", INSIDE))
        assert said == {
            "sum": 45,
            "numpy": "/opt/clustrix/venv/lib/python3.11/site-packages/numpy/__init__.py",
            "compiled": not result.bytecode.startswith("none"),
            "pth": True,
            "data": True,
            "base": {"debian": "/usr", "usr-local": "/usr/local"}[base],
            "path": ["/opt/clustrix/venv/lib/python3.11/site-packages"],
            "minor": "3.11",
            "measured": result.image.fingerprint,
            "said": result.image.fingerprint,
            "altered": [],
        }
        assert run("sh", "-c", "echo 'a b' | tabulate -f plain") == "a  b\n"
        assert run("cat", "/srv/data.txt") == "given\n"
        assert run("sh", "-c", "echo $MODE $VIRTUAL_ENV") == "fast /opt/clustrix/venv\n"
        assert result.image.lock_digest is not None
        assert result.image.lock_digest in run("cat", "/opt/clustrix/pylock.toml")
        # What an engine calls the image is what we call it.
        assert docker_engine.images.get(name).id == result.image.config_digest


def test_an_image_of_ours_is_a_base_too(shop: Shop, bases, docker_engine, tmp_path: Path) -> None:
    """Its packages are gone from the image on top: what was locked is what is there."""
    first = shop.build(f"oci:{bases['debian'].layout}", tmp_path)
    destination(f"oci:{tmp_path}/base:1").publish(first.image, Layout(tmp_path / "layout"))
    packages = tuple(package for package in shop.lock.packages if package.name == "tabulate")
    fewer = dataclasses.replace(shop, lock=dataclasses.replace(shop.lock, packages=packages))
    result = fewer.build(f"oci:{tmp_path}/base:1", tmp_path)
    name = f"clustrix-test/build-twice:{os.getpid()}"
    with loaded(result, tmp_path / "layout", name):
        code = (
            "import sys; sys.path.append('/src'); from clustrix.worker import installed as i; print(i.of_environment())"
        )
        said = servers.run(["docker", "run", "--rm", f"--volume={SOURCES}:/src:ro", name, "python", "-B", "-c", code])
        assert said.strip() == result.image.fingerprint


def test_two_clean_builds_are_the_same_image(shop: Shop, bases, tmp_path: Path) -> None:
    images = []
    for number, workers in enumerate((1, 4)):
        place = tmp_path / str(number)
        shuffled = dataclasses.replace(shop, wheels=dict(sorted(shop.wheels.items(), reverse=bool(number))))
        images.append(shuffled.build(f"oci:{bases['debian'].layout}", place, workers).image)
    assert images[0] == images[1]


def test_other_bases_share_all_layers_but_the_last(shop: Shop, bases, tmp_path: Path) -> None:
    first = shop.build(f"oci:{bases['debian'].layout}", tmp_path)
    second = shop.build(f"oci:{bases['usr-local'].layout}", tmp_path)
    assert [layer.title for layer in second.layers if not layer.reused] == ["environment"]
    assert [layer.digest for layer in first.layers[:-1]] == [layer.digest for layer in second.layers[:-1]]
    assert second.packed_bytes < 20_000


def test_skopeo_and_podman_accept_it(shop: Shop, bases, podman_engine, tmp_path: Path) -> None:
    servers.need("skopeo")
    result = shop.build(f"oci:{bases['usr-local'].layout}", tmp_path)
    out = tmp_path / "out"
    destination(f"oci:{out}:mine").publish(result.image, Layout(tmp_path / "layout"))
    found = json.loads(servers.run(["skopeo", "inspect", f"oci:{out}:mine"]))
    assert found["Digest"] == result.image.manifest_digest
    assert found["Labels"]["dev.clustrix.fingerprint"] == result.image.fingerprint
    image = podman_engine("pull", "--quiet", f"oci:{out}:mine").strip()
    try:
        argv = [
            "--rm",
            "--network=none",
            "--read-only",
            image,
            "python",
            "-c",
            "import numpy; print(numpy.arange(4).sum())",
        ]
        assert podman_engine("run", *argv) == "6\n"
    finally:
        podman_engine("rmi", "--force", image)


def test_a_base_in_a_registry_is_mounted_and_not_moved(
    shop: Shop, bases, registry: servers.Registry, tmp_path: Path
) -> None:
    reference = registry.load(bases["debian"].layout, f"bases/debian-{os.getpid()}:1")
    client = Client(insecure=[registry.host])
    base = shop.base(reference, tmp_path, client)
    assert base.reference is not None
    assert base.reference.startswith(reference.rpartition(":")[0] + "@sha256:")
    builder = Layers(Layout(tmp_path / "layout"), tmp_path / "cache")
    recipe = shop.recipe(base)
    result = builder.build(recipe, shop.wheels)
    assert result.base_reference == base.reference
    sent = destination(f"{registry.host}/mine/image:1", client=client).publish(result.image, builder.layout)
    ours = sum(layer.size for layer in result.layers)
    assert ours <= sent.uploaded_bytes < ours + 50_000
    before = client.stats.requests.total()
    again = shop.recipe(shop.base(reference, tmp_path, client))
    found = builder.find(again)
    assert found is not None
    assert found.image == result.image
    assert client.stats.requests.total() - before == 1  # the tag's HEAD


def test_a_change_of_one_package_moves_a_few_kilobytes(shop: Shop, bases, tmp_path: Path) -> None:
    shop.build(f"oci:{bases['debian'].layout}", tmp_path)
    fewer = dataclasses.replace(
        shop, lock=dataclasses.replace(shop.lock, packages=[p for p in shop.lock.packages if p.name != "tabulate"])
    )
    result = fewer.build(f"oci:{bases['debian'].layout}", tmp_path)
    assert result.packed_bytes < 2 << 20
    assert result.reused_bytes > result.packed_bytes
