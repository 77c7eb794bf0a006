"""Which of the caller's modules travel, what stays here, and what is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

from clustrix import errors
from clustrix.bundle import code, modules, tree
from clustrix.model.lock import Travelling


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a project: a dictionary of files, on sys.path; what it imported is forgotten afterwards."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    before = set(sys.modules)

    def make(files):
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())
        return root

    yield make
    for name in set(sys.modules) - before:
        if str(root) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def names(bundle):
    if bundle is None:
        return []
    with zipfile.ZipFile(bundle.path) as archive:
        return archive.namelist()


def collect(cache, *imported, travelling=()):
    return names(code.collect(frozenset(imported), travelling, cache))


def test_it_follows_imports_through_the_callers_own_modules_and_no_further(project, tmp_path):
    project(
        {
            "entry.py": "import os, click\nfrom helpers import a\n\ndef late():\n    import lazily.needed\n",
            "helpers.py": "from importlib import import_module\na = import_module('named')\n",
            "named.py": "import not_there\n",
            "lazily/__init__.py": "",
            "lazily/needed.py": "from . import near\n",
            "lazily/near.py": "",
            "lazily/deep/data.json": "{}",
            "unrelated.py": "",
            "space/part.py": "",
            "space/data.csv": "1,2",
        }
    )
    assert collect(tmp_path, "entry") == [
        "entry.py",
        "helpers.py",
        "lazily/__init__.py",
        "lazily/deep/data.json",
        "lazily/near.py",
        "lazily/needed.py",
        "named.py",
    ]
    # A directory without __init__.py may be anything: its sources travel, its data do not.
    assert collect(tmp_path, "space.part") == ["space/part.py"]


@pytest.mark.parametrize(
    "imported", [(), ("os.path", "json"), ("click", "pytest._code"), ("clustrix.errors",), ("__main__",)]
)
def test_what_is_installed_or_travels_anyway_stays(tmp_path, imported):
    assert code.collect(imported, (), tmp_path) is None
    assert code.collect(imported, (), tmp_path) is None  # from what was remembered


def test_hidden_files_caches_and_environments_stay(project, tmp_path):
    project(
        {
            "pack/__init__.py": "",
            "pack/.env": "SECRET=1",
            "pack/.git/config": "",
            "pack/__pycache__/x.pyc": b"",
            "pack/old.pyc": b"",
            "pack/venv/pyvenv.cfg": "",
            "pack/venv/lib/much.py": "",
            "pack/node_modules/x.js": "",
            "pack/kept.txt": "",
        }
    )
    assert collect(tmp_path, "pack") == ["pack/__init__.py", "pack/kept.txt"]


def test_links_are_followed_once(project, tmp_path):
    root = project({"pack/__init__.py": "", "outside/data.txt": "x"})
    (root / "pack/again").symlink_to(root / "pack")
    (root / "pack/data").symlink_to(root / "outside")
    (root / "pack/nowhere").symlink_to("/no/such")
    assert collect(tmp_path, "pack") == ["pack/__init__.py", "pack/data/data.txt"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pack/__init__.py": "", f"pack/_fast{EXTENSION_SUFFIXES[0]}": b"\x7fELF"}, "is compiled"),
        ({f"fast{EXTENSION_SUFFIXES[-1]}": b"\x7fELF"}, "no source file"),
        ({"pack/__init__.py": "", "pack/model.bin": b"x" * 2000}, "model.bin"),
        ({"pack/__init__.py": "", "pack/a": b"x" * 900, "pack/b": b"x" * 800, "pack/c": b"x" * 900}, "pack/a"),
    ],
    ids=["compiled part", "compiled module", "large file", "many files"],
)
def test_what_cannot_travel_is_refused_by_name(project, tmp_path, monkeypatch, files, words):
    project(files)
    monkeypatch.setattr(tree, "LARGEST_FILE", 1000)
    monkeypatch.setattr(tree, "LARGEST_BUNDLE", 2500)
    with pytest.raises(errors.CaptureError) as caught:
        collect(tmp_path, *(name.partition("/")[0].partition(".")[0] for name in files))
    assert words in str(caught.value)
    assert caught.value.remedy
    assert [path for path in tmp_path.rglob("*.zip") if "code" in path.parts] == []


def test_a_module_in_a_zip_or_without_a_file_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as archive:
        archive.writestr("zipped.py", "")
    monkeypatch.syspath_prepend(str(tmp_path / "pack.zip"))
    with pytest.raises(errors.CaptureError, match="'zipped' is no source file"):
        collect(tmp_path, "zipped")
    monkeypatch.setitem(sys.modules, "conjured", type(sys)("conjured"))
    with pytest.raises(errors.CaptureError, match="'conjured' was made at run time"):
        collect(tmp_path, "conjured")


def test_the_bundle_depends_on_content_alone(project, tmp_path):
    root = project({"pack/__init__.py": "x = 1\n", "pack/b.py": "", "single.py": "import pack"})
    first = code.collect(["single"], (), tmp_path / "one")
    for path in root.rglob("*"):
        os.utime(path, (1, 1))
    (root / "pack/b.py").chmod(0o700)
    second = code.collect(["single", "pack", "os"], (), tmp_path / "two")
    assert first.digest == second.digest
    assert first.path.read_bytes() == second.path.read_bytes()


def test_an_unchanged_tree_is_recognised_without_reading_it(project, tmp_path, monkeypatch):
    root = project({f"pack/m{number}.py": "import os\n" for number in range(50)} | {"pack/__init__.py": ""})
    first = code.collect(["pack"], (), tmp_path)

    def read(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(tree, "imports", read)
    monkeypatch.setattr(modules, "roots", read)
    assert code.collect(["pack"], (), tmp_path) == first
    first.path.unlink()  # a cache that was emptied
    monkeypatch.undo()
    sys.path.insert(0, str(root))
    try:
        assert code.collect(["pack"], (), tmp_path) == first
    finally:
        sys.path.remove(str(root))


def test_the_same_names_in_another_directory_are_other_modules(tmp_path, monkeypatch):
    """As notebooks have it, '' on sys.path is wherever the process is."""
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "beside_notebook.py").write_text(f"NAME = {name!r}\n")
        monkeypatch.chdir(tmp_path / name)
        digests.append(code.collect(["beside_notebook"], (), tmp_path / "cache").digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "pack/__init__.py").write_text("x = 2\n"),
        lambda root: (root / "pack/new.py").write_text(""),
        lambda root: (root / "pack/data.txt").unlink(),
        lambda root: (root / "missing.py").write_text("y = 1\n"),
    ],
    ids=["edited", "added", "removed", "a missing import appears"],
)
def test_every_change_makes_another_bundle(project, tmp_path, change):
    root = project({"pack/__init__.py": "import missing\n", "pack/data.txt": "", "pack/same.py": ""})
    first = code.collect(["pack"], (), tmp_path)
    time.sleep(0.02)  # a coarse clock of the file system
    change(root)
    import importlib

    importlib.invalidate_caches()
    assert code.collect(["pack"], (), tmp_path).digest != first.digest


def test_editables_travel_with_what_their_hooks_map_and_their_metadata(tmp_path):
    for name in ("src/pack/__init__.py", "src/pack/x.py", "src/single.py", "src/setup.py", "src/docs/conf.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for name in ("mapped/ns/deep/y.py", "mapped/alone.py", "pack-1.0.dist-info/METADATA", "pack-1.0.dist-info/RECORD"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    travelling = Travelling(
        name="pack",
        version="1.0",
        roots=(str(tmp_path / "src"),),
        modules=(("ns.deep", str(tmp_path / "mapped/ns/deep")), ("alone", str(tmp_path / "mapped/alone"))),
        metadata=str(tmp_path / "pack-1.0.dist-info"),
    )
    assert collect(tmp_path / "cache", travelling=[travelling]) == [
        "alone.py",
        "ns/deep/y.py",
        "pack-1.0.dist-info/METADATA",
        "pack/__init__.py",
        "pack/x.py",
        "single.py",
    ]


def test_what_pip_put_into_a_directory_of_sys_path_is_installed(project, tmp_path):
    project(
        {
            "vendored/__init__.py": "",
            "vendored-1.dist-info/RECORD": "vendored/__init__.py,,\nvendored-1.dist-info/RECORD,,\n",
            "mine.py": "import vendored\n",
        }
    )
    assert collect(tmp_path, "mine") == ["mine.py"]


def test_a_real_editable_with_compiled_parts_stays_for_the_image_brings_its_wheel(tmp_path):
    """An installed editable whose wheel is for one platform, found by a new interpreter in its own environment."""
    source = tmp_path / "fast"
    source.mkdir()
    (source / "fast.py").write_text("")
    site = tmp_path / "lib"
    info = site / "fast-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fast\nVersion: 1.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nTag: cp311-cp311-linux_x86_64\n")
    (info / "direct_url.json").write_text(f'{{"url": "{source.as_uri()}", "dir_info": {{"editable": true}}}}')
    script = (
        f"import sys; sys.path[:0] = [{str(site)!r}, {str(source)!r}]\n"
        "from pathlib import Path\nfrom clustrix.bundle import code\n"
        f"print(code.collect(['fast'], (), Path({str(tmp_path / 'cache')!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "None\n"
