"""Bytecode is the same whatever was compiled before, by however many processes; and it is the image's Python's."""

from __future__ import annotations

import marshal
import os
import sys
import zipfile
from pathlib import Path

import pytest

from clustrix.build import bytecode
from clustrix.errors import BuildError, DiskFull

ABI = f"cp3{sys.version_info[1]}"
# Names, constants and sets that share strings with each other and with what an interpreter has loaded already.
SOURCE = '''
"""Module {n}."""
import os, sys
NAMES = frozenset({{"path", "name", "value{n}", "zip", 1, 2.5}})
def check(path, name, value=None):
    """Check {n}."""
    if name in {{"os", "sys", "self", "path{n}"}}:
        return [value for value in (path, name, "posix", b"bytes", 10**{n})]
    class Inner:
        path = "/usr/lib/python3/{n}"
        def self(self): return lambda: (self.path, name, {n})
    return Inner
'''


def own() -> bytecode.Interpreter:
    found = bytecode.find(ABI)
    assert found is not None
    return found


def wheels(place: Path) -> list[Path]:
    made = []
    for number in range(6):
        path = place / f"w{number}-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for module in range(5):
                archive.writestr(f"w{number}/m{module}.py", SOURCE.format(n=number * 10 + module))
            archive.writestr(f"w{number}/bad.py", "def {{ name }}:\n")
        made.append(path)
    return made


def compile_all(place: Path, paths: list[Path], processes: int) -> dict[str, tuple[bytes, list[int | None]]]:
    place.mkdir()
    compiler = bytecode.Compiler(own(), place, processes)
    found = {}
    try:
        for path in paths:
            stem = path.name.partition("-")[0]
            names = [f"{stem}/m{module}.py" for module in range(5)] + [f"{stem}/bad.py"]
            made, sizes = compiler.compile(path, path.name, [(name, f"/site/{name}") for name in names])
            found[path.name] = (made.read_bytes(), sizes)
    finally:
        compiler.close()
    return found


def test_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    paths = wheels(tmp_path)
    first = compile_all(tmp_path / "one", paths, 1)
    assert first == compile_all(tmp_path / "two", paths[::-1], 3)
    data, sizes = first["w1-1-py3-none-any.whl"]
    assert sizes[-1] is None
    assert sum(size or 0 for size in sizes) == len(data)
    assert data[4:8] == b"\x01\0\0\0"  # PEP 552: by hash, and unchecked
    code = marshal.loads(data[16 : sizes[0]])  # noqa: S302 - what was written above
    assert code.co_filename == "/site/w1/m0.py"
    namespace: dict[str, object] = {}
    exec(code, namespace)  # noqa: S102
    assert namespace["__doc__"] == "Module 10."


def test_the_surroundings_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = wheels(tmp_path)
    first = compile_all(tmp_path / "one", paths, 1)
    (tmp_path / "evil").mkdir()
    for module in ("json", "zipfile", "sitecustomize"):
        (tmp_path / "evil" / f"{module}.py").write_text("raise SystemExit('not isolated')\n")
    for name, value in {"PYTHONPATH": "evil", "PYTHONHASHSEED": "7", "PYTHONOPTIMIZE": "2", "LANG": "C"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "evil")
    assert first == compile_all(tmp_path / "two", paths, 1)


def test_an_interpreter_that_dies_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no zip")
    (tmp_path / "out").mkdir()
    compiler = bytecode.Compiler(own(), tmp_path / "out", 1)
    with pytest.raises(BuildError, match=r"died while it compiled broken\.whl"):
        compiler.compile(broken, "x", [("a.py", "/a.py")])
    made, sizes = compiler.compile(wheels(tmp_path)[0], "y", [("w0/m0.py", "/m")])  # and the next one is a new one
    assert made.stat().st_size == sizes[0]
    compiler.close()
    with pytest.raises(BuildError, match="interrupted"):
        compiler.compile(broken, "z", [])


def test_no_space_is_said(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    compiler = bytecode.Compiler(own(), Path("/"), 1)
    (tmp_path / "full").symlink_to("/dev/full")
    try:
        with pytest.raises((DiskFull, FileExistsError)):
            compiler.compile(wheels(tmp_path)[0], "dev/full", [("w0/m0.py", "/m")])
    finally:
        compiler.close()


def test_absent_pythons() -> None:
    assert bytecode.find("cp399") is None
    assert own().version == ".".join(map(str, sys.version_info[:3]))
