"""Cells: what they take along, what they bring back; and what of a job is drawn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import config, notebook
from clustrix.errors import ConfigError, JobLost
from clustrix.model.job import JobId, State
from clustrix.status import JobStatus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    config.load.cache_clear()


def shell(**variables: object) -> Any:
    return SimpleNamespace(user_ns=dict(variables), user_ns_hidden={"In": []})


@pytest.mark.parametrize(
    ("source", "before", "value", "after"),
    [
        ("a + 1", {"a": 2}, 3, {"a": 2}),
        ("a += 1", {"a": 2}, None, {"a": 3}),
        ("import os\nb = [a * x for x in range(2)]", {"a": 2, "x": 9}, None, {"a": 2, "x": 9, "b": [0, 2]}),
        ("def f():\n    local = a\n    return local\nc = f()\ndel f", {"a": 2}, None, {"a": 2, "c": 2}),
        ("def f():\n    global d\n    d = a\nf()", {"a": 2, "f": 0}, None, None),
        ("for e in (1, 2):\n    pass\nclass F:\n    inner = 1\nF.inner", {}, 1, None),
        (
            "try:\n    In\nexcept NameError:\n    g = 'not taken along'",
            {"In": []},
            None,
            {"In": [], "g": "not taken along"},
        ),
    ],
)
def test_variables_travel_both_ways(source: str, before: dict[str, object], value: object, after: Any) -> None:
    here = shell(**before)
    assert notebook.run_cell(here, "", source) == value
    if after is not None:
        assert here.user_ns == after
    assert "inner" not in here.user_ns


def test_nothing_comes_back_of_a_cell_that_fails() -> None:
    here = shell(a=1)
    with pytest.raises(ZeroDivisionError):
        notebook.run_cell(here, "", "a = 2\n1 / 0")
    assert here.user_ns == {"a": 1}


def test_options() -> None:
    line = "target=hpc cores=4 memory=8GB time=01:00:00 mounts='[\"/data\"]' backend_options='{\"x\": 1}'"
    assert notebook._options(line) == {
        "target": "hpc",
        "cores": 4,
        "memory": "8GB",
        "time": "01:00:00",
        "mounts": ["/data"],
        "backend_options": {"x": 1},
    }
    with pytest.raises(ConfigError, match="'hpc' is no option"):
        notebook._options("hpc")


@pytest.mark.parametrize("source", ["!ls", "%time 1", "x ="])
def test_what_is_not_python_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        notebook.run_cell(shell(), "", source)


def test_a_job_is_drawn_and_nothing_in_it_is_markup() -> None:
    name = JobId.parse("here/01ARZ3NDEKTSV4RRFFQ69G5FAV")
    status = JobStatus(id=name, state=State.RUNNING, items=3, finished=2, failed=1, reason="<b>", nodes=("n1", "n2"))
    drawn = notebook.show_array(SimpleNamespace(id=name, status=lambda: status))  # type: ignore[arg-type]
    for text in (str(name), "<td>running</td>", "<td>2 of 3</td>", "&lt;b&gt;", "n1, n2"):
        assert text in drawn

    def lost() -> JobStatus:
        raise JobLost("the target is silent")

    drawn = notebook.show_job(SimpleNamespace(id=name, status=lost))  # type: ignore[arg-type]
    assert "<td>not known</td>" in drawn
    assert "the target is silent" in drawn


def test_a_stage_is_drawn_while_it_runs_and_then_wiped_away(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []
    handle = SimpleNamespace(update=lambda content, raw: shown.append(content))

    def display(content: dict[str, str], **options: object) -> Any:
        shown.append(content)
        return handle

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(notebook, "_REDRAW_SECONDS", 0)
    bar = notebook.Bars().start("push <image>", 10)
    bar.advance(4)
    bar.close()
    first, second, last = (content["text/html"] for content in shown)
    assert "push &lt;image&gt;" in first
    assert "value='4' max='10'" in second
    assert last == ""
