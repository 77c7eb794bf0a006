"""What is installed in an image: the fingerprints of its distributions, read out of its layers. Nothing of it is run.

Only images that a clustrix built are looked into, and what others made of them: their label says so, and the titles of
their layers which to read.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.build.baseimage import named
from clustrix.build.compression import uncompressed
from clustrix.build.layers import CLEARED, FINGERPRINT
from clustrix.errors import ImageUnavailable
from clustrix.model.image import VENV
from clustrix.model.machine import platform_of
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import TITLE, ImageConfig, Manifest
from clustrix.oci.reference import Reference
from clustrix.worker import installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from clustrix.oci.client import Client
    from clustrix.oci.manifest import Descriptor

_METADATA = re.compile(rf"{VENV.lstrip('/')}/.+/(?P<directory>[^/]+\.dist-info)/(?P<name>RECORD|WHEEL)")
_REMOVED = re.compile(rf"{VENV.lstrip('/')}/.+/\.wh\.(?P<directory>[^/]+\.dist-info)")
_PART = re.compile(r"(?:\./)?(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})")


def fingerprints(text: str, machine: str, *, client: Callable[[], Client], cache: Path) -> dict[str, str]:
    """Digest every distribution of an image, by normalised name, as `installed.fingerprints` does of an environment.

    ``text`` is a reference, ``oci:DIR[:NAME]`` or ``oci-archive:FILE[:NAME]``; of a registry only the layers that
    clustrix made are fetched, to below ``cache`` and not to stay. Raises `ImageUnavailable`, `RegistryError`,
    `BadReference`, `ImageError`.
    """
    platform = platform_of(machine)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".contents-") as place:
        if text.startswith("oci:"):
            layout, name = named(text.removeprefix("oci:"))
            manifest = layout.manifest(layout.resolve(name, platform).digest)
        elif text.startswith("oci-archive:"):
            layout, name = _unpacked(text.removeprefix("oci-archive:"), Path(place, "layout"))
            manifest = layout.manifest(layout.resolve(name, platform).digest)
        else:
            layout = Layout(Path(place, "layout"))
            manifest = _fetched(Reference.parse(text), platform, client(), layout)
        _check(layout, manifest, text)
        return _read(layout, _own(manifest), Path(place, "metadata"))


def _unpacked(text: str, place: Path) -> tuple[Layout, str | None]:
    """Take an archive apart. ``FILE[:NAME]``, as skopeo writes it."""
    file, name = text, None
    if not Path(file).exists() and ":" in text:
        file, _, name = text.rpartition(":")
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                part = _PART.fullmatch(member.name)
                source = archive.extractfile(member) if part else None
                if part and source:
                    (place / part[1]).parent.mkdir(parents=True, exist_ok=True)
                    with (place / part[1]).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except (FileNotFoundError, IsADirectoryError, tarfile.TarError) as error:
        raise ImageUnavailable(f"{file} is no OCI archive: {error}", remedy="Check its name.") from error
    return Layout(place), name


def _fetched(reference: Reference, platform: str, client: Client, layout: Layout) -> Manifest:
    descriptor, data = client.image(reference, platform)
    fixed, manifest = reference.with_digest(descriptor.digest), Manifest.parse(data)
    client.fetch_blob(fixed, manifest.config, layout)
    _check(layout, manifest, str(reference))  # before its layers move
    for layer in _own(manifest):
        client.fetch_blob(fixed, layer, layout)
    return manifest


def _check(layout: Layout, manifest: Manifest, text: str) -> None:
    labels = ImageConfig.parse(layout.read_blob(manifest.config.digest)).labels
    if FINGERPRINT not in labels:
        raise ImageUnavailable(
            f"the image {text} was not built by clustrix, and does not say what is installed in it",
            remedy="Compare with the lock that it was made from: clustrix env diff pylock.toml",
        )


def _own(manifest: Manifest) -> tuple[Descriptor, ...]:
    """Give the layers that clustrix made; all, where whoever copied the image dropped their titles."""
    return tuple(layer for layer in manifest.layers if TITLE in layer.annotations) or manifest.layers


def _read(layout: Layout, layers: tuple[Descriptor, ...], place: Path) -> dict[str, str]:
    place.mkdir()
    for layer in layers:
        with (
            layout.open_blob(layer.digest) as blob,
            uncompressed(blob, layer.media_type) as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                if member.name == CLEARED:  # what the layers below hold was the base's
                    shutil.rmtree(place)
                    place.mkdir()
                if gone := _REMOVED.fullmatch(member.name):
                    shutil.rmtree(place / gone["directory"], ignore_errors=True)
                found = _METADATA.fullmatch(member.name)
                source = archive.extractfile(member) if found else None
                if found and source:
                    (place / found["directory"]).mkdir(exist_ok=True)
                    (place / found["directory"] / found["name"]).write_bytes(source.read())
    return installed.fingerprints([str(place)])
