"""The venv runtime on this machine."""

from __future__ import annotations

import platform
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import clustrix
from clustrix import errors
from clustrix.model import wheel
from clustrix.model.environment import Platform
from clustrix.model.lock import Lock, LockedFile, LockedPackage
from clustrix.model.paths import SitePaths
from clustrix.model.resources import Mount
from clustrix.runtimes.base import Artifact
from clustrix.runtimes.venv import Venv
from clustrix.schedulers.process import Process
from clustrix.transports.local import Local
from tests.unit.wheels import make_wheel, sha256

from .desk import Desk
from .runtimes import Room, Runtimes

if TYPE_CHECKING:
    from collections.abc import Sequence

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


def lock_of(wheels: Sequence[Path], python: str = MINOR) -> tuple[Lock, dict[str, Path]]:
    packages = []
    for path in wheels:
        name, version = path.name.split("-")[:2]
        packages.append(LockedPackage(name, version, LockedFile(path.name, sha256(path), path.as_uri())))
    lock = Lock(python, Platform(platform.machine(), (2, 17)), tuple(packages))
    return lock, {package.name: path for package, path in zip(packages, wheels, strict=True)}


@pytest.fixture
def room(tmp_path: Path) -> Room:
    wheels = [
        make_wheel(tmp_path, "speaker", "1.0"),
        make_wheel(
            tmp_path,
            "caller",
            "2.0",
            files={
                "caller/__init__.py": "def main(): print('called')\n",
                "caller-2.0.dist-info/entry_points.txt": "[console_scripts]\ncall-me = caller:main\n",
                "caller-2.0.data/scripts/old-style": "#!python\nprint('old')\n",
            },
        ),
    ]
    lock, files = lock_of(wheels)
    return Room(Venv(), Local(), SitePaths(str(tmp_path / "a root")), Artifact(lock=lock, wheels=files))


@pytest.mark.column("local venv")
class TestVenv(Runtimes):
    """The suite of every runtime."""


def test_it_holds_what_was_locked_and_nothing_else(room: Room) -> None:
    done = room.python(
        "import importlib.metadata as m; print(sorted(d.name for d in m.distributions())); import speaker, sys;"
        "print(speaker.VERSION, sys.prefix != sys.base_prefix)"
    )
    assert done.stdout.decode() == "['caller', 'speaker']\n1.0 True\n", done.stderr
    place = Path(room.ensure().location)
    assert {path.stat().st_mode & 0o777 for path in place.parent.iterdir()} == {0o700}
    for script, says in {"call-me": b"called\n", "old-style": b"old\n"}.items():
        assert room.transport.run(f"'{place}/bin/{script}'").stdout == says


def test_its_fingerprint_is_that_of_the_wheels(room: Room) -> None:
    """The worker, run in it, measures what was planned."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from clustrix.worker import installed;"
        "print(sorted(installed.fingerprints().items()))"
    )
    done = room.python(code, str(Path(clustrix.__file__).parents[1]))
    assert room.artifact.wheels is not None
    expected = {}
    for name, path in room.artifact.wheels.items():
        with zipfile.ZipFile(path) as archive:
            modes = {member.filename: member.external_attr >> 16 for member in archive.infolist()}
            expected[name] = wheel.plan(path.name, modes, archive.read, minor=MINOR).fingerprint
    assert done.stdout.decode().strip() == str(sorted(expected.items())), done.stderr


@pytest.mark.proves("success", "local venv")
def test_a_job_runs_in_it(room: Room, tmp_path: Path) -> None:
    placed = room.ensure()
    desk = Desk(Process(), Local(), room.site.root, tmp_path, interpreter=(placed.interpreter,))
    source = "def where():\n    import speaker, sys\n    return speaker.VERSION, sys.executable"
    assert desk.call(source).result(60) == ("1.0", f"{placed.location}/bin/python")


def test_a_python_that_went_away_is_replaced(room: Room) -> None:
    place = Path(room.ensure().location)
    (place / "bin/python").unlink()
    (place / "bin/python").symlink_to("/nowhere/python")
    assert room.python("print(1)").stdout == b"1\n"
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_no_python_of_that_minor_version(room: Room, tmp_path: Path) -> None:
    lock = replace(room.artifact.lock, python="3.99") if room.artifact.lock else None
    room.artifact = replace(room.artifact, lock=lock)
    with pytest.raises(errors.RuntimeUnavailable, match=r"no CPython 3\.99 .*found: .*cpython") as caught:
        room.ensure()
    assert "python3.99" in str(caught.value.remedy)
    assert not (tmp_path / "a root").exists()


def test_a_damaged_wheel_leaves_nothing_behind(room: Room, tmp_path: Path) -> None:
    assert room.artifact.wheels is not None
    broken = tmp_path / "speaker-1.0-py3-none-any.whl"
    broken.write_bytes(b"no zip")
    with pytest.raises(errors.UnsupportedPackage, match="speaker"):
        room.ensure()
    assert list((tmp_path / "a root" / "venvs").iterdir()) == []


@pytest.mark.proves("mounts at another path, or read-only", "local venv", refused="ConfigError")
@pytest.mark.parametrize("mount", [Mount("/data", "/input"), Mount("/data", "/data", read_only=True)])
def test_mounts_that_need_a_container_are_refused(room: Room, mount: Mount) -> None:
    with pytest.raises(errors.ConfigError, match="/data"):
        room.wrap(["-c", "pass"], mounts=(mount,))
