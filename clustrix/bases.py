"""The base of an image: one that exists, or one that an engine makes first, of a Dockerfile or with apt packages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clustrix import artifacts
from clustrix.config import cache_directory
from clustrix.errors import BuildError, ConfigError
from clustrix.model.image import BuiltImage
from clustrix.model.machine import platform_of
from clustrix.model.progress import SILENT
from clustrix.records import key
from clustrix.worker import installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from clustrix.build.baseimage import Base
    from clustrix.model.image import Image
    from clustrix.model.progress import Progress
    from clustrix.oci.manifest import Descriptor

_FORMAT = 1  # changes when the same question gets another answer
_asked: dict[tuple[Path, str | None, str], Base] = {}
"""What the engine of this process made of Dockerfiles: only it knows what has changed, and it is asked once."""


def of(
    image: Image,
    name: str | None,
    *,
    minor: str,
    machine: str,
    insecure: tuple[str, ...] = (),
    progress: Progress = SILENT,
    make: bool = True,
    before: Callable[[str], object] = str,
) -> Base:
    """Find and probe the base of an image; ``name`` is the one where it names none.

    ``before`` is told what an engine is about to do. ``make=False``: `BuildError` where one would have to make it.
    Raises `RuntimeUnavailable` without an engine, `BuildError` with its own words, and what
    `clustrix.build.baseimage.resolve` raises.
    """
    if image.dockerfile is None:
        below = artifacts.base(image.base or name, minor=minor, machine=machine, insecure=insecure, progress=progress)
    elif image.base is not None:
        raise ConfigError("an image has a base or a Dockerfile, not both", remedy="Write the base after FROM.")
    elif not make:
        raise _not_made(image)
    else:
        below = _of_dockerfile(Path(image.dockerfile), image.context, machine, _Watcher(progress, before))
    if not image.apt:
        return below
    return _with_packages(below, image, machine, _Watcher(progress, before), make=make)


class _Watcher(NamedTuple):
    progress: Progress
    told: Callable[[str], object]


def _of_dockerfile(path: Path, context: str | None, machine: str, watcher: _Watcher) -> Base:
    from clustrix.build import engine

    question = path.absolute(), context, machine
    if question in _asked:
        return _asked[question]
    if not path.is_file():
        raise ConfigError(f"there is no Dockerfile {path}")
    command = engine.find()
    argv = (*_foreign(machine), "--file", str(path), context or str(path.parent))
    watcher.told(f"{command} builds {path}")
    identity = engine.make(command, f"build {path}", argv, progress=watcher.progress)
    name = key(_FORMAT, identity)
    made = _known(name, machine)
    if made is None:
        made = engine.take(
            command, identity, artifacts.layout(), records=artifacts.records(), progress=watcher.progress
        )
        artifacts.records().put("engine", name, {"manifest": made.digest})
    ready = _probed(made, str(path), machine)
    engine.tag(command, identity, ready.digest)
    _asked[question] = ready
    return ready


def _with_packages(below: Base, image: Image, machine: str, watcher: _Watcher, *, make: bool) -> Base:
    """Add apt packages to a base, as they are today; later calls find what was made."""
    from clustrix.build import engine

    name = key(_FORMAT, below.digest, image.apt)
    text = engine.instructions(engine.name_of(below.digest), image.apt, below.config.settings.get("User") or "")
    made = _known(name, machine)
    if made is None:
        if not make:
            raise _not_made(image)
        command, progress = engine.find(), watcher.progress
        if not engine.has(command, below.digest):
            _load(below, command, progress)
        watcher.told(f"{command} adds {', '.join(image.apt)} to the base {below.name}, once")
        what = f"install {' '.join(image.apt)}"
        identity = engine.make(command, what, (*_foreign(machine), "-"), text=text, progress=progress)
        layers = dict(zip(below.config.diff_ids, below.manifest.layers, strict=True))
        made = engine.take(
            command, identity, artifacts.layout(), records=artifacts.records(), known=layers, progress=progress
        )
        artifacts.records().put("engine", name, {"manifest": made.digest})
    return _probed(made, f"{below.name} with {', '.join(image.apt)}", machine)


def _load(base: Base, command: str, progress: Progress) -> None:
    from clustrix.transports.local import Local

    image = BuiltImage(config_digest=base.digest, manifest_digest=base.manifest_digest, platform=base.config.platform)
    artifacts.load_into_engine(image, command, Local(), progress=progress)


def _known(name: str, machine: str) -> Descriptor | None:
    found = artifacts.records().get("engine", name)
    return artifacts.layout().whole(found["manifest"], platform_of(machine)) if found else None


def _probed(made: Descriptor, called: str, machine: str) -> Base:
    from clustrix.build import baseimage

    platform = platform_of(machine)
    return baseimage.found_in(
        artifacts.layout(), made, cache_directory() / "build", base=called, reference=None, platform=platform
    )


def _foreign(machine: str) -> tuple[str, ...]:
    """Name the platform where it is not the engine's own: not every engine takes the option."""
    return () if machine == installed.machine() else ("--platform", platform_of(machine))


def _not_made(image: Image) -> BuildError:
    what = ", ".join([*([image.dockerfile] if image.dockerfile else []), *image.apt])
    return BuildError(f"an engine makes the base first ({what}): what goes on it is not known before")
