"""A real notebook in a real kernel: cells and functions of cells run in jobs, which show how they stand."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from .stranger import Stranger, shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.locking.index import Index

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with shop(tmp_path_factory.mktemp("shop"), {"tiny": None}) as index:
        yield index


@pytest.fixture
def stranger(index: Index, tmp_path: Path) -> Iterator[Stranger]:
    stranger = Stranger(tmp_path / "stranger", index)
    stranger.configured(runtime="venv", environment="uv.lock")
    stranger.locked("tiny")
    yield stranger
    assert stranger.left_behind() == []


def run(stranger: Stranger, *cells: str) -> list[list[dict[str, Any]]]:
    """Run a notebook of these cells and give what each put out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Jupyter's own, about its paths and loops
        import nbformat
        from nbclient import NotebookClient

        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        places = {"metadata": {"path": str(stranger.project)}}
        client = NotebookClient(book, timeout=120, resources=places, kernel_name="python3")
        asyncio.run(client.async_execute(env=stranger.variables))
    return [[dict(output) for output in cell.outputs] for cell in book.cells]


def shown(outputs: list[dict[str, Any]], kind: str) -> str:
    return "".join(output["data"].get(kind, "") for output in outputs if "data" in output)


def test_a_notebook(stranger: Stranger) -> None:
    outputs = run(
        stranger,
        "%load_ext clustrix.notebook",
        "import os\nfrom clustrix import cluster\nscale, total = 3, 1\ndef times(x):\n    return scale * x",
        "%%cluster cores=1\nimport tiny\nprint('in the job')\ntotal += times(2)\nwhere = os.getpid()\n"
        "def half(x):\n    return x / 2\ntiny.VERSION, total",
        "assert total == 7 and where != os.getpid() and half(5) == 2.5 and 'tiny' not in globals()",
        "@cluster\ndef thrice(x):\n    return times(x)\njob = thrice.submit(2)\njob.result()",
        "job",
        "array = thrice.map(range(3))\nassert list(array) == [0, 3, 6]\narray",
    )
    assert shown(outputs[2], "text/plain").endswith("('1.0', 7)")
    assert "in the job" in "".join(output.get("text", "") for output in outputs[2])
    assert shown(outputs[4], "text/plain").endswith("6")
    assert "<td>succeeded</td>" in shown(outputs[5], "text/html")
    assert "<td>3 of 3</td>" in shown(outputs[6], "text/html")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%%cluster\n1 / 0", "ZeroDivisionError"),
        ("%%cluster\n!ls", "invalid syntax"),
        ("%%cluster cors=1\n1", "Did you mean 'cores'"),
        ("%%cluster here\n1", "name=value"),
    ],
)
def test_a_cell_that_cannot_run_says_why(stranger: Stranger, cell: str, words: str) -> None:
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="(?s)" + words):
        run(stranger, "%load_ext clustrix.notebook", cell)
