"""The image that ours stands on: where it comes from, and what was found in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from clustrix.build.probe import FORMAT, LINKS_AT_MOST, probe
from clustrix.errors import BaseImageError, ImageUnavailable
from clustrix.model.environment import Interpreter, Platform
from clustrix.model.machine import machine_of, platform_of
from clustrix.model.progress import SILENT
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, OCI_MANIFEST, ImageConfig
from clustrix.oci.reference import Reference
from clustrix.records import Records, key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clustrix.model.progress import Progress
    from clustrix.oci.client import Client
    from clustrix.oci.manifest import Descriptor, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Describe a base image. ``reference`` is where a registry serves it by digest, None for one in a layout.

    ``pythons`` are (absolute path, version) in the order of its PATH. ``directories`` are those that do not belong to
    root with mode 0755: path -> (mode, uid, gid); ``links`` lead to directories: path -> path.
    """

    name: str = field(compare=False)  # as whoever asked for it wrote it
    reference: str | None
    manifest_digest: str
    manifest: Manifest
    config: ImageConfig
    glibc: tuple[int, int]
    pythons: tuple[tuple[str, str], ...]
    directories: Mapping[str, tuple[int, int, int]] = field(default_factory=dict, hash=False)
    links: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def digest(self) -> str:
        """Identify it, whatever its compression: its config digest."""
        return self.manifest.config.digest

    @property
    def platform(self) -> Platform:
        """Say what wheels must fit."""
        return Platform(machine_of("/".join(self.config.platform.split("/")[:2])), self.glibc)

    def python(self, minor: str) -> tuple[str, Interpreter]:
        """Give path and description of its Python ``minor`` (``3.11``); `BaseImageError` names those it has."""
        for path, version in self.pythons:
            if version.startswith(f"{minor}."):
                free_threaded = "t" if path.endswith("t") else ""
                return path, Interpreter("cpython", version, f"cp{minor.replace('.', '')}{free_threaded}")
        had = ", ".join(f"{path} ({version})" for path, version in self.pythons)
        raise BaseImageError(
            f"the base image {self.name} has no Python {minor}" + (f", only {had}" if had else ""),
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
        raise BaseImageError(f"links of the base image {self.name} go round in circles: {path}")


def default(minor: str) -> str:
    """Name the public base for a Python."""
    return f"docker.io/library/python:{minor}-slim"


def resolve(
    base: str | None,
    *,
    minor: str,
    machine: str,
    client: Callable[[], Client],
    layout: Layout,
    cache: Path,
    progress: Progress = SILENT,
) -> Base:
    """Find a base (a reference, ``oci:DIR``, ``oci:DIR:NAME`` or None for `default`) and probe it, once per digest.

    ``client`` makes one, if a registry has to be asked: what speaks HTTP takes a while to import.
    Its blobs are brought into ``layout``, once; a tag costs one HEAD each time. Raises `BaseImageError`,
    `ImageUnavailable`, `RegistryError`, `DiskFull`.
    """
    platform = platform_of(machine)
    base = base or default(minor)
    reference: Reference | None = None
    if base.startswith("oci:"):
        descriptor = _copy(base.removeprefix("oci:"), platform, layout)
    else:
        reference = Reference.parse(base)
        digest = reference.digest
        if digest is None:
            tagged = client().head(reference)
            if tagged is None:
                raise ImageUnavailable(f"the base image {base} does not exist", remedy="Name another one with --base.")
            digest = tagged.digest
            reference = reference.with_digest(digest)
        descriptor = layout.whole(digest, platform) or _pull(reference, platform, client(), layout, progress)
        reference = reference.with_digest(descriptor.digest)
    served = None if reference is None else str(reference)
    return found_in(layout, descriptor, cache, base=base, reference=served, platform=platform)


def found_in(
    layout: Layout, descriptor: Descriptor, cache: Path, *, base: str, reference: str | None, platform: str
) -> Base:
    """Probe a base that is in a layout, once per digest; ``base`` is what it is called. Raises `BaseImageError`."""
    manifest = layout.manifest(descriptor.digest)
    config = ImageConfig.parse(layout.read_blob(manifest.config.digest))
    if config.platform.split("/")[:2] != platform.split("/"):
        raise BaseImageError(f"the base image {base} is made for {config.platform}, not for {platform}")
    name = key(FORMAT, manifest.config.digest)
    found = Records(cache).get("bases", name)
    if found is None:
        found = probe(base, manifest, config, layout)
        Records(cache).put("bases", name, found)
    return Base(
        name=base,
        reference=reference,
        manifest_digest=descriptor.digest,
        manifest=manifest,
        config=config,
        glibc=(found["glibc"][0], found["glibc"][1]),
        pythons=tuple((path, version) for path, version in found["pythons"]),
        directories={path: (mode, uid, gid) for path, (mode, uid, gid) in found["directories"].items()},
        links=found["links"],
    )


def _pull(reference: Reference, platform: str, client: Client, layout: Layout, progress: Progress) -> Descriptor:
    from clustrix.oci.client import pull

    return pull(client, reference, platform, layout, progress=progress)


def named(text: str) -> tuple[Layout, str | None]:
    """Read ``DIR[:NAME]``, as skopeo writes it: a layout, and which of its images; DIR may hold colons too."""
    source = Layout(text)
    if source.exists() or ":" not in text:
        return source, None
    directory, _, name = text.rpartition(":")
    return Layout(directory), name


def _copy(text: str, platform: str, layout: Layout) -> Descriptor:
    """Bring an image of another layout into ours."""
    source, name = named(text)
    descriptor = source.resolve(name, platform)
    for blob in (*source.manifest(descriptor.digest).blobs, descriptor):
        if not layout.has(blob.digest, blob.size):
            with source.open_blob(blob.digest) as file:
                layout.put_blob(file, digest=blob.digest)
    return descriptor


def as_oci(manifest: Manifest) -> Manifest:
    """Call Docker's media types by their OCI names: the bytes are the same."""
    names = {DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}
    layers = tuple(
        replace(layer, media_type=names.get(layer.media_type, layer.media_type)) for layer in manifest.layers
    )
    return replace(manifest, layers=layers, media_type=OCI_MANIFEST)
