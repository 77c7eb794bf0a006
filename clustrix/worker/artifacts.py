"""A small client of one registry repository, for pods: the standard library alone.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md for blobs and manifests,
https://distribution.github.io/distribution/spec/auth/token/ for bearer tokens, RFC 9110 for ranges, redirects and
Retry-After. What clients use is `clustrix.oci`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import ssl
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from clustrix.errors import RegistryDenied, RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import BinaryIO

    Open = Callable[[], BinaryIO]
    _Short = tuple[int, http.client.HTTPMessage, bytes]

_T = TypeVar("_T")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_BINARY = "application/octet-stream"
_CHUNK = 1 << 20
_SMALL = 4 << 20  # goes in one request
_PIECES = (16 << 20, 512 << 10)  # what a proxy that refuses a whole blob (413) is tried with
_TIMEOUT = 60.0  # seconds for a connection, and between two pieces of an answer
_COMMIT_TIMEOUT = 600.0  # a registry may read a big blob once more before it answers
_PATIENCE = 300.0
_PAUSES = (0.2, 15.0)  # seconds before something is tried again: at first, and at most
_REDIRECTS = 5
_LOGINS = 2  # a token may have run out
_MOST = 8 << 20  # bytes of an answer that has to be short
_TOO_LARGE, _TOO_MANY, _UNAUTHORIZED = 413, 429, 401
_PASSING = frozenset({408, _TOO_MANY, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})
_CHALLENGE = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')


class _PassingError(Exception):
    """Something that may be over in a while; ``seconds`` is what the server asked to wait."""

    def __init__(self, error: RegistryError, seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Login:
    """Say which repository (``host[:port]/path``) is used, and as whom: the fields of ``registry.json``.

    ``namespace`` is what artifacts say of where they come from.
    """

    repository: str
    insecure: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    namespace: str | None = None

    @classmethod
    def read(cls, text: bytes) -> Login:
        """Read ``registry.json``; RegistryError if it is none."""
        try:
            document = json.loads(text)
            repository, insecure = document["repository"], document.get("insecure") is True
            who = document.get("username"), document.get("password")
            return cls(str(repository), insecure, *who, namespace=document.get("namespace"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RegistryError("registry.json names no repository") from None

    @property
    def basic(self) -> str:
        """Give the value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password or ''}".encode()).decode()


class Repository:
    """Read and write blobs and manifests of one repository, over kept connections; for one thread.

    Whatever may pass (no answer, 429, 5xx) is tried again until nothing has moved for ``patience`` seconds. Every
    method raises `RegistryDenied` or `RegistryError`.
    """

    def __init__(self, login: Login, *, patience: float = _PATIENCE, timeout: float = _TIMEOUT) -> None:
        self._login = login
        self._host, _, self._path = login.repository.partition("/")
        self.patience = patience
        self.timeout = timeout
        self.namespace = login.namespace
        self._root = "http" if login.insecure else "https", self._host
        self._base = f"{self._root[0]}://{self._host}/v2/{self._path}/"
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._authorization: str | None = None
        self._piece: int | None = None  # the largest request that is known to be taken

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def has(self, digest: str) -> bool:
        """Tell whether a blob is there."""
        return self._persist(lambda: self._short("HEAD", f"blobs/{digest}", ok={200, 404}))[0] == HTTPStatus.OK

    def read(self, digest: str, start: int, stop: int, write: Callable[[int, bytes], object]) -> None:
        """Pass the bytes of a blob from ``start`` up to ``stop`` on as ``write(offset, data)``, in order.

        After a cut it goes on where it was. From a registry that knows no ranges ``write`` gets all of the blob.
        """
        at = start

        def once() -> None:
            nonlocal at
            answer = self._open("GET", f"blobs/{digest}", headers={"Range": f"bytes={at}-{stop - 1}"}, ok={200, 206})
            place = at if answer.status == HTTPStatus.PARTIAL_CONTENT else 0
            while chunk := answer.read(_CHUNK):
                write(place, chunk)
                place += len(chunk)
                at = max(at, place)
            if place < stop:
                raise _PassingError(RegistryError(f"{self._host} sent only a part of blob {digest}"))

        if start < stop:
            self._persist(once, lambda: at)

    def push(self, size: int, open_body: Open) -> str:
        """Bring a blob of ``size`` bytes in, in constant memory, and give its digest.

        ``open_body`` opens it as often as the upload begins anew.
        """
        return self._persist(lambda: self._upload(size, open_body))

    def push_manifest(self, tag: str, data: bytes) -> str:
        """Put a manifest under a tag, after all that it names, and give its digest."""
        headers = {"Content-Type": MANIFEST}
        self._persist(lambda: self._short("PUT", f"manifests/{tag}", headers=headers, body=data, ok={201}))
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    def _upload(self, size: int, open_body: Open) -> str:
        location = self._location(self._short("POST", "blobs/uploads/", ok={202}))
        digest = hashlib.sha256()
        with contextlib.closing(open_body()) as body:
            data = b""
            if size <= min(_SMALL, self._piece or _SMALL):
                data = body.read()
                digest.update(data)
            else:
                location = self._stream(location, body, size, digest.update)
        name = f"sha256:{digest.hexdigest()}"
        mark = "&" if "?" in location else "?"
        headers = {"Content-Type": _BINARY}
        url = f"{location}{mark}{urlencode({'digest': name})}"
        self._short("PUT", url, headers=headers, body=data, ok={201, 204}, timeout=_COMMIT_TIMEOUT)
        return name

    def _stream(self, location: str, body: BinaryIO, size: int, count: Callable[[bytes], object]) -> str:
        """Send a blob in one request or, where that is refused, in pieces."""
        at = 0
        while at < size:
            end = min(size, at + (self._piece or size))
            headers = {"Content-Type": _BINARY, "Content-Length": str(end - at)}
            if end - at < size:
                headers["Content-Range"] = f"{at}-{end - 1}"
            limited = _Piece(body, end - at, count)
            location = self._location(self._short("PATCH", location, headers=headers, body=limited, ok={202}))
            at = end
        return location

    def _location(self, answer: _Short) -> str:
        location = answer[1].get("Location")
        if not location:
            raise RegistryError(f"{self._host} does not say where to upload to")
        return urljoin(self._base, location)

    def _short(
        self,
        method: str,
        url: str,
        *,
        ok: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | _Piece = b"",
        timeout: float | None = None,
    ) -> _Short:
        answer = self._open(method, url, headers=headers or {}, ok=ok, body=body, timeout=timeout)
        return answer.status, answer.headers, answer.read(_MOST)

    def _open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        ok: Collection[int],
        body: bytes | _Piece = b"",
        timeout: float | None = None,
    ) -> http.client.HTTPResponse:
        """Send a request, as whoever we are, to where it leads in the end, and leave the reading to the caller."""
        url = urljoin(self._base, url)
        logins = 0
        for _ in range(_REDIRECTS):
            # Neither a redirect nor an upload that is sent on to another host takes the login with it.
            own = urlsplit(url)[:2] == self._root
            sent = self._authorization if own else None
            given = {**headers, "User-Agent": "clustrix", **({"Authorization": sent} if sent else {})}
            answer = self._send(method, url, given, body, timeout or self.timeout)
            if answer.status in ok:
                return answer
            if answer.status in _MOVED and method in {"GET", "HEAD"}:
                answer.read(_MOST)
                url = urljoin(url, answer.headers.get("Location", ""))
                continue
            words = _words(answer.read(_MOST))
            logins += 1
            challenge = answer.headers.get("WWW-Authenticate", "")
            if answer.status != _UNAUTHORIZED or not own or logins > _LOGINS or not self._log_in(challenge, sent):
                self._refuse(method, url, answer, words)
            if not isinstance(body, bytes):  # a token ran out in the middle of a blob
                raise _PassingError(RegistryDenied(f"{self._host} denied a push{words}"), 0)
        raise RegistryError(f"{self._host} sends us round in circles")

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | _Piece, timeout: float
    ) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (self._login.insecure and parts.scheme == "http"):
            raise RegistryError(f"{self._host} sends us to {parts.scheme}://{parts.netloc}, which is not https")
        connection = self._connections.get(parts[:2])
        if connection is None:
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            connection = self._connections[parts[:2]] = kind(parts.netloc, blocksize=_CHUNK)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request(method, target, body or None, dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            if isinstance(body, bytes):
                raise
            # It may have refused a blob before it had all of it.
        return connection.getresponse()

    def _log_in(self, challenge: str, sent: str | None) -> bool:
        """Learn from a 401; True when asking again makes sense, False when what was ``sent`` was refused."""
        scheme, _, rest = challenge.partition(" ")
        given = {name.lower(): quoted or plain for name, quoted, plain in _CHALLENGE.findall(rest)}
        if scheme.lower() == "basic":
            self._authorization = self._login.basic
            return self._login.username is not None and sent is None
        if scheme.lower() != "bearer" or (sent is not None and given.get("error") == "insufficient_scope"):
            return False
        query = {"service": given.get("service", ""), "scope": f"repository:{self._path}:pull,push"}
        realm = given.get("realm", "")
        headers = {"Authorization": self._login.basic} if self._login.username is not None else {}
        mark = "&" if "?" in realm else "?"
        answer = self._send("GET", f"{realm}{mark}{urlencode(query)}", headers, b"", self.timeout)
        data = answer.read(_MOST)
        if answer.status != HTTPStatus.OK:
            self._refuse("GET", realm, answer, f" (the token server {realm}){_words(data)}")
        with contextlib.suppress(ValueError, AttributeError):
            document = json.loads(data)
            if token := document.get("token") or document.get("access_token"):
                self._authorization = f"Bearer {token}"
                return True
        raise RegistryError(f"the token server {realm} of {self._host} gave no token")

    def _refuse(self, method: str, url: str, answer: http.client.HTTPResponse, words: str) -> NoReturn:
        said = f"{self._host} answered {answer.status} to {method} in {self._path}{words}"
        if answer.status in {_UNAUTHORIZED, 403}:
            who = f"the login as {self._login.username!r} is" if self._login.username else "no login is"
            raise RegistryDenied(said, remedy=f"In pods, {who} good for {self._login.repository}.")
        if answer.status == _TOO_LARGE:
            smaller = next((piece for piece in _PIECES if piece < (self._piece or _PIECES[0] + 1)), None)
            if smaller is not None:
                self._piece = smaller
                raise _PassingError(RegistryError(said), 0)
        if answer.status in _PASSING or (answer.status == HTTPStatus.NOT_FOUND and "/uploads/" in url):
            # 404: a registry that was started again has forgotten what was being uploaded.
            raise _PassingError(RegistryError(said), _retry_after(answer.headers))
        raise RegistryError(said)

    def _persist(self, once: Callable[[], _T], done: Callable[[], int] = lambda: 0) -> _T:
        """Do something until it works, or until nothing has moved for too long."""
        pause, since, furthest = _PAUSES[0], time.monotonic(), done()
        while True:
            try:
                return once()
            except _PassingError as passing:
                error, wait = passing.error, passing.seconds
            except ssl.SSLCertVerificationError as problem:
                raise RegistryError(
                    f"{self._host} is not who it says: {problem.verify_message}",
                    remedy="Let the image, or SSL_CERT_FILE in the pod template, name the authority; or: "
                    "insecure_registry: true",
                ) from None
            except (OSError, http.client.HTTPException) as problem:
                error = RegistryError(f"{self._host} does not answer: {str(problem) or type(problem).__name__}")
                wait = None
            self.close()
            if done() > furthest:
                pause, since, furthest = _PAUSES[0], time.monotonic(), done()
            if wait is None:
                wait = pause * (0.5 + os.urandom(1)[0] / 255)
                pause = min(pause * 2, _PAUSES[1])
            until = time.monotonic() + wait
            while True:  # patience may end meanwhile: the pod is told to go
                left = until - time.monotonic()
                if max(until, time.monotonic()) - since > self.patience:
                    raise error
                if left <= 0:
                    break
                time.sleep(min(left, 0.5))


class _Piece(io.RawIOBase):
    """Read some bytes of a file and no more, and count them."""

    def __init__(self, file: BinaryIO, size: int, count: Callable[[bytes], object]) -> None:
        super().__init__()
        self._file = file
        self._left = size
        self._count = count

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        data = self._file.read(min(self._left, _CHUNK if size < 0 else size))
        self._left -= len(data)
        self._count(data)
        return data


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Read ``Retry-After`` in seconds (RFC 9110, section 10.2.3: a number or a date)."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isdecimal():
        return float(text)
    import email.utils

    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _words(data: bytes) -> str:
    """Quote the server's own words (distribution-spec, "Error Codes"), if it has any."""
    try:
        said = "; ".join(f"{error.get('code', '')} {error.get('message', '')}" for error in json.loads(data)["errors"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f": {''.join(filter(str.isprintable, said))[:300]}"
