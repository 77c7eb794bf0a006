"""Make wheels and sdists, build back-ends that need no index, and virtual environments, for tests."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from uv import find_uv_bin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BACKEND = """\
import base64, hashlib, os, pathlib, zipfile

NAME, VERSION, TAG = {name!r}, {version!r}, {tag!r}

def get_requires_for_build_wheel(config_settings=None):
    return []

get_requires_for_build_editable = get_requires_for_build_wheel

def write(directory, files):
    info = f"{{NAME}}-{{VERSION}}.dist-info"
    files = {{
        **files,
        f"{{info}}/METADATA": b"Metadata-Version: 2.1\\nName: %s\\nVersion: %s\\n" % (NAME.encode(), VERSION.encode()),
        f"{{info}}/WHEEL": b"Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: %s\\n" % TAG.encode(),
    }}
    rows = [f"{{n}},sha256={{base64.urlsafe_b64encode(hashlib.sha256(c).digest()).rstrip(b'=').decode()}},{{len(c)}}"
            for n, c in files.items()]
    files[f"{{info}}/RECORD"] = "\\n".join([*rows, f"{{info}}/RECORD,,", ""]).encode()
    filename = f"{{NAME}}-{{VERSION}}-{{TAG}}.whl"
    with zipfile.ZipFile(os.path.join(directory, filename), "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return filename

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    root = pathlib.Path("src")
    files = sorted(root.rglob("*.py"))
    return write(wheel_directory, {{path.relative_to(root).as_posix(): path.read_bytes() for path in files}})

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return write(wheel_directory, {{f"_editable_{{NAME}}.pth": str(pathlib.Path("src").resolve()).encode()}})
"""


def make_wheel(
    directory: Path,
    name: str,
    version: str,
    *,
    requires: Iterable[str] = (),
    tag: str = "py3-none-any",
    files: Mapping[str, str] | None = None,
    metadata: str = "",
) -> Path:
    """Write a wheel with a right RECORD."""
    module = name.replace("-", "_").replace(".", "_")
    stem = f"{module}-{version}"
    info = f"{stem}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    content = {
        **({f"{module}.py": f"VERSION = {version!r}\n"} if files is None else files),
        f"{info}/METADATA": "\n".join(lines) + f"\n{metadata}\nThe description.\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = io.StringIO()
    rows = [(member, f"sha256={_hash(text.encode())}", len(text)) for member, text in content.items()]
    csv.writer(record, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
    content[f"{info}/RECORD"] = record.getvalue()
    path = directory / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in content.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    return path


def make_project(
    directory: Path, name: str, version: str = "1.0", *, tag: str = "py3-none-any", more: str = ""
) -> Path:
    """Write a source tree that builds without any index; ``tag`` is what its wheels say they are for."""
    files = {
        "pyproject.toml": f'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n{more}',
        "backend.py": BACKEND.format(name=name, version=version, tag=tag),
        f"src/{name}/__init__.py": f"VERSION = {version!r}\n",
    }
    for path, text in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
    return directory


def make_sdist(directory: Path, name: str, version: str = "1.0", *, tag: str = "py3-none-any", work: Path) -> Path:
    """Write an sdist of `make_project`."""
    project = make_project(work / f"{name}-{version}", name, version, tag=tag)
    path = directory / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(project, f"{name}-{version}")
        info = tarfile.TarInfo(f"{name}-{version}/PKG-INFO")
        content = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return path


class Venv:
    """A real virtual environment that uv installs into."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        uv("venv", "--quiet", "--python", sys.executable, str(directory))

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    @property
    def site(self) -> Path:
        return next(self.directory.glob("lib/python*/site-packages"))

    def install(self, *arguments: object) -> None:
        """Install without an index."""
        uv("pip", "install", "--quiet", "--no-index", "--no-deps", "--python", str(self.python), *map(str, arguments))


def uv(*arguments: str) -> str:
    """Run uv as a user would; AssertionError with its words if it fails."""
    done = subprocess.run([find_uv_bin(), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
