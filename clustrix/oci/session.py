"""The conversation with registries: who we are, what is tried again, what is counted, which error it becomes."""

from __future__ import annotations

import contextlib
import email.utils
import json
import secrets
import threading
import time
import weakref
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from clustrix.errors import ClustrixError, ImageUnavailable, RateLimited, RegistryDenied, RegistryError
from clustrix.oci.auth import Authorizer, Keychain
from clustrix.oci.connections import Connections
from clustrix.oci.reference import DOCKER_HUB
from clustrix.oci.trust import LateTrust

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

_T = TypeVar("_T")
_ATTEMPTS = 5
_PATIENCE_SECONDS = 60.0  # a longer Retry-After is the user's decision
_TOO_MANY = 429
_PASSING = frozenset({408, _TOO_MANY, 500, 502, 503, 504})
_MAX_ANSWER = 8 << 20  # registries refuse manifests of more than 4 MiB


class Stats:
    """Count what moved: requests by method (``TOKEN``: to token servers), bytes of blobs and manifests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.uploaded_bytes = 0
        self.downloaded_bytes = 0

    def add(self, method: str = "", *, uploaded: int = 0, downloaded: int = 0) -> None:
        """Count one request, or bytes that moved."""
        with self._lock:
            if method:
                self.requests[method] += 1
            self.uploaded_bytes += uploaded
            self.downloaded_bytes += downloaded


class Interrupted(Exception):
    """Something that may pass; ``error`` is what it is when it does not, ``wait_seconds`` what the server asked for."""

    def __init__(self, error: ClustrixError, wait_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Describe a request: ``doing`` names the image for an error message; ``ok`` are the good statuses."""

    method: str
    url: str  # absolute, or a path at the registry
    registry: str
    scopes: tuple[str, ...]
    doing: str
    ok: Collection[int] = (200,)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Callable[[], Iterable[bytes]] = b""  # a callable makes the same pieces anew
    read_seconds: float = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold a short answer, read whole."""

    status: int
    headers: Mapping[str, str]  # names in any case
    content: bytes


class Session:
    """Talk to registries; safe for several threads.

    ``insecure`` names the registries (``host[:port]``) that are spoken to in plain HTTP, or is True for all.
    """

    def __init__(
        self,
        *,
        insecure: bool | Collection[str] = False,
        keychain: Keychain | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._insecure = insecure
        self._keychain = keychain or Keychain()
        self._sleep = sleep
        self._connections = Connections()
        self._cut = threading.Event()
        self._authorizers: dict[str, Authorizer] = {}
        self._answered: set[str] = set()
        self._lock = threading.Lock()
        # httpx follows a redirect to another host without the Authorization header, and that is relied on.
        self._http = httpx.Client(
            follow_redirects=True,
            verify=LateTrust(),
            headers={"User-Agent": "clustrix", "Accept-Encoding": "identity"},
            event_hooks={"request": [self._connections.follow]},
        )
        self.close = weakref.finalize(self, self._http.close)  # whoever does not close it leaks nothing
        self.stats = Stats()

    def ask(self, call: Call) -> Answer:
        """Send a request, as often as it takes, and read the short answer.

        Raises `RegistryDenied`, `RateLimited`, `ImageUnavailable` (404 only) and `RegistryError`, all of which name
        the reference.
        """
        return self.persist(lambda: self.once(call))

    def once(self, call: Call) -> Answer:
        """Send a request once and read the short answer; raises `Interrupted` for whatever may pass."""
        with self.open(call) as response:
            return _read(response)

    @contextlib.contextmanager
    def open(self, call: Call) -> Iterator[httpx.Response]:
        """Send a request once and leave the reading to the caller.

        Raises `Interrupted` for whatever may pass, also while the caller reads; else as `ask` does.
        """
        try:
            with contextlib.closing(self._authorized(call)) as response:
                if response.status_code not in call.ok:
                    raise self._refusal(call, _read(response))
                yield response
        except httpx.TransportError as error:
            raise self._broken(call.registry, call.doing, error) from error

    def persist(self, once: Callable[[], _T], done: Callable[[], int] = lambda: 0) -> _T:
        """Do something again after every `Interrupted`, a few times, with exponential back-off and jitter.

        The count starts anew whenever ``done`` has grown: what moves on is not given up.
        """
        attempt, furthest, cut = 1, done(), self._cut
        while True:
            try:
                return once()
            except Interrupted as broken:  # noqa: PERF203 - the loop is about it
                if done() > furthest:
                    attempt, furthest = 1, done()
                wait = broken.wait_seconds
                jitter = 0.5 + secrets.randbelow(1000) / 2000
                pause = wait if wait is not None else min(0.5 * 2**attempt, 20) * jitter
                if attempt == _ATTEMPTS or pause > _PATIENCE_SECONDS or cut.is_set():
                    raise broken.error from broken
                (self._sleep or cut.wait)(pause)
                attempt += 1

    def cut(self) -> None:
        """End what other threads do here, whatever they wait for; nothing of it is tried again."""
        cut, self._cut = self._cut, threading.Event()
        cut.set()
        self._connections.cut()

    def refusal(self, call: Call, answer: Answer) -> ClustrixError:
        """Make the error for an answer that is none of the good ones."""
        status, words = answer.status, _words(answer)
        where, doing = call.registry, call.doing
        if status in {401, 403}:
            login = self._authorizer(where).credentials
            return RegistryDenied(
                f"{where} denied {doing}{words}",
                remedy=f"The login as {login.username or 'the token'!r} is not enough: docker login {where}"
                if login
                else f"No login for it was found: docker login {where}",
            )
        if status == HTTPStatus.NOT_FOUND:
            return ImageUnavailable(
                f"not found: {doing}{words}",
                remedy="Check the name and the tag; some registries say this of what they do not want to show, too.",
            )
        if status == _TOO_MANY:
            wait = _retry_after(answer.headers)
            return RateLimited(
                f"{where} limits how often it is asked: {doing}{words}",
                remedy=f"It says to come back in {wait:.0f} s."
                if wait
                else "Come back later, or log in: registries allow more to whom they know.",
            )
        return RegistryError(f"{where} answered {status} to {doing}{words}")

    def _authorized(self, call: Call) -> httpx.Response:
        registry = call.registry
        authorizer = self._authorizer(registry)
        root = self._root(registry)
        url = root.join(call.url)
        # An upload may be sent on to another host than the registry; its credentials are not.
        own = (url.scheme, url.host, url.port) == (root.scheme, root.host, root.port)
        for last in (False, False, True):  # without a token, with one that has run out, with a new one
            sent = authorizer.header(call.scopes) if own else None
            response = self._http.send(
                self._http.build_request(
                    call.method,
                    url,
                    headers={**call.headers, **({"Authorization": sent} if sent else {})},
                    content=call.body if isinstance(call.body, bytes) else call.body(),
                    timeout=httpx.Timeout(call.read_seconds, connect=min(call.read_seconds, 10), pool=None),
                ),
                stream=True,
            )
            self._answered.add(registry)
            self.stats.add(call.method)
            if response.status_code != HTTPStatus.UNAUTHORIZED or last or not own:
                break
            challenge = response.headers.get("WWW-Authenticate", "")
            if not authorizer.challenged(challenge, call.scopes, sent=sent):
                break
            response.close()
        return response

    def _refusal(self, call: Call, answer: Answer) -> Exception:
        error = self.refusal(call, answer)
        return Interrupted(error, _retry_after(answer.headers)) if answer.status in _PASSING else error

    def _broken(self, registry: str, doing: str, error: httpx.TransportError) -> Exception:
        unreachable = _unreachable(registry, doing, error)
        # A host that never answered is a wrong name or a closed door more often than an accident.
        final = isinstance(error, httpx.ConnectError) and registry not in self._answered
        return unreachable if final else Interrupted(unreachable)

    def _root(self, registry: str) -> httpx.URL:
        host = "registry-1.docker.io" if registry == DOCKER_HUB else registry
        return httpx.URL(f"{'http' if self._is_insecure(registry) else 'https'}://{host}")

    def _is_insecure(self, registry: str) -> bool:
        return self._insecure if isinstance(self._insecure, bool) else registry in self._insecure

    def _authorizer(self, registry: str) -> Authorizer:
        def ask(
            method: str, url: str, *, query: Iterable[tuple[str, str]], form: Mapping[str, str], authorization: str
        ) -> Mapping[str, Any]:
            request = self._http.build_request(
                method,
                url,
                params=list(query) or None,
                data=dict(form) or None,
                headers={"Authorization": authorization} if authorization else {},
                timeout=30,
            )
            return self._ask_token_server(registry, request)

        with self._lock:
            if registry not in self._authorizers:
                self._authorizers[registry] = Authorizer(
                    registry, self._keychain, ask, insecure=self._is_insecure(registry)
                )
            return self._authorizers[registry]

    def _ask_token_server(self, registry: str, request: httpx.Request) -> Mapping[str, Any]:
        server = f"the token server {request.url.host} of {registry}"

        def once() -> Mapping[str, Any]:
            self.stats.add("TOKEN")
            try:
                # A redirect would carry a refresh token in the form to wherever it points.
                with contextlib.closing(self._http.send(request, stream=True, follow_redirects=False)) as response:
                    return _token_answer(registry, server, _read(response))
            except httpx.TransportError as error:
                raise Interrupted(RegistryError(f"{server} does not answer: {_reason(error)}")) from error

        return self.persist(once)


def _token_answer(registry: str, server: str, answer: Answer) -> Mapping[str, Any]:
    if answer.status == HTTPStatus.OK:
        try:
            document = json.loads(answer.content)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise RegistryError(f"{server} did not answer in JSON")
        return document
    words = _words(answer)
    if answer.status in {400, 401, 403}:
        raise RegistryDenied(f"{server} refused the login{words}", remedy=f"Log in: docker login {registry}")
    kind = RateLimited if answer.status == _TOO_MANY else RegistryError
    error = kind(f"{server} answered {answer.status}{words}")
    raise Interrupted(error, _retry_after(answer.headers)) if answer.status in _PASSING else error


def _read(response: httpx.Response) -> Answer:
    """Read an answer that has to be short."""
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > _MAX_ANSWER:
            raise RegistryError(
                f"{response.url.host} sent more than {_MAX_ANSWER >> 20} MiB where little was asked for"
            )
    return Answer(response.status_code, response.headers, bytes(content))


def _words(answer: Answer) -> str:
    """Quote the server's own words (distribution-spec, "Error Codes"), if it has any."""
    try:
        errors = json.loads(answer.content)["errors"]
        said = "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        said = answer.content[:200].decode(errors="replace") if b"<" not in answer.content else ""
    said = "".join(character if character.isprintable() else " " for character in said).strip()
    return f": {said[:300]}" if said else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After`` in seconds (RFC 9110, section 10.2.3: a number or a date)."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _unreachable(registry: str, doing: str, error: httpx.TransportError) -> RegistryError:
    reason = _reason(error)
    remedy = "Check the name, the network and the proxy settings."
    if "WRONG_VERSION_NUMBER" in reason or "record layer failure" in reason:
        remedy = "It seems to speak plain HTTP. If that is meant, say so: insecure_registry: true"
    elif "CERTIFICATE_VERIFY_FAILED" in reason:
        remedy = "If its certificate is from an authority of your own, name that in SSL_CERT_FILE."
    return RegistryError(f"{registry} cannot be reached for {doing}: {reason}", remedy=remedy)


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
