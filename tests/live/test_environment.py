"""A real scientific environment from the configured index: captured as pip lists it, locked, and found again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clustrix import locking
from clustrix.capture import packages
from clustrix.model.environment import Environment, Platform
from clustrix.model.lock import LockResult, Status
from clustrix.worker import installed
from tests.unit.wheels import Venv

pytestmark = pytest.mark.live

WANTED = ("jupyterlab", "numpy", "pandas", "matplotlib", "ruamel.yaml", "docopt==0.6.2", "greenlet")
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    """Install about a hundred packages with uv."""
    venv = Venv(tmp_path_factory.mktemp("live") / "venv")
    argv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(venv.python), *WANTED]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=280)
    if done.returncode:
        message = f"no package index answers: {done.stderr.strip()}; configure one for pip or uv"
        (pytest.fail if os.environ.get("CLUSTRIX_LIVE") == "require" else pytest.skip)(message)
    return venv


@pytest.fixture(scope="module")
def captured(venv: Venv) -> Environment:
    return packages.capture([str(venv.site)])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def result(captured: Environment, cache: Path) -> LockResult:
    here = installed.platform()
    if here is None:
        pytest.skip("locking the live environment exactly needs Linux with glibc")
    return locking.lock(captured, here, MINOR, cache=cache)


def test_rows_equal_pip_list(venv: Venv, captured: Environment) -> None:
    argv = [sys.executable, "-m", "pip", "--python", str(venv.python), "list", "--format=freeze"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert len(listed) > 80
    assert list(captured.freeze()) == listed


def test_what_is_locked_is_what_is_installed(
    venv: Venv, captured: Environment, result: LockResult, cache: Path, tmp_path: Path
) -> None:
    wheels = locking.fetch(result.lock, cache)
    report = locking.compare(result, captured, wheels)
    assert {row.name for row in result.report.having(Status.REBUILT)} == {"docopt"}
    assert {row.name for row in report.rows if row.status is not Status.EXACT} <= {"docopt"}

    path = tmp_path / "pylock.toml"
    path.write_text(locking.write(result.lock))
    again = Venv(tmp_path / "venv")
    argv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(again.python), "--preview"]
    subprocess.run([*argv, "--requirements", str(path)], check=True, capture_output=True)
    assert installed.of_environment([str(again.site)]) == installed.of_lock(result.lock, wheels)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_same_versions_on_another_platform(captured: Environment, cache: Path, machine: str) -> None:
    elsewhere = Environment(interpreter=captured.interpreter, platform=None, distributions=captured.distributions)
    result = locking.lock(elsewhere, Platform(machine, (2, 28)), MINOR, cache=cache)
    assert len(result.lock.packages) > 80
    assert {row.status for row in result.report.rows} <= {Status.SAME_VERSION, Status.REBUILT}
