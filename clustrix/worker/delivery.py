# ruff: noqa: PTH123, PTH202
# pathlib would take a seventh of the time in which a worker starts.
"""The outcomes of a pod as an artifact in a registry: one layer, a tar archive, for each batch of them.

A layer holds ``<i>.json`` and, where there is a value, ``<i>.pkl`` of every item of the batch, in order; its annotation
says which these are. The tag names the pod, so that the outcomes of one that was killed are found.
https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md#guidelines-for-artifact-usage
"""

from __future__ import annotations

import io
import os
import sys
import time

from clustrix.errors import RegistryError
from clustrix.model import stdlib
from clustrix.worker import message as messages
from clustrix.worker.message import Layer, Message, items_of, spans
from clustrix.worker.sealing import seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, BinaryIO

    from clustrix.errors import ClustrixError
    from clustrix.model.paths import JobPaths
    from clustrix.worker.artifacts import Repository
    from clustrix.worker.task import Task

    Written = tuple[int, bytes, str | None]  # an item, the text of its outcome, the file of its value

ARTIFACT = "application/vnd.clustrix.outcomes.v1"
_LAYER = "application/vnd.clustrix.outcomes.v1.tar"
_ITEMS = "dev.clustrix.items"
NAMESPACE = "dev.clustrix.namespace"
"""The annotation of an artifact that says which namespace its job is in."""
_EMPTY = b"{}"
_EMPTY_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
_CHUNK = 1 << 20
_BATCH = 1.0  # seconds between two batches of outcomes, at least
_SELDOM = 0.05  # and the part of the time so far
_EXCUSED = 16  # items of which a message says at most why their results are not there
_LIKELY = 256 << 10  # bytes of outcomes that may still be packed into a message


def tag(ulid: str, task: int, pod: str) -> str:
    """Name the outcomes of one pod; ``pod`` is its uid."""
    return f"{ulid.lower()}-{task}-{pod}"


def manifest(layers: Sequence[Layer], namespace: str | None = None) -> bytes:
    """Write the manifest of an artifact."""
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": _EMPTY_DIGEST, "size": len(_EMPTY)}
    rows = [
        {
            "mediaType": _LAYER,
            "digest": layer.digest,
            "size": layer.size,
            "annotations": {_ITEMS: stdlib.encode(spans(layer.items))},
        }
        for layer in layers
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": ARTIFACT,
        "config": empty,
        "layers": rows,
        **({"annotations": {NAMESPACE: namespace}} if namespace else {}),
    }
    return stdlib.encode(document).encode()


def layers_of(text: bytes) -> tuple[Layer, ...]:
    """Read what `manifest` wrote; ValueError, KeyError, TypeError or AttributeError for anything else."""
    found = []
    for row in stdlib.decode(text)["layers"]:
        items = items_of(stdlib.decode(row["annotations"][_ITEMS].encode()))
        found.append(Layer(str(row["digest"]), int(row["size"]), items))
    return tuple(found)


def archive(outcomes: Iterable[Written]) -> tuple[int, Callable[[], BinaryIO]]:
    """Make a tar archive (POSIX.1-2001) of outcomes: its size, and what opens it; no value is held in memory."""
    import tarfile

    parts: list[bytes | str] = []
    size = 0

    def add(name: str, content: bytes | str, length: int) -> None:
        nonlocal size
        header = tarfile.TarInfo(name)
        header.size = length
        parts.extend([header.tobuf(tarfile.PAX_FORMAT), content, bytes(-length % tarfile.BLOCKSIZE)])
        size = size + len(parts[-3]) + length + len(parts[-1])

    for index, text, value in outcomes:
        add(f"{index}.json", text, len(text))
        if value is not None:
            add(f"{index}.pkl", value, os.path.getsize(value))
    end = bytes(2 * tarfile.BLOCKSIZE)
    return size + len(end), lambda: io.BufferedReader(_Parts([*parts, end]), _CHUNK)


class _Parts(io.RawIOBase):
    """Read bytes and files (by their names) one after the other."""

    def __init__(self, parts: Iterable[bytes | str]) -> None:
        super().__init__()
        self._chunks = self._read(parts)
        self._rest = memoryview(b"")

    @staticmethod
    def _read(parts: Iterable[bytes | str]) -> Iterator[bytes]:
        for part in parts:
            if isinstance(part, bytes):
                yield part
            else:
                with open(part, "rb") as file:
                    while chunk := file.read(_CHUNK):
                        yield chunk

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class Delivery:
    """Bring outcomes into a registry, batch by batch; after each the tag names all of them."""

    def __init__(self, repository: Repository, tag: str) -> None:
        self.repository = repository
        self._tag = tag
        self.layers: list[Layer] = []
        self.manifest: str | None = None

    def unsent(self, items: Iterable[int]) -> list[int]:
        """List those of the items that are not there yet."""
        had = {index for layer in self.layers for index in layer.items}
        return [index for index in items if index not in had]

    def push_new(self, outcomes: Sequence[Written]) -> None:
        """Add what is not there yet; RegistryError."""
        wanted = set(self.unsent(index for index, _, _ in outcomes))
        if wanted:
            self.push([row for row in outcomes if row[0] in wanted])

    def push(self, outcomes: Sequence[Written]) -> None:
        """Add a batch; RegistryError."""
        size, open_archive = archive(outcomes)
        if not self.layers:
            self.repository.push(len(_EMPTY), lambda: io.BytesIO(_EMPTY))
        layer = Layer(self.repository.push(size, open_archive), size, tuple(index for index, _, _ in outcomes))
        text = manifest([*self.layers, layer], self.repository.namespace)
        self.manifest = self.repository.push_manifest(self._tag, text)
        self.layers.append(layer)


class Pace:
    """Say when the next batch is due: about once a second, and ever more seldom, so that their number stays small."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._silent = False

    def due(self) -> bool:
        """Tell whether it is, and count from now if so."""
        now = time.monotonic()
        if now - self._last < max(_BATCH, _SELDOM * (now - self._started)):
            return False
        self._last = now
        return True

    def complain(self, error: Exception) -> None:
        """Say once that a batch could not be sent: it goes with a later one."""
        if not self._silent:
            print(f"clustrix: outcomes cannot be sent yet: {error}", file=sys.stderr, flush=True)
        self._silent = True


def written(paths: JobPaths, items: Iterable[int]) -> list[Written]:
    """Read the outcomes that are there."""
    found: list[Written] = []
    for index in items:
        try:
            with open(paths.outcome(index), "rb") as file:
                text = file.read()
        except FileNotFoundError:
            continue
        value = paths.value(index)
        found.append((index, text, value if stdlib.decode(text)["result"] is not None else None))
    return found


def failed(task: Task, number: int, index: int, error: ClustrixError, key: bytes, *, refused: bool = False) -> bytes:
    """Write the outcome of an item that its own process cannot write any more: ``error`` in its place."""
    from clustrix.model.outcome import Failure

    failure = Failure(type=f"{type(error).__module__}.{type(error).__name__}", message=str(error), traceback="")
    metadata: dict[str, object] = {
        "hostname": os.uname().nodename,
        "native_job_id": os.environ.get("CLUSTRIX_NATIVE_ID"),
        "task": number,
        "image_digest": task.image_digest,
        "lock_digest": task.lock_digest,
        "ended": time.time(),
    }
    return seal(
        index=index,
        function_name=task.function_name,
        status="refused" if refused else "error",
        value=None,
        failure=failure,
        metadata=metadata,
        key=key,
    )


def short(
    outcomes: Sequence[Written], *, manifest: str | None = None, derived: bool = False, memory: bool = False
) -> str | None:
    """Write a message that holds these outcomes; None if they do not fit. ``manifest`` names what was sent before."""
    size = sum(len(text) + (os.path.getsize(value) if value else 0) for _, text, value in outcomes)
    if size > _LIKELY:
        return None
    inline = {}
    for index, text, value in outcomes:
        content = b""
        if value is not None:
            with open(value, "rb") as file:
                content = file.read()
        inline[index] = text, content
    message = Message(statuses=statuses(outcomes), inline=inline, manifest=manifest, derived=derived, memory=memory)
    said = messages.encode(message)
    return said if len(said) <= messages.LIMIT else None


def pointing(outcomes: Sequence[Written], delivery: Delivery, *, memory: bool = False) -> str:
    """Write a message that says where these outcomes are; with less in it where all does not fit."""
    full = Message(
        statuses=statuses(outcomes), manifest=delivery.manifest, layers=tuple(delivery.layers), memory=memory
    )
    for less in (full, full.but(layers=()), full.but(layers=(), statuses={})):
        said = messages.encode(less)
        if len(said) <= messages.LIMIT:
            break
    return said


def excuse(
    task: Task, number: int, outcomes: Sequence[Written], error: ClustrixError, key: bytes, *, derived: bool = False
) -> str:
    """Say in place of outcomes that they could not be sent, of as many items as a message takes."""
    why = RegistryError(f"the result could not be brought out of its pod: {error.message}", remedy=error.remedy)
    excuses: list[Written] = [
        (index, failed(task, number, index, why, key, refused=True), None) for index, _, _ in outcomes[:_EXCUSED]
    ]
    while (said := short(excuses, derived=derived)) is None:
        excuses.pop()
    return said


def statuses(outcomes: Sequence[Written]) -> dict[int, str]:
    """Tell how items ended."""
    return {index: stdlib.decode(text)["status"] for index, text, _ in outcomes}
