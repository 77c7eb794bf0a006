"""One namespace of one cluster: JSON over the connections of the official client, and typed errors.

The client brings what is hard (kubeconfig, exec plug-ins, tokens that run out, TLS, proxies); its model objects are
left out, since making them of a thousand pods takes seconds. What may be asked is in
https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from clustrix.errors import (
    AccessDenied,
    AuthenticationFailed,
    BackendError,
    ClustrixError,
    ConfigError,
    ConnectionLost,
    HostKeyError,
    SubmitRejected,
)
from clustrix.kubernetes import kubeconfig
from clustrix.kubernetes.streams import WATCH_SECONDS, Expired, PodWatch, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    Document = dict[str, Any]

RIGHTS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("batch", "jobs"): ("create", "get", "list", "patch", "delete"),
    ("", "pods"): ("list", "watch", "deletecollection"),
    ("", "pods/log"): ("get",),
    ("", "secrets"): ("create", "get"),
    ("", "configmaps"): ("create", "get", "list", "delete"),
    ("", "events"): ("list",),
}
"""All that an account needs in its namespace: (API group, resource) -> verbs."""

_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_MERGE = "application/merge-patch+json"
_TIMEOUT = 30.0
_CONNECT = 10.0
_ATTEMPTS = 3
_PAUSE = 0.2  # seconds before a request is made again, doubled each time
_LONGEST = 10.0
_CONNECTIONS = 64
_BAD, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _GONE, _INVALID = 400, 401, 403, 404, 409, 410, 422
_BUSY = {429, 503, 504}


@dataclass(frozen=True)
class Cluster:
    """Speak to one namespace. Every method raises what `_error` says, and ConnectionLost; safe for threads."""

    context: str | None = None
    namespace: str | None = None
    kubeconfig: str | None = None

    @cached_property
    def _client(self) -> tuple[Any, str]:
        """Load who we are and where the server is: (client, namespace). Importing it takes a fifth of a second."""
        from kubernetes import client

        settings = client.Configuration()
        settings.connection_pool_maxsize = _CONNECTIONS
        settings.socket_options = _keepalive()
        own = kubeconfig.load(settings, self.kubeconfig, self.context)
        return client.ApiClient(settings), self.namespace or own or ""

    @cached_property
    def space(self) -> str:
        """Name the namespace; ConfigError where nothing does."""
        found = self._client[1]
        if not found:
            raise ConfigError(
                f"context {self.context or 'in use'} of the kubeconfig names no namespace",
                remedy="Set `namespace` for the target.",
            )
        return found

    @cached_property
    def mark(self) -> str | None:
        """Name the namespace as no other of any cluster is: by a ConfigMap that each has; None where nobody says it.

        https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#root-ca-certificate-publisher
        """
        try:
            found = self.get(self.path("configmaps", "kube-root-ca.crt"), only_metadata=True)
        except AccessDenied:
            return None
        return str(found["metadata"]["uid"]) if found else None

    @property
    def server(self) -> str:
        """Give the address of the API server."""
        return str(self._client[0].configuration.host)

    def close(self) -> None:
        """Let go of the connections; the next request opens new ones."""
        if "_client" in self.__dict__:
            self._client[0].rest_client.pool_manager.clear()

    def path(self, kind: str, name: str = "") -> str:
        """Give the path of a kind in the namespace, ``jobs`` or ``pods/NAME/log``."""
        group = "/apis/batch/v1" if kind == "jobs" else "/api/v1"
        return f"{group}/namespaces/{quote(self.space)}/{kind}{name and '/'}{name}"

    def get(self, path: str, *, only_metadata: bool = False, **query: object) -> Document | None:
        """Read an object; None if it does not exist."""
        accept = _METADATA if only_metadata else _JSON
        return self._document("GET", path, query=query, accept=accept, without=_NOT_FOUND)

    def create(self, path: str, body: Mapping[str, Any]) -> Document | None:
        """Make an object; None if one of that name exists."""
        return self._document("POST", path, body=body, without=_CONFLICT)

    def patch(self, path: str, body: Mapping[str, Any]) -> Document | None:
        """Change an object (RFC 7386); None if it does not exist."""
        return self._document("PATCH", path, body=body, content_type=_MERGE, without=_NOT_FOUND)

    def delete(self, path: str, body: Mapping[str, Any] | None = None, **query: object) -> None:
        """Delete an object or, with a selector, many; what does not exist is no error."""
        self._document("DELETE", path, query=query, body=body or {}, without=_NOT_FOUND)

    def listing(self, path: str, *, only_metadata: bool = False, **query: object) -> tuple[list[Document], str]:
        """List objects, in pages of 500: all of them, and the resource version that a watch goes on from."""
        accept = _METADATA.replace("Metadata;", "MetadataList;") if only_metadata else _JSON
        found: list[Document] = []
        more = ""
        while True:
            page = self._document("GET", path, query={"limit": 500, "continue": more, **query}, accept=accept) or {}
            found += page.get("items") or []
            more = page["metadata"].get("continue") or ""
            if not more:
                return found, str(page["metadata"].get("resourceVersion", ""))

    def job(self, name: str) -> Document | None:
        """Read a Job; None if it does not exist."""
        return self.get(self.path("jobs", name))

    def jobs(self, selector: str) -> list[Document]:
        """List Jobs by their labels."""
        return self.listing(self.path("jobs"), labelSelector=selector)[0]

    def pods(self, selector: str) -> list[Document]:
        """List pods by their labels."""
        return self.listing(self.path("pods"), labelSelector=selector)[0]

    def secret(self, name: str) -> dict[str, bytes] | None:
        """Read what a Secret holds; None if it does not exist."""
        import base64

        found = self.get(self.path("secrets", name))
        return found and {key: base64.b64decode(text) for key, text in (found.get("data") or {}).items()}

    def watch_pods(self, selector: str) -> PodWatch:
        """Watch pods by their labels; nothing is sent before it is iterated."""
        return PodWatch(self, selector)

    def log(self, pod: str, container: str, *, follow: bool = False, tail_lines: int | None = None) -> Stream | None:
        """Open the log of a container; None while there is none."""
        query = {"container": container, "follow": "true" if follow else None, "tailLines": tail_lines}
        return self.stream(self.path("pods", f"{pod}/log"), query, without=(_NOT_FOUND, _BAD))

    def stream(self, path: str, query: Mapping[str, object], *, without: tuple[int, ...] = ()) -> Stream | None:
        """Open an answer that goes on; None for the statuses that ``without`` names."""
        answer = self._send("GET", path, query=query, timeout=WATCH_SECONDS + _TIMEOUT)
        if answer.status in without:
            answer.drain_conn()
            return None
        if answer.status >= _BAD:
            raise self._error("GET", path, answer)
        return Stream(answer)

    def _document(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = _JSON,
        content_type: str = _JSON,
        without: int | None = None,
    ) -> Document | None:
        """Ask until there is an answer; what is made has a name, so that nothing is made twice."""
        pause = _PAUSE
        for left in range(_ATTEMPTS - 1, -1, -1):
            try:
                answer = self._send(
                    method, path, query=query or {}, body=body, accept=accept, content_type=content_type
                )
                data = self._whole(answer)
            except ConnectionLost:
                if left == 0:
                    raise
            else:
                if answer.status < _BAD:
                    document: Document = json.loads(data)
                    return document
                reason = _status(data).get("reason")
                missing = reason == "NotFound" and method != "POST"  # else it is the namespace
                if answer.status == without and (missing or reason == "AlreadyExists"):
                    return None
                if left == 0 or not (answer.status in _BUSY or reason == "Conflict"):
                    raise self._error(method, path, answer)
                pause = max(pause, min(float(answer.headers.get("Retry-After") or 0), _LONGEST))
            time.sleep(pause)
            pause *= 2
        raise AssertionError  # the loop returns or raises

    def _whole(self, answer: Any) -> bytes:  # noqa: ANN401 - urllib3.HTTPResponse
        from urllib3.exceptions import HTTPError

        try:
            data: bytes = answer.data
        except HTTPError as error:
            raise ConnectionLost(f"{self.server} went away: {error}") from error
        return data

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object],
        body: Mapping[str, Any] | None = None,
        accept: str = _JSON,
        content_type: str = _JSON,
        timeout: float = _TIMEOUT,
    ) -> Any:  # noqa: ANN401 - urllib3.HTTPResponse
        """Make one request, as whoever the kubeconfig says we are; once more where it says another by now."""
        headers = {
            "Accept": accept,
            "User-Agent": "clustrix",
            **({} if body is None else {"Content-Type": content_type}),
        }
        given = {name: value for name, value in query.items() if value not in (None, "")}
        place = f"{path}{'?' if given else ''}{urlencode(given)}"
        data = None if body is None else json.dumps(body).encode()
        who = self._login()
        answer = self._request(method, place, data, {**headers, **who[0]}, timeout)
        if answer.status == _UNAUTHORIZED:
            if self._login() == who:
                self.__dict__.pop("_client", None)  # what logs us in may know better by now, or whoever called it
            anew = self._login()
            if anew != who:
                answer.drain_conn()
                answer = self._request(method, place, data, {**headers, **anew[0]}, timeout)
        return answer

    def _login(self) -> tuple[Mapping[str, str], str | None]:
        """Say who we are: headers and the file of a certificate."""
        settings = self._client[0].configuration
        with kubeconfig.plugins() as said:  # a token that has run out is asked for anew
            rows = settings.auth_settings().values()
        kubeconfig.complain(said, self.context)
        return {row["key"]: row["value"] for row in rows if row["in"] == "header" and row["value"]}, settings.cert_file

    def _request(self, method: str, place: str, data: bytes | None, headers: Mapping[str, str], timeout: float) -> Any:  # noqa: ANN401 - urllib3.HTTPResponse
        import urllib3
        from urllib3.exceptions import HTTPError, SSLError

        api = self._client[0]
        settings = api.configuration
        try:
            return api.rest_client.pool_manager.request(
                method,
                f"{settings.host}{place}",
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT, read=timeout),
                retries=False,
                preload_content=False,
            )
        except SSLError as error:
            raise HostKeyError(
                f"{settings.host} is not who the kubeconfig says: {error}", remedy="Get a new kubeconfig."
            ) from error
        except HTTPError as error:
            raise ConnectionLost(f"{settings.host} does not answer: {error}") from error

    def _error(self, method: str, path: str, answer: Any) -> ClustrixError:  # noqa: ANN401 - urllib3.HTTPResponse
        """Turn an answer into the error of it, in the server's own words."""
        code, data = answer.status, answer.data
        text = _message(data) or f"{method} {path}: {code}"
        server = self.server
        if code == _UNAUTHORIZED:
            self.__dict__.pop("_client", None)  # whoever logs in again is known from the next request on
        if code == _UNAUTHORIZED or (code == _FORBIDDEN and '"system:anonymous"' in text):
            return AuthenticationFailed(
                f"{server} does not know who you are: {text}", remedy="Log in again, or get a new kubeconfig."
            )
        if code == _FORBIDDEN and 'User "' in text and " cannot " in text:
            return AccessDenied(
                text, remedy="Ask whoever runs the namespace for the rights that `clustrix doctor` lists."
            )
        if code == _NOT_FOUND and method == "POST":
            return ConfigError(f"{server}: {text}", remedy="Set `namespace` to one that exists and that you may use.")
        if code in {_BAD, _FORBIDDEN, _INVALID} and method in {"POST", "PATCH"}:
            return SubmitRejected(text)
        if code == _GONE:
            return Expired(text)
        return BackendError(f"{server}: {text}")


def _message(data: bytes) -> str:
    return str(_status(data).get("message") or data.decode(errors="replace").strip())


def _status(data: bytes) -> Document:
    try:
        found = json.loads(data)
    except ValueError:  # a proxy's words
        return {}
    return found if isinstance(found, dict) else {}


def _keepalive() -> list[tuple[int, int, int]]:
    """Notice within two minutes that a server went away without a word (a laptop that slept)."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options
