"""Who we are to a registry: docker's logins, credential helpers, and bearer tokens.

- config.json: https://docs.docker.com/reference/cli/docker/login/ and docker/cli, cli/config/configfile/file.go
- credential helpers: https://github.com/docker/docker-credential-helpers (README.md, "Development")
- tokens: https://distribution.github.io/distribution/spec/auth/token/ and .../spec/auth/oauth/
- challenges: RFC 9110, section 11.6.1
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clustrix.errors import ConfigError, RegistryDenied
from clustrix.oci.reference import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HUB_KEY = "https://index.docker.io/v1/"  # docker's key for its own registry
_HELPER_SECONDS = 60.0  # it may ask the user for a passphrase
_TOKEN_SECONDS = 60.0  # how long a token holds when the server does not say
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for a word
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|,|$)")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Hold a login; its secrets are not printed."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)  # an OAuth 2 refresh token instead of a password

    @property
    def basic(self) -> str:
        """Give the value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Keychain:
    """Find logins in docker's config.json; read anew for every client, since logins change."""

    def __init__(self, path: Path | None = None) -> None:
        directory = os.environ.get("DOCKER_CONFIG")
        # Path.home() fails for a user without a home, as containers have them.
        home = os.path.expanduser("~")  # noqa: PTH111
        self.path = path or Path(directory or f"{home}/.docker") / "config.json"

    def find(self, registry: str) -> Credentials | None:
        """Find the login for ``host[:port]``: its own helper, then the store for all, then the file itself.

        Raises `ConfigError` for a file that cannot be read and `RegistryDenied` for a helper that fails.
        """
        config = self._read()
        key = _HUB_KEY if registry == DOCKER_HUB else registry
        helpers = config.get("credHelpers") or {}
        helper = helpers.get(registry) or helpers.get(key) or config.get("credsStore")
        if helper and (found := _ask_helper(str(helper), key)):
            return found
        for name, entry in (config.get("auths") or {}).items():
            if _host(name) == _host(key) and (found := self._login(name, entry)):
                return found
        return None

    def _read(self) -> dict[str, Any]:
        try:
            config = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            # The text of a JSON error holds the document, and that holds secrets: no cause is chained.
            what = str(error.strerror) if isinstance(error, OSError) else "it is no JSON"
            raise self._unreadable(what) from None
        if not isinstance(config, dict) or not all(
            isinstance(config.get(n) or {}, dict) for n in ("auths", "credHelpers")
        ):
            raise self._unreadable("it does not look like docker's")
        return config

    def _unreadable(self, what: str) -> ConfigError:
        return ConfigError(
            f"the registry logins in {self.path} cannot be read: {what}",
            remedy="Repair it, remove it and run docker login, or point DOCKER_CONFIG at another directory.",
        )

    def _login(self, name: str, entry: Mapping[str, Any]) -> Credentials | None:
        try:
            username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
            if entry.get("auth"):
                username, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
            token = str(entry.get("identitytoken") or "")
        except (ValueError, AttributeError):  # no base64, no UTF-8, no table
            raise ConfigError(
                f"the login for {name} in {self.path} is damaged", remedy=f"Run: docker login {name}"
            ) from None
        return Credentials(username, password.rstrip("\0"), token) if username or token else None


def _host(key: str) -> str:
    host = re.sub(r"^https?://", "", key).partition("/")[0]
    return DOCKER_HUB if host in {"index.docker.io", "registry-1.docker.io"} else host


def _ask_helper(name: str, key: str) -> Credentials | None:
    """Run ``docker-credential-NAME get``; None when it knows no login. What it prints may be secret: never shown."""
    program = f"docker-credential-{name}"
    remedy = f"See what it says with: echo {key} | {program} get"
    try:
        run = subprocess.run([program, "get"], input=key.encode(), capture_output=True, timeout=_HELPER_SECONDS)  # noqa: PLW1510
    except FileNotFoundError:
        raise RegistryDenied(
            f"the credential helper {program} for {key} is not on PATH",
            remedy=f"Install it, or take {name!r} out of docker's config.json.",
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "did not answer" if isinstance(error, subprocess.TimeoutExpired) else f"cannot be run: {error.strerror}"
        raise RegistryDenied(f"the credential helper {program} for {key} {why}", remedy=remedy) from None
    if run.returncode != 0:
        if b"credentials not found" in run.stdout:  # the words are part of the protocol
            return None
        raise RegistryDenied(f"the credential helper {program} failed for {key} ({run.returncode})", remedy=remedy)
    try:
        answer = json.loads(run.stdout)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise RegistryDenied(f"the credential helper {program} gave no login for {key}", remedy=remedy) from None
    return Credentials("", identity_token=secret) if username == "<token>" else Credentials(username, secret)


@dataclass(frozen=True, slots=True)
class Challenge:
    """Say how a server wants to be asked: ``scheme`` in lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str] = field(hash=False)


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Read a ``WWW-Authenticate`` header (several joined by commas); what cannot be read ends the list."""
    found: list[Challenge] = []
    position = 0
    while match := _SCHEME.match(header, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            name, quoted, plain = parameter.groups()
            parameters[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            position = parameter.end()
        found.append(Challenge(match[1].lower(), parameters))
    return tuple(found)


class TokenServer(Protocol):
    """Ask a token server and give its JSON answer; raises the typed error when there is none."""

    def __call__(
        self, method: str, url: str, *, query: Iterable[tuple[str, str]], form: Mapping[str, str], authorization: str
    ) -> Mapping[str, Any]:
        """Give the answer."""


class Authorizer:
    """Make the ``Authorization`` header of one registry: none, basic, or a bearer token for each set of scopes."""

    def __init__(self, registry: str, keychain: Keychain, ask: TokenServer, *, insecure: bool) -> None:
        self._registry = registry
        self._keychain = keychain
        self._ask = ask
        self._insecure = insecure
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._lock = threading.Lock()  # several uploads want one token
        self._credentials: Credentials | None = None
        self._looked = False

    @property
    def credentials(self) -> Credentials | None:
        """Give the login, looked up once and only when a registry asks for one."""
        if not self._looked:
            self._credentials = self._keychain.find(self._registry)
            self._looked = True
        return self._credentials

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """Give what is known to be wanted; None before the first challenge."""
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self.credentials.basic if self.credentials else None
            token, until = self._tokens.get(scopes, ("", 0.0))
            if time.monotonic() >= until:
                token = self._fetch(self._challenge, scopes)
            return f"Bearer {token}"

    def challenged(self, header: str, scopes: tuple[str, ...], *, sent: str | None) -> bool:
        """Learn from a 401; True when asking again makes sense, False when what was ``sent`` was refused."""
        with self._lock:
            challenges = {challenge.scheme: challenge for challenge in parse_challenges(header)}
            chosen = challenges.get("bearer") or challenges.get("basic")
            if chosen is None:
                return False
            if sent is not None:
                # A token may have run out on the way; a password does not get better by repeating it.
                stale = chosen.scheme == "bearer" and self._tokens.pop(scopes, None) is not None
                return stale and chosen.parameters.get("error") != "insufficient_scope"
            self._challenge = chosen
            return chosen.scheme == "bearer" or self.credentials is not None

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...]) -> str:
        realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
        login = self.credentials
        if not realm.startswith("https://") and not (self._insecure and realm.startswith("http://")):
            raise RegistryDenied(f"{self._registry} wants logins to be sent to {realm!r}, which is not https")
        if login and login.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": login.identity_token,
                "service": service,
                "client_id": "clustrix",
                "scope": " ".join(scopes),
            }
            answer = self._ask("POST", realm, query=(), form=form, authorization="")
        else:
            query = [*([("service", service)] if service else []), *(("scope", scope) for scope in scopes)]
            answer = self._ask("GET", realm, query=query, form={}, authorization=login.basic if login else "")
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str):
            raise RegistryDenied(f"the token server {realm} of {self._registry} gave no token")
        seconds = answer.get("expires_in")
        lifetime = float(seconds) if isinstance(seconds, int) and seconds > 0 else _TOKEN_SECONDS
        # A tenth of its life is left for the way.
        self._tokens[scopes] = (token, time.monotonic() + lifetime * 0.9)
        return token
