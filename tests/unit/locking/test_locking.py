"""Environments and the files that describe them, locked by the real uv against an index of our own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from clustrix import locking
from clustrix.capture import packages
from clustrix.errors import ClustrixError, HashMismatch, LockError, MissingExtra, UnsupportedPackage
from clustrix.locking import piptools
from clustrix.locking.target import Target
from clustrix.model.environment import Distribution, Environment, Interpreter, Origin, Platform
from clustrix.model.lock import LockResult, Status
from clustrix.model.source import ProjectSource, PylockSource, RequirementsSource, ScriptSource, Source
from clustrix.worker import installed
from tests.unit.wheels import Venv, make_project, make_sdist, make_wheel, sha256, uv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.locking.index import Index

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SHORT = "cp" + MINOR.replace(".", "")
MACHINE = os.uname().machine
OTHER_MACHINE = "aarch64" if MACHINE == "x86_64" else "x86_64"
HERE = installed.platform() or Platform(MACHINE, (2, 36))
COMPILED = f"{SHORT}-{SHORT}-linux_{MACHINE}"


def environment(*rows: Distribution, platform: Platform | None = HERE) -> Environment:
    python = ".".join(map(str, sys.version_info[:3]))
    return Environment(
        interpreter=Interpreter("cpython", python, SHORT), platform=platform, distributions=tuple(rows), shadowed=()
    )


def row(name: str, version: str = "1.0", **more: object) -> Distribution:
    return Distribution(name=name, version=version, **more)  # type: ignore[arg-type]


def lock(source: Source, tmp_path: Path, platform: Platform = HERE, **options: object) -> LockResult:
    return locking.lock(source, platform, MINOR, cache=tmp_path / "cache", **options)  # type: ignore[arg-type]


def statuses(result: LockResult) -> dict[str, Status]:
    return {each.name: each.status for each in result.report.rows}


def versions(result: LockResult) -> dict[str, str]:
    return {package.name: package.version for package in result.lock.packages}


# --- the running environment ------------------------------------------------------------------------------------------


def test_the_whole_way(index: Index, tmp_path: Path) -> None:
    """Captured, locked, fetched, compared, written, installed from what was written: the same everywhere."""
    make_wheel(index.files, "ruamel.yaml", "0.18", requires=["clib"])
    make_wheel(index.files, "clib", "0.2", tag=f"{SHORT}-{SHORT}-manylinux_2_17_{MACHINE}")
    make_wheel(index.files, "clib", "0.3", tag=f"{SHORT}-{SHORT}-manylinux_2_17_{MACHINE}")
    venv = Venv(tmp_path / "venv")
    uv("pip", "install", "--quiet", "--python", str(venv.python), "ruamel.yaml", "clib<0.3")
    captured = packages.capture([str(venv.site)])

    result = lock(captured, tmp_path)
    assert versions(result) == {"clib": "0.2", "ruamel-yaml": "0.18"}
    assert set(statuses(result).values()) == {Status.SAME_VERSION}
    wheels = locking.fetch(result.lock, tmp_path / "cache")
    assert {each.status for each in locking.compare(result, captured, wheels).rows} == {Status.EXACT}
    here = replace(installed.interpreter())
    assert here.minor == MINOR
    assert installed.of_wheels(wheels) == installed.fingerprints([str(venv.site)])

    path = tmp_path / "pylock.toml"
    path.write_text(locking.write(result.lock))
    assert locking.read(path) == result.lock
    again = Venv(tmp_path / "again")
    uv("pip", "install", "--quiet", "--python", str(again.python), "--preview", "--requirements", str(path))
    assert installed.of_environment([str(again.site)]) == installed.of_lock(result.lock, wheels)
    assert lock(PylockSource(str(path)), tmp_path).lock.digest == result.lock.digest


def test_another_build_of_the_same_version_is_told(index: Index, tmp_path: Path) -> None:
    venv = Venv(tmp_path / "venv")
    venv.install(make_wheel(tmp_path, "numpy", "1.0", files={"numpy.py": "blas = 'mine'\n"}))
    (venv.site / "numpy-1.0.dist-info" / "direct_url.json").unlink()
    make_wheel(index.files, "numpy", "1.0", files={"numpy.py": "blas = 'theirs'\n"})
    captured = packages.capture([str(venv.site)])
    result = lock(captured, tmp_path)
    compared = locking.compare(result, captured, locking.fetch(result.lock, tmp_path / "cache"))
    assert [each.status for each in compared.rows] == [Status.OTHER_BUILD]


def test_origins(index: Index, tmp_path: Path) -> None:
    """What is not from an index is built or travels; strangers of the same names wait on the index in vain."""
    for name in ("mine", "compiled", "built", "local", "repo"):
        make_wheel(index.files, name, "1.0", files={f"{name}.py": "stranger = True\n"})
    make_sdist(index.files, "old", work=tmp_path / "old")
    mine = make_project(tmp_path / "mine", "mine")
    compiled = make_project(tmp_path / "compiled", "compiled", tag=COMPILED)
    built = make_project(tmp_path / "built", "built")
    repo = make_project(tmp_path / "repo", "repo")
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", str(repo)]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "First"]):
        subprocess.run([*git, *words], check=True)
    local = make_wheel(tmp_path, "local", "1.0+cpu")
    venv = Venv(tmp_path / "venv")
    wanted = ["-e", str(mine), "-e", str(compiled), str(built), f"repo @ git+{repo.as_uri()}", str(local), "old"]
    uv("pip", "install", "--quiet", "--python", str(venv.python), *wanted)
    (repo / "src" / "repo" / "__init__.py").write_text("VERSION = 'not committed'\n")

    captured = packages.capture([str(venv.site)])
    before = sorted(path.name for path in built.rglob("*"))
    result = lock(captured, tmp_path)
    assert statuses(result) == {
        "mine": Status.TRAVELS,
        "compiled": Status.REBUILT,
        "built": Status.REBUILT,
        "repo": Status.REBUILT,
        "local": Status.SAME_VERSION,
        "old": Status.REBUILT,
    }
    assert versions(result)["local"] == "1.0+cpu"
    (travelling,) = result.travelling
    assert travelling.paths == (str(mine / "src"), str(venv.site / "mine-1.0.dist-info"))
    wheels = locking.fetch(result.lock, tmp_path / "cache")
    fingerprints = installed.fingerprints([str(venv.site)])
    same = {name for name, wheel in wheels.items() if installed.of_wheel(wheel) == fingerprints[name]}
    assert same == {"built", "repo", "local", "old"}, "compiled is installed as an editable, and locked as a wheel"
    compared = locking.compare(result, captured, wheels)
    assert {each.name for each in compared.having(Status.EXACT)} == same
    assert {each.name for each in compared.having(Status.REBUILT)} == {"compiled"}
    assert sorted(path.name for path in built.rglob("*")) == before, "nothing is written beside the user's files"
    assert lock(captured, tmp_path).lock == result.lock
    (built / "src" / "built" / "__init__.py").write_text("VERSION = 'edited'\n")
    assert lock(captured, tmp_path).lock != result.lock


def test_what_was_installed_from_a_vanished_place_is_refused(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "local", "1.0")
    gone = row("local", origin=Origin.ARCHIVE, url=(tmp_path / "local-1.0-py3-none-any.whl").as_uri())
    with pytest.raises(UnsupportedPackage, match=r"local 1.0 was installed from .*does not exist any more"):
        lock(environment(gone), tmp_path)


def test_conda_is_substituted_and_listed_or_refused_by_name(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "numpy", "1.0")
    make_wheel(index.files, "six", "1.0")
    numpy, mkl, blas = (row(name, origin=Origin.CONDA) for name in ("numpy", "mkl-service", "blas"))
    result = lock(environment(numpy, row("six")), tmp_path)
    assert statuses(result) == {"numpy": Status.SUBSTITUTED, "six": Status.SAME_VERSION}
    assert "numpy 1.0 (conda's build" in result.report.text()
    with pytest.raises(UnsupportedPackage, match=r"only conda has mkl-service==1\.0, blas==1\.0"):
        lock(environment(numpy, mkl, blas), tmp_path)


def test_everything_that_cannot_be_had_is_named(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "fine", "1.0")
    make_wheel(index.files, "old", "0.9")
    make_wheel(index.files, "windows", "1.0", tag=f"{SHORT}-{SHORT}-win_amd64")
    rows = [row(name) for name in ("fine", "old", "windows", "nowhere")]
    with pytest.raises(UnsupportedPackage, match=r"old==1\.0, windows==1\.0, nowhere==1\.0") as raised:
        lock(environment(*rows), tmp_path)
    assert "fine" not in raised.value.message
    system = row("python-apt", location="/usr/lib/python3/dist-packages/python_apt-1.0.dist-info")
    with pytest.raises(UnsupportedPackage, match="python-apt came with the operating system: work in a virtual env"):
        lock(environment(row("fine"), system), tmp_path)


def test_clustrix_and_what_only_it_needs_are_left_out(index: Index, tmp_path: Path) -> None:
    for name in ("clustrix", "rich", "click"):
        make_wheel(index.files, name, "1.0", files={f"{name}.py": "stranger = True\n"})
    result = lock(
        environment(
            row("clustrix", requires=("rich", "click"), origin=Origin.EDITABLE, url="file:///x"),
            row("rich", installer="pip", requested=False),
            row("click", installer="pip", requested=True),
        ),
        tmp_path,
    )
    assert versions(result) == {"click": "1.0"}
    assert statuses(result)["clustrix"] is Status.LEFT_OUT
    assert "rich 1.0 (only clustrix needs it)" in result.report.text()


def test_another_python_or_no_cpython_is_refused(tmp_path: Path) -> None:
    python = Interpreter("cpython", "3.9.1", "cp39")
    with pytest.raises(LockError, match="functions do not travel between them"):
        lock(replace(environment(), interpreter=python), tmp_path)
    for odd in (Interpreter("pypy", f"{MINOR}.1", "pypy310"), Interpreter("cpython", f"{MINOR}.1", f"{SHORT}t")):
        with pytest.raises(LockError, match="CPython with the GIL"):
            lock(replace(environment(), interpreter=odd), tmp_path)


def test_a_base_with_an_older_patch_level_is_told(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "soup", "1.0", metadata=f"Requires-Python: >={MINOR}.5\n")
    source = environment(row("soup", requires_python=f">={MINOR}.5"))
    assert not [note for note in lock(source, tmp_path).report.notes if "soup" in note]
    result = locking.lock(source, HERE, f"{MINOR}.2", cache=tmp_path / "cache")
    assert f"soup 1.0 wants Python >={MINOR}.5; the target has {MINOR}.2" in result.report.notes
    assert result.lock.python == MINOR


# --- another platform -------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(index: Index) -> Environment:
    """Describe a macOS environment: `app` needs other packages here than there."""
    requires = ["appnope; sys_platform == 'darwin'", "epoll; sys_platform == 'linux'", "fast", "shared"]
    make_wheel(index.files, "app", "1.0", requires=requires)
    make_wheel(index.files, "epoll", "3.0")
    make_wheel(index.files, "shared", "1.0")
    make_wheel(index.files, "shared", "2.0")
    make_wheel(index.files, "fast", "1.0", tag=f"{SHORT}-{SHORT}-macosx_11_0_arm64")
    make_wheel(index.files, "fast", "1.0", tag=f"{SHORT}-{SHORT}-manylinux_2_28_{OTHER_MACHINE}")
    # As its metadata reads on macOS: markers are evaluated there, so only what holds there is a need.
    here = (*(line for line in requires if "darwin" not in line), "appnope")
    rows = (row("app", requires=here), row("appnope"), row("fast"), row("shared"))
    return environment(*rows, platform=None)


def test_another_platform(foreign: Environment, tmp_path: Path) -> None:
    result = lock(foreign, tmp_path, Platform(OTHER_MACHINE, (2, 31)))
    assert versions(result) == {"app": "1.0", "epoll": "3.0", "fast": "1.0", "shared": "1.0"}
    assert statuses(result) == {
        "app": Status.SAME_VERSION,
        "appnope": Status.DROPPED,
        "epoll": Status.ADDED,
        "fast": Status.SAME_VERSION,
        "shared": Status.SAME_VERSION,
    }
    files = {package.name: package.file.filename for package in result.lock.packages}
    assert files["fast"] == f"fast-1.0-{SHORT}-{SHORT}-manylinux_2_28_{OTHER_MACHINE}.whl"


def test_strict_refuses_any_difference(foreign: Environment, tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"appnope \(dropped\), epoll \(added\)"):
        lock(foreign, tmp_path, Platform(OTHER_MACHINE, (2, 31)), strict=True)


def test_no_wheel_for_the_platform(foreign: Environment, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedPackage, match="fast"):
        lock(foreign, tmp_path, Platform(OTHER_MACHINE, (2, 27)))


def test_sources_that_are_not_compiled_fit_every_platform(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "mine", "1.0", files={"mine.py": "stranger = True\n"})
    make_wheel(index.files, "needed", "1.0")
    make_sdist(index.files, "old", work=tmp_path / "old")
    mine = make_project(tmp_path / "mine", "mine", more='dependencies = ["clustrix", "needed"]\n')
    compiled = make_project(tmp_path / "compiled", "compiled", tag=COMPILED)
    (tmp_path / "mine" / "src" / "mine" / "__init__.py").write_text("stranger = False\n")
    built = row("mine", origin=Origin.DIRECTORY, url=mine.as_uri())
    needed = row("needed")
    result = lock(environment(built, row("old"), needed), tmp_path, Platform(OTHER_MACHINE, (2, 31)))
    assert statuses(result) == {"mine": Status.REBUILT, "old": Status.REBUILT, "needed": Status.SAME_VERSION}
    assert result.lock.packages[0].file.filename == "mine-1.0-py3-none-any.whl"
    odd = row("compiled", origin=Origin.DIRECTORY, url=compiled.as_uri())
    with pytest.raises(UnsupportedPackage, match=r"compiled has no wheel for .* does not fit"):
        lock(environment(odd), tmp_path, Platform(OTHER_MACHINE, (2, 31)))
    with pytest.raises(UnsupportedPackage, match=r"compiled has no wheel for .* does not fit"):
        lock(environment(odd), tmp_path, Platform(MACHINE, (2, 17)))


# --- requirements beside it, memory, tools ----------------------------------------------------------------------------


def test_requirements_are_added_and_win(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "six", "1.0")
    make_wheel(index.files, "six", "2.0")
    make_wheel(index.files, "extra", "1.0", requires=["six", "kept"])
    make_wheel(index.files, "kept", "1.0")
    make_wheel(index.files, "kept", "2.0")
    source = environment(row("six"), row("kept"))
    result = lock(source, tmp_path, requirements=("extra", "six>=2"))
    assert versions(result) == {"extra": "1.0", "kept": "1.0", "six": "2.0"}
    assert statuses(result) == {"extra": Status.ADDED, "kept": Status.SAME_VERSION, "six": Status.CHANGED}
    with pytest.raises(UnsupportedPackage, match=r"^six cannot be had"):
        lock(source, tmp_path, requirements=("extra", "six>=3"))
    with pytest.raises(LockError, match="not a requirement"):
        lock(source, tmp_path, requirements=("not a requirement",))


def test_the_same_question_is_asked_once(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "six", "1.0")
    first = lock(environment(row("six")), tmp_path)
    assert first.report.notes == (f"resolved by {uv('--version').split(' (')[0].strip()}",)
    asked = len(index.requests)
    assert lock(environment(row("six")), tmp_path) == first
    assert len(index.requests) == asked
    make_wheel(index.files, "six", "1.0", files={"six.py": "another = 'build'\n"})
    assert lock(environment(row("six")), tmp_path, refresh=True) != first


def test_pip_tools_gives_the_same_lock(index: Index, tmp_path: Path) -> None:
    pytest.importorskip("piptools", reason="the pip-tools extra is not installed")
    make_wheel(index.files, "app", "1.0", requires=["clib"])
    make_wheel(index.files, "clib", "0.2", tag=f"{SHORT}-{SHORT}-manylinux_2_17_{MACHINE}")
    make_wheel(index.files, "clib", "0.2")
    make_sdist(index.files, "old", work=tmp_path / "old")
    (tmp_path / "requirements.txt").write_text("app\n")
    live = environment(row("app"), row("clib", "0.2"), row("old"))
    for source in (live, RequirementsSource(str(tmp_path / "requirements.txt"))):
        results = [lock(source, tmp_path, tool=tool) for tool in ("pip-tools", "uv")]
        assert results[0].lock.digest == results[1].lock.digest
        assert results[0].report.notes[0].startswith("resolved by pip-tools ")
    assert statuses(lock(live, tmp_path, tool="pip-tools"))["old"] is Status.REBUILT
    with pytest.raises(UnsupportedPackage, match=r"nowhere==1\.0"):
        piptools.pins(["nowhere==1.0"], Target(HERE, MINOR))
    with pytest.raises(LockError, match="pip-tools locks for the Python and platform it runs on"):
        lock(environment(row("app"), platform=None), tmp_path, Platform(OTHER_MACHINE, (2, 31)), tool="pip-tools")


def test_tools_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustrix.locking.piptools.find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match="pip-tools"):
        lock(environment(row("six")), tmp_path, tool="pip-tools")
    with pytest.raises(ClustrixError, match="no such locker: 'poetry'"):
        lock(environment(row("six")), tmp_path, tool="poetry")


# --- files that describe an environment -------------------------------------------------------------------------------


def test_requirements_without_hashes_are_resolved(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "app", "1.0", requires=["six"])
    make_wheel(index.files, "six", "1.0")
    path = tmp_path / "requirements.txt"
    path.write_text("app\n")
    result = lock(RequirementsSource(str(path)), tmp_path)
    assert statuses(result) == {"app": Status.RESOLVED, "six": Status.RESOLVED}


def test_requirements_with_hashes_are_held_to_them(index: Index, tmp_path: Path) -> None:
    pure = make_wheel(index.files, "six", "1.0")
    make_wheel(index.files, "six", "1.0", tag=f"{SHORT}-{SHORT}-manylinux_2_17_{MACHINE}")
    path = tmp_path / "requirements.txt"
    path.write_text(f"six==1.0 \\\n    --hash=sha256:{sha256(pure)}\n")
    result = lock(RequirementsSource(str(path)), tmp_path)
    assert statuses(result) == {"six": Status.LOCKED}
    assert result.lock.packages[0].file.filename == pure.name, "the better wheel has no hash in the file"
    path.write_text(f"six==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(HashMismatch, match=r"no file of six 1\.0 has a hash that the requirements list"):
        lock(RequirementsSource(str(path)), tmp_path)


def test_requirements_with_source_trees(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "mine", "1.0", files={"mine.py": "stranger = True\n"})
    make_project(tmp_path / "mine", "mine")
    make_project(tmp_path / "built", "built")
    path = tmp_path / "requirements.txt"
    path.write_text("-e ./mine\n./built\n")
    result = lock(RequirementsSource(str(path)), tmp_path)
    assert statuses(result) == {"mine": Status.TRAVELS, "built": Status.REBUILT}
    (travelling,) = result.travelling
    assert travelling.modules == (("mine", str(tmp_path / "mine" / "src" / "mine")),)
    assert travelling.metadata is not None
    assert travelling.metadata.endswith("mine-1.0.dist-info")
    (tmp_path / "mine" / "src" / "mine" / "__init__.py").write_text("an = 'edit'\n")
    assert lock(RequirementsSource(str(path)), tmp_path) == result, "an edit of the code builds nothing"


def test_a_change_of_what_a_source_tree_requires_is_noticed(index: Index, tmp_path: Path) -> None:
    make_wheel(index.files, "six", "1.0")
    make_project(tmp_path / "mine", "mine", more='dependencies = ["clustrix"]\n')
    path = tmp_path / "requirements.txt"
    path.write_text("-e ./mine\n")
    assert versions(lock(RequirementsSource(str(path)), tmp_path)) == {}
    make_project(tmp_path / "mine", "mine", more='dependencies = ["clustrix", "six"]\n')
    assert versions(lock(RequirementsSource(str(path)), tmp_path)) == {"six": "1.0"}


def test_script(index: Index, tmp_path: Path) -> None:
    for name in ("six", "appnope", "rich"):
        make_wheel(index.files, name, "1.0")
    make_wheel(index.files, "clustrix", "1.0", requires=["rich"])
    path = tmp_path / "fit.py"
    needs = '["six", "clustrix", "appnope; sys_platform == \'darwin\'"]'
    path.write_text(f'# /// script\n# requires-python = ">=3.10"\n# dependencies = {needs}\n# ///\n')
    assert statuses(lock(ScriptSource(str(path)), tmp_path)) == {"six": Status.RESOLVED}
    assert not (tmp_path / "fit.py.lock").exists(), "nobody asked for one"
    uv("lock", "--quiet", "--script", str(path))
    make_wheel(index.files, "six", "2.0")
    result = lock(ScriptSource(str(path)), tmp_path)
    assert statuses(result) == {"six": Status.LOCKED}
    assert versions(result) == {"six": "1.0"}
    path.write_text(path.read_text().replace(">=3.10", ">=3.99"))
    with pytest.raises(LockError, match=f"requires Python >=3.99; the target has {MINOR}"):
        lock(ScriptSource(str(path)), tmp_path)


@pytest.fixture
def project(index: Index, tmp_path: Path) -> Path:
    for name in ("six", "gpu", "docs", "dev", "rich"):
        make_wheel(index.files, name, "1.0")
    make_wheel(index.files, "clustrix", "1.0", requires=["rich"])
    more = (
        'requires-python = ">=3.10"\ndependencies = ["six", "clustrix"]\n'
        '[project.optional-dependencies]\ngpu = ["gpu"]\n'
        '[dependency-groups]\ndev = ["dev"]\ndocs = ["docs"]\n'
    )
    directory = make_project(tmp_path / "project", "mine", more=more)
    uv("lock", "--quiet", "--project", str(directory))
    return directory


def test_project(project: Path, tmp_path: Path) -> None:
    """Nothing is implied; clustrix goes, with what only it needs; the project's own code is no part of the lock."""
    result = lock(ProjectSource(str(project)), tmp_path)
    assert versions(result) == {"six": "1.0"}
    assert statuses(result) == {"six": Status.LOCKED, "mine": Status.TRAVELS}
    chosen = lock(ProjectSource(str(project), ("gpu",), ("docs",)), tmp_path)
    assert versions(chosen) == {"docs": "1.0", "gpu": "1.0", "six": "1.0"}
    with pytest.raises(LockError, match="nothing"):
        lock(ProjectSource(str(project), ("nothing",)), tmp_path)


def test_project_that_has_changed_since_it_was_locked(project: Path, tmp_path: Path) -> None:
    lock(ProjectSource(str(project)), tmp_path)
    text = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(text.replace('"six", ', '"six", "rich", '))
    with pytest.raises(LockError, match=r"uv.lock is out of date") as raised:
        lock(ProjectSource(str(project)), tmp_path)
    assert raised.value.remedy == "Update it with: uv lock"
    (project / "uv.lock").unlink()
    with pytest.raises(LockError, match=r"there is no uv.lock"):
        lock(ProjectSource(str(project)), tmp_path)


def test_identity_changes_with_whatever_decides_on_a_lock(tmp_path: Path) -> None:
    """And with nothing else: an edit of a script's code or of a travelling source asks no question again."""
    built = make_project(tmp_path / "built", "built")
    mine = make_project(tmp_path / "mine", "mine")
    (tmp_path / "requirements.txt").write_text("-r more.txt\n")
    (tmp_path / "more.txt").write_text(f"six\n{tmp_path}/tree\n")
    tree = make_project(tmp_path / "tree", "tree")
    (tmp_path / "fit.py").write_text('# /// script\n# dependencies = ["six"]\n# ///\nprint(1)\n')
    live = environment(
        row("built", origin=Origin.DIRECTORY, url=built.as_uri()),
        row("mine", origin=Origin.EDITABLE, url=mine.as_uri()),
    )
    requirements = RequirementsSource(str(tmp_path / "requirements.txt"))
    script = ScriptSource(str(tmp_path / "fit.py"))

    def edit(path: Path, old: str, new: str) -> None:
        path.write_text(path.read_text().replace(old, new))

    edits = [
        (live, built / "src" / "built" / "__init__.py", "VERSION", "OTHER", True),
        (live, mine / "src" / "mine" / "__init__.py", "VERSION", "OTHER", False),
        (requirements, tmp_path / "more.txt", "six", "rich", True),
        (requirements, tree / "src" / "tree" / "__init__.py", "VERSION", "OTHER", True),
        (script, tmp_path / "fit.py", "print(1)", "print(2)", False),
        (script, tmp_path / "fit.py", "six", "rich", True),
    ]
    for source, path, old, new, matters in edits:
        before = locking.identity(source)
        assert locking.identity(source) == before
        edit(path, old, new)
        assert (locking.identity(source) != before) is matters, path
    assert locking.identity(environment(row("six"))) != locking.identity(environment(row("six", "1.1")))


def test_what_git_ignores_is_no_source(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = make_project(tmp_path / "built", "built")
    source = environment(row("built", origin=Origin.DIRECTORY, url=built.as_uri()))
    (built / "data.bin").write_bytes(b"x" * 5000)
    monkeypatch.setattr("clustrix.locking.builds._LARGEST", 4000)
    with pytest.raises(LockError, match=r"the source of built in .* has 0 MiB") as raised:
        lock(source, tmp_path)
    assert "Let Git ignore the data" in str(raised.value.remedy)
    (built / ".gitignore").write_text("*.bin\n")
    subprocess.run(["git", "init", "--quiet", str(built)], check=True)
    assert statuses(lock(source, tmp_path)) == {"built": Status.REBUILT}


def test_a_source_that_does_not_build(index: Index, tmp_path: Path) -> None:
    broken = make_project(tmp_path / "broken", "broken")
    (broken / "backend.py").write_text("raise SystemExit('no compiler')\n")
    source = environment(row("broken", origin=Origin.DIRECTORY, url=broken.as_uri()))
    with pytest.raises(LockError, match=r"cannot build a wheel of broken: (.|\n)*no compiler") as raised:
        lock(source, tmp_path)
    assert raised.value.remedy
    assert not list((tmp_path / "cache" / "built").iterdir()), "nothing half-made"
