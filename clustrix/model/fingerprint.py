"""One digest of what is installed, the same here, in an image and inside a job.

Over RECORD (https://packaging.python.org/en/latest/specifications/recording-installed-packages/) of every
distribution, less what an installer adds or changes: RECORD itself, INSTALLER, REQUESTED, direct_url.json,
bytecode and scripts. The paths of a wheel's own RECORD are translated to where an installer puts the files
(https://packaging.python.org/en/latest/specifications/binary-distribution-format/), so that a wheel and its
installation have the same digest.
"""

from __future__ import annotations

from clustrix.model.stdlib import Sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_INSTALLER_FILES = tuple(
    f".dist-info/{name}"
    for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json")
)
_SCHEME = r"(?s)[^/]+\.data/(purelib|platlib|headers|scripts|data)/(.+)"
_HEADERS = r"(?s)include/(?:site/)?python[^/]*/[^/]+/(.+)"
_SITE = r"(?s)lib(?:64)?/python[^/]*/site-packages/(.+)"
# From site-packages the way to lib/x is ../../x, in which nothing says lib.
_LIBRARY = r"^lib(?:64)?/(?:python[^/]*/)?"


def distribution(name: str, version: str, tags: Iterable[str], record: Iterable[tuple[str, str]]) -> str:
    """Digest one distribution: name, version, wheel tags, and (path, hash) rows of its installed RECORD."""
    rows = [f"{place},{hashed}" for path, hashed in record if (place := _installed(path)) is not None]
    return _digest(name, version, tags, rows)


def installed(name: str, version: str, tags: Iterable[str], record: str) -> str:
    """Digest one distribution from the text of its installed RECORD: `distribution`, faster."""
    if '"' in record or "\\" in record:
        return distribution(name, version, tags, _parse(record))
    rows = []
    # Most of some tens of thousands of lines need no look at their path; they are `path,hash,size`.
    for line in record.splitlines():
        if ".pyc," in line:
            continue
        row = line.rpartition(",")[0]
        if "./" in line or ".dist-info/" in line or line[:1] == "/":
            path, _, hashed = row.rpartition(",")
            place = _installed(path)
            if place is None:
                continue
            row = f"{place},{hashed}"
        rows.append(row)
    return _digest(name, version, tags, rows)


def wheel(name: str, version: str, tags: Iterable[str], record: str) -> str:
    """Digest one distribution from the text of the RECORD inside its wheel; equal to `installed` once it is."""
    rows = [f"{place},{hashed}" for path, hashed in _parse(record) if (place := _to_be_installed(path)) is not None]
    return _digest(name, version, tags, rows)


def environment(implementation: str, minor: str, abi: str, distributions: Iterable[tuple[str, str]]) -> str:
    """Digest a whole environment from (normalised name, fingerprint) of each distribution (``sha256:...``)."""
    rows = sorted(f"{name} {fingerprint}" for name, fingerprint in distributions)
    text = "\n".join([implementation, minor, abi, *rows])
    return "sha256:" + Sha256(text.encode()).hexdigest()


def _digest(name: str, version: str, tags: Iterable[str], rows: list[str]) -> str:
    text = "\n".join([name, version, *sorted(tags), "", *sorted(set(rows) - {""})])
    return Sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _parse(record: str) -> list[tuple[str, str]]:
    import csv

    return [(row[0], row[1]) for row in csv.reader(record.splitlines()) if len(row) > 1]


def _installed(path: str) -> str | None:
    """Place a file of an installed RECORD, None for what an installer made."""
    path = path.replace("\\", "/")
    if path.endswith((".pyc", *_INSTALLER_FILES)):
        return None
    if not path.startswith("../"):
        return path
    while path.startswith("../"):
        path = path[3:]
    return _data(path)


def _to_be_installed(path: str) -> str | None:
    """Place a file of a wheel where an installer will put it."""
    import re

    match = re.fullmatch(_SCHEME, path.replace("\\", "/"))
    if match is None:
        return _installed(path)
    scheme, rest = match.groups()
    if scheme in {"purelib", "platlib"}:
        return _installed(rest)
    if scheme == "headers":
        return f"<headers>/{rest}"
    return None if scheme == "scripts" else _data(rest)


def _data(path: str) -> str | None:
    """Place a file that goes below sys.prefix; scripts are rewritten by installers and take no part."""
    if path.startswith(("bin/", "Scripts/")):
        return None
    import re  # hardly ever needed, and slow to import

    if match := re.fullmatch(_SITE, path):
        return None if path.endswith(".pyc") else match[1]
    path = re.sub(_LIBRARY, "", path)
    if path.startswith(("bin/", "Scripts/")) or path.endswith(".pyc"):
        return None
    if match := re.fullmatch(_HEADERS, path):
        return f"<headers>/{match[1]}"
    return f"<data>/{path}"
