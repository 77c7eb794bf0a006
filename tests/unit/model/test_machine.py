"""Machines by both of their names."""

from __future__ import annotations

import pytest

from clustrix.errors import UnknownOption, UnsupportedPackage
from clustrix.model.machine import machine_of, platform_of


@pytest.mark.parametrize(("machine", "platform"), [("x86_64", "linux/amd64"), ("aarch64", "linux/arm64")])
def test_a_machine_and_the_platform_of_its_images(machine: str, platform: str) -> None:
    assert (platform_of(machine), machine_of(platform)) == (platform, machine)


def test_what_nobody_makes_images_for() -> None:
    with pytest.raises(UnsupportedPackage, match="'vax'"):
        platform_of("vax")
    with pytest.raises(UnknownOption, match="'linux/amd64'"):
        machine_of("linux/amd46")
