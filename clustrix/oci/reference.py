"""Names of images, as Docker and the OCI write them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from clustrix.errors import BadReference

DOCKER_HUB = "docker.io"

# The grammar of https://github.com/distribution/reference (reference.go, regexp.go).
_DOMAIN = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*"
    r"|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
)
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def is_digest(text: str) -> bool:
    """Say whether ``text`` is a whole digest (``sha256:`` or ``sha512:`` and lower-case hex)."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Reference:
    """Name an image in a registry; at least one of ``tag`` and ``digest`` is set, and the digest counts."""

    registry: str  # host[:port]
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``[registry/]repository[:tag][@digest]``; Docker Hub, ``library/`` and ``latest`` where left out.

        Raises `BadReference`.
        """
        rest, at, digest = text.partition("@")
        if at and not is_digest(digest):
            raise _bad(text, f"{digest!r} is no digest: sha256: and 64 lower-case hex digits")
        name, tag = rest, None
        colon = rest.rfind(":")
        if colon > rest.rfind("/"):
            name, tag = rest[:colon], rest[colon + 1 :]
            if not _TAG.fullmatch(tag):
                raise _bad(text, f"{tag!r} is no tag: letters, digits, _ . - and at most 128 of them")
        registry, repository = _split(name)
        if not _DOMAIN.fullmatch(registry):
            raise _bad(text, f"{registry!r} is no host[:port]")
        if not _REPOSITORY.fullmatch(repository):
            lower = " (it must be lower case)" if repository != repository.lower() else ""
            raise _bad(text, f"{repository!r} is no repository name{lower}")
        if len(repository) > 255:  # noqa: PLR2004 - the grammar's limit
            raise _bad(text, "the repository name is longer than 255 characters")
        if tag is None and not digest:
            tag = "latest"
        return cls(registry, repository, tag, digest or None)

    @property
    def name(self) -> str:
        """Say where, without saying which: ``registry/repository``."""
        return f"{self.registry}/{self.repository}"

    @property
    def selector(self) -> str:
        """Say what a registry is asked for: the digest where there is one, else the tag."""
        return self.digest or self.tag or "latest"

    def with_digest(self, digest: str) -> Reference:
        """Pin to ``digest``, dropping the tag."""
        if not is_digest(digest):
            raise BadReference(f"{digest!r} is no digest")
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{f'@{self.digest}' if self.digest else ''}"


def check_tag(tag: str) -> None:
    """Refuse what is no tag; `BadReference`."""
    if not _TAG.fullmatch(tag):
        raise BadReference(
            f"{tag!r} is no tag", remedy="Use letters, digits, _ . and -, at most 128 of them; not . or - first."
        )


def split_tag(location: str) -> tuple[str, str]:
    """Split ``PATH[:tag]``, as in ``oci:PATH:tag``; ``latest`` where left out. A drive letter is no path of its own."""
    path, colon, tag = location.rpartition(":")
    if colon and len(path) > 1 and _TAG.fullmatch(tag):
        return path, tag
    return location, "latest"


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_host = slash and (any(mark in first for mark in ".:[") or first == "localhost" or first != first.lower())
    registry, repository = (first, rest) if is_host else (DOCKER_HUB, name)
    if registry in {"index.docker.io", "registry-1.docker.io"}:
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _bad(text: str, why: str) -> BadReference:
    return BadReference(
        f"{text!r} is no image reference: {why}",
        remedy="Write registry/repository:tag or registry/repository@sha256:..., for example ghcr.io/me/image:1.",
    )
