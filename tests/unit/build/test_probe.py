"""What is found in base images, and which are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from clustrix.build import probe as probe_module
from clustrix.errors import BaseImageError, ImageUnavailable, UnsupportedPackage
from clustrix.model.environment import Interpreter, Platform
from clustrix.oci.layout import Layout

from .bases import DEBIAN, MUSL, make_base, probed, python

if TYPE_CHECKING:
    from pathlib import Path

NO_PYTHON = {path: what for path, what in DEBIAN.items() if "python" not in path}
WITH = {
    "debian": ([DEBIAN], {}, "/usr/bin/python3.11", "3.11.2"),
    "official": (
        [
            NO_PYTHON,
            {
                "usr/local/bin/python3.11": b"\x7fELF",
                "usr/local/lib/libpython3.11.so.1.0": python("3.11.9"),
                "usr/local/bin/python3": "python3.11",
            },
        ],
        {},
        "/usr/local/bin/python3.11",
        "3.11.9",
    ),
    "local first": (
        [DEBIAN, {"usr/local/bin/python3.11": python("3.11.8")}],
        {},
        "/usr/local/bin/python3.11",
        "3.11.8",
    ),
    "link of links": (
        [
            NO_PYTHON,
            {
                "opt/py/bin/python3.11": python("3.11.4"),
                "usr/bin/python3.11": "../../etc/alt/py",
                "etc/alt/py": "/opt/py/bin/python3.11",
            },
        ],
        {},
        "/usr/bin/python3.11",
        "3.11.4",
    ),
    "hard link": (
        [
            NO_PYTHON,
            {"usr/bin/python3.11": python("3.11.5"), "usr/local/bin/python3.11": ("hard", "usr/bin/python3.11")},
        ],
        {},
        "/usr/local/bin/python3.11",
        "3.11.5",
    ),
    "its own PATH": (
        [NO_PYTHON, {"opt/conda/bin/python3.11": python("3.11.6")}],
        {"env": ["PATH=/opt/conda/bin:/usr/bin"]},
        "/opt/conda/bin/python3.11",
        "3.11.6",
    ),
    "replaced": ([DEBIAN, {"usr/bin/python3.11": python("3.11.7")}], {}, "/usr/bin/python3.11", "3.11.7"),
    "back after an opaque directory": (
        [DEBIAN, {"usr/bin/.wh..wh..opq": b"", "usr/bin/python3.11": python("3.11.1")}],
        {},
        "/usr/bin/python3.11",
        "3.11.1",
    ),
    "zstd": ([DEBIAN], {"compression": "zstd"}, "/usr/bin/python3.11", "3.11.2"),
    "prerelease": ([NO_PYTHON, {"usr/bin/python3.11": python("3.11.0rc2")}], {}, "/usr/bin/python3.11", "3.11.0rc2"),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH)
def test_the_python_and_glibc_of_a_base(tmp_path: Path, name: str) -> None:
    layers, more, path, version = WITH[name]
    base = probed(make_base(tmp_path / "base", layers, **more), tmp_path)
    assert base.python("3.11") == (path, Interpreter("cpython", version, "cp311"))
    assert base.platform == Platform("x86_64", (2, 36))


WITHOUT: dict[str, tuple[list[Any], str]] = {
    "no python": ([NO_PYTHON], "has no Python "),
    "deleted python": ([DEBIAN, {"usr/bin/.wh.python3.11": b""}], "has no Python "),
    "deleted directory": ([DEBIAN, {"usr/.wh.bin": b""}], "has no Python "),
    "opaque directory": ([DEBIAN, {"usr/bin/.wh..wh..opq": b""}], "has no Python "),
    "dangling link": ([NO_PYTHON, {"usr/bin/python3.11": "/nowhere"}], "has no Python "),
    "circle": ([NO_PYTHON, {"usr/bin/python3.11": "python3.11"}], "has no Python "),
    "something else by that name": ([NO_PYTHON, {"usr/bin/python3.11": b"#!/bin/sh\n"}], "has no Python "),
    "other minor": ([NO_PYTHON, {"usr/bin/python3.12": python("3.12.1")}], r"no Python 3\.11, only .*3\.12"),
    "musl": ([{"lib/ld-musl-x86_64.so.1": MUSL, "usr/bin/python3.11": python("3.11.2")}], "no glibc but musl"),
    "no libc": ([{"usr/bin/python3.11": python("3.11.2")}], "no glibc"),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_bases_that_are_refused(tmp_path: Path, name: str) -> None:
    layers, words = WITHOUT[name]
    with pytest.raises(BaseImageError, match=words) as caught:
        probed(make_base(tmp_path / "base", layers), tmp_path).python("3.11")
    assert caught.value.remedy


def test_other_machines(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    with pytest.raises(BaseImageError, match="linux/amd64, not for linux/arm64"):
        probed(base, tmp_path, machine="aarch64")
    with pytest.raises(UnsupportedPackage, match="riscv128"):
        probed(base, tmp_path, machine="riscv128")
    arm = make_base(tmp_path / "arm", platform="linux/arm64/v8")
    assert probed(arm, tmp_path, machine="aarch64").platform.machine == "aarch64"


def test_a_base_is_probed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = make_base(tmp_path / "base")
    first = probed(name, tmp_path)
    monkeypatch.setattr(probe_module, "_scan", None)
    assert probed(name, tmp_path) == first


def test_names_of_layouts(tmp_path: Path) -> None:
    make_base(tmp_path / "with:colon")
    assert probed(f"oci:{tmp_path}/with:colon:latest", tmp_path) == probed(f"oci:{tmp_path}/with:colon", tmp_path)
    with pytest.raises(ImageUnavailable):
        probed(f"oci:{tmp_path}/absent", tmp_path)


def test_damaged_layers_are_refused(tmp_path: Path) -> None:
    name = make_base(tmp_path / "base")
    base = probed(name, tmp_path)
    blob = tmp_path / "layout/blobs/sha256" / base.manifest.layers[0].digest.removeprefix("sha256:")
    data = blob.read_bytes()
    for damaged in (data[:-10], data[:40] + b"\xff\xff" + data[42:]):
        blob.write_bytes(damaged)
        with pytest.raises(BaseImageError, match="cannot be read"):
            probe_module.probe(name, base.manifest, base.config, Layout(tmp_path / "layout"))


def test_links_and_owners_of_directories(tmp_path: Path) -> None:
    base = probed(make_base(tmp_path / "base"), tmp_path)
    assert base.directories == {"tmp": (0o1777, 0, 0)}
    assert base.place("bin/tool") == "usr/bin/tool"
    assert base.place("usr/bin/tool") == "usr/bin/tool"
