"""What is captured is what pip lists, with the origin that its name alone would hide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clustrix.capture import packages
from clustrix.errors import CaptureError
from clustrix.model.environment import Distribution, Environment, Origin
from clustrix.worker import installed
from tests.unit.wheels import Venv, make_project, make_wheel


def info(site: Path, name: str, version: str, **files: str) -> Path:
    """Write a metadata directory."""
    directory = site / f"{name.replace('-', '_')}-{version}.dist-info"
    directory.mkdir(parents=True)
    files = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText\n", **files}
    for file, text in files.items():
        (directory / file.replace("__", ".")).write_text(text)
    return directory


def direct(**data: object) -> str:
    return json.dumps(data)


def one(site: Path) -> Distribution:
    (row,) = packages.capture([str(site)]).distributions
    return row


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, (Origin.INDEX, None, None, None)),
        (
            direct(url="file:///w/x-1.0-py3-none-any.whl", archive_info={"hashes": {"sha256": "ab"}}),
            (Origin.ARCHIVE, "file:///w/x-1.0-py3-none-any.whl", None, "ab"),
        ),
        (
            direct(url="https://me:secret@h/x.tar.gz", archive_info={"hash": "sha256=cd"}),
            (Origin.ARCHIVE, "https://h/x.tar.gz", None, "cd"),
        ),
        (direct(url="file:///src", dir_info={}), (Origin.DIRECTORY, "file:///src", None, None)),
        (direct(url="file:///src", dir_info={"editable": True}), (Origin.EDITABLE, "file:///src", None, None)),
        (
            direct(url="https://h/x.git", vcs_info={"vcs": "git", "commit_id": "0123", "requested_revision": "main"}),
            (Origin.VCS, "git+https://h/x.git", "0123", None),
        ),
    ],
    ids=["index", "wheel", "sdist and password", "directory", "editable", "vcs"],
)
def test_origins(tmp_path: Path, url: str | None, expected: tuple[object, ...]) -> None:
    info(tmp_path, "x", "1.0", **({} if url is None else {"direct_url__json": url}))
    row = one(tmp_path)
    assert (row.origin, row.url, row.commit, row.sha256) == expected


@pytest.mark.parametrize(("tag", "pure"), [("py3-none-any", True), ("cp311-cp311-linux_x86_64", False)])
def test_editables_are_pure_or_not(tmp_path: Path, tag: str, pure: bool) -> None:
    url = direct(url="file:///src", dir_info={"editable": True})
    info(tmp_path, "x", "1.0", direct_url__json=url, WHEEL=f"Wheel-Version: 1.0\nTag: {tag}\n")
    assert one(tmp_path).pure is pure


@pytest.mark.parametrize("pure", [True, False])
def test_legacy_develop_installs_are_editables(tmp_path: Path, pure: bool) -> None:
    """An egg-info in a directory of the path that is no site directory: what ``setup.py develop`` leaves."""
    (tmp_path / "old.egg-info").mkdir()
    (tmp_path / "old.egg-info" / "PKG-INFO").write_text("Name: old\nVersion: 1.0\n")
    (tmp_path / "old.egg-info" / "requires.txt").write_text("six>=1\n\n[dev]\npytest\n")
    if not pure:
        (tmp_path / "old.egg-info" / "native_libs.txt").write_text("old.so\n")
    row = one(tmp_path)
    assert (row.origin, row.url, row.pure) == (Origin.EDITABLE, tmp_path.as_uri(), pure)
    assert row.requires == ("six>=1",)


def test_conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By INSTALLER, by conda-meta, but not what pip installed into the same place; dead URLs are not believed."""
    site, prefix = tmp_path / "site", tmp_path / "prefix"
    dead = direct(url="file:///croot/mkl_1699/work", dir_info={})
    info(site, "mkl-service", "2.4", INSTALLER="conda\n", direct_url__json=dead)
    info(site, "numpy", "1.26", direct_url__json=dead)
    info(site, "six", "1.17", INSTALLER="pip\n")
    (prefix / "conda-meta").mkdir(parents=True)
    for name in ("numpy-1.26-py311h", "six-1.17-py_0", "openssl-3.0-0"):
        (prefix / "conda-meta" / f"{name}.json").write_text("{}")
    monkeypatch.setattr(sys, "prefix", str(prefix))
    origins = {row.name: (row.origin, row.url) for row in packages.capture([str(site)]).distributions}
    assert origins == {
        "mkl-service": (Origin.CONDA, None),
        "numpy": (Origin.CONDA, None),
        "six": (Origin.INDEX, None),
    }


def test_duplicates_and_leftovers_are_reported(tmp_path: Path) -> None:
    info(tmp_path / "a", "Foo.Bar", "2.0")
    old = info(tmp_path / "b", "foo-bar", "1.0")
    half = info(tmp_path / "b", "half", "3.0")
    (half / "METADATA").unlink()
    environment = packages.capture([str(tmp_path / "a"), str(tmp_path / "b")])
    assert environment.freeze() == ("Foo.Bar==2.0",)
    assert {row.location for row in environment.shadowed} == {str(old), str(half)}


@pytest.mark.parametrize(
    ("version", "listed"),
    [("1.0", "1.0"), ("2024.07.04", "2024.7.4"), ("1.0-1", "1.0.post1"), ("4.0+cu121", "4.0+cu121"), ("1.0b", "1.0b0")],
)
def test_versions_are_spelled_as_pip_lists_them(tmp_path: Path, version: str, listed: str) -> None:
    (tmp_path / "x-0.dist-info").mkdir()
    (tmp_path / "x-0.dist-info" / "METADATA").write_text(f"Name: x\nVersion: {version}\n")
    assert one(tmp_path).version == listed


def test_metadata_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    info(tmp_path, "x", "1.0", direct_url__json="{")
    with pytest.raises(CaptureError, match=r"x 1\.0: cannot read .*direct_url\.json") as raised:
        packages.capture([str(tmp_path)])
    assert "--force-reinstall" in str(raised.value.remedy)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """Install what has an origin, really."""
    work = tmp_path_factory.mktemp("work")
    venv = Venv(work / "venv")
    venv.install(
        make_wheel(work, "ruamel.yaml", "0.18", requires=["ruamel.yaml.clib>=0.2; python_version < '4'"]),
        make_wheel(work, "localver", "1.0+cpu"),
        "--editable",
        make_project(work / "mine", "mine"),
        make_project(work / "built", "built"),
    )
    return venv


def run(venv: Venv, code: str, **variables: str) -> str:
    # Clustrix alone, without what is installed beside it.
    source = venv.directory.parent / "clustrix-alone"
    if not source.exists():
        source.mkdir()
        (source / "clustrix").symlink_to(Path(packages.__file__).parents[1])
    argv = [str(venv.python), "-c", f"import sys; sys.path.append({str(source)!r}); {code}"]
    environment = {**os.environ, **variables}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=venv.directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_real_environment(venv: Venv) -> None:
    rows = {row.name: row for row in packages.capture([str(venv.site)]).distributions}
    assert {name: (row.origin, row.version, row.installer) for name, row in rows.items()} == {
        "ruamel.yaml": (Origin.ARCHIVE, "0.18", "uv"),
        "localver": (Origin.ARCHIVE, "1.0+cpu", "uv"),
        "mine": (Origin.EDITABLE, "1.0", "uv"),
        "built": (Origin.DIRECTORY, "1.0", "uv"),
    }
    assert rows["ruamel.yaml"].requires == ("ruamel.yaml.clib>=0.2; python_version < '4'",)
    assert rows["mine"].pure
    assert rows["mine"].url == (venv.directory.parent / "mine").as_uri()


def test_the_running_interpreter_equals_pip_list(venv: Venv, tmp_path: Path) -> None:
    """With what PYTHONPATH adds, and without what lies beside the script that runs."""
    info(tmp_path / "added", "on-the-path", "3.0")
    info(venv.directory, "beside-the-script", "3.0")
    code = "from clustrix.capture.packages import capture; print('\\n'.join(capture().freeze()))"
    captured = run(venv, code, PYTHONPATH=str(tmp_path / "added")).split()
    argv = [sys.executable, "-m", "pip", "--python", str(venv.python), "list", "--format=freeze"]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "added")}
    listed = subprocess.run(argv, capture_output=True, text=True, check=True, env=variables, cwd=venv.directory).stdout
    assert captured == listed.split()
    assert "on-the-path==3.0" in captured


def test_fingerprints_on_request(venv: Venv) -> None:
    plain = packages.capture([str(venv.site)])
    assert {row.fingerprint for row in plain.distributions} == {None}
    rows = packages.capture([str(venv.site)], fingerprints=True).distributions
    assert {row.key: row.fingerprint for row in rows} == installed.fingerprints([str(venv.site)])


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count captures."""
    counted: list[int] = []
    real = packages.capture

    def capture(*arguments: object, **options: object) -> Environment:
        counted.append(1)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(packages, "capture", capture)
    return counted


def test_an_unchanged_environment_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, cache = tmp_path / "site", tmp_path / "cache"
    info(site, "x", "1.0", direct_url__json=direct(url="file:///src", dir_info={"editable": True}))
    info(site, "y", "1.0", INSTALLER="pip", METADATA="Name: y\nVersion: 1.0\nRequires-Dist: x>=1\n")
    counted = counting(monkeypatch)
    first = packages.capture_cached(cache, [str(site)])
    assert packages.capture_cached(cache, [str(site)]) == first
    assert len(counted) == 1
    assert oct(next(cache.iterdir()).stat().st_mode)[-3:] == "600"
    next(cache.iterdir()).write_text('{"stamp": ')
    assert packages.capture_cached(cache, [str(site)]) == first
    assert len(counted) == 2


def reinstall(venv: Venv, work: Path) -> None:
    """Install another build of the same version in place, as pip does."""
    wheel = make_wheel(work, "other", "1.0", files={"other.py": "another = 1\n"})
    argv = [sys.executable, "-m", "pip", "--python", str(venv.python), "install", "--quiet", "--no-index"]
    subprocess.run([*argv, "--force-reinstall", str(wheel)], check=True, capture_output=True)


def test_every_change_of_an_environment_is_noticed(tmp_path: Path) -> None:
    venv = Venv(tmp_path / "venv")
    changes = {
        "install": lambda: venv.install(make_wheel(tmp_path, "other", "1.0")),
        "reinstall in place": lambda: reinstall(venv, tmp_path),
        "upgrade": lambda: venv.install(make_wheel(tmp_path, "other", "1.1")),
        "record only": lambda: (venv.site / "other-1.1.dist-info" / "RECORD").write_text("other.py,sha256=x,1\n"),
        "remove": lambda: subprocess.run(["rm", "-r", str(venv.site / "other-1.1.dist-info")], check=True),
        "path": lambda: (venv.site / "more.pth").write_text(str(tmp_path)),
    }
    for name, change in changes.items():
        before = packages.stamp([str(venv.site)])
        assert packages.stamp([str(venv.site)]) == before
        change()
        assert packages.stamp([str(venv.site)]) != before, name
    assert packages.stamp([str(venv.site), str(tmp_path)]) != packages.stamp([str(venv.site)])


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    info(tmp_path / "site", "x", "1.0")
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert packages.capture_cached(tmp_path / "cache", [str(tmp_path / "site")]).freeze() == ("x==1.0",)
