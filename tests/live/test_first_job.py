"""The first command of the README, as a stranger types it: a new environment, an empty home, no configuration."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs/tutorials/first_job.py"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install clustrix as the README says; give the environment of a shell in which that was done."""
    place = tmp_path_factory.mktemp("stranger")
    (place / "home").mkdir()
    kept = ("LANG", "PIP_", "UV_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "no_proxy")
    shell = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    # What pip and uv are told about indexes, and what uv has downloaded, may be in the home that we take away.
    for name, path in (("PIP_CONFIG_FILE", ".config/pip/pip.conf"), ("UV_CONFIG_FILE", ".config/uv/uv.toml")):
        if (Path.home() / path).is_file():
            shell.setdefault(name, str(Path.home() / path))
    shell.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache/uv"))
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    shell |= {"HOME": str(place / "home"), "PATH": f"{place / 'venv/bin'}:{os.environ['PATH']}"}
    run(["pip", "install", "--quiet", "."], shell, ROOT)
    return shell


def run(argv: list[str], shell: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    program = subprocess.run(
        ["sh", "-c", 'command -v "$0"', argv[0]], env=shell, capture_output=True, text=True, check=True
    ).stdout.strip()
    done = subprocess.run(
        [program, *argv[1:]], env=shell, cwd=directory, capture_output=True, text=True, check=False, timeout=800
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.live
def test_the_tutorial_runs_with_nothing_but_python(stranger: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()  # nobody's configuration above
    done = run(["clustrix", "run", str(SCRIPT)], stranger, tmp_path)
    assert re.search(r"target local uses (docker|venv)", done.stderr)
    assert "Traceback" not in done.stderr
    with (tmp_path / "first_job/models.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    best = rows[0]
    assert float(best["accuracy"]) > 0.95
    assert f"{float(best['accuracy']):.3f} +- {float(best['spread']):.3f}  {best['model']}" in done.stdout
    assert (tmp_path / "first_job/models.png").read_bytes().startswith(b"\x89PNG")

    jobs = run(["clustrix", "jobs"], stranger, tmp_path).stdout.splitlines()
    assert len(jobs) == 2
    job, function, state, items = jobs[1].split()[:4]
    assert (function, state, items) == ("evaluate", "succeeded", "9")
    assert run(["clustrix", "result", job], stranger, tmp_path).stdout.count("'accuracy'") == 9
    assert "SVM, C=10: 0.9" in run(["clustrix", "logs", job], stranger, tmp_path).stdout


@pytest.mark.live
def test_one_altered_file_is_found(stranger: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    # Debian puts builds of its own into every new venv, which no index has.
    run(["pip", "install", "--quiet", "--force-reinstall", "pip", "setuptools", "six==1.17.0"], stranger, tmp_path)
    assert "no difference" in run(["clustrix", "env", "diff", "--deep"], stranger, tmp_path).stdout
    where = run(["python", "-c", "import six; print(six.__file__)"], stranger, tmp_path).stdout.strip()
    with Path(where).open("a") as file:
        file.write("# altered\n")
    # Its RECORD still says what it should be: only hashing the file tells.
    run(["clustrix", "env", "diff"], stranger, tmp_path)
    program = f"{stranger['PATH'].split(':')[0]}/clustrix"
    argv = [program, "env", "diff", "--deep", "--json"]
    done = subprocess.run(argv, env=stranger, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert json.loads(done.stdout)["differences"] == [{"package": "six", "difference": "changed: six.py"}]


@pytest.mark.live
def test_the_environment_of_the_script_is_the_one_it_asked_for(stranger: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    script = tmp_path / "asks.py"
    script.write_text(
        "# /// script\n# dependencies = ['packaging==23.2']\n# ///\n"
        "import importlib.metadata, importlib.util, sys\nfrom clustrix import cluster\n"
        "@cluster\ndef there():\n"
        "    return importlib.metadata.version('packaging'), importlib.util.find_spec('httpx') is None\n"
        "# clustrix needs a newer one itself: that of the script comes first.\n"
        "assert importlib.metadata.version('packaging') == '23.2'\n"
        "print(there(), sys.argv[1:])\nsys.exit(7)\n"
    )
    program = f"{stranger['PATH'].split(':')[0]}/clustrix"
    argv = [program, "run", str(script), "--folds", "5"]
    done = subprocess.run(argv, env=stranger, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 7, done.stderr
    assert done.stdout == "('23.2', True) ['--folds', '5']\n"
