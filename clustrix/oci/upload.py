"""The upload of one blob: mounted, in one request, or in a stream that goes on where it was cut.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pushing-blobs. The stream is one PATCH without
Content-Range, as Docker sends it: every registry takes that, not all take chunks. Ranges come in after a cut only.
Where the registry threw away what it had (distribution 2 does, after a cut within a request), the blob starts anew.
"""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from clustrix.errors import ClustrixError, ImageError, RegistryDenied, RegistryError
from clustrix.oci.layout import CHUNK
from clustrix.oci.session import Call, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from clustrix.model.progress import Bar
    from clustrix.oci.manifest import Descriptor
    from clustrix.oci.reference import Reference
    from clustrix.oci.session import Answer, Session

_SMALL = 4 << 20  # goes in one request: a cut costs little
_PIECE = 32 << 20  # what a proxy that refuses a whole layer (413) is tried with; then less and less
_FOUND, _CREATED, _TOO_LARGE = 200, 201, 413
_COMMIT_SECONDS = 600  # a registry may read a big blob once more before it answers


class Upload:
    """Bring one blob into a repository."""

    def __init__(
        self, session: Session, reference: Reference, blob: Descriptor, open_blob: Callable[[], BinaryIO], bar: Bar
    ) -> None:
        self._session = session
        self._reference = reference
        self._blob = blob
        self._open = open_blob
        self._bar = bar
        self._location: str | None = None  # where the registry collects what we send
        self._offset = 0  # what it is known to have
        self._piece = max(blob.size, 1)
        self._broken = self._resumed = self._committing = False
        self._shown = self._sent = 0

    def run(self, mount_from: str | None) -> int:
        """Do it, and give the bytes that moved, repeated ones too; 0 when the blob was mounted.

        Where nothing can be mounted, the repository is asked whether it has the blob already.
        """
        try:
            if mount_from is None or not (self._mount(mount_from) or self._is_there()):
                self._session.persist(self._once, lambda: self._offset)
        except BaseException:
            self._abandon()
            raise
        self._show(self._blob.size)
        return self._sent

    def _mount(self, repository: str) -> bool:
        query = {"mount": self._blob.digest, "from": repository}
        call = self._call("POST", f"{self._uploads}?{urlencode(query)}", ok=(201, 202), also_reading=repository)
        try:
            answer = self._session.ask(call)
        except RegistryDenied:  # we may push here, but not read there
            return False
        if answer.status == _CREATED:
            return True
        self._follow(answer)  # an ordinary upload has begun instead
        return False

    def _is_there(self) -> bool:
        if self._session.ask(self._look).status != _FOUND:
            return False
        self._abandon()
        return True

    def _once(self) -> None:
        if self._broken and self._recover():
            return
        self._broken = True
        if self._location is None:
            self._follow(self._session.once(self._call("POST", self._uploads, ok=(202,))))
            self._offset = 0
        self._show(self._offset)
        if self._offset == 0 and self._blob.size <= _SMALL:
            self._commit(self._blob.size)
        else:
            while self._offset < self._blob.size:
                self._send()
            self._commit(0)

    def _recover(self) -> bool:
        """Find out how far it came; True when it came to its end and only the answer was lost."""
        if self._committing:
            if self._session.once(self._look).status == _FOUND:
                return True
            self._committing = False
        if self._location is not None:
            answer = self._session.once(self._call("GET", self._location, ok=(204, 400, 404)))
            last = answer.headers.get("Range", "").removeprefix("bytes=").rpartition("-")[2]
            # 0-0 is one byte and none at all (distribution 2 says it of both): not worth going on from.
            if answer.status == HTTPStatus.NO_CONTENT and last.isdecimal() and 0 < int(last) < self._blob.size:
                self._follow(answer)
                self._offset = int(last) + 1
                self._resumed = True
            else:
                self._location = None
        return False

    def _send(self) -> None:
        end = min(self._offset + self._piece, self._blob.size)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - self._offset)}
        if self._offset or end < self._blob.size:
            headers["Content-Range"] = f"{self._offset}-{end - 1}"
        call = self._call(
            "PATCH",
            self._location,
            ok=(202, 404, 413, 416),
            headers=headers,
            body=lambda: self._pieces(self._offset, end),
        )
        answer = self._session.once(call)
        if answer.status == HTTPStatus.ACCEPTED:
            self._follow(answer)
            self._offset = end
            return
        error = self._session.refusal(call, answer)
        if answer.status != _TOO_LARGE:
            raise Interrupted(error)
        if end - self._offset <= CHUNK:
            raise error
        self._piece = min((end - self._offset) // 2, _PIECE)

    def _commit(self, size: int) -> None:
        self._committing = True
        mark = "&" if "?" in (self._location or "") else "?"
        call = self._call(
            "PUT",
            f"{self._location}{mark}{urlencode({'digest': self._blob.digest})}",
            ok=(201, 204, 400, 404),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            body=lambda: self._pieces(0, size),
            read_seconds=_COMMIT_SECONDS,
        )
        answer = self._session.once(call)
        if answer.status in {400, 404}:
            error = self._session.refusal(call, answer)
            if not self._resumed:
                raise error
            # The registry lost count of what it had at the cut: once more, from the start.
            self._location, self._resumed = None, False
            raise Interrupted(error)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        self._show(start)
        with self._open() as file:
            file.seek(start)
            while start < end:
                piece = file.read(min(CHUNK, end - start))
                if not piece:
                    raise ImageError(f"blob {self._blob.digest} is shorter here than {self._blob.size} bytes")
                yield piece
                start += len(piece)
                self._sent += len(piece)
                self._session.stats.add(uploaded=len(piece))
                self._show(start)

    def _show(self, position: int) -> None:
        self._bar.advance(position - self._shown)
        self._shown = position

    def _follow(self, answer: Answer) -> None:
        location = answer.headers.get("Location")
        if not location:
            raise RegistryError(f"{self._reference.registry} does not say where to upload to {self._reference}")
        self._location = location

    def _abandon(self) -> None:
        """Tell the registry to throw away what it has; it would do so by itself in days."""
        if self._location is not None:
            with suppress(ClustrixError, Interrupted):
                self._session.once(self._call("DELETE", self._location, ok=(204,), read_seconds=5))

    @property
    def _look(self) -> Call:
        path = f"/v2/{self._reference.repository}/blobs/{self._blob.digest}"
        return self._call("HEAD", path, ok=(200, 404))

    @property
    def _uploads(self) -> str:
        return f"/v2/{self._reference.repository}/blobs/uploads/"

    def _call(
        self,
        method: str,
        url: str | None,
        *,
        ok: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | Callable[[], Iterable[bytes]] = b"",
        read_seconds: float = 60,
        also_reading: str | None = None,
    ) -> Call:
        scopes = [f"repository:{self._reference.repository}:pull,push"]
        if also_reading:
            scopes.append(f"repository:{also_reading}:pull")
        return Call(
            method=method,
            url=url or self._uploads,
            registry=self._reference.registry,
            scopes=tuple(scopes),
            doing=f"the push of {self._blob.digest} to {self._reference}",
            ok=ok,
            headers=headers or {},
            body=body,
            read_seconds=read_seconds,
        )
