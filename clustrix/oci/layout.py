"""An OCI image layout: a directory of blobs and an index.

https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md. Several processes may share one: a blob
appears whole or not at all, and the index is changed under a lock and replaced by rename.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from clustrix.errors import BadReference, DiskFull, ImageError, ImageUnavailable
from clustrix.oci.manifest import (
    REF_NAME,
    Descriptor,
    Manifest,
    canonical,
    encode_index,
    is_index,
    matches,
    parse_index,
    select,
)
from clustrix.oci.reference import Reference, is_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Self

CHUNK = 1 << 20
VERSION = canonical({"imageLayoutVersion": "1.0.0"})


@contextlib.contextmanager
def disk_full(place: Path) -> Iterator[None]:
    """Turn 'no space left' and 'quota exceeded' into `DiskFull`, which names ``place``."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(
                f"no space left for {place}: {error.strerror}", remedy="Free some space, or name another directory."
            ) from error
        raise


class BlobWriter:
    """Receive one blob piece by piece; it appears in the layout at `commit`, and never in part."""

    def __init__(self, directory: Path, algorithm: str = "sha256") -> None:
        self._directory = directory
        self._algorithm = algorithm
        self._temporary = directory / f".partial-{os.getpid()}-{secrets.token_hex(8)}"
        with disk_full(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("xb")
        self._hash = hashlib.new(self._algorithm)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Add ``data``; raises `DiskFull`."""
        with disk_full(self._directory):
            self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def restart(self) -> None:
        """Forget what was written."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.new(self._algorithm)
        self.size = 0

    def commit(self, expected: str | None = None) -> str:
        """Put the blob in its place and return its digest; `ImageError`, and no blob, if it is not ``expected``."""
        digest = f"{self._algorithm}:{self._hash.hexdigest()}"
        if expected is not None and digest != expected:
            raise ImageError(f"the blob is not what its digest says: expected {expected}, got {digest}")
        with disk_full(self._directory):
            self._file.close()
            self._temporary.replace(self._directory / self._hash.hexdigest())
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing flushes, which a full disk refuses a second time.
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


class Layout:
    """Keep images in a directory, made by the first write."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Layout({str(self.path)!r})"

    def exists(self) -> bool:
        """Say whether an image layout stands there."""
        return (self.path / "oci-layout").is_file()

    def blob_path(self, digest: str) -> Path:
        """Place a blob, existing or not; `BadReference` if ``digest`` is none."""
        if not is_digest(digest):
            raise BadReference(f"{digest!r} is no digest")
        algorithm, _, encoded = digest.partition(":")
        return self.path / "blobs" / algorithm / encoded

    def has(self, digest: str, size: int | None = None) -> bool:
        """Say whether the blob is there, and is as long as it should be (a power cut may leave it short)."""
        try:
            found = self.blob_path(digest).stat().st_size
        except FileNotFoundError:
            return False
        return size is None or size == found

    def writer(self, algorithm: str = "sha256") -> BlobWriter:
        """Receive a blob piece by piece: ``with layout.writer() as blob: blob.write(...); blob.commit()``."""
        self._create()
        return BlobWriter(self.path / "blobs" / algorithm, algorithm)

    def put_blob(
        self,
        source: bytes | Path | BinaryIO,
        *,
        media_type: str = "application/octet-stream",
        digest: str | None = None,
    ) -> Descriptor:
        """Bring in bytes, a file or a stream, with constant memory, and describe them.

        Raises `ImageError` when ``digest`` is given and the bytes have another, `DiskFull`.
        """
        with contextlib.ExitStack() as stack:
            if isinstance(source, bytes):
                stream: BinaryIO = io.BytesIO(source)
            elif isinstance(source, Path):
                stream = stack.enter_context(source.open("rb"))
            else:
                stream = source
            blob = stack.enter_context(self.writer((digest or "sha256").partition(":")[0]))
            while chunk := stream.read(CHUNK):
                blob.write(chunk)
            return Descriptor(media_type, blob.commit(digest), blob.size)

    def open_blob(self, digest: str) -> BinaryIO:
        """Open a blob for reading; `ImageUnavailable` if it is not there."""
        try:
            return self.blob_path(digest).open("rb")
        except FileNotFoundError:
            raise ImageUnavailable(f"{self.path} holds no blob {digest}") from None

    def read_blob(self, digest: str) -> bytes:
        """Read a small blob whole, and check it; `ImageUnavailable`, `ImageError`."""
        with self.open_blob(digest) as file:
            data = file.read()
        if not matches(data, digest):
            raise ImageError(
                f"the blob {digest} in {self.path} is damaged", remedy=f"Remove {self.blob_path(digest)} and try again."
            )
        return data

    def manifest(self, digest: str) -> Manifest:
        """Read a manifest; `ImageUnavailable`, `ImageError`."""
        return Manifest.parse(self.read_blob(digest))

    def describe(self, digest: str, platform: str | None = None) -> Descriptor:
        """Describe a manifest that is there, as an index would; `ImageUnavailable`, `ImageError`."""
        data = self.read_blob(digest)
        return Descriptor(Manifest.parse(data).media_type, digest, len(data), platform=platform)

    def whole(self, digest: str, platform: str) -> Descriptor | None:
        """Describe the manifest for ``os/architecture`` of an image or index, if all of it is there; else None.

        Raises `ImageUnavailable` if an index has none for that platform.
        """
        if not self.has(digest):
            return None
        data = self.read_blob(digest)
        if is_index(data):
            digest = select(data, platform).digest
            if not self.has(digest):
                return None
        whole = all(self.has(blob.digest, blob.size) for blob in self.manifest(digest).blobs)
        return self.describe(digest) if whole else None

    def manifests(self) -> tuple[Descriptor, ...]:
        """List the entries of the index; `ImageUnavailable` if this is no image layout."""
        try:
            return parse_index((self.path / "index.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            if self.exists():
                return ()
            raise ImageUnavailable(
                f"{self.path} is no OCI image layout",
                remedy="It needs the files oci-layout and index.json; skopeo copy ... oci:DIR makes one.",
            ) from None

    def resolve(self, name: str | Reference | None = None, platform: str | None = None) -> Descriptor:
        """Find a manifest by its name or digest, or the only one; an index is followed when ``platform`` is given.

        Raises `ImageUnavailable`, which lists what is there.
        """
        found = self._find(None if name is None else str(name))
        if platform is not None:
            data = self.read_blob(found.digest)
            if is_index(data):
                return select(data, platform)
        return found

    def _find(self, name: str | None) -> Descriptor:
        entries = self.manifests()
        if name is None:
            if len({entry.digest for entry in entries}) == 1:
                return entries[0]
        else:
            for entry in entries:
                if name in {entry.digest, entry.annotations.get(REF_NAME)}:
                    return entry
        asked = "one image" if name is None else repr(name)
        known = ", ".join(entry.annotations.get(REF_NAME, entry.digest) for entry in entries) or "nothing"
        raise ImageUnavailable(f"{self.path} does not hold {asked}; it holds: {known}")

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Give a manifest a name, taking it from whichever had it; `ImageUnavailable` if its blob is missing."""
        if not self.has(descriptor.digest, descriptor.size):
            raise ImageUnavailable(f"{self.path} holds no manifest {descriptor.digest}")
        entry = replace(descriptor, annotations={**descriptor.annotations, REF_NAME: name})
        self._create()
        with _locked(self.path / ".index.lock"):
            kept = [other for other in self.manifests() if other.annotations.get(REF_NAME) != name]
            self._write("index.json", encode_index([*kept, entry]))

    def note_origin(self, digest: str, registry: str, repository: str) -> None:
        """Remember where a registry has a blob, so that its other repositories can mount it."""
        path = self._origin_path(digest, registry)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(str(path.relative_to(self.path)), repository.encode())

    def origin(self, digest: str, registry: str) -> str | None:
        """Name a repository of the registry that has, or once had, a blob; None if we know of none."""
        try:
            return self._origin_path(digest, registry).read_text()
        except FileNotFoundError:
            return None

    def _origin_path(self, digest: str, registry: str) -> Path:
        return self.path / ".origins" / registry.replace(":", "_") / digest.replace(":", "-")

    def _create(self) -> None:
        if not self.exists():
            with disk_full(self.path):
                (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            self._write("oci-layout", VERSION)

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.path / f".partial-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with disk_full(self.path):
                temporary.write_bytes(data)
                temporary.replace(self.path / name)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; it ends with the process that holds it."""
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
