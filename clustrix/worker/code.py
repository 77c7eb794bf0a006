"""Unpack code bundles beside the worker's own, once per digest and site, and put them on sys.path."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import TYPE_CHECKING

from clustrix.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def attach(digests: Iterable[str], bundles: Path) -> None:
    """Make the modules of code bundles importable, before everything but the worker itself.

    They are unpacked, for packages read files beside their modules. Whoever is first makes the directory, by rename.

    Raises:
        StoreError: a bundle is missing, damaged, or cannot be unpacked here.

    """
    for number, digest in enumerate(digests):
        name = digest.removeprefix("sha256:")
        directory = bundles / name
        if not directory.is_dir():
            try:
                _unpack(bundles / f"{name}.zip", name, directory)
            except OSError as error:
                raise StoreError(f"code bundle {name} cannot be unpacked: {error}", remedy=_AGAIN) from error
        sys.path.insert(1 + number, str(directory))


def _unpack(bundle: Path, expected: str, directory: Path) -> None:
    import shutil
    import zipfile

    if hashlib.sha256(bundle.read_bytes()).hexdigest() != expected:
        raise StoreError(f"code bundle {bundle} is damaged", remedy=_AGAIN)
    unfinished = directory.with_name(f"{directory.name}.{os.urandom(6).hex()}.part")
    try:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(unfinished)
        unfinished.rename(directory)
    except OSError:
        if not directory.is_dir():  # else somebody else was first
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


_AGAIN = "Delete it at the target and submit the job again."
