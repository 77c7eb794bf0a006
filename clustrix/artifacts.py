"""What a job runs in, as far as this machine makes it: sources, locks and images, each made once and remembered."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.capture import packages, sources
from clustrix.config import cache_directory
from clustrix.errors import ImageUnavailable
from clustrix.model.environment import Environment, Origin
from clustrix.model.image import VENV, BuiltImage, Image, ImageSource
from clustrix.model.lock_record import dump, load
from clustrix.model.machine import platform_of
from clustrix.model.progress import SILENT
from clustrix.records import Records, key
from clustrix.worker import installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clustrix.build.base import BuildResult, Recipe
    from clustrix.build.baseimage import Base
    from clustrix.build.layers import Layers
    from clustrix.model.environment import Platform
    from clustrix.model.lock import Lock, LockResult
    from clustrix.model.progress import Progress
    from clustrix.model.settings import ClusterConfig
    from clustrix.model.source import Source
    from clustrix.oci.client import Client
    from clustrix.oci.layout import Layout
    from clustrix.transports.base import Transport

_FORMAT = 1  # changes when the same question gets another answer
_LABELS = ("dev.clustrix.python", "dev.clustrix.fingerprint", "dev.clustrix.lock")


@cache
def client(*, insecure: tuple[str, ...] = ()) -> Client:
    """Speak with registries over one set of connections; ``insecure`` names those that are spoken to in plain HTTP."""
    from clustrix.oci.client import Client

    return Client(insecure=insecure)


def layout() -> Layout:
    """Give the layout that holds every image built here."""
    from clustrix.oci.layout import Layout

    return Layout(cache_directory() / "oci")


def builder() -> Layers:
    """Give the builder that needs no daemon."""
    from clustrix.build.layers import Layers

    return Layers(layout(), cache_directory() / "build")


def records() -> Records:
    """Give what was found out before."""
    return Records(cache_directory())


def described(config: ClusterConfig) -> Image | str:
    """Say what a call runs in: an image to make or to find, or the path of a SIF."""
    image = config.image
    if isinstance(image, Image):
        return image
    if isinstance(image, str):
        return image if image.endswith(".sif") else Image.from_registry(image)
    if config.environment == sources.INTERPRETER:
        return Image.from_environment()
    return Image.from_lock(config.environment)


def source(image: Image, directory: Path, *, script: Path | None = None) -> Source:
    """Find what an image's lock is made from."""
    choice = sources.INTERPRETER if image.source is ImageSource.ENVIRONMENT else image.location or sources.AUTO
    return sources.choose(
        choice,
        directory,
        script=script,
        extras=image.extras,
        groups=image.groups,
        cache=cache_directory() / "captures",
    )


def lock(
    found: Source,
    platform: Platform,
    python: str,
    *,
    requirements: tuple[str, ...] = (),
    refresh: bool = False,
    progress: Progress = SILENT,
) -> LockResult:
    """Lock a source, or give the lock that the same question was answered with before."""
    name = key(_FORMAT, _identity(found), str(platform), python, requirements)
    known = None if refresh else records().get("locks", name)
    if known is not None:
        try:
            return load(known)
        except (KeyError, TypeError, ValueError):  # written by another version
            pass
    from clustrix import locking

    cache = cache_directory() / "locking"
    with contextlib.closing(progress.start("lock", None)):
        result = locking.lock(found, platform, python, cache=cache, requirements=requirements, refresh=refresh)
    records().put("locks", name, dump(result))
    return result


def _identity(found: Source) -> str:
    """Say all that decides on a lock; of an environment without source trees its stamp says it, in no time."""
    if isinstance(found, Environment) and not any(
        row.url for row in found.distributions if row.origin is Origin.DIRECTORY or not row.pure
    ):
        return packages.stamp()
    from clustrix import locking

    return locking.identity(found)


def base(
    name: str | None, *, minor: str, machine: str, insecure: tuple[str, ...] = (), progress: Progress = SILENT
) -> Base:
    """Find and probe a base image."""
    from clustrix.build import baseimage

    return baseimage.resolve(
        name,
        minor=minor,
        machine=machine,
        client=lambda: client(insecure=insecure),
        layout=layout(),
        cache=cache_directory() / "build",
        progress=progress,
    )


def recipe(image: Image, result: Lock, on: Base, *, compression: str = "gzip", bytecode: bool = True) -> Recipe:
    """Say everything that decides on the image of a lock."""
    from clustrix.build.base import Recipe
    from clustrix.locking import write

    return Recipe(
        lock=result,
        pylock=write(result),
        base=on,
        files=image.files,
        variables=image.variables,
        compression=compression,
        bytecode=bytecode,
    )


def build(order: Recipe, *, progress: Progress = SILENT, before: Callable[[], None] | None = None) -> BuildResult:
    """Make an image, or find the one made before; only wheels that were never packed are fetched.

    ``before`` is called if there is work to do.
    """
    maker = builder()
    found = maker.find(order)
    if found is not None:
        return found
    if before is not None:
        before()
    made = maker.build(order, fetch(replace(order.lock, packages=maker.missing(order)), progress), progress=progress)
    fingerprints(order.lock)  # remembered, to compare with
    return made


def fetch(wanted: Lock, progress: Progress = SILENT) -> dict[str, Path]:
    """Bring wheels here, and remember what each will be once it is installed."""
    from clustrix import locking

    wheels = locking.fetch(wanted, cache_directory(), progress)
    for package in wanted.packages:
        if records().get("wheels", package.file.sha256) is None:
            mark = installed.of_wheel(wheels[package.name])
            records().put("wheels", package.file.sha256, {"fingerprint": mark})
    return wheels


def fingerprints(wanted: Lock) -> Mapping[str, str] | None:
    """Give the fingerprint of every package of a lock by name; None where a wheel has never been here."""
    known = fingerprints_by_digest(wanted.digest)
    if known is not None:
        return known
    rows = {}
    for package in wanted.packages:
        found = records().get("wheels", package.file.sha256)
        if found is None:
            return None
        rows[package.name] = str(found["fingerprint"])
    records().put("fingerprints", wanted.digest.partition(":")[2], rows)
    return rows


def fingerprints_by_digest(lock_digest: str) -> Mapping[str, str] | None:
    """Do what `fingerprints` does, for a lock that it was asked about before."""
    return records().get("fingerprints", lock_digest.partition(":")[2])


def existing(reference: str, *, minor: str, machine: str, insecure: tuple[str, ...] = ()) -> BuiltImage:
    """Find an image of a registry, by digest, and what is known of its environment.

    Images that we built say it in their labels; of others the Python is looked for, once per digest.
    """
    from clustrix.oci.manifest import ImageConfig, Manifest
    from clustrix.oci.reference import Reference

    found = Reference.parse(reference)
    platform = platform_of(machine)
    speaker = client(insecure=insecure)
    at = speaker.head(found)
    if at is None:
        raise ImageUnavailable(f"the image {found} does not exist", remedy="Check its name, or push it first.")
    name = key(str(found.with_digest(at.digest)), platform, minor)
    if (known := records().get("existing", name)) is not None:
        return _with_measurement(BuiltImage(**known))
    descriptor, data = speaker.image(found, platform)
    fixed = found.with_digest(descriptor.digest)
    manifest = Manifest.parse(data)
    settings = ImageConfig.parse(speaker.read_blob(fixed, manifest.config))
    if settings.platform.split("/")[:2] != platform.split("/"):
        raise ImageUnavailable(
            f"the image {found} is made for {settings.platform}, not for {platform}",
            remedy="Build it for the machines of the target.",
        )
    python, fingerprint, lock_digest = (settings.labels.get(label) for label in _LABELS)
    interpreter = f"{VENV}/bin/python"
    if python is None:
        probed = base(str(fixed), minor=minor, machine=machine, insecure=insecure)
        interpreter, there = probed.python(minor)
        python = there.minor
    image = BuiltImage(
        config_digest=manifest.config.digest,
        manifest_digest=descriptor.digest,
        platform=settings.platform,
        python=python,
        interpreter=interpreter,
        fingerprint=fingerprint,
        lock_digest=lock_digest,
        reference=str(fixed),
    )
    records().put("existing", name, dataclasses.asdict(image))
    return _with_measurement(image)


def measured(config_digest: str, fingerprint: str) -> None:
    """Remember what the first job in an image found installed: later ones must find the same."""
    if records().get("measured", key(config_digest)) is None:
        records().put("measured", key(config_digest), {"fingerprint": fingerprint})


def _with_measurement(image: BuiltImage) -> BuiltImage:
    known = None if image.fingerprint else records().get("measured", key(image.config_digest))
    return replace(image, fingerprint=known["fingerprint"]) if known else image


def pushed(
    image: BuiltImage, repository: str, *, insecure: tuple[str, ...] = (), progress: Progress = SILENT
) -> BuiltImage:
    """Bring an image to the repository that a target pulls from; one HEAD when it is there."""
    from clustrix.publish import destination

    tag = (image.lock_digest or image.config_digest).partition(":")[2][:32]
    sent = destination(f"{repository}:{tag}", client=client(insecure=insecure))
    return replace(image, reference=sent.publish(image, layout(), progress=progress).reference)


def load_into_engine(image: BuiltImage, engine: str, transport: Transport, *, progress: Progress = SILENT) -> None:
    """Give an image that was built here to the engine of a host, by its command line.

    Raises:
        ImageUnavailable: the engine does not take it; in its own words.

    """
    from clustrix.build.engine import name_of
    from clustrix.oci.archive import docker_archive
    from clustrix.transports.base import Pieces

    blobs = layout()
    manifest = blobs.describe(image.manifest_digest)
    name = name_of(image.config_digest)
    bar = progress.start(f"load {name}", sum(blob.size for blob in blobs.manifest(manifest.digest).blobs))

    def pieces() -> Iterator[bytes]:
        for piece in docker_archive(blobs, manifest, name):
            yield piece
            bar.advance(len(piece))

    try:
        done = transport.run(f"{engine} load", stdin=io.BufferedReader(Pieces(pieces()), 1 << 20))
    finally:
        bar.close()
    if done.returncode != 0:
        said = done.stderr_text or done.stdout_text
        raise ImageUnavailable(f"the {engine} engine at {transport.address} cannot load {name}: {said}")


class Wheels(Mapping[str, Path]):
    """Bring the wheels of a lock here when the first of them is asked for; by normalised name."""

    def __init__(self, wanted: Lock, progress: Progress = SILENT) -> None:
        self._lock = wanted
        self._progress = progress

    @cached_property
    def _wheels(self) -> dict[str, Path]:
        return fetch(self._lock, self._progress)

    def __getitem__(self, name: str) -> Path:
        return self._wheels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(package.name for package in self._lock.packages)

    def __len__(self) -> int:
        return len(self._lock.packages)
