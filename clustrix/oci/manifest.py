"""Descriptors, manifests, indexes and image configurations: bytes in, values out, and back, always the same bytes.

https://github.com/opencontainers/image-spec/tree/v1.1.0 (descriptor.md, manifest.md, image-index.md, config.md)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from clustrix.errors import ImageError, ImageUnavailable
from clustrix.oci.reference import is_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
INDEXES = (OCI_INDEX, DOCKER_INDEX)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
REF_NAME = "org.opencontainers.image.ref.name"
TITLE = "org.opencontainers.image.title"


def digest_of(data: bytes) -> str:
    """Name bytes: ``sha256:...``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def matches(data: bytes, digest: str) -> bool:
    """Say whether bytes are what their digest says."""
    algorithm, _, encoded = digest.partition(":")
    return is_digest(digest) and hashlib.new(algorithm, data).hexdigest() == encoded


def canonical(document: object) -> bytes:
    """Write JSON in the one way we write it: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Point at a blob; ``size`` in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: str | None = None  # only in indexes: os/architecture[/variant]

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Descriptor:
        """Describe bytes."""
        return cls(media_type, digest_of(data), len(data))

    @classmethod
    def from_json(cls, document: object) -> Descriptor:
        """Read the JSON form; `ImageError` if it is none."""
        if (
            not isinstance(document, dict)
            or not isinstance(document.get("digest"), str)
            or not is_digest(document["digest"])
            or not isinstance(document.get("size"), int)
            or document["size"] < 0
        ):
            raise ImageError(f"not an OCI descriptor: {json.dumps(document)[:200]}")
        return cls(
            str(document.get("mediaType", "")),
            document["digest"],
            document["size"],
            dict(document.get("annotations") or {}),
            _platform(document.get("platform")),
        )

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.platform:
            document["platform"] = dict(zip(("os", "architecture", "variant"), self.platform.split("/"), strict=False))
        return document


EMPTY = Descriptor.of(b"{}", OCI_EMPTY)
"""The config of an artifact that has none (manifest.md, "Guidance for an Empty Descriptor")."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Say what one image, or one artifact, consists of."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    media_type: str = OCI_MANIFEST
    artifact_type: str | None = None
    subject: Descriptor | None = None

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest; `ImageError` if it is an index, schema 1 or anything else."""
        document = _object(data)
        if "config" not in document or not isinstance(document.get("layers"), list):
            kind = document.get("mediaType") or f"schema version {document.get('schemaVersion')}"
            raise ImageError(f"not an image manifest but {kind}")
        subject = document.get("subject")
        return cls(
            Descriptor.from_json(document["config"]),
            tuple(Descriptor.from_json(layer) for layer in document["layers"]),
            dict(document.get("annotations") or {}),
            str(document.get("mediaType") or OCI_MANIFEST),
            document.get("artifactType"),
            Descriptor.from_json(subject) if subject else None,
        )

    def encode(self) -> bytes:
        """Give the bytes that a registry serves and that the manifest digest is of."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.subject:
            document["subject"] = self.subject.to_json()
        return canonical(document)

    @property
    def descriptor(self) -> Descriptor:
        """Point at `encode`'s bytes."""
        return Descriptor.of(self.encode(), self.media_type)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob it needs, each digest once: layers in order, then the config."""
        return tuple({blob.digest: blob for blob in (*self.layers, self.config)}.values())


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Say how an image runs and which unpacked layers (``diff_ids``) it is made of.

    ``settings`` is the specification's ``config`` object (Env, Entrypoint, Cmd, WorkingDir, User, Labels, ...);
    ``created`` an RFC 3339 time or None. Fields outside the specification are not kept.
    """

    platform: str  # linux/amd64
    diff_ids: tuple[str, ...] = ()
    history: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    created: str | None = None

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """Read an OCI or Docker image configuration; `ImageError` if it is none."""
        document = _object(data)
        platform = _platform(document)
        diff_ids = (document.get("rootfs") or {}).get("diff_ids")
        if platform is None or not isinstance(diff_ids, list):
            raise ImageError("not an image configuration: no os, architecture or rootfs.diff_ids")
        return cls(
            platform,
            tuple(diff_ids),
            tuple(document.get("history") or ()),
            dict(document.get("config") or {}),
            document.get("created"),
        )

    def encode(self) -> bytes:
        """Give the bytes that the config digest is of."""
        names = zip(("os", "architecture", "variant"), self.platform.split("/"), strict=False)
        document: dict[str, Any] = {
            **dict(names),
            "config": dict(self.settings),
            "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids)},
        }
        if self.history:
            document["history"] = [dict(entry) for entry in self.history]
        if self.created:
            document["created"] = self.created
        return canonical(document)

    @property
    def descriptor(self) -> Descriptor:
        """Point at `encode`'s bytes; its digest is the identity of the image."""
        return Descriptor.of(self.encode(), OCI_CONFIG)

    @property
    def env(self) -> dict[str, str]:
        """Give the environment variables."""
        pairs = (entry.partition("=") for entry in self.settings.get("Env") or ())
        return {name: value for name, _, value in pairs}

    @property
    def labels(self) -> dict[str, str]:
        """Give the labels."""
        return dict(self.settings.get("Labels") or {})

    def add_layers(self, layers: Iterable[tuple[str, str]]) -> ImageConfig:
        """Put layers on top, given as (diff id, what made it)."""
        added = tuple(layers)
        # A history is all or nothing: readers match its entries with the layers one by one.
        history = self.history or tuple({"created_by": "base"} for _ in self.diff_ids)
        return replace(
            self,
            diff_ids=(*self.diff_ids, *(diff_id for diff_id, _ in added)),
            history=(*history, *({"created_by": made_by} for _, made_by in added)),
        )

    def with_settings(
        self, *, env: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None, **settings: object
    ) -> ImageConfig:
        """Add environment variables and labels; replace other settings by their OCI name (``WorkingDir="/"``).

        A setting given as None is removed.
        """
        merged: dict[str, Any] = {**self.settings, **settings}
        if env:
            merged["Env"] = [f"{name}={value}" for name, value in {**self.env, **env}.items()]
        if labels:
            merged["Labels"] = {**self.labels, **labels}
        return replace(self, settings={name: value for name, value in merged.items() if value is not None})


def parse_index(data: bytes) -> tuple[Descriptor, ...]:
    """Read the entries of an OCI index or Docker manifest list; `ImageError` if it is neither."""
    document = _object(data)
    if not isinstance(document.get("manifests"), list):
        raise ImageError(f"not an image index but {document.get('mediaType') or 'some other JSON'}")
    return tuple(Descriptor.from_json(entry) for entry in document["manifests"])


def encode_index(entries: Iterable[Descriptor]) -> bytes:
    """Write an OCI index."""
    return canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json() for entry in entries]})


def is_index(data: bytes) -> bool:
    """Say whether these bytes are an index and no manifest."""
    return isinstance(_object(data).get("manifests"), list)


def select(index: bytes, platform: str) -> Descriptor:
    """Choose the manifest for ``os/architecture[/variant]`` from an index.

    Raises `ImageUnavailable`, which lists the platforms that exist.
    """
    # Attestations hide in indexes as unknown/unknown.
    entries = [entry for entry in parse_index(index) if entry.platform and not entry.platform.startswith("unknown/")]
    for same in (_same, _compatible):
        for entry in entries:
            if same(str(entry.platform), platform):
                return entry
    known = ", ".join(sorted({str(entry.platform) for entry in entries})) or "none"
    raise ImageUnavailable(f"the image does not exist for {platform}; it exists for: {known}")


def _same(offered: str, asked: str) -> bool:
    # containerd's normalisation: arm64 is arm64/v8.
    return offered.removesuffix("/v8") == asked.removesuffix("/v8")


def _compatible(offered: str, asked: str) -> bool:
    """Take any variant when none was asked for, and a variant-less one for whatever variant was."""
    asked_parts, offered_parts = asked.split("/"), offered.split("/")
    return asked_parts[:2] == offered_parts[:2] and 2 in {len(asked_parts), len(offered_parts)}  # noqa: PLR2004


def _platform(document: object) -> str | None:
    if not isinstance(document, dict) or not document.get("os") or not document.get("architecture"):
        return None
    variant = document.get("variant")
    return f"{document['os']}/{document['architecture']}" + (f"/{variant}" if variant else "")


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ImageError(f"not JSON: {data[:80]!r}") from error
    if not isinstance(document, dict):
        raise ImageError(f"not a JSON object: {data[:80]!r}")
    return document
