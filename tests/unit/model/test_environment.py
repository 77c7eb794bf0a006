"""Names, versions and platforms are spelled as indexes and pip spell them."""

from __future__ import annotations

import pytest

from clustrix.model.environment import Distribution, Environment, Interpreter, Platform, normalise


@pytest.mark.parametrize(
    ("spelled", "normal"),
    [("ruamel.yaml", "ruamel-yaml"), ("Jinja2", "jinja2"), ("a__b.-c", "a-b-c"), ("zope.interface", "zope-interface")],
)
def test_normalise(spelled: str, normal: str) -> None:
    assert normalise(spelled) == normal
    assert Distribution(name=spelled, version="1").key == normal


def test_freeze_is_in_the_order_of_pip_list() -> None:
    names = ["zope.interface", "PyYAML", "py_spy", "Jinja2", "jaraco.text", "jaraco-abc"]
    environment = Environment(
        interpreter=Interpreter("cpython", "3.11.7", "cp311"),
        platform=Platform("x86_64", (2, 36)),
        distributions=tuple(Distribution(name=name, version="1.0") for name in names),
    )
    assert environment.freeze() == (
        "jaraco-abc==1.0",
        "jaraco.text==1.0",
        "Jinja2==1.0",
        "py_spy==1.0",
        "PyYAML==1.0",
        "zope.interface==1.0",
    )


def test_platform_and_interpreter() -> None:
    assert str(Platform("aarch64", (2, 28))) == "aarch64-manylinux_2_28"
    assert Interpreter("cpython", "3.14.0rc2", "cp314").minor == "3.14"
