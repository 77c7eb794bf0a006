# ruff: noqa: PTH104, PTH112, PTH123
# pathlib would take a seventh of the time in which a worker starts.
"""Unpack code bundles beside the worker's own, once per digest and site, and put them on sys.path."""

from __future__ import annotations

import os
import sys

from clustrix.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_AGAIN = "Delete it at the target and submit the job again."


def attach(digests: Iterable[str], bundles: str) -> None:
    """Make the modules of code bundles importable, before everything but the worker itself.

    They are unpacked, for packages read files beside their modules. Whoever is first makes the directory, by rename.

    Raises:
        StoreError: a bundle is missing, damaged, or cannot be unpacked here.

    """
    for number, digest in enumerate(digests):
        name = digest.removeprefix("sha256:")
        directory = f"{bundles}/{name}"
        if not os.path.isdir(directory):
            try:
                _unpack(f"{directory}.zip", name, directory)
            except OSError as error:
                raise StoreError(f"code bundle {name} cannot be unpacked: {error}", remedy=_AGAIN) from error
        sys.path.insert(1 + number, directory)


def _unpack(bundle: str, expected: str, directory: str) -> None:
    import hashlib
    import shutil
    import zipfile

    with open(bundle, "rb") as file:
        actual = hashlib.sha256(file.read()).hexdigest()
    if actual != expected:
        raise StoreError(f"code bundle {bundle} is damaged", remedy=_AGAIN)
    unfinished = f"{directory}.{os.urandom(6).hex()}.part"
    try:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(unfinished)
        os.rename(unfinished, directory)
    except OSError:
        if not os.path.isdir(directory):  # else somebody else was first
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
