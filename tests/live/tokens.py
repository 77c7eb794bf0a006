"""A token server as the distribution specification describes it, for the registry that wants one.

Source: https://distribution.github.io/distribution/spec/auth/token/ and /spec/auth/jwt/. It is a real one: RS256 tokens
that the registry verifies against the certificate it was given.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """Who may do what in every repository; the password holds a colon, as passwords do."""

    name: str
    password: str
    actions: frozenset[str]


WRITER = User("writer", "open:sesame", frozenset({"pull", "push", "delete"}))
READER = User("reader", "look:only", frozenset({"pull"}))


@dataclasses.dataclass(slots=True)
class TokenServer:
    """Where tokens come from, and every request for one as (user, scopes), refused ones with user None."""

    realm: str = ""
    requests: list[tuple[str | None, list[str]]] = dataclasses.field(default_factory=list)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clustrix test tokens")])
    now = dt.datetime.now(dt.timezone.utc)
    day = dt.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256())


def _user(authorization: str | None) -> User | None:
    scheme, _, credentials = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    name, _, password = base64.b64decode(credentials).decode().partition(":")
    return next((user for user in (WRITER, READER) if (user.name, user.password) == (name, password)), None)


def _access(scope: str, user: User | None) -> dict[str, Any]:
    """`repository:team/name:pull,push` -> what of it is granted; without a user nothing is."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    granted = [action for action in actions.split(",") if user and action in user.actions]
    return {"type": kind, "name": name, "actions": granted}


@contextlib.contextmanager
def token_server(directory: Path, service: str) -> Iterator[tuple[TokenServer, str]]:
    """Serve tokens on a free port; yields the server and the `auth` section for the registry's configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = _certificate(key)
    bundle = directory / "tokens.pem"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
    seen = TokenServer()

    def token(subject: str, audience: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": chain}
        claims = {"iss": service, "sub": subject, "aud": audience, "nbf": now - 10, "iat": now, "exp": now + 300}
        claims |= {"jti": secrets.token_hex(8), "access": access}
        signed = ".".join(_encode(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{_encode(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            scopes = [scope for value in query.get("scope", []) for scope in value.split()]
            authorization = self.headers.get("Authorization")
            user = _user(authorization)
            seen.requests.append((user and user.name, scopes))
            if authorization and user is None:
                self.answer(401, {"details": "incorrect username or password"})
                return
            signed = token(user.name if user else "", query["service"][0], [_access(scope, user) for scope in scopes])
            self.answer(200, {"token": signed, "access_token": signed, "expires_in": 300})

        def answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Keep the test's output to itself."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        seen.realm = f"http://127.0.0.1:{server.server_port}/token"
        fields = f"realm: '{seen.realm}', service: {service}, issuer: {service}, rootcertbundle: {bundle}"
        try:
            yield seen, f"auth: {{token: {{{fields}}}}}\n"
        finally:
            server.shutdown()
            thread.join()
