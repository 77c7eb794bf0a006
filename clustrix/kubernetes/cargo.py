"""What travels with a job, and by which way: its Secret, ConfigMaps that jobs share, blobs of the registry."""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from clustrix.kubernetes import artifacts
from clustrix.oci.manifest import EMPTY, Descriptor, Manifest
from clustrix.oci.reference import Reference
from clustrix.worker.delivery import NAMESPACE
from clustrix.worker.payload import table_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clustrix.model.paths import JobPaths
    from clustrix.oci.client import Client

LIMIT: Final = 900 << 10
"""Bytes in one object: the API takes 1 MiB, and etcd 1.5 MB of the JSON."""
_ARTIFACT = "application/vnd.clustrix.payload.v1"
_BLOB = "application/octet-stream"
_JOB = "dev.clustrix.job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """Hold contents: ``secret`` by the name of the file, ``bundles`` and ``blobs`` by digest (``sha256:``)."""

    secret: Mapping[str, bytes]
    bundles: Mapping[str, bytes | Path]
    blobs: Mapping[str, bytes | Path]


def load(paths: JobPaths, files: Mapping[str, bytes | Path], room: int = LIMIT) -> Cargo:
    """Divide the files of a job; the worker is always small enough for a ConfigMap, since it runs before all else."""
    own = {paths.task: "task.json", paths.key: "key", paths.payload: "payload"}
    secret = {own[path]: content for path, content in files.items() if path in own}
    bundles: dict[str, bytes | Path] = {}
    blobs: dict[str, bytes | Path] = {}
    remote: dict[str, object] = {}
    far: dict[str, object] = {}
    for path, content in files.items():
        if path in own:
            continue
        digest = f"sha256:{posixpath.basename(path).removesuffix('.zip')}"
        if _size(content) <= LIMIT:
            bundles[digest] = content
        else:
            blobs[digest] = content
            far[digest.partition(":")[2]] = {"digest": digest, "size": _size(content)}
    if sum(map(_size, secret.values())) > room:
        payload = secret.pop("payload")
        digest = _digest(payload)
        blobs[digest] = payload
        with _open(payload) as file:
            table, sha256 = table_of(file)
        remote["payload"] = {"digest": digest, "size": _size(payload), "table": table, "table_sha256": sha256}
    if far:
        remote["bundles"] = far
    held = {name: _bytes(content) for name, content in secret.items()}
    if remote:
        held["remote.json"] = json.dumps(remote).encode()
    return Cargo(secret=held, bundles=bundles, blobs=blobs)


def push(client: Client, repository: str, ulid: str, blobs: Mapping[str, bytes | Path], mark: str | None) -> None:
    """Bring blobs to the registry, and a manifest that keeps them from being collected; raises what `Client` does.

    ``mark`` is that of the namespace. No other job's manifest is the same: who deletes one, deletes every tag of it.
    """
    place = Reference.parse(f"{repository}:{artifacts.payload(ulid)}")
    notes = {_JOB: ulid, **({NAMESPACE: mark} if mark else {})}
    layers = []
    for digest, content in blobs.items():
        layers.append(Descriptor(_BLOB, digest, _size(content)))
        client.push_blob(place, layers[-1], partial(_open, content))
    client.push_blob(place, EMPTY, lambda: io.BytesIO(b"{}"))
    client.push_manifest(place, Manifest(EMPTY, tuple(layers), notes, artifact_type=_ARTIFACT).encode())


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _bytes(content: bytes | Path) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


def _open(content: bytes | Path) -> BinaryIO:
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


def _digest(content: bytes | Path) -> str:
    with _open(content) as file:
        hashed = hashlib.sha256()
        while piece := file.read(1 << 20):
            hashed.update(piece)
    return f"sha256:{hashed.hexdigest()}"
