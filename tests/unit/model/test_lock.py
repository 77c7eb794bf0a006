"""A lock is identified by what it installs; its report says how that relates to what was captured."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from clustrix.model.environment import Platform
from clustrix.model.lock import Lock, LockedFile, LockedPackage, Report, Row, Status, Travelling

NUMPY = LockedPackage("numpy", "2.4.6", LockedFile("numpy-2.4.6-cp311-any.whl", "a" * 64, "https://a/numpy.whl", 10))
SIX = LockedPackage("six", "1.17.0", LockedFile("six-1.17.0-py3-none-any.whl", "b" * 64, "https://a/six.whl"))
LOCK = Lock("3.11", Platform("x86_64", (2, 36)), (SIX, NUMPY))


def test_digest_is_stable() -> None:
    """It names images: a change of the canonical form makes every user build everything again."""
    packages = f'["numpy","2.4.6","{"a" * 64}"],["six","1.17.0","{"b" * 64}"]'
    canonical = f'["3.11","x86_64-manylinux_2_36",[{packages}]]'
    assert LOCK.digest == f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


@pytest.mark.parametrize(
    "same",
    [
        Lock("3.11", LOCK.platform, (NUMPY, SIX)),
        replace(LOCK, packages=(replace(NUMPY, file=replace(NUMPY.file, url="file:///numpy.whl", size=None)), SIX)),
        replace(LOCK, packages=(replace(NUMPY, file=replace(NUMPY.file, filename="other.whl")), SIX)),
    ],
    ids=["order", "url and size", "file name"],
)
def test_what_takes_no_part_in_the_digest(same: Lock) -> None:
    assert same.digest == LOCK.digest


@pytest.mark.parametrize(
    "other",
    [
        replace(LOCK, python="3.12"),
        replace(LOCK, platform=Platform("aarch64", (2, 36))),
        replace(LOCK, platform=Platform("x86_64", (2, 28))),
        replace(LOCK, packages=(NUMPY,)),
        replace(LOCK, packages=(NUMPY, replace(SIX, version="1.16.0"))),
        replace(LOCK, packages=(NUMPY, replace(SIX, file=replace(SIX.file, sha256="c" * 64)))),
    ],
    ids=["python", "machine", "glibc", "fewer", "version", "build"],
)
def test_what_changes_the_digest(other: Lock) -> None:
    assert other.digest != LOCK.digest


def test_report() -> None:
    report = Report(
        (
            Row("zlib-ng", Status.EXACT, "1", "1"),
            Row("attrs", Status.EXACT, "2", "2"),
            Row("docopt", Status.REBUILT, "0.6.2", "0.6.2", "no wheel of it fits the target"),
            Row("appnope", Status.DROPPED, "0.1", None),
            Row("six", Status.CHANGED, "1.16.0", "1.17.0"),
        ),
        ("numpy 1.0: a leftover at /x",),
    )
    assert [row.name for row in report.rows] == ["appnope", "attrs", "docopt", "six", "zlib-ng"]
    assert report.text().splitlines() == [
        "exact: 2",
        "rebuilt: 1",
        "  docopt 0.6.2 (no wheel of it fits the target)",
        "dropped: 1",
        "  appnope 0.1",
        "changed: 1",
        "  six 1.16.0 -> 1.17.0",
        "note: numpy 1.0: a leftover at /x",
    ]
    assert report.as_json()["packages"][3] == {  # type: ignore[index]
        "name": "six",
        "status": "changed",
        "installed": "1.16.0",
        "locked": "1.17.0",
        "note": "",
    }


def test_travelling_paths() -> None:
    travelling = Travelling(
        "mine", "1", roots=("/src",), modules=(("mine", "/p/mine"),), metadata="/s/mine-1.dist-info"
    )
    assert travelling.paths == ("/src", "/p/mine", "/s/mine-1.dist-info")
