"""A client of registries: manifests and blobs, both ways.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed, wait
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from clustrix.errors import ImageError, ImageUnavailable, RegistryError
from clustrix.model.progress import SILENT
from clustrix.oci.layout import CHUNK
from clustrix.oci.manifest import (
    INDEXES,
    MANIFESTS,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    digest_of,
    is_index,
    matches,
    select,
)
from clustrix.oci.session import Call, Interrupted, Session
from clustrix.oci.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from typing_extensions import Self

    from clustrix.model.progress import Bar, Progress
    from clustrix.oci.auth import Keychain
    from clustrix.oci.layout import BlobWriter, Layout
    from clustrix.oci.reference import Reference
    from clustrix.oci.session import Stats

PARALLEL = 4
_GRACE_SECONDS = 2.0
_PAGE = 1000
_ACCEPT = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
_DIGEST = "Docker-Content-Digest"


class Client:
    """Speak with registries; one for several of them, and safe for several threads.

    ``insecure`` names the registries (``host[:port]``) that are spoken to in plain HTTP, or is True for all of them.
    Every method raises `RegistryDenied`, `RateLimited`, `ImageUnavailable` (it does not exist, and only that) or
    `RegistryError` (all else, also when nobody answers), naming the reference and what was being done.
    """

    def __init__(
        self,
        *,
        insecure: bool | Collection[str] = False,
        keychain: Keychain | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._session = Session(insecure=insecure, keychain=keychain, sleep=sleep)

    @property
    def stats(self) -> Stats:
        """Count requests and bytes."""
        return self._session.stats

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """End what other threads do with this client."""
        self._session.cut()

    def close(self) -> None:
        """Close the connections; done by itself when nobody has the client any more."""
        self._session.close()

    def ping(self, registry: str) -> None:
        """Check that ``host[:port]`` is a registry and that it takes our login."""
        self._session.ask(Call(method="GET", url="/v2/", registry=registry, scopes=(), doing=f"a look at {registry}"))

    def head(self, reference: Reference, *, writing: bool = False) -> Descriptor | None:
        """Find out what a reference points at, in one request and no bytes; None when it does not exist.

        ``writing`` asks for the right to push at once, so that what follows needs no second token.
        """
        answer = self._session.ask(
            _call(reference, "HEAD", _manifest(reference), ok=(200, 404), headers=_ACCEPT, writing=writing)
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        digest, size = reference.digest or answer.headers.get(_DIGEST), answer.headers.get("Content-Length", "")
        if not digest or not size.isdecimal():  # the specification does not insist on either
            return self.manifest(reference)[0]
        return Descriptor(_media_type(answer.headers), digest, int(size))

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        """Read a manifest or an index; its bytes are checked against the digest asked for, or promised."""
        answer = self._session.ask(_call(reference, "GET", _manifest(reference), headers=_ACCEPT))
        data = answer.content
        self.stats.add(downloaded=len(data))
        expected = reference.digest or answer.headers.get(_DIGEST) or digest_of(data)
        if not matches(data, expected):
            raise RegistryError(f"{reference.registry} sent another manifest for {reference} than {expected}")
        try:
            media_type = json.loads(data).get("mediaType")
        except (ValueError, AttributeError):
            raise RegistryError(f"{reference.registry} sent no manifest for {reference}: {data[:80]!r}") from None
        return Descriptor(media_type or _media_type(answer.headers), expected, len(data)), data

    def image(self, reference: Reference, platform: str) -> tuple[Descriptor, bytes]:
        """Read the manifest for ``os/architecture``, through the index if there is one.

        Raises `ImageUnavailable` also when the image exists for other platforms only, and lists them.
        """
        found, data = self.manifest(reference)
        if not is_index(data):
            return found, data
        return self.manifest(reference.with_digest(_select(reference, data, platform).digest))

    def push_manifest(self, reference: Reference, data: bytes, media_type: str = OCI_MANIFEST) -> Descriptor:
        """Put a manifest under the reference's tag, or its digest, after everything it points at."""
        headers = {"Content-Type": media_type}
        self._session.ask(
            _call(reference, "PUT", _manifest(reference), ok=(201,), headers=headers, body=data, writing=True)
        )
        self.stats.add(uploaded=len(data))
        return Descriptor.of(data, media_type)

    def delete(self, reference: Reference) -> None:
        """Delete a manifest, given by digest (registries refuse tags), with all its tags.

        https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#content-management
        """
        call = _call(reference, "DELETE", _manifest(reference), ok=(202, 405), actions="delete")
        if self._session.ask(call).status == HTTPStatus.METHOD_NOT_ALLOWED:
            raise RegistryError(
                f"{reference.registry} is set up to delete nothing",
                remedy="Whoever runs it allows it; Docker's registry has `delete: {enabled: true}` below `storage` for"
                " that, or the variable REGISTRY_STORAGE_DELETE_ENABLED=true.",
            )

    def tags(self, reference: Reference, prefix: str) -> Iterator[str]:
        """List the tags of a repository that begin so, page by page; a registry lists them in lexical order.

        https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-tags
        """
        last = prefix
        while True:
            path = f"tags/list?n={_PAGE}&last={quote(last)}"
            answer = self._session.ask(_call(reference, "GET", path, ok=(200, 404)))
            page = [] if answer.status == HTTPStatus.NOT_FOUND else _tags(reference, answer.content)
            found = [tag for tag in page if tag.startswith(prefix)]
            yield from found
            if not page or len(found) < len(page) or "Link" not in answer.headers:  # the last, or beyond the prefix
                return
            last = page[-1]

    def has_blob(self, reference: Reference, digest: str, *, writing: bool = False) -> bool:
        """Say whether a repository has a blob."""
        call = _call(reference, "HEAD", f"blobs/{digest}", ok=(200, 404), writing=writing)
        return self._session.ask(call).status == HTTPStatus.OK

    def read_blob(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """Read a small blob (up to 8 MiB), such as a configuration, into memory; checked."""
        data = self._session.ask(_call(reference, "GET", f"blobs/{descriptor.digest}")).content
        self.stats.add(downloaded=len(data))
        if not matches(data, descriptor.digest):
            raise _corrupted(reference, descriptor)
        return data

    def fetch_blob(self, reference: Reference, descriptor: Descriptor, layout: Layout, bar: Bar | None = None) -> int:
        """Bring a blob into a layout, with constant memory, going on where a cut left off; give the bytes moved.

        Raises `RegistryError` if what arrives is not what its digest says, and `DiskFull`.
        """
        bar = bar or SILENT.start("", None)
        if layout.has(descriptor.digest, descriptor.size):
            bar.advance(descriptor.size)
            return 0
        with layout.writer(descriptor.digest.partition(":")[0]) as blob:
            self._session.persist(lambda: self._receive(reference, descriptor, blob, bar), lambda: blob.size)
            try:
                blob.commit(descriptor.digest)
            except ImageError as error:
                raise _corrupted(reference, descriptor) from error
        return descriptor.size

    def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        *,
        mount_from: str | None = None,
        bar: Bar | None = None,
    ) -> int:
        """Bring a blob into a repository, with constant memory, going on where a cut left off; give the bytes moved.

        ``mount_from`` names a repository of the same registry that has it: then nothing moves (0), if the registry
        and our rights allow.
        """
        upload = Upload(self._session, reference, descriptor, open_blob, bar or SILENT.start("", None))
        return upload.run(mount_from)

    def _receive(self, reference: Reference, descriptor: Descriptor, blob: BlobWriter, bar: Bar) -> None:
        headers = {"Range": f"bytes={blob.size}-"} if blob.size else {}
        call = _call(reference, "GET", f"blobs/{descriptor.digest}", ok=(200, 206), headers=headers)
        with self._session.open(call) as response:
            resumed = response.headers.get("Content-Range", "").startswith(f"bytes {blob.size}-")
            if blob.size and not resumed:  # no ranges here: from the start
                bar.advance(-blob.size)
                blob.restart()
            for piece in response.iter_raw(CHUNK):
                blob.write(piece)
                bar.advance(len(piece))
                self.stats.add(downloaded=len(piece))
                if blob.size > descriptor.size:
                    raise _corrupted(reference, descriptor)
        if blob.size < descriptor.size:
            raise Interrupted(RegistryError(f"{reference.registry} sends only a part of {descriptor.digest}"))


def pull(
    client: Client, reference: Reference, platform: str, layout: Layout, *, progress: Progress = SILENT
) -> Descriptor:
    """Bring an image for ``os/architecture`` into a layout, without the blobs that are there; give its manifest.

    It is tagged with the reference. A reference by digest that is there whole needs no registry. Raises what `Client`
    and `Layout` do.
    """
    descriptor = layout.whole(reference.digest, platform) if reference.digest else None
    if descriptor is None:
        descriptor, data = client.manifest(reference)
        if is_index(data):
            layout.put_blob(data, digest=descriptor.digest)
            descriptor, data = client.manifest(reference.with_digest(_select(reference, data, platform).digest))
        blobs = Manifest.parse(data).blobs
        bar = progress.start(f"pull {reference}", sum(blob.size for blob in blobs))
        try:
            each(lambda blob, its_bar: client.fetch_blob(reference, blob, layout, its_bar), blobs, bar, client)
        finally:
            bar.close()
        for blob in blobs:
            layout.note_origin(blob.digest, reference.registry, reference.repository)
        layout.put_blob(data, digest=descriptor.digest)
        layout.tag(str(reference), descriptor)
    return descriptor


def each(do: Callable[[Descriptor, Bar], int], blobs: Iterable[Descriptor], bar: Bar, client: Client) -> int:
    """Move blobs, four at a time, and add up the bytes; the first error, or Ctrl-C, stops the others at once."""
    begin, stop = threading.Event(), threading.Event()
    moving: list[Future[int]] = []

    def move(blob: Descriptor) -> int:
        begin.wait()  # until each is in the list, or Ctrl-C could meet one that nobody waits for
        if stop.is_set():
            raise CancelledError
        return do(blob, _StoppableBar(bar, stop))

    with ThreadPoolExecutor(PARALLEL, "blob") as pool:
        try:
            moving += (pool.submit(move, blob) for blob in blobs)
            begin.set()
            return sum(future.result() for future in as_completed(moving))
        except BaseException:
            stop.set()
            begin.set()
            pool.shutdown(wait=False, cancel_futures=True)
            try:
                # In which they tidy up at the registry, if it answers. What never began is not waited for.
                wait([one for one in moving if not one.cancelled()], _GRACE_SECONDS)
            finally:
                client.cut()
            raise


class _StoppableBar:
    """Reach into running transfers: they tell their bar of every piece."""

    def __init__(self, bar: Bar, stop: threading.Event) -> None:
        self._bar = bar
        self._stop = stop

    def advance(self, amount: int) -> None:
        if self._stop.is_set():
            raise CancelledError
        self._bar.advance(amount)

    def close(self) -> None:
        """Leave it to whoever started the bar."""


def _select(reference: Reference, index: bytes, platform: str) -> Descriptor:
    try:
        return select(index, platform)
    except ImageUnavailable as error:
        raise ImageUnavailable(f"{reference}: {error.message}") from None


def _manifest(reference: Reference) -> str:
    return f"manifests/{reference.selector}"


def _call(
    reference: Reference,
    method: str,
    path: str,
    *,
    ok: Collection[int] = (200,),
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    writing: bool = False,
    actions: str = "",
) -> Call:
    actions = actions or ("pull,push" if writing else "pull")
    return Call(
        method=method,
        url=f"/v2/{reference.repository}/{path}",
        registry=reference.registry,
        scopes=(f"repository:{reference.repository}:{actions}",),
        doing=f"{method} {path.partition('/')[0].removesuffix('s')} of {reference}",
        ok=ok,
        headers=headers or {},
        body=body,
    )


def _tags(reference: Reference, data: bytes) -> list[str]:
    try:
        return [str(tag) for tag in json.loads(data)["tags"] or ()]
    except (ValueError, KeyError, TypeError):
        raise RegistryError(f"{reference.registry} sent no list of tags: {data[:80]!r}") from None


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip()


def _corrupted(reference: Reference, descriptor: Descriptor) -> RegistryError:
    return RegistryError(
        f"{reference.registry} sent something else than blob {descriptor.digest} of {reference}",
        remedy="The registry's copy is damaged, or something between changes it: push the image again.",
    )
