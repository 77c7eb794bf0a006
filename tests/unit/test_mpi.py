"""By what ranks find each other: what the site offers and the image speaks, or a refusal that says both."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clustrix import config, mpi
from clustrix.errors import UnsupportedResource
from clustrix.model.job import Placed
from clustrix.transports.base import Completed

PLACED = Placed(runtime="apptainer", location="/x.sif", interpreter="python3")
OPEN_MPI = {"mpi4py": "4.1.2", "library": "Open MPI v5.0.11, package: Open MPI"}
MPICH = {"mpi4py": "4.1.2", "library": "MPICH Version:\t5.0.2"}


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi, "_looked", {})
    monkeypatch.setattr(config, "cache_directory", lambda: tmp_path)


def choose(offered: set[str], found: dict[str, str], asked: str | None = None) -> str | None:
    target: Any = SimpleNamespace(
        name="hpc",
        backend=SimpleNamespace(interfaces=lambda: frozenset(offered)),
        runtime=SimpleNamespace(wrap=lambda _, argv, **__: ("run", *argv)),
        transport=SimpleNamespace(address="ssh://h"),
    )
    said = f"noise\nclustrix-mpi {json.dumps(found)}\n".encode()
    return mpi.choose(target, PLACED, None, asked, lambda _: Completed(0, said, b""))


@pytest.mark.parametrize(
    ("offered", "found", "asked", "chosen"),
    [
        ({"none", "pmi2", "pmix"}, OPEN_MPI, None, "pmix"),
        ({"none", "pmi2", "pmix"}, MPICH, None, "pmi2"),
        ({"none", "pmi2"}, {}, None, "none"),
        ({"none", "pmix", "pmix_v4"}, MPICH, "pmix_v4", "pmix_v4"),
        (set(), OPEN_MPI, None, None),
    ],
)
def test_chosen(offered: set[str], found: dict[str, str], asked: str | None, chosen: str | None) -> None:
    assert choose(offered, found, asked) == chosen


@pytest.mark.parametrize(
    ("offered", "found", "asked", "words"),
    [
        ({"none", "pmi2"}, OPEN_MPI, None, "is Open MPI v5.0.11.*speaks pmix; hpc offers none, pmi2"),
        ({"none", "pmix"}, {"mpi4py": "4", "library": "Intel(R) MPI"}, None, r"Intel.*nobody knows what; hpc offers"),
        ({"none", "pmix"}, {"mpi4py": "4", "error": "cannot load"}, None, "finds no MPI: cannot load"),
        ({"none", "pmix"}, OPEN_MPI, "pmi9", "mpi='pmi9': hpc offers none, pmix"),
    ],
)
def test_refused(offered: set[str], found: dict[str, str], asked: str | None, words: str) -> None:
    with pytest.raises(UnsupportedResource, match=words):
        choose(offered, found, asked)
