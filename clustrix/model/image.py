"""Images: the one a user describes, and the one that was built."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clustrix.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# https://www.debian.org/doc/debian-policy/ch-controlfields.html#source, and apt-get(8)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(:[a-z0-9-]+)?([=/][A-Za-z0-9.+:~-]+)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VENV = "/opt/clustrix/venv"
"""Where the environment stands in an image that we built."""


class ImageSource(enum.Enum):
    """Say what an `Image` starts from."""

    ENVIRONMENT = "environment"
    LOCK = "lock"
    SCRIPT = "script"
    REGISTRY = "registry"


@dataclass(frozen=True, slots=True)
class Image:
    """Describe an image, lazily: nothing is read or built before it is needed.

    Immutable and hashable; every method gives a new one::

        Image.from_environment().pip_install("httpx==0.28.1").env(MODE="fast")
    """

    source: ImageSource = ImageSource.ENVIRONMENT
    location: str | None = None
    base: str | None = None
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    dockerfile: str | None = None
    context: str | None = None
    apt: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, *, base: str | None = None) -> Image:
        """Bake what is installed beside the caller's Python."""
        return cls(ImageSource.ENVIRONMENT, base=base)

    @classmethod
    def from_lock(
        cls, path: str, *, base: str | None = None, extras: tuple[str, ...] = (), groups: tuple[str, ...] = ()
    ) -> Image:
        """Bake a uv.lock, pylock.toml or requirements.txt; extras and groups are never implied."""
        chosen = (_texts("extras", extras), _texts("groups", groups))
        return cls(ImageSource.LOCK, str(path), base=base, extras=chosen[0], groups=chosen[1])

    @classmethod
    def from_script(cls, path: str, *, base: str | None = None) -> Image:
        """Bake what the inline metadata of a script asks for (PEP 723)."""
        return cls(ImageSource.SCRIPT, str(path), base=base)

    @classmethod
    def from_registry(cls, reference: str) -> Image:
        """Use an image that exists; a tag is resolved to a digest before a job is submitted."""
        return cls(ImageSource.REGISTRY, reference)

    @classmethod
    def from_dockerfile(cls, path: str, *, context: str | None = None) -> Image:
        """Bake what is installed beside the caller's Python on top of what Docker or Podman makes of a Dockerfile.

        ``context`` is the directory that it copies from, by default its own. The image must have the caller's Python.
        """
        return cls(ImageSource.ENVIRONMENT, dockerfile=str(path), context=None if context is None else str(context))

    def apt_install(self, *packages: str) -> Image:
        """Add packages of the base's distribution, by Docker or Podman: ``name``, ``name=version``."""
        self._built_here("apt_install")
        if wrong := [package for package in _texts("apt_install", packages) if not _PACKAGE.fullmatch(package)]:
            raise ConfigError(
                f"{wrong[0]!r} is no apt package", remedy="Write name, name=version or name:architecture."
            )
        return replace(self, apt=(*self.apt, *packages))

    def pip_install(self, *requirements: str) -> Image:
        """Add requirements (PEP 508) to what is locked."""
        self._built_here("pip_install")
        return replace(self, requirements=(*self.requirements, *_texts("pip_install", requirements)))

    def add_files(self, source: str, target: str) -> Image:
        """Copy a file or directory of this machine to an absolute path of the image."""
        self._built_here("add_files")
        if not target.startswith("/"):
            raise ConfigError(f"add_files needs an absolute path inside the image, not {target!r}")
        return replace(self, files=(*self.files, (str(source), target)))

    def env(self, variables: Mapping[str, str] | None = None, /, **more: str) -> Image:
        """Set environment variables inside the image. They can be read by whoever can pull it: no secrets."""
        self._built_here("env")
        new = {**(variables or {}), **more}
        for name, value in new.items():
            if not _VARIABLE.fullmatch(name) or not isinstance(value, str):
                raise ConfigError(f"env: {name!r} is no name, or not set to a text", remedy='Write: env(THREADS="8").')
        return replace(self, variables=tuple(sorted({**dict(self.variables), **new}.items())))

    def _built_here(self, verb: str) -> None:
        if self.source is ImageSource.REGISTRY:
            raise ConfigError(
                f"{verb} does not change an image from a registry ({self.location})",
                remedy="Use it as a base: Image.from_environment(base=...).",
            )


def _texts(what: str, given: Iterable[str]) -> tuple[str, ...]:
    """Take texts, and no text for the list of its letters, nor a list for one of them."""
    texts = () if isinstance(given, str) else tuple(given)
    if isinstance(given, str) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{what} takes texts one by one, not {given!r}")
    return texts


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """Identify an image: ``config_digest`` says what it is, ``manifest_digest`` where its bytes are.

    ``reference`` is where a registry serves it by digest; None while its blobs are only in the local blob
    store. ``interpreter`` is the absolute path of the environment's Python inside, ``fingerprint`` that of its
    environment; both None until measured for images that were not built by us.
    """

    config_digest: str
    manifest_digest: str
    platform: str  # linux/amd64, as OCI writes it
    python: str | None = None  # the minor version
    interpreter: str | None = None
    fingerprint: str | None = None
    lock_digest: str | None = None
    reference: str | None = None
