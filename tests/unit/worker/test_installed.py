"""An environment has the fingerprint that its wheels had before they were installed, by whichever way."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from clustrix.errors import LockError
from clustrix.model.environment import Platform
from clustrix.model.lock import Lock, LockedFile, LockedPackage
from clustrix.worker import installed
from tests.unit.wheels import Venv, make_wheel, sha256

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
DATA = "odd_name-2.0.data"
ODD = {
    "odd/__init__.py": "def main():\n    pass\n",
    "odd/a,b.txt": "comma\n",
    "odd.pth": "import sys\n",
    f"{DATA}/data/share/odd/table.csv": "1,2\n",
    f"{DATA}/headers/odd.h": "#pragma once\n",
    f"{DATA}/scripts/odd-script": "#!python\nprint(1)\n",
    f"{DATA}/purelib/odd_pure.py": "1\n",
    "odd_name-2.0.dist-info/entry_points.txt": "[console_scripts]\nodd = odd:main\n",
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("wheels")
    return {
        "odd-name": make_wheel(directory, "odd.name", "2.0", files=ODD),
        "plain": make_wheel(
            directory, "plain", "1.0", tag=f"cp{MINOR.replace('.', '')}-abi3-linux_{os.uname().machine}"
        ),
    }


@pytest.fixture(scope="module")
def lock(wheels: dict[str, Path]) -> Lock:
    packages = [
        LockedPackage(name, "1", LockedFile(wheel.name, sha256(wheel), wheel.as_uri()))
        for name, wheel in wheels.items()
    ]
    return Lock(MINOR, Platform("x86_64", (2, 36)), tuple(packages))


def measured(python: Path) -> str:
    """Let the environment's own interpreter measure itself, as the worker does."""
    source = Path(installed.__file__).parents[2]
    code = f"import sys; sys.path.append({str(source)!r}); from clustrix.worker import installed; "
    argv = [str(python), "-I", "-c", code + "print(installed.of_environment())"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_installed_by_uv(tmp_path: Path, wheels: dict[str, Path], lock: Lock) -> None:
    venv = Venv(tmp_path / "venv")
    venv.install(*wheels.values())
    assert measured(venv.python) == installed.of_lock(lock, wheels)
    (venv.site / "plain-1.0.dist-info" / "RECORD").write_text("")
    assert measured(venv.python) != installed.of_lock(lock, wheels)


def test_installed_by_pip(tmp_path: Path, wheels: dict[str, Path], lock: Lock) -> None:
    venv = Venv(tmp_path / "venv")
    argv = [sys.executable, "-m", "pip", "--python", str(venv.python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*argv, *map(str, wheels.values())], check=True, capture_output=True)
    assert any(venv.site.rglob("*.pyc")), "pip compiles: bytecode must not count"
    assert measured(venv.python) == installed.of_lock(lock, wheels)


def test_unpacked(tmp_path: Path, wheels: dict[str, Path], lock: Lock) -> None:
    """Wheels unpacked as they are, as an image is built, with their data moved by nobody."""
    venv = Venv(tmp_path / "venv")
    plain = {"plain": wheels["plain"]}
    with zipfile.ZipFile(wheels["plain"]) as archive:
        archive.extractall(venv.site)
    own = Lock(lock.python, lock.platform, tuple(package for package in lock.packages if package.name == "plain"))
    assert measured(venv.python) == installed.of_lock(own, plain)


def test_first_of_a_name_is_used(tmp_path: Path) -> None:
    for place in ("a/Foo_Bar-2.0.dist-info", "a/foo.bar.egg-info", "b/foo_bar-1.0.dist-info", "b/~oo-1.0.dist-info"):
        (tmp_path / place).mkdir(parents=True)
    used, shadowed = installed.find([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "absent")])
    assert [(row.key, row.version) for row in used] == [("foo-bar", "2.0")]
    assert [(row.name, row.version) for row in shadowed] == [("foo.bar", ""), ("foo_bar", "1.0")]


def test_altered_files_are_found(tmp_path: Path, wheels: dict[str, Path]) -> None:
    venv = Venv(tmp_path / "venv")
    venv.install("--link-mode", "copy", *wheels.values())
    site = [str(venv.site)]
    assert list(installed.altered(site)) == []
    (venv.site / "plain.py").write_text("VERSION = 'mine'\n")
    (venv.site / "odd" / "a,b.txt").unlink()
    found = {(row.distribution, row.path, row.how) for row in installed.altered(site)}
    assert found == {("plain", "plain.py", "changed"), ("odd-name", "odd/a,b.txt", "missing")}
    assert installed.fingerprints(site) == installed.of_wheels(wheels), "only `altered` reads the files themselves"


def test_what_is_no_wheel(tmp_path: Path) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    path.write_text("<html>not found</html>")
    with pytest.raises(LockError, match="is no wheel"):
        installed.of_wheel(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.py", "")
    with pytest.raises(LockError, match="no RECORD"):
        installed.of_wheel(path)


def test_only_the_standard_library_is_imported() -> None:
    source = Path(installed.__file__).parents[2]
    code = f"import sys; sys.path[:0] = [{str(source)!r}]; from clustrix.worker import installed; "
    argv = [sys.executable, "-I", "-S", "-c", code + "installed.of_environment()"]
    subprocess.run(argv, check=True, capture_output=True, text=True)
