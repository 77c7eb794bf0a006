"""One digest of what is installed, the same here, in an image and inside a job.

Over RECORD (https://packaging.python.org/en/latest/specifications/recording-installed-packages/) of every
distribution, less what an installer adds or changes: RECORD itself, INSTALLER, REQUESTED, direct_url.json,
bytecode and generated scripts.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_INSTALLER_FILES = (".dist-info/RECORD", ".dist-info/INSTALLER", ".dist-info/REQUESTED", ".dist-info/direct_url.json")


def is_content(path: str) -> bool:
    """Tell whether a RECORD path belongs to the package and not to the way it was installed."""
    if path.endswith((".pyc", *_INSTALLER_FILES)) or path.endswith(".dist-info/uv_cache.json"):
        return False
    # Generated scripts (and anything else outside site-packages that a script directory holds).
    return not path.startswith(("../../../bin/", "../../Scripts/"))


def distribution(name: str, version: str, tags: Iterable[str], record: Iterable[tuple[str, str]]) -> str:
    """Digest one distribution: normalised name, version, wheel tags, and (path, hash) rows of RECORD."""
    digest = hashlib.sha256()
    digest.update("\n".join([name, version, *sorted(tags), ""]).encode())
    digest.update("\n".join(sorted(f"{path},{hashed}" for path, hashed in record if is_content(path))).encode())
    return digest.hexdigest()


def environment(implementation: str, minor: str, abi: str, distributions: Iterable[tuple[str, str]]) -> str:
    """Digest a whole environment from (normalised name, fingerprint) of each distribution (``sha256:...``)."""
    rows = sorted(f"{name} {fingerprint}" for name, fingerprint in distributions)
    text = "\n".join([implementation, minor, abi, *rows])
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
