"""Recipes of small environments."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.build.base import BuildResult, Recipe
from clustrix.build.compression import uncompressed
from clustrix.build.layers import Layers
from clustrix.model.environment import Platform, normalise
from clustrix.model.lock import Lock, LockedFile, LockedPackage
from clustrix.oci.layout import Layout
from tests.unit.wheels import make_wheel, sha256

from .bases import make_base, probed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SITE = "opt/clustrix/venv/lib/python3.11/site-packages"
PACKAGES: Mapping[str, dict[str, Any]] = {
    "alpha": {
        "files": {
            "alpha/__init__.py": "def main():\n    print('alpha runs')\n",
            "alpha/tests/__init__.py": "assert False\n",
            "alpha/template.py": "def {{ name }}():\n",
            "alpha-1.0.dist-info/entry_points.txt": "[console_scripts]\nalpha = alpha:main\n",
        }
    },
    "beta-two": {
        "files": {
            "beta_two.py": "WORDS = {'a', 'b', None}\n",
            "beta.pth": "import beta_two\n",
            "beta_two-1.0.data/scripts/beta": "#!python\nprint('beta runs')\n",
            "beta_two-1.0.data/data/share/beta/table.csv": "1,2\n",
        }
    },
    "space.one": {"files": {"space/one.py": "ONE = 1\n"}},
    "space.two": {"files": {"space/two.py": "TWO = 2\n"}},
    "big": {"files": {"big/__init__.py": "", "big/data.txt": "0123456789abcdef" * 70_000}},
}


def locked(wheel: Path, *, size: bool = True) -> LockedPackage:
    """Lock a wheel by its name and bytes."""
    name, version, *_ = wheel.name.split("-")
    file = LockedFile(wheel.name, sha256(wheel), wheel.as_uri(), wheel.stat().st_size if size else None)
    return LockedPackage(normalise(name), version, file)


class Environment:
    """Hold wheels, a base and the places that a build uses, all below one directory."""

    def __init__(self, place: Path, packages: Mapping[str, dict[str, Any]] = PACKAGES) -> None:
        self.place = place
        (place / "wheels").mkdir(parents=True)
        self.wheels = {
            normalise(name): make_wheel(place / "wheels", name, "1.0", **more) for name, more in packages.items()
        }
        self.base = make_base(place / "base")

    def add(self, name: str, version: str = "1.0", **more: Any) -> Path:
        """Make a wheel, instead of another version of it."""
        self.wheels[normalise(name)] = made = make_wheel(self.place / "wheels", name, version, **more)
        return made

    def recipe(self, **more: Any) -> Recipe:
        """Put everything into one recipe."""
        packages = more.pop("packages", None) or tuple(locked(wheel) for wheel in self.wheels.values())
        lock = Lock("3.11", Platform("x86_64", (2, 36)), packages)
        settings = {"pylock": "lock\n", "base": probed(self.base, self.place), "bytecode": False, "created": 0, **more}
        return Recipe(lock=lock, **settings)

    def builder(self, workers: int = 2) -> Layers:
        """Build below the same directory."""
        return Layers(Layout(self.place / "layout"), self.place / "cache", workers)

    def build(self, *, workers: int = 2, **more: Any) -> BuildResult:
        """Build everything."""
        return self.builder(workers).build(self.recipe(**more), self.wheels)

    def entries(self, result: BuildResult, title: str = "") -> dict[str, tarfile.TarInfo]:
        """Read the layers whose title starts with ``title``; a path that comes twice in one layer is an error."""
        found = {}
        for layer in result.layers:
            if layer.title.startswith(title):
                members = self.members(result, layer.digest)
                assert len({member.name for member in members}) == len(members)
                found.update({member.name: member for member in members})
        return found

    def members(self, result: BuildResult, digest: str) -> list[tarfile.TarInfo]:
        with self._open(result, digest) as archive:
            return archive.getmembers()

    def read(self, result: BuildResult, path: str) -> bytes:
        """Read a file of the image: the highest layer that has it counts."""
        for layer in reversed(result.layers):
            with self._open(result, layer.digest) as archive:
                if path in archive.getnames():
                    file = archive.extractfile(path)
                    assert file is not None
                    return file.read()
        raise AssertionError(f"no layer has {path}")

    def _open(self, result: BuildResult, digest: str) -> tarfile.TarFile:
        layout = Layout(self.place / "layout")
        media = {layer.digest: layer.media_type for layer in layout.manifest(result.image.manifest_digest).layers}
        with layout.open_blob(digest) as blob, uncompressed(blob, media[digest]) as stream:
            return tarfile.open(fileobj=io.BytesIO(stream.read()))


def leftovers(place: Path) -> list[str]:
    """List what an interrupted build must not leave: anything temporary."""
    return sorted(_hidden(os.walk(place)))


def _hidden(walk: Iterable[tuple[str, list[str], list[str]]]) -> Iterable[str]:
    for directory, directories, files in walk:
        for name in (*directories, *files):
            if name.startswith(".") and name not in {".index.lock", ".origins"}:
                yield str(Path(directory) / name)
