"""The distributions of the running interpreter: what ``pip list`` lists, and where each came from.

Formats: https://packaging.python.org/en/latest/specifications/core-metadata/,
https://packaging.python.org/en/latest/specifications/direct-url/ (PEP 610).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from clustrix.errors import CaptureError
from clustrix.model.environment import Distribution, Environment, Interpreter, Origin, Platform
from clustrix.worker import installed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FORMAT = "1"
"""Part of a stamp: raise it whenever a capture holds more or other things."""

OURS = "clustrix-beside"
"""The name of an empty file in directories of sys.path that hold clustrix and what it needs, and are no environment."""

_NUMBER = r"(0|[1-9][0-9]*)"
_CANONICAL = re.compile(
    rf"({_NUMBER}!)?{_NUMBER}(\.{_NUMBER})*((a|b|rc){_NUMBER})?(\.post{_NUMBER})?(\.dev{_NUMBER})?(\+[a-z][a-z0-9]*)?"
)
"""Versions that are spelled canonically (PEP 440), but for some; the others are left to `packaging`."""


def capture(paths: Sequence[str] | None = None, *, fingerprints: bool = False) -> Environment:
    """Describe this interpreter and every distribution on ``paths``, by default those that ``pip list`` would list.

    With ``fingerprints`` each distribution is digested too, which reads every RECORD.

    Raises:
        CaptureError: a distribution's metadata cannot be read.

    """
    used, shadowed = installed.find(import_paths() if paths is None else paths)
    conda = _conda_packages()
    site = frozenset(installed.site_directories())
    read = [(found, _distribution(found, conda, site)) for found in used]
    kept = tuple(row for _, row in read if row is not None)
    leftovers = [*shadowed, *(found for found, row in read if row is None)]
    if fingerprints:
        kept = tuple(replace(row, fingerprint=installed.fingerprint_of(row.location or "")) for row in kept)
    return Environment(
        interpreter=installed.interpreter(),
        platform=installed.platform(),
        distributions=tuple(sorted(kept, key=lambda row: row.key)),
        shadowed=tuple(Distribution(name=row.name, version=row.version, location=row.path) for row in leftovers),
    )


def capture_cached(cache: str | os.PathLike[str], paths: Sequence[str] | None = None) -> Environment:
    """Do what `capture` does, without reading anything again while `stamp` is the same; ``cache`` is a directory."""
    paths = import_paths() if paths is None else paths
    key = stamp(paths)
    name = hashlib.sha256("\0".join([sys.prefix, sys.version, *paths]).encode()).hexdigest()[:32]
    path = os.path.join(cache, f"{name}.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(path, encoding="utf-8") as file:
        saved = json.load(file)
        if saved["stamp"] == key:
            return _from_json(saved["environment"])
    environment = capture(paths)
    _write(path, json.dumps({"stamp": key, "environment": _as_json(environment)}))
    return environment


def stamp(paths: Sequence[str] | None = None) -> str:
    """Give a text that changes whenever something is installed, upgraded, reinstalled or removed on ``paths``.

    Over the names, inodes and times of the metadata directories and of the RECORDs in them, and of ``.pth`` files:
    about 1 ms for a hundred distributions.
    """
    digest = hashlib.sha256("\0".join([_FORMAT, sys.version, sys.prefix]).encode())
    for path in import_paths() if paths is None else paths:
        rows: list[str] = []
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            rows += (
                f"{entry.name} {_times(entry.path)} {_times(os.path.join(entry.path, 'RECORD'))}"
                for entry in entries
                if entry.name.endswith((".dist-info", ".egg-info", ".pth"))
            )
        digest.update("\0".join([path, *sorted(rows), ""]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def import_paths() -> list[str]:
    """List the directories of sys.path, without that of the script that happens to run (as pip does)."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    own = {"", os.getcwd(), os.path.dirname(os.path.abspath(main)) if main else ""}
    wanted = {os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
    wanted.update(installed.site_directories())
    found = [path for path in dict.fromkeys(sys.path) if path in wanted or path not in own]
    return [path for path in found if not os.path.exists(os.path.join(path, OURS))]


def _distribution(found: installed.Metadata, conda: frozenset[str], site: frozenset[str]) -> Distribution | None:
    """Read one metadata directory (or egg-info file); None where it holds no metadata: a leftover."""
    legacy = not found.path.endswith(".dist-info")
    text = _read(os.path.join(found.path, "PKG-INFO" if legacy else "METADATA"))
    if text is None and legacy:
        text = _read(found.path)
    if text is None:
        return None
    head = text.replace("\r\n", "\n").partition("\n\n")[0].split("\n")
    fields = dict(line.split(": ", 1) for line in reversed(head) if line.startswith(("Name: ", "Version: ")))
    installer = (_read(os.path.join(found.path, "INSTALLER")) or "").strip() or None
    version = _version(fields.get("Version", found.version).strip())
    row = Distribution(
        name=fields.get("Name", found.name).strip(),
        version=version,
        requested=os.path.exists(os.path.join(found.path, "REQUESTED")),
        installer=installer,
        requires=_legacy_requires(found.path) if legacy else tuple(_fields(head, "Requires-Dist: ")),
        requires_python=next(iter(_fields(head, "Requires-Python: ")), None),
        location=found.path,
    )
    if installer == "conda" or (installer not in {"pip", "uv"} and f"{found.key}-{version}" in conda):
        # The direct_url.json of conda's packages points into the machine that built them.
        return replace(row, origin=Origin.CONDA)
    directory = os.path.dirname(found.path)
    if legacy and directory not in site and not directory.endswith(".egg"):
        # setuptools lists the extension modules that `setup.py develop` built in place.
        pure = not os.path.exists(os.path.join(found.path, "native_libs.txt"))
        return replace(row, origin=Origin.EDITABLE, url=f"file://{directory}", pure=pure)
    direct = _read(os.path.join(found.path, "direct_url.json"))
    return row if direct is None else _with_origin(row, direct)


def _with_origin(row: Distribution, direct: str) -> Distribution:
    """Add what direct_url.json says."""
    try:
        data = json.loads(direct)
        url = _without_password(data["url"])
        info: dict[str, Any] = next(data[key] for key in ("dir_info", "vcs_info", "archive_info") if key in data)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise CaptureError(
            f"{row.name} {row.version}: cannot read {row.location}/direct_url.json ({error!r})",
            remedy=f"Install it again: pip install --force-reinstall --no-deps {row.name}",
        ) from error
    row = replace(row, url=url, subdirectory=data.get("subdirectory"))
    if "vcs_info" in data:
        return replace(row, origin=Origin.VCS, url=f"{info['vcs']}+{url}", commit=info["commit_id"])
    if "archive_info" in data:
        sha256 = (info.get("hashes") or {}).get("sha256") or (info.get("hash") or "").removeprefix("sha256=") or None
        return replace(row, origin=Origin.ARCHIVE, sha256=sha256)
    if not info.get("editable"):
        return replace(row, origin=Origin.DIRECTORY)
    tags = _fields((_read(os.path.join(row.location or "", "WHEEL")) or "").splitlines(), "Tag: ")
    return replace(row, origin=Origin.EDITABLE, pure=all(tag.endswith("-none-any") for tag in tags))


def _fields(lines: Iterable[str], prefix: str) -> list[str]:
    return [line[len(prefix) :].strip() for line in lines if line.startswith(prefix)]


def _legacy_requires(path: str) -> tuple[str, ...]:
    """Read an egg-info's requires.txt up to its first section, which would be an extra."""
    text = (_read(os.path.join(path, "requires.txt")) or "").partition("[")[0]
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _version(text: str) -> str:
    if _CANONICAL.fullmatch(text):
        return text
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(text))
    except InvalidVersion:
        return text


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _conda_packages() -> frozenset[str]:
    """List ``name-version`` of what conda-meta records, for packages whose INSTALLER was not written by conda."""
    try:
        names = os.listdir(os.path.join(sys.prefix, "conda-meta"))
    except OSError:
        return frozenset()
    return frozenset(name.removesuffix(".json").rpartition("-")[0] for name in names if name.endswith(".json"))


def _times(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "-"
    return f"{status.st_mtime_ns} {status.st_ino} {status.st_size}"


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None


def _write(path: str, text: str) -> None:
    """Replace a cache file at once; a cache that cannot be written costs time, not correctness."""
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
        try:
            with open(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def _as_json(environment: Environment) -> dict[str, Any]:
    return asdict(environment, dict_factory=lambda pairs: {key: _plain(value) for key, value in pairs})


def _plain(value: object) -> object:
    return value.value if isinstance(value, Origin) else value


def _from_json(data: dict[str, Any]) -> Environment:
    machine = data["platform"]
    return Environment(
        interpreter=Interpreter(**data["interpreter"]),
        platform=Platform(machine["machine"], tuple(machine["glibc"])) if machine else None,
        distributions=tuple(map(_row_from_json, data["distributions"])),
        shadowed=tuple(map(_row_from_json, data["shadowed"])),
    )


def _row_from_json(row: dict[str, Any]) -> Distribution:
    return Distribution(**{**row, "origin": Origin(row["origin"]), "requires": tuple(row["requires"])})
