"""The benchmarks run and write their page; nothing here asserts a time."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import httpx
import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    """Import modules of the bench, which are scripts beside each other."""
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_contenders_take_turns_and_give_up_what_the_floor_takes(bench) -> None:
    measure = bench("measure")
    turns: list[str] = []
    figures = {"ours": 3.0, "theirs": 5.0, "floor": 1.0}

    def case(name: str):
        return lambda: (turns.append(name), figures[name])[1]

    samples = measure.alternate({name: case(name) for name in figures}, 2, quiet=True)
    assert turns == ["ours", "theirs", "floor", "theirs", "floor", "ours"]
    assert measure.over(samples, "floor") == {"ours": [2.0, 2.0], "theirs": [4.0, 4.0]}


def test_the_page_says_what_was_measured_and_what_was_missed(bench, tmp_path: Path) -> None:
    """From raw figures to the page, by the way of the file that is committed."""
    run, measure, imports = bench("run"), bench("measure"), bench("measure_import")
    found = imports.found({"clustrix": [0.051, 0.05, 0.07], "parsl": [0.5, 1.0, 0.7]}, {"parsl": "1"})
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    results.write_text(json.dumps({"import": run.entry(found, measure.machine(), "python run.py", 3)}))
    run.main(["--render", "--results", str(results), "--page", str(page)])
    text = page.read_text()
    assert "0 of 1 goals are met. **Missed: `from clustrix import cluster` (51.0 ms).**" in text
    assert "| `from clustrix import cluster` | at most 40.0 ms | 51.0 ms | **no** |" in text
    assert "| parsl | 0.70 s | 0.50 s to 1.00 s | 13.7 |" in text
    assert "with `python run.py`, 3 rounds" in text
    assert "parsl 1." in text


def test_the_committed_page_is_that_of_the_committed_figures(bench, tmp_path: Path) -> None:
    run = bench("run")
    run.main(["--render", "--page", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == run.PAGE.read_text()


def test_the_index_serves_wheels_with_their_hashes(bench, tmp_path: Path) -> None:
    index, memory = bench("index"), bench("measure_memory")
    wheel = memory.write_wheel(tmp_path / "wheels", files=1, file_bytes=100)
    site = tmp_path / "site"
    site.mkdir()
    index.write_pages(wheel.parent, site)
    with index.serve(site) as url:
        page = httpx.get(f"{url}enormous/").text
    assert f"/files/{wheel.name}#sha256=" in page
    with ZipFile(wheel) as archive:
        assert "enormous/0.bin" in archive.read("enormous-1.0.dist-info/RECORD").decode()


def test_imports_are_timed_in_processes_of_their_own(bench) -> None:
    imports = bench("measure_import")
    imports.STATEMENTS = {"clustrix": imports.STATEMENTS["clustrix"], "floor": "pass"}
    samples = imports.samples(Path(sys.executable), 1)
    assert [len(figures) for figures in samples.values()] == [1]
    assert list(samples) == ["clustrix"]


def test_the_command_line_is_what_the_page_says() -> None:
    done = subprocess.run([sys.executable, str(BENCH / "run.py"), "--help"], capture_output=True, text=True, check=True)
    assert "--only" in done.stdout
    assert "--rounds" in done.stdout
