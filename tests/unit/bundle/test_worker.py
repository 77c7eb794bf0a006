"""The worker bundle: reproducible, found again, and enough for `import clustrix` in a bare Python."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

import clustrix
from clustrix.bundle import worker
from clustrix.worker.pickling import PRIVATE_NAME


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return worker.build(tmp_path_factory.mktemp("cache"))


def inside(bundle, code, python=sys.executable):
    """Run code where nothing but the bundle and the standard library can be imported."""
    start = f"import sys; sys.path[:] = [{str(bundle.path)!r}] + [p for p in sys.path if 'site-packages' not in p]\n"
    return subprocess.run([python, "-I", "-S", "-c", start + code], capture_output=True, text=True, check=False)


def test_the_same_files_make_the_same_bytes(bundle, tmp_path):
    again = worker.build(tmp_path)
    assert again.digest == bundle.digest
    assert again.path.read_bytes() == bundle.path.read_bytes()


def test_it_is_found_again_and_made_again_when_it_is_gone(tmp_path, monkeypatch):
    first = worker.build(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_entries", lambda sources: pytest.fail("it was made again"))
        assert worker.build(tmp_path) == first
    first.path.unlink()
    assert worker.build(tmp_path) == first
    assert first.path.is_file()


def test_it_holds_what_jobs_need_with_licences_and_bytecode_and_nothing_of_the_client(bundle):
    with zipfile.ZipFile(bundle.path) as archive:
        names = set(archive.namelist())
    assert {"__main__.py", f"{PRIVATE_NAME}.py", "clustrix/decorator.py", "clustrix/worker/__main__.py"} <= names
    assert {"licenses/clustrix", "licenses/cloudpickle"} <= names
    assert {f"{name}c" for name in names if name.endswith(".py")} <= names
    assert not [name for name in names if name.startswith(("clustrix/cli/", "clustrix/backends/", "cloudpickle/"))]


def test_what_user_code_names_can_be_imported_in_a_job(bundle):
    """Type annotations, decorators and errors of a user's module must not fail there."""
    public = sorted({*clustrix._HOMES, *clustrix.errors.__all__})
    done = inside(bundle, f"import clustrix\nfor name in {public!r}: getattr(clustrix, name)\nprint(clustrix.__file__)")
    assert done.returncode == 0, done.stderr
    assert str(bundle.path) in done.stdout


def test_all_that_travels_stands_by_itself(bundle):
    """A module that needs what only clients have would be dead weight of every job."""
    with zipfile.ZipFile(bundle.path) as archive:
        files = [name for name in archive.namelist() if name.startswith("clustrix/") and name.endswith(".py")]
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files]
    modules = [name for name in names if not name.endswith("__main__")]
    done = inside(bundle, f"import importlib\nfor name in {modules!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_what_only_a_client_can_do_says_so(bundle):
    done = inside(bundle, "from clustrix import job\njob('x')")
    assert "ConfigError: clustrix.job works where jobs are submitted" in done.stderr


def test_bytecode_is_what_is_run(bundle):
    code = "import clustrix.worker.payload as p; print(p.__file__, p.__loader__.get_source(p.__name__) is not None)"
    assert inside(bundle, code).stdout.split()[0].endswith("payload.pyc")


def test_an_old_python_says_what_it_needs(bundle):
    """The first file must be readable for any Python that an image may hold."""
    with zipfile.ZipFile(bundle.path) as archive:
        text = archive.read("__main__.py").decode()
    old = f"import sys; sys.version_info = (3, 8); exec(compile({text!r}, 'main', 'exec'))"
    done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "jobs need Python 3.10 or newer" in done.stderr


def test_without_a_compiler_it_is_slower_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(worker, "_COMPILE", "raise SystemExit('no compiler')")
    made = worker.build(tmp_path)
    assert "no compiler" in caplog.text
    assert inside(made, "import clustrix.worker.payload").returncode == 0
