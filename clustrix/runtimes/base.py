"""The contract of a runtime: put an environment in place once, then start commands in it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from clustrix.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from clustrix.model.image import BuiltImage
    from clustrix.model.job import Placed, SitePaths
    from clustrix.model.lock import Lock
    from clustrix.model.progress import Progress
    from clustrix.model.resources import Mount
    from clustrix.transports.base import Transport


class Need(enum.Enum):
    """Say what a runtime must be given: the pipeline builds that and no more."""

    LOCK = "lock"
    OCI = "oci"
    SIF = "sif"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Hold what the pipeline made.

    A lock (with its wheels here, by package name), a built image (its blobs in the OCI layout at ``layout``, or served
    by ``image.reference``), or an image file that exists already (``sif``: its path at the target).
    """

    lock: Lock | None = None
    wheels: Mapping[str, Path] | None = None
    image: BuiltImage | None = None
    layout: Path | None = None
    sif: str | None = None


class Runtime(Protocol):
    """Place artifacts at a target and wrap commands so that they run inside."""

    needs: Need
    enforces_memory: bool
    commands: tuple[str, ...]
    """The commands of which the target must have one, if any."""

    def ensure(self, artifact: Artifact, transport: Transport, site: SitePaths, *, progress: Progress) -> Placed:
        """Put the environment in place. Idempotent, safe beside another client doing the same.

        Raises:
            RuntimeUnavailable: the target has no such runtime, or an unusable one; says which and why.
            ImageUnavailable: the target cannot have this image.

        """
        ...

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
        """Turn a command of the environment into a command of the host. Pure.

        ``mounts`` are all that is seen of the host; ``variables`` are not secret (those travel in the payload).
        """
        ...


def bind(mount: Mount, *, target: str, read_only: str) -> str:
    """Write the value of a ``--mount``, with the words of a command for its target and for what is not written to.

    Comma-separated values, as encoding/csv of Go reads them (https://pkg.go.dev/encoding/csv).

    Raises:
        ConfigError: a name with a line break, which no command takes.

    """
    fields = [
        "type=bind",
        f"source={mount.source}",
        f"{target}={mount.target}",
        *([read_only] if mount.read_only else []),
    ]
    if any("\n" in field for field in fields):
        raise ConfigError(f"a directory with a line break in its name cannot be mounted: {mount.source!r}")
    return ",".join('"' + field.replace('"', '""') + '"' if set(field) & set('",') else field for field in fields)
