"""A wheel is chosen for the target as an installer there would choose it."""

from __future__ import annotations

import sys

import pytest
from packaging import tags

from clustrix.errors import LockError
from clustrix.locking.target import Target
from clustrix.model.environment import Platform
from clustrix.worker import installed

X86 = Target(Platform("x86_64", (2, 28)), "3.11")
ARM = Target(Platform("aarch64", (2, 28)), "3.11.7")


@pytest.mark.parametrize(
    ("target", "names", "best"),
    [
        (X86, ["py3-none-any", "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"], 1),
        (X86, ["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_28_x86_64"], 1),
        (X86, ["cp311-cp311-manylinux_2_34_x86_64", "cp311-cp311-manylinux1_x86_64"], 1),
        (X86, ["cp311-abi3-manylinux_2_17_x86_64", "cp38-abi3-manylinux_2_17_x86_64"], 0),
        (X86, ["cp312-cp312-manylinux_2_17_x86_64", "py2.py3-none-any"], 1),
        (X86, ["cp311-cp311-musllinux_1_2_x86_64", "cp311-cp311t-manylinux_2_17_x86_64", "py3-none-any"], 2),
        (X86, ["cp311-cp311-macosx_11_0_arm64", "cp311-cp311-win_amd64", "cp310-cp310-linux_x86_64"], None),
        (ARM, ["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_17_aarch64"], 1),
        (ARM, ["cp311-cp311-manylinux_2_5_aarch64"], None),
    ],
)
def test_the_best_wheel(target: Target, names: list[str], best: int | None) -> None:
    ranked = [(rank, place) for place, tag in enumerate(names) if (rank := target.rank(f"x-1.0-{tag}.whl"))]
    assert (min(ranked)[1] if ranked else None) == best


def test_the_higher_build_number_wins() -> None:
    first, second = (X86.rank(f"x-1.0-{build}-py3-none-any.whl") for build in (2, 10))
    assert first is not None
    assert second is not None
    assert second < first < X86.rank("x-1.0-py3-none-any.whl")  # type: ignore[operator]


def test_tags_are_those_of_this_machine() -> None:
    here = installed.platform()
    if here is None or here.machine not in {"x86_64", "aarch64"}:
        pytest.skip("this machine is no target")
    own = Target(here, f"{sys.version_info[0]}.{sys.version_info[1]}")
    known = [tag for tag in tags.sys_tags() if not any(word in str(tag) for word in ("i686", "armv8l"))]
    assert set(own.ranks) == set(known)
    order = sorted(own.ranks, key=lambda tag: own.ranks[tag])

    def standard(found: list[tags.Tag]) -> list[tags.Tag]:
        return [tag for tag in found if not tag.platform.startswith("linux")]  # packaging 26 moved it to the front

    assert standard(order) == standard(known)


@pytest.mark.parametrize(("glibc", "told"), [((2, 17), 17), ((2, 27), 17), ((2, 30), 28), ((2, 36), 36), ((2, 99), 40)])
def test_uv_is_told_the_newest_platform_it_knows_that_is_not_too_new(glibc: tuple[int, int], told: int) -> None:
    assert Target(Platform("x86_64", glibc), "3.11").uv_platform == f"x86_64-manylinux_2_{told}"


def test_markers() -> None:
    markers = ARM.markers()
    assert (markers["platform_machine"], markers["sys_platform"], markers["python_version"]) == (
        "aarch64",
        "linux",
        "3.11",
    )
    assert markers["python_full_version"] == "3.11.7"
    assert X86.full == "3.11.99", "the newest, where nobody knows"
    assert set(markers) == {*__import__("packaging.markers").markers.default_environment()}


@pytest.mark.parametrize(
    ("machine", "glibc", "words"),
    [("ppc64le", (2, 36), "no locks are made for ppc64le"), ("x86_64", (2, 12), r"glibc 2\.12 is too old")],
)
def test_platforms_that_are_none_of_ours(machine: str, glibc: tuple[int, int], words: str) -> None:
    with pytest.raises(LockError, match=words):
        Target(Platform(machine, glibc), "3.11")


def test_a_file_that_is_no_wheel() -> None:
    with pytest.raises(LockError, match=r"'x-1\.0\.whl' is no name of a wheel"):
        X86.rank("x-1.0.whl")
