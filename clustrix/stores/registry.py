"""Outcomes in the termination messages of pods and, where they are too large, as artifacts in a registry."""

from __future__ import annotations

import io
import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import ConnectionLost, ImageUnavailable, RegistryDenied, RegistryError, StoreError
from clustrix.kubernetes import artifacts
from clustrix.oci.client import Client
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import Descriptor
from clustrix.oci.reference import Reference
from clustrix.stores.pods import PodStore, Remains, unpack
from clustrix.worker import delivery
from clustrix.worker.message import Message

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from clustrix.kubernetes.connection import Cluster
    from clustrix.model.job import JobRecord
    from clustrix.stores.base import RawOutcome
    from clustrix.worker.message import Layer

_log = logging.getLogger("clustrix")
_PARALLEL = 32
_LAST = "~"  # when a pod ended of which nobody knows: after all whose time is known
_SMALL = 8 << 20  # bytes of a blob that is read into memory at once


class RegistryStore(PodStore):
    """Read what pods left in their messages, and in ``repository`` (a name as this machine knows it)."""

    def __init__(self, cluster: Cluster, *, repository: str, insecure: bool = False) -> None:
        super().__init__(cluster)
        self._repository = repository
        self._insecure = insecure
        self._layers: dict[str, tuple[Layer, ...]] = {}

    @cached_property
    def _client(self) -> Client:
        return Client(insecure=[Reference.parse(self._repository).registry] if self._insecure else ())

    @property
    def _artifacts(self) -> artifacts.Artifacts:
        return artifacts.Artifacts(self._client, self._repository)

    def announced(self, ulid: str, left: Remains) -> Sequence[int]:
        """List the items of which a pod left an outcome; of one that was killed, what it had sent before."""
        if left.message.statuses:
            return tuple(left.message.statuses)
        return [index for layer in self._layers_of(ulid, left) for index in layer.items]

    def apart(self, job: JobRecord, wanted: Sequence[tuple[Remains, Sequence[int]]]) -> Iterator[RawOutcome]:
        """Read blobs, at most 32 at a time."""
        blobs = [
            (layer, chosen)
            for left, indices in wanted
            for layer in self._layers_of(job.id.ulid, left)
            if (chosen := set(indices) & set(layer.items))
        ]
        if len(blobs) == 1:
            yield from self._read(*blobs[0])
        elif blobs:
            with ThreadPoolExecutor(min(_PARALLEL, len(blobs)), "clustrix-outcomes") as pool:
                for future in as_completed([pool.submit(self._read, *blob) for blob in blobs]):
                    yield from future.result()

    def _layers_of(self, ulid: str, left: Remains) -> tuple[Layer, ...]:
        """Tell in which blobs the outcomes of a pod are: as it said itself, else as its manifest does."""
        if left.message.layers:
            return left.message.layers
        if not self._layers.get(left.uid):
            place = self._reference(delivery.tag(ulid, left.task, left.uid))
            if left.message.manifest is not None:
                place = place.with_digest(left.message.manifest)
            try:
                self._layers[left.uid] = delivery.layers_of(self._client.manifest(place)[1])
            except ImageUnavailable:  # it had sent nothing
                self._layers[left.uid] = ()
            except (ValueError, KeyError, TypeError, AttributeError):
                raise StoreError(f"{place} is not the outcomes of a pod", remedy="Submit the job again.") from None
        return self._layers[left.uid]

    def _read(self, layer: Layer, indices: Collection[int]) -> list[RawOutcome]:
        blob = Descriptor("application/octet-stream", layer.digest, layer.size)
        place = self._reference("outcomes")
        if layer.size <= _SMALL:
            return list(unpack(io.BytesIO(self._client.read_blob(place, blob)), indices))
        with tempfile.TemporaryDirectory(prefix="clustrix-") as scratch:
            layout = Layout(Path(scratch))
            self._client.fetch_blob(place, blob, layout)
            with layout.open_blob(layer.digest) as file:
                return list(unpack(file, indices))

    def discard(self, ulids: Collection[str]) -> None:
        """Delete what jobs have in the registry; one that refuses that is told of."""
        self._artifacts.delete(tag for ulid in ulids for tag in self._artifacts.tags(artifacts.prefix(ulid)))

    def recall(self, ulid: str, tasks: Collection[int]) -> None:
        """Keep what pods sent that are gone: the registry alone has it, under a tag that names them."""
        try:
            for tag in self._artifacts.tags(artifacts.prefix(ulid)):
                task, _, uid = tag.removeprefix(artifacts.prefix(ulid)).partition("-")
                if task.isdecimal() and int(task) in tasks:
                    gone = Remains(name=tag, uid=uid, task=int(task), good=False, at=_LAST, message=Message())
                    self.keep(ulid, gone)
        except RegistryDenied as error:
            _log.warning("what pods sent that are gone cannot be looked for: %s", error.message)
        except RegistryError as error:  # no answer is no end
            raise ConnectionLost(error.message) from error

    def _reference(self, tag: str) -> Reference:
        return Reference.parse(f"{self._repository}:{tag}")
