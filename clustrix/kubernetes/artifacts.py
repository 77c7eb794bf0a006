"""What jobs have in a registry: payloads that are too large for a Secret, and the outcomes of their pods.

All of it is tagged with the job's ulid, and says in an annotation from which namespace of which cluster it comes
(`clustrix.kubernetes.connection.Cluster.mark`): several may share a repository, and none knows the others' jobs.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from clustrix.errors import ImageError, ImageUnavailable, RegistryError
from clustrix.model.job import born
from clustrix.oci.manifest import Manifest
from clustrix.oci.reference import Reference
from clustrix.worker.delivery import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clustrix.oci.client import Client

_log = logging.getLogger("clustrix")
_PARALLEL = 32
_PAYLOAD = "payload"
_TAG = re.compile(rf"([0-9a-hjkmnp-tv-z]{{26}})-({_PAYLOAD}|[0-9]+-[0-9a-f-]+)")
_UNDER_WAY = 3600.0  # seconds for which a payload may be there before its Job is


def prefix(ulid: str) -> str:
    """Begin the tags of a job (`clustrix.worker.delivery.tag` for those of its pods)."""
    return f"{ulid.lower()}-"


def payload(ulid: str) -> str:
    """Tag what travels with a job."""
    return f"{prefix(ulid)}{_PAYLOAD}"


class Artifacts:
    """Find and delete what jobs have in a repository."""

    def __init__(self, client: Client, repository: str) -> None:
        self._client = client
        self._repository = repository

    def tags(self, beginning: str) -> list[str]:
        """List tags that begin so; RegistryError."""
        return list(self._client.tags(self._reference("outcomes"), beginning))

    def find(self, mark: str | None, before: float) -> Mapping[str, Mapping[str, int]]:
        """Find what jobs of a namespace have that are older than ``before``: ulid -> tag -> bytes.

        A registry that does not answer is told of.
        """
        if mark is None:
            return {}
        found: dict[str, dict[str, int]] = {}
        try:
            old = [(match[1], tag) for tag in self.tags("") if (match := _TAG.fullmatch(tag)) and _old(match, before)]
            with ThreadPoolExecutor(_PARALLEL, "clustrix-artifacts") as pool:
                sizes = pool.map(lambda row: self._size(row[1], mark), old)
                for (ulid, tag), size in zip(old, sizes, strict=True):
                    if size is not None:
                        found.setdefault(ulid.upper(), {})[tag] = size
        except RegistryError as error:
            _log.warning("what jobs left in %s cannot be looked for: %s", self._repository, error)
        return found

    def delete(self, tags: Iterable[str]) -> list[str]:
        """Delete artifacts and give their tags; a registry that refuses that is told of."""
        gone: list[str] = []
        try:
            for tag in tags:
                with contextlib.suppress(ImageUnavailable):  # somebody else was faster
                    there = self._client.head(self._reference(tag))
                    if there is not None:
                        self._client.delete(self._reference(tag).with_digest(there.digest))
                gone.append(tag)
        except RegistryError as error:
            _log.warning("what jobs have in %s stays there: %s", self._repository, error)
        return gone

    def _size(self, tag: str, mark: str) -> int | None:
        """Measure an artifact of a namespace; None for anything else."""
        try:
            data = self._client.manifest(self._reference(tag))[1]
            manifest = Manifest.parse(data)
        except RegistryError:
            raise
        except ImageError:  # it is gone, or is none
            return None
        own = manifest.annotations.get(NAMESPACE) == mark
        return len(data) + sum(blob.size for blob in manifest.blobs) if own else None

    def _reference(self, tag: str) -> Reference:
        return Reference.parse(f"{self._repository}:{tag}")


def _old(tag: re.Match[str], before: float) -> bool:
    """Tell whether a job was begun before, and its submission is over."""
    return born(tag[1]) < (min(before, time.time() - _UNDER_WAY) if tag[2] == _PAYLOAD else before)
