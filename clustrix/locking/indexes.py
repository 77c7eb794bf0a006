"""Which indexes are meant, and who we are there: pip's configuration and uv's, environment variables and netrc.

uv reads its own settings by itself. pip's (https://pip.pypa.io/en/stable/topics/configuration/) are handed on to it in
environment variables, never in argv, and only where uv has none of its own.
"""

from __future__ import annotations

import configparser
import contextlib
import netrc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from clustrix.locking import pylock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UV_VARIABLES = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_CONFIG_FILE",
)
_UV_KEYS = ("index", "index-url", "extra-index-url", "find-links", "no-index")
_ETC = Path("/etc")
_PIP_KEYS = ("index-url", "extra-index-url", "find-links", "no-index", "cert")


def uv_environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Translate pip's settings into variables for uv; nothing where uv's own name an index.

    pip takes the best version of all its indexes, so uv is told to do the same then.
    """
    pip = pip_settings(variables)
    told: dict[str, str] = {}
    if pip.get("cert") and "SSL_CERT_FILE" not in variables:
        told["SSL_CERT_FILE"] = pip["cert"]
    if any(variables.get(name) for name in _UV_VARIABLES) or _uv_files_name_an_index():
        return told
    if pip.get("index-url"):
        told["UV_DEFAULT_INDEX"] = pip["index-url"]
    if pip.get("extra-index-url"):
        told["UV_INDEX"] = " ".join(pip["extra-index-url"].split())
        told["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if pip.get("find-links"):
        # A directory that does not exist is an error for uv and nothing for pip.
        places = [place for place in pip["find-links"].split() if "://" in place or Path(place).is_dir()]
        if places:
            told["UV_FIND_LINKS"] = ",".join(places)
    if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        told["UV_NO_INDEX"] = "1"
    return told


def pip_settings(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Read what pip would: its files from the least to the most particular one, then PIP_* variables."""
    settings: dict[str, str] = {}
    for path in _pip_files(variables):
        parser = configparser.RawConfigParser()
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read(path, encoding="utf-8")
        for section in ("global", "install"):
            for key in _PIP_KEYS:
                if parser.has_option(section, key):
                    settings[key] = parser.get(section, key).strip()
    for key in _PIP_KEYS:
        value = variables.get("PIP_" + key.upper().replace("-", "_"))
        if value:
            settings[key] = value
    return settings


def credentials(url: str, variables: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """Give user and password for a URL: of an index with its origin, of UV_INDEX_NAME_USERNAME, or of netrc.

    An index may serve its files from another host; then netrc is the place for that host's.
    """
    host = urlsplit(url).hostname
    for name, index in _indexes(variables):
        parts = urlsplit(index)
        if _origin(index) != _origin(url):
            continue
        prefix = "UV_INDEX_" + "".join(letter if letter.isalnum() else "_" for letter in name).upper()
        if name and f"{prefix}_PASSWORD" in variables:
            return variables.get(f"{prefix}_USERNAME", ""), variables[f"{prefix}_PASSWORD"]
        if parts.username is not None:
            return unquote(parts.username), unquote(parts.password or "")
    path = Path(variables.get("NETRC") or Path.home() / ("_netrc" if os.name == "nt" else ".netrc"))
    try:
        found = netrc.netrc(str(path)).authenticators(host or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return (found[0], found[2] or "") if found else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Give what a password must not leave: scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _indexes(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (name or nothing, URL) of every index that is configured anywhere."""
    pip = pip_settings(variables)
    texts = [variables.get(name, "") for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")]
    for text in (*texts, pip.get("index-url", ""), pip.get("extra-index-url", "")):
        for item in text.split():
            name, separator, url = item.partition("=")
            # A URL may hold "=" too; a name cannot hold ":".
            yield (name, url) if separator and ":" not in name else ("", item)
    for settings in _uv_settings():
        for index in settings.get("index", []):
            yield str(index.get("name", "")), str(index.get("url", ""))


def _uv_files_name_an_index() -> bool:
    return any(key in settings for settings in _uv_settings() for key in _UV_KEYS)


def _uv_settings() -> Iterator[dict[str, Any]]:
    """Yield the tables that uv reads: the project's, the user's, the system's."""
    for place in (Path.cwd(), *Path.cwd().parents):
        for name, keys in (("uv.toml", ()), ("pyproject.toml", ("tool", "uv"))):
            if (place / name).is_file():
                yield _table(place / name, keys)
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    if os.name == "nt":
        user = Path(os.environ.get("APPDATA", user))
    for path in (user / "uv" / "uv.toml", _ETC / "uv" / "uv.toml"):
        if path.is_file():
            yield _table(path, ())


def _table(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    table = pylock.load(path.read_text(encoding="utf-8"), str(path))
    for key in keys:
        table = table.get(key, {})
    # uv.toml and [tool.uv] may put the same settings into a `pip` table.
    return {**table, **table.get("pip", {})}


def _pip_files(variables: Mapping[str, str]) -> Iterator[Path]:
    if variables.get("PIP_CONFIG_FILE") == os.devnull:
        return
    name = "pip.ini" if os.name == "nt" else "pip.conf"
    home = Path.home()
    if os.name == "nt":
        yield Path(variables.get("PROGRAMDATA", "C:/ProgramData")) / "pip" / name
        yield home / "pip" / name
        yield Path(variables.get("APPDATA", home)) / "pip" / name
    elif sys.platform == "darwin":
        yield Path("/Library/Application Support/pip") / name
        yield home / ".pip" / name
        support = home / "Library/Application Support/pip"
        yield (support if support.is_dir() else home / ".config/pip") / name
    else:
        for place in variables.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep):
            yield Path(place) / "pip" / name
        yield _ETC / name
        yield home / ".pip" / name
        yield Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / name
    yield Path(sys.prefix) / name
    if variables.get("PIP_CONFIG_FILE"):
        yield Path(variables["PIP_CONFIG_FILE"])
