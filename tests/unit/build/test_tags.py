"""Which wheels run on which glibc and Python."""

from __future__ import annotations

import pytest

from clustrix.build.tags import supported
from clustrix.model.environment import Interpreter, Platform
from clustrix.model.wheel import tags_of

CP311, CP313T = Interpreter("cpython", "3.11.2", "cp311"), Interpreter("cpython", "3.13.1", "cp313t")
X86, ARM = Platform("x86_64", (2, 28)), Platform("aarch64", (2, 36))


@pytest.mark.parametrize(
    ("tag", "platform", "python", "fits"),
    [
        ("py3-none-any", X86, CP311, True),
        ("py2.py3-none-any", X86, CP311, True),
        ("py311-none-any", X86, CP311, True),
        ("cp311-cp311-manylinux_2_28_x86_64", X86, CP311, True),
        ("cp311-cp311-manylinux_2_34_x86_64", X86, CP311, False),
        ("cp311-cp311-manylinux_2_34_x86_64.manylinux_2_17_x86_64", X86, CP311, True),
        ("cp311-cp311-manylinux2014_x86_64", X86, CP311, True),
        ("cp311-cp311-manylinux2010_x86_64", X86, CP311, True),
        ("cp311-cp311-manylinux1_x86_64", X86, CP311, True),
        ("cp311-cp311-linux_x86_64", X86, CP311, True),
        ("cp311-cp311-musllinux_1_2_x86_64", X86, CP311, False),
        ("cp311-cp311-macosx_11_0_arm64", ARM, CP311, False),
        ("cp311-cp311-win_amd64", X86, CP311, False),
        ("cp39-abi3-manylinux_2_17_x86_64", X86, CP311, True),
        ("cp312-abi3-manylinux_2_17_x86_64", X86, CP311, False),
        ("cp310-cp310-manylinux_2_17_x86_64", X86, CP311, False),
        ("py3-none-manylinux_2_17_x86_64", X86, CP311, True),
        ("cp311-cp311-manylinux_2_31_aarch64", ARM, CP311, True),
        ("cp311-cp311-manylinux2014_aarch64", ARM, CP311, True),
        ("cp311-cp311-manylinux1_aarch64", ARM, CP311, False),
        ("cp311-cp311-manylinux_2_17_x86_64", ARM, CP311, False),
        ("cp313-cp313t-manylinux_2_28_x86_64", X86, CP313T, True),
        ("cp313-cp313-manylinux_2_28_x86_64", X86, CP313T, False),
        ("cp39-abi3-manylinux_2_17_x86_64", X86, CP313T, False),
    ],
)
def test_fits(tag: str, platform: Platform, python: Interpreter, fits: bool) -> None:
    assert bool(tags_of(f"a-1-{tag}.whl") & supported(platform, python)) == fits
