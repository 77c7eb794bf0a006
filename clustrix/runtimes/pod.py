"""Pods: their node pulls the image by digest, and the worker begins as their first process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clustrix.errors import ImageUnavailable
from clustrix.kubernetes import names
from clustrix.model.job import Placed
from clustrix.runtimes.base import Need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.model.paths import SitePaths
    from clustrix.model.progress import Progress
    from clustrix.model.resources import Mount
    from clustrix.runtimes.base import Artifact
    from clustrix.transports.base import Transport


class Pod:
    """Run in a pod."""

    needs = Need.OCI
    enforces_memory = True
    commands: tuple[str, ...] = ()

    def ensure(self, artifact: Artifact, transport: Transport, site: SitePaths, *, progress: Progress) -> Placed:
        """See that a registry serves the image; whoever found it or pushed it there has just asked by its digest.

        Raises:
            ImageUnavailable: it is in none.

        """
        del transport, site, progress
        image = artifact.image
        if image is None:
            raise ImageUnavailable("pods need an image, and were given a lock or a SIF")
        if image.reference is None:
            raise ImageUnavailable(
                f"nodes pull images from a registry, and {image.config_digest} is in none",
                remedy="Set `registry` to a repository that you may push to and that the nodes reach.",
            )
        return Placed(runtime="pod", location=image.reference, interpreter=image.interpreter or "python3")

    def wrap(
        self,
        placed: Placed,
        argv: Sequence[str],
        *,
        mounts: Sequence[Mount],
        variables: Mapping[str, str],
        gpus: int,
        memory_bytes: int | None,
        cores: int,
    ) -> tuple[str, ...]:
        """Give the command of the main container; the manifest says all the rest."""
        del placed, mounts, variables, gpus, memory_bytes, cores
        interpreter, isolated, *_, bundle, directory = argv
        digest = bundle.rpartition("/")[2].removesuffix(".zip")
        ulid = directory.rpartition("/")[2]
        return (interpreter, isolated, names.bundle_path(digest), "--pod", names.ROOT, ulid)
