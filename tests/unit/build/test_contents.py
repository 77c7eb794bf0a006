"""What is installed in an image, wherever the image is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clustrix.build import contents
from clustrix.errors import ImageUnavailable
from clustrix.oci.archive import oci_archive
from clustrix.oci.layout import Layout
from clustrix.worker import installed

from .bases import NoClient, make_base

if TYPE_CHECKING:
    from .recipes import Environment


def read(text: str, place: Path) -> dict[str, str]:
    found = contents.fingerprints(text, "x86_64", client=NoClient, cache=place)  # type: ignore[arg-type]
    assert not list(place.glob(".contents-*"))
    return found


def test_layouts_and_archives_say_what_is_installed(environment: Environment, tmp_path: Path) -> None:
    first = environment.build()
    layout = Layout(environment.place / "layout")
    layout.tag("first", layout.manifest(first.image.manifest_digest).descriptor)
    wanted = installed.of_wheels(environment.wheels)
    assert read(f"oci:{layout.path}:first", tmp_path) == wanted
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"".join(oci_archive(layout, layout.describe(first.image.manifest_digest), "any")))
    assert read(f"oci-archive:{archive}", tmp_path) == read(f"oci-archive:{archive}:any", tmp_path) == wanted

    environment.base = f"oci:{layout.path}:first"
    del wanted["alpha"], environment.wheels["alpha"]
    second = layout.manifest(environment.build().image.manifest_digest)
    bare = dataclasses.replace(second, layers=tuple(dataclasses.replace(row, annotations={}) for row in second.layers))
    for name, manifest in {"second": second, "copied without titles": bare}.items():
        layout.put_blob(manifest.encode())
        layout.tag(name, manifest.descriptor)
        assert read(f"oci:{layout.path}:{name}", tmp_path) == wanted


def test_what_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match="was not built by clustrix"):
        read(make_base(tmp_path / "base"), tmp_path)
    for text in (f"oci-archive:{__file__}", "oci-archive:absent.tar:1"):
        with pytest.raises(ImageUnavailable, match="is no OCI archive"):
            read(text, tmp_path)
