"""What an installer adds takes no part in a fingerprint; what the package holds does."""

from __future__ import annotations

import pytest

from clustrix.model import fingerprint

RECORD = """\
pkg/__init__.py,sha256=AAA,1
pkg/core.so,sha256=BBB,2
pkg-1.0.dist-info/METADATA,sha256=CCC,3
pkg-1.0.dist-info/WHEEL,sha256=DDD,4
pkg-1.0.dist-info/RECORD,,
"""
TAGS = ["py3-none-any"]


def of(record: str, version: str = "1.0", tags: list[str] = TAGS) -> str:
    return fingerprint.installed("pkg", version, tags, record)


@pytest.mark.parametrize(
    "added",
    [
        "pkg-1.0.dist-info/INSTALLER,sha256=EEE,3\n",
        "pkg-1.0.dist-info/REQUESTED,sha256=EEE,0\n",
        "pkg-1.0.dist-info/direct_url.json,sha256=EEE,9\n",
        "pkg-1.0.dist-info/uv_cache.json,sha256=EEE,9\n",
        "pkg-1.0.dist-info/uv_build.json,sha256=EEE,9\n",
        "pkg/__pycache__/__init__.cpython-311.pyc,,\n",
        "../../../bin/pkg,sha256=EEE,200\n",
        "../../Scripts/pkg.exe,sha256=EEE,200\n",
        "\n",
    ],
)
def test_what_installers_add(added: str) -> None:
    assert of(RECORD + added) == of(RECORD)
    assert of(added + RECORD) == of(RECORD)


@pytest.mark.parametrize(
    "changed",
    [
        RECORD.replace("AAA", "AAB"),
        RECORD.replace("DDD", "DDE"),
        RECORD.replace("pkg/core.so", "pkg/core2.so"),
        RECORD + "pkg/more.py,sha256=EEE,1\n",
        RECORD.replace("pkg/core.so,sha256=BBB,2\n", ""),
        RECORD + "../../../share/pkg/table.csv,sha256=EEE,1\n",
    ],
)
def test_what_a_package_holds(changed: str) -> None:
    assert of(changed) != of(RECORD)


def test_version_and_tags_count() -> None:
    assert len({of(RECORD), of(RECORD, version="1.1"), of(RECORD, tags=["cp311-cp311-linux_x86_64"])}) == 3


@pytest.mark.parametrize(
    ("in_wheel", "once_installed"),
    [
        ("pkg/a.py", "pkg/a.py"),
        ("pkg-1.0.data/purelib/pkg/a.py", "pkg/a.py"),
        ("pkg-1.0.data/platlib/pkg/a.so", "pkg/a.so"),
        ("pkg-1.0.data/data/share/x.csv", "../../../share/x.csv"),
        ("pkg-1.0.data/data/share/x.csv", "../../share/x.csv"),  # Windows
        ("pkg-1.0.data/data/lib/libx.so", "../../libx.so"),
        ("pkg-1.0.data/data/lib/x/libx.so", "../../../lib/x/libx.so"),
        ("pkg-1.0.data/data/lib/python3.11/x", "../x"),
        ("pkg-1.0.data/headers/x.h", "../../../include/site/python3.11/pkg/x.h"),
        ("pkg-1.0.data/headers/sub/x.h", "../../../include/python3.11/Pkg/sub/x.h"),
        ("pkg-1.0.data/data/lib/python3.11/site-packages/x.pth", "x.pth"),
        ("pkg-1.0.data/data/lib/python3.11/site-packages/x.pth", "../../../lib/python3.11/site-packages/x.pth"),
        ("pkg-1.0.data/scripts/x", "../../../bin/x"),
        ("pkg-1.0.data/data/bin/x", "../../../bin/x"),
        ("pkg\\a.py", "pkg/a.py"),
    ],
)
def test_a_wheel_has_the_fingerprint_of_its_installation(in_wheel: str, once_installed: str) -> None:
    wheel = fingerprint.wheel("pkg", "1.0", TAGS, f"{RECORD}{in_wheel},sha256=EEE,1\n")
    assert wheel == of(f"{RECORD}{once_installed},sha256=EEE,1\n")


def test_odd_names_are_read_as_csv() -> None:
    odd = 'pkg/"a,b".py'
    quoted = '"pkg/""a,b"".py",sha256=EEE,1\n'
    rows = [("pkg/__init__.py", "sha256=AAA"), ("pkg/core.so", "sha256=BBB"), (odd, "sha256=EEE")]
    rows += [("pkg-1.0.dist-info/METADATA", "sha256=CCC"), ("pkg-1.0.dist-info/WHEEL", "sha256=DDD")]
    assert of(RECORD + quoted) == fingerprint.distribution("pkg", "1.0", TAGS, rows)


def test_line_ends_and_order_do_not_count() -> None:
    lines = RECORD.splitlines()
    assert of("\r\n".join(reversed(lines)) + "\r\n") == of(RECORD)


def test_environment() -> None:
    rows = [("numpy", "1"), ("six", "2")]
    digest = fingerprint.environment("cpython", "3.11", "cp311", rows)
    assert digest == fingerprint.environment("cpython", "3.11", "cp311", reversed(rows))
    assert digest.startswith("sha256:")
    others = {
        fingerprint.environment("cpython", "3.12", "cp312", rows),
        fingerprint.environment("cpython", "3.11", "cp311d", rows),
        fingerprint.environment("pypy", "3.11", "cp311", rows),
        fingerprint.environment("cpython", "3.11", "cp311", rows[:1]),
        fingerprint.environment("cpython", "3.11", "cp311", [("numpy", "2"), ("six", "2")]),
    }
    assert len(others | {digest}) == 6
