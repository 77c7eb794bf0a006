"""Who needs whom decides what is left out, and what is asked for again on another platform."""

from __future__ import annotations

import pytest

from clustrix.locking import graph
from clustrix.model.environment import Distribution, Environment, Interpreter, Origin


def row(name: str, *requires: str, installer: str = "pip", requested: bool = False, **more: object) -> Distribution:
    return Distribution(
        name=name,
        version="1",
        requires=requires,
        installer=installer,
        requested=requested,
        **more,  # type: ignore[arg-type]
    )


def left_out(*rows: Distribution) -> set[str]:
    python = Interpreter("cpython", "3.11.7", "cp311")
    return set(graph.left_out(Environment(interpreter=python, platform=None, distributions=rows)))


CLUSTRIX = row("clustrix", "rich>=13", "PyYAML", "docker; extra == 'docker'", requested=True)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("rich"), row("numpy", requested=True)], set()),
        (
            [CLUSTRIX, row("rich", "pygments"), row("pygments"), row("numpy", requested=True)],
            {"clustrix", "rich", "pygments"},
        ),
        ([CLUSTRIX, row("rich", requested=True)], {"clustrix"}),
        ([CLUSTRIX, row("rich", installer="uv", requested=True)], {"clustrix"}),
        ([CLUSTRIX, row("rich", "pygments", installer="conda"), row("pygments")], {"clustrix"}),
        ([CLUSTRIX, row("PyYAML"), row("mine", "pyyaml", requested=True)], {"clustrix"}),
        ([CLUSTRIX, row("PyYAML"), row("mine", "pyyaml; extra == 'all'", requested=True)], {"clustrix"}),
        ([CLUSTRIX, row("docker", "requests"), row("requests")], {"clustrix", "docker", "requests"}),
        ([CLUSTRIX, row("rich", "ipywidgets; extra == 'jupyter'"), row("ipywidgets")], {"clustrix", "rich"}),
        ([CLUSTRIX, row("rich"), row("mine", "clustrix", requested=True)], {"clustrix", "rich"}),
    ],
    ids=[
        "no clustrix",
        "only clustrix needs it",
        "asked for",
        "uv asks for everything",
        "conda does not say",
        "somebody else needs it",
        "somebody else needs it for an extra",
        "an extra of clustrix",
        "somebody's extra is nobody's need",
        "a user of clustrix does not need its needs",
    ],
)
def test_left_out(rows: list[Distribution], expected: set[str]) -> None:
    assert left_out(*rows) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("app", "lib"), row("lib")], ["app"]),
        ([row("app", "lib; extra == 'x'"), row("lib")], ["app", "lib"]),
        ([row("app", "lib; python_version < '3'"), row("lib")], ["app", "lib"]),
        ([row("a", "b"), row("b", "a"), row("c", "b")], ["c"]),
        ([row("a", "b"), row("b", "a")], ["a"]),
        ([row("mine", "lib", origin=Origin.EDITABLE), row("lib")], ["lib"]),
        ([row("app", "not a requirement !", "lib"), row("lib")], ["app"]),
    ],
    ids=["needed", "extra", "marker", "circle with a root", "circle", "editable", "legacy spelling"],
)
def test_roots(rows: list[Distribution], expected: list[str]) -> None:
    assert [each.key for each in graph.roots(rows)] == expected
