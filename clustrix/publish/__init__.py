"""Where images go: one file for each kind of destination."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clustrix.errors import BadReference
from clustrix.oci.reference import Reference

if TYPE_CHECKING:
    from clustrix.oci.client import Client
    from clustrix.publish.base import Destination

_SCHEME = re.compile(r"(oci|oci-archive|docker|docker-daemon):(?!//)(.*)", re.DOTALL)


def registry_of(text: str) -> str | None:
    """Name the registry that an image goes to or comes from, ``host[:port]``; None for files and engines."""
    return None if _SCHEME.fullmatch(text) else Reference.parse(text.removeprefix("docker://")).registry


def destination(text: str, *, client: Client | None = None) -> Destination:
    """Read where an image should go; the registry's ``client`` says what is spoken in plain HTTP.

    ``registry/repository:tag``, ``oci:DIR[:tag]``, ``oci-archive:FILE[:tag]``, ``docker:NAME[:tag]`` (the engine;
    also ``docker-daemon:``). Raises `BadReference`, and `MissingExtra` for an engine without the docker package.
    """
    match = _SCHEME.fullmatch(text)
    if match is None:
        # An image called podman:x or ocidir:x is a slip, and not what Docker Hub is to be asked for.
        if "/" not in text:
            raise BadReference(
                f"{text!r} does not say where the image goes",
                remedy="Write registry/repository:tag, oci:DIR, oci-archive:FILE or docker:NAME.",
            )
        from clustrix.publish.registry import Registry

        return Registry(text.removeprefix("docker://"), client=client)
    scheme, location = match.groups()
    if not location:
        raise BadReference(f"{text!r} names nothing after {scheme}:")
    if scheme == "oci":
        from clustrix.publish.layout import LayoutDirectory

        return LayoutDirectory(location)
    if scheme == "oci-archive":
        from clustrix.publish.archive import Archive

        return Archive(location)
    from clustrix.publish.engine import Engine

    return Engine(location)
