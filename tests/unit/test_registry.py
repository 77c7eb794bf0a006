"""Names lead to classes; what is missing says how to get it."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from clustrix import registry
from clustrix.errors import MissingExtra, UnknownOption

EVERY = [(kind, name) for kind, plug_ins in registry.PLUG_INS.items() for name in plug_ins]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_plug_in_is_there(kind: str, name: str) -> None:
    assert isinstance(registry.load(kind, name), type)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownOption, match=r"unknown scheduler 'slrum'\n.*'slurm'"):
        registry.load("schedulers", "slrum")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in = registry.PlugIn("nowhere:Nothing", extra="docker", package="no_such_package")
    monkeypatch.setitem(registry.PLUG_INS["runtimes"], "absent", plug_in)  # type: ignore[arg-type]
    with pytest.raises(MissingExtra, match=r"no_such_package.*\n.*clustrix\[docker\]"):
        registry.load("runtimes", "absent")


def test_other_packages_add_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("other", "collections:OrderedDict", "clustrix.schedulers")
    monkeypatch.setattr(registry, "_entry_points", lambda kind: [entry] if kind == "schedulers" else [])
    registry.names.cache_clear()
    try:
        assert "other" in registry.names("schedulers")
        assert registry.load("schedulers", "other").__name__ == "OrderedDict"
    finally:
        registry.names.cache_clear()
        registry.load.cache_clear()
