"""Where images go: one file for each kind of destination."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clustrix.errors import BadReference
from clustrix.oci.reference import Reference

if TYPE_CHECKING:
    from clustrix.oci.client import Client
    from clustrix.publish.base import Destination

_SCHEME = re.compile(r"(oci|oci-archive|sif|docker|docker-daemon):(?!//)(.*)", re.DOTALL)


def registry_of(text: str) -> str | None:
    """Name the registry that an image goes to or comes from, ``host[:port]``; None for files and engines."""
    scheme, location = split_scheme(text)
    return None if scheme else Reference.parse(location).registry


def split_scheme(text: str) -> tuple[str, str]:
    """Split ``scheme:location``; no scheme for a registry, and ``sif`` for what ``image=`` takes for a SIF."""
    match = _SCHEME.fullmatch(text)
    if match is not None:
        return match[1], match[2]
    if text.endswith(".sif") and not text.startswith("docker://"):
        return "sif", text
    return "", text.removeprefix("docker://")


def destination(text: str, *, client: Client | None = None) -> Destination:
    """Read where an image should go; the registry's ``client`` says what is spoken in plain HTTP.

    ``registry/repository:tag``, ``oci:DIR[:tag]``, ``oci-archive:FILE[:tag]``, ``FILE.sif`` (also ``sif:FILE``),
    ``docker:NAME[:tag]`` (the engine; also ``docker-daemon:``). Raises `BadReference`, and `MissingExtra` for an
    engine without the docker package.
    """
    scheme, location = split_scheme(text)
    if not scheme:
        # An image called podman:x or ocidir:x is a slip, and not what Docker Hub is to be asked for.
        if "/" not in text:
            raise BadReference(
                f"{text!r} does not say where the image goes",
                remedy="Write registry/repository:tag, oci:DIR, oci-archive:FILE, FILE.sif or docker:NAME.",
            )
        from clustrix.publish.registry import Registry

        return Registry(location, client=client)
    if not location:
        raise BadReference(f"{text!r} names nothing after {scheme}:")
    if scheme == "oci":
        from clustrix.publish.layout import LayoutDirectory

        return LayoutDirectory(location)
    if scheme == "oci-archive":
        from clustrix.publish.archive import Archive

        return Archive(location)
    if scheme == "sif":
        from clustrix.publish.sif import Sif

        return Sif(location)
    from clustrix.publish.engine import Engine

    return Engine(location)
