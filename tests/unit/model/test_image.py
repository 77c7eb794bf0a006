"""An `Image` describes, refuses early, and never changes."""

from __future__ import annotations

import pytest

from clustrix.errors import ConfigError
from clustrix.model.image import Image, ImageSource


def test_every_method_gives_a_new_one_that_can_be_a_key() -> None:
    first = Image.from_lock("uv.lock", base="oci:base", extras=("gpu",))
    second = first.pip_install("httpx>=0.28").pip_install("six").env({"B": "2"}, A="1").add_files("data", "/data")
    assert (first.requirements, first.files, first.variables) == ((), (), ())
    assert second.requirements == ("httpx>=0.28", "six")
    assert second.variables == (("A", "1"), ("B", "2"))
    assert second.files == (("data", "/data"),)
    assert (second.source, second.location, second.base, second.extras) == (
        ImageSource.LOCK,
        "uv.lock",
        "oci:base",
        ("gpu",),
    )
    assert {second: 1}[second.env(A="1")] == 1
    assert hash(Image.from_environment()) == hash(Image.from_environment())


@pytest.mark.parametrize(
    ("make", "error", "pattern"),
    [
        (lambda: Image.from_environment().apt_install("gdal bin"), ConfigError, "no apt package"),
        (lambda: Image.from_environment().apt_install("gdal", "-o=x"), ConfigError, "no apt package"),
        (lambda: Image.from_environment().apt_install("gdal;id"), ConfigError, "no apt package"),
        (lambda: Image.from_registry("a/b:1").apt_install("gdal"), ConfigError, "does not change an image"),
        (lambda: Image.from_registry("a/b:1").pip_install("six"), ConfigError, "does not change an image"),
        (lambda: Image.from_registry("a/b:1").env(A="1"), ConfigError, "does not change an image"),
        (lambda: Image.from_registry("a/b:1").add_files("a", "/a"), ConfigError, "does not change an image"),
        (lambda: Image.from_environment().pip_install(["six"]), ConfigError, "pip_install takes texts one by one"),
        (lambda: Image.from_lock("uv.lock", extras="gpu"), ConfigError, "extras takes texts one by one, not 'gpu'"),
        (lambda: Image.from_environment().env(A=1), ConfigError, "'A' is no name, or not set to a text"),
        (lambda: Image.from_environment().env({"A=B": "1"}), ConfigError, "'A=B' is no name"),
        (lambda: Image.from_environment().add_files("a", "relative"), ConfigError, "absolute path"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_said(make: object, error: type[Exception], pattern: str) -> None:
    with pytest.raises(error, match=pattern):
        make()  # type: ignore[operator]
