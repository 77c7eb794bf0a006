"""A wheel's plan is what an installer does with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from clustrix.errors import UnsupportedPackage
from clustrix.model import fingerprint
from clustrix.model.wheel import Plan, Script, localise, plan, pyvenv_cfg, tags_of
from tests.unit.wheels import Venv

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make(directory: Path, files: dict[str, str], *, wheel: str = WHEEL, name: str = "odd_one-1.0") -> Path:
    path = directory / f"{name}-py3-none-any.whl"
    info = f"{name}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: odd.one\nVersion: 1.0\n",
        f"{info}/WHEEL": wheel,
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            entry = zipfile.ZipInfo(member)
            entry.external_attr = (0o100755 if member.endswith(".sh") else 0o100644) << 16
            archive.writestr(entry, text)
        record = "".join(f"{member},sha256={'x' * 43},{len(text)}\n" for member, text in files.items())
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


def read(path: Path) -> tuple[Plan, zipfile.ZipFile]:
    archive = zipfile.ZipFile(path)
    modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
    return plan(path.name, modes, archive.read, minor=MINOR), archive


FILES = {
    "odd/__init__.py": "def main():\n    return 0\n",
    "odd/run.sh": "#!/bin/sh\n",
    "odd.pth": "import sys\n",
    "odd_one-1.0.data/purelib/pure.py": "1\n",
    "odd_one-1.0.data/platlib/plat.py": "2\n",
    "odd_one-1.0.data/data/share/odd/table.csv": "a,b\n",
    "odd_one-1.0.data/scripts/odd-script": "#!python\nprint(1)\n",
    "odd_one-1.0.data/headers/odd.h": "#pragma once\n",
    "odd_one-1.0.dist-info/entry_points.txt": (
        "[console_scripts]\nodd = odd:main\nOddX = odd.sub:A.run [extra]\n[other]\nx = y:z\n"
    ),
}


def test_every_scheme_lands_where_uv_puts_it(tmp_path: Path) -> None:
    wheel = make(tmp_path, FILES)
    made, archive = read(wheel)
    with archive:
        root = tmp_path / "venv"
        Venv(root).install(wheel)
        for member in made.members:
            content = archive.read(member.source)
            there = root / member.path
            if member.script:
                assert there.is_file()
                assert member.executable
            else:
                assert there.read_bytes() == content
                assert bool(there.stat().st_mode & 0o100) == member.executable, member
        for script in made.scripts:
            assert (root / "bin" / script.name).is_file()
        record = (root / made.record_path).read_text()
    assert {row.split(",")[0] for row in record.splitlines()} - {
        f"{made.dist_info}/{name}" for name in ("REQUESTED", "direct_url.json", "uv_cache.json")
    } == {
        row.split(",")[0]
        for row in made.record({made.installer_path: b"x", **{f"bin/{script.name}": b"x" for script in made.scripts}})
        .decode()
        .splitlines()
    }
    assert made.fingerprint == fingerprint.installed(made.name, made.version, ["py3-none-any"], record)
    assert made.scripts == (Script("OddX", "odd.sub", "A.run"), Script("odd", "odd", "main"))


def test_scripts_run_wherever_the_environment_stands(tmp_path: Path) -> None:
    for parent in (tmp_path / "short", tmp_path / "with space", tmp_path / ("deep" * 20) / ("deeper" * 10)):
        (parent / "bin").mkdir(parents=True)
        (parent / "bin/python").symlink_to(sys.executable)
        (parent / "pyvenv.cfg").write_bytes(pyvenv_cfg(os.path.realpath(sys.executable), MINOR))
        texts = {
            "made": Script("made", "json.tool", "main").text(str(parent / "bin/python")),
            "given": localise(b"#!python\nimport sys\nprint(sys.prefix)\n", str(parent / "bin/python")),
        }
        for name, text in texts.items():
            path = parent / "bin" / name
            path.write_bytes(text)
            path.chmod(0o755)
        assert subprocess.run([parent / "bin/made", "--help"], capture_output=True, check=True).stdout
        given = subprocess.run([parent / "bin/given"], capture_output=True, check=True, text=True)
        assert given.stdout.strip() == str(parent)
    assert localise(b"#!/bin/sh\n", "/x") == b"#!/bin/sh\n"


@pytest.mark.parametrize(
    ("files", "wheel", "words"),
    [
        ({"../evil.py": ""}, WHEEL, "outside"),
        ({"/evil.py": ""}, WHEEL, "outside"),
        ({"odd_one-1.0.data/data/../../../evil": ""}, WHEEL, "outside"),
        ({"odd_one-1.0.data/nowhere/x": ""}, WHEEL, "nobody knows"),
        ({}, WHEEL.replace("1.0", "2.0"), "version 2.0"),
        ({"odd_one-1.0.dist-info/entry_points.txt": "[console_scripts]\n../x = a:b\n"}, WHEEL, "cannot be made"),
        ({"odd_one-1.0.dist-info/entry_points.txt": "[console_scripts]\nx = a; import os\n"}, WHEEL, "cannot be made"),
    ],
)
def test_wheels_that_are_refused(tmp_path: Path, files: dict[str, str], wheel: str, words: str) -> None:
    with pytest.raises(UnsupportedPackage, match=words):
        read(make(tmp_path, files, wheel=wheel))


def test_tags_of_a_file_name() -> None:
    assert tags_of("a_b-1.0+cu121-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl") == {
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp311-cp311-manylinux2014_x86_64",
    }
    with pytest.raises(UnsupportedPackage):
        tags_of("numpy-1.0.tar.gz")
