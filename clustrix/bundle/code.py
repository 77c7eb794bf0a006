"""The caller's own modules as one zip file, which the worker puts on sys.path."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from clustrix.bundle.archive import Bundle


def collect(modules: Iterable[str], travelling: Collection[Path], cache_dir: Path) -> Bundle | None:
    """Bundle the modules of the caller that ``modules`` (`clustrix.worker.payload.Packed.modules`) are or import.

    ``travelling`` are what pure-Python editable installs add: each the path of a package's directory, of a module's
    file, or of a directory that holds them. None if nothing has to travel.

    Raises:
        CaptureError: a module cannot travel as source, or a file is too large; named.

    """
    raise NotImplementedError
