"""The image that ours stands on: where it comes from, and what was found in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from clustrix.build.probe import FORMAT, LINKS_AT_MOST, probe
from clustrix.build.records import Records, key
from clustrix.errors import BaseImageError, ImageUnavailable, UnsupportedPackage
from clustrix.model.environment import Interpreter, Platform
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, OCI_MANIFEST, ImageConfig, Manifest
from clustrix.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clustrix.oci.client import Client

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}
_ARCHITECTURES = {machine: architecture for architecture, machine in _MACHINES.items()}
_KNOWN = f"Known: {', '.join(sorted(_ARCHITECTURES))}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Describe a base image. ``reference`` is where a registry serves it by digest, None for one in a layout.

    ``pythons`` are (absolute path, version) in the order of its PATH. ``directories`` are those that do not belong to
    root with mode 0755: path -> (mode, uid, gid); ``links`` lead to directories: path -> path.
    """

    reference: str | None
    manifest: Manifest
    config: ImageConfig
    glibc: tuple[int, int]
    pythons: tuple[tuple[str, str], ...]
    directories: Mapping[str, tuple[int, int, int]] = field(default_factory=dict, hash=False)
    links: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def digest(self) -> str:
        """Identify it, whatever its compression."""
        return self.manifest.config.digest

    @property
    def platform(self) -> Platform:
        """Say what wheels must fit."""
        return Platform(_MACHINES[self.config.platform.split("/")[1]], self.glibc)

    def python(self, minor: str) -> tuple[str, Interpreter]:
        """Give path and description of its Python ``minor`` (``3.11``); `BaseImageError` names those it has."""
        for path, version in self.pythons:
            if version.startswith(f"{minor}."):
                free_threaded = "t" if path.endswith("t") else ""
                return path, Interpreter("cpython", version, f"cp{minor.replace('.', '')}{free_threaded}")
        had = ", ".join(f"{path} ({version})" for path, version in self.pythons)
        raise BaseImageError(
            f"the base image {self.reference or self.digest} has no Python {minor}" + (f", only {had}" if had else ""),
            remedy=f"Name another base, for example: --base {default(minor)}",
        )

    def place(self, path: str) -> str:
        """Follow its links to directories: where ``path`` (without leading slash) really lies."""
        for _ in range(LINKS_AT_MOST):
            parts = path.split("/")
            for end in range(1, len(parts)):
                if (target := self.links.get("/".join(parts[:end]))) is not None:
                    path = "/".join([*([target] if target else []), *parts[end:]])
                    break
            else:
                return path
        raise BaseImageError(f"links of the base image {self.reference or self.digest} go round in circles: {path}")


def default(minor: str) -> str:
    """Name the public base for a Python."""
    return f"docker.io/library/python:{minor}-slim"


def resolve(base: str | None, *, minor: str, machine: str, client: Client, layout: Layout, cache: Path) -> Base:
    """Find a base (a reference, ``oci:DIR``, ``oci:DIR:NAME`` or None for `default`) and probe it, once per digest.

    Layers are brought into ``layout`` where the probe has to read them. Raises `BaseImageError`, `ImageUnavailable`,
    `RegistryError`, `DiskFull`.
    """
    if machine not in _ARCHITECTURES:
        raise UnsupportedPackage(f"no image can be made for the machine {machine!r}", remedy=_KNOWN)
    platform = f"linux/{_ARCHITECTURES[machine]}"
    base = base or default(minor)
    if base.startswith("oci:"):
        reference, data, source = None, *_local(base.removeprefix("oci:"), platform)
        manifest = Manifest.parse(data)
        for blob in manifest.blobs:
            _copy(blob.digest, blob.size, source, layout)
    else:
        reference, data = _remote(Reference.parse(base), platform, client, layout, Records(cache))
        manifest = Manifest.parse(data)
        client.fetch_blob(reference, manifest.config, layout)
    config = ImageConfig.parse(layout.read_blob(manifest.config.digest))
    if config.platform.split("/")[:2] != platform.split("/"):
        raise BaseImageError(f"the base image {base} is made for {config.platform}, not for {platform}")
    name = key(FORMAT, manifest.config.digest)
    found = Records(cache).get("bases", name)
    if found is None:
        if reference is not None:
            for layer in manifest.layers:
                client.fetch_blob(reference, layer, layout)
        found = probe(base, manifest, config, layout)
        Records(cache).put("bases", name, found)
    return Base(
        reference=None if reference is None else str(reference),
        manifest=manifest,
        config=config,
        glibc=(found["glibc"][0], found["glibc"][1]),
        pythons=tuple((path, version) for path, version in found["pythons"]),
        directories={path: (mode, uid, gid) for path, (mode, uid, gid) in found["directories"].items()},
        links=found["links"],
    )


def _local(text: str, platform: str) -> tuple[bytes, Layout]:
    # oci:DIR[:NAME], as skopeo writes it; a directory may have a colon in its own name.
    layout, name = Layout(text), None
    if not layout.exists() and ":" in text:
        directory, _, name = text.rpartition(":")
        layout = Layout(directory)
    return layout.read_blob(layout.resolve(name, platform).digest), layout


def _copy(digest: str, size: int, source: Layout, layout: Layout) -> None:
    if not layout.has(digest, size):
        with source.open_blob(digest) as blob:
            layout.put_blob(blob, digest=digest)


def _remote(
    reference: Reference, platform: str, client: Client, layout: Layout, records: Records
) -> tuple[Reference, bytes]:
    """Ask what a tag points at (one HEAD), and read manifests only if they are not known yet."""
    if reference.digest is None:
        descriptor = client.head(reference)
        if descriptor is None:
            raise ImageUnavailable(f"the base image {reference} does not exist", remedy="Name another one with --base.")
        reference = reference.with_digest(descriptor.digest)
    name = key(reference.digest, platform)
    known = records.get("manifests", name)
    if known is not None and layout.has(known["digest"]):
        return reference.with_digest(known["digest"]), layout.read_blob(known["digest"])
    descriptor, data = client.image(reference, platform)
    layout.put_blob(data, digest=descriptor.digest)
    records.put("manifests", name, {"digest": descriptor.digest})
    return reference.with_digest(descriptor.digest), data


def as_oci(manifest: Manifest) -> Manifest:
    """Call Docker's media types by their OCI names: the bytes are the same."""
    names = {DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}
    layers = tuple(
        replace(layer, media_type=names.get(layer.media_type, layer.media_type)) for layer in manifest.layers
    )
    return replace(manifest, layers=layers, media_type=OCI_MANIFEST)
