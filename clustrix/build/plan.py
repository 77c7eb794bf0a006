"""What follows from a recipe: which wheels are layers of their own, and under which key each is kept once packed."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from clustrix.build import bytecode, packing
from clustrix.build.compression import codec
from clustrix.build.packing import Packed
from clustrix.errors import BuildError
from clustrix.model import fingerprint
from clustrix.oci.layout import BlobWriter, Layout
from clustrix.records import Records, key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clustrix.build.base import Recipe
    from clustrix.model.lock import LockedPackage

BIG_BYTES = 1 << 20
"""A wheel of at least this size is a layer of its own."""
BIG_AT_MOST = 100
SMALL_BYTES = 128 << 10
BUCKETS = 6
"""As many layers share the wheels below `SMALL_BYTES`, and as many those between: most changes move less than 2 MB."""
LAYERS_AT_MOST = 127
"""What overlay file systems, and so engines, can stack."""
_OTHERS = 2 * BUCKETS + 3  # what clears a base of ours, added files, and the last layer


class Plan:
    """Decide everything about an image before any wheel is opened.

    ``big`` and ``buckets`` share out the packages; ``said`` is what the image will say of its bytecode. A wheel whose
    size neither the lock nor an earlier build tells is in ``unsized`` and in neither.
    """

    def __init__(self, recipe: Recipe, layout: Layout, cache: Path, wheels: Mapping[str, Path] | None = None) -> None:
        self.recipe, self._layout, self._cache = recipe, layout, cache
        self.codec = codec(recipe.compression)
        self.minor = recipe.lock.python
        self.base_python, self.python = recipe.base.python(self.minor)
        self.interpreter = bytecode.find(self.python.abi) if recipe.bytecode else None
        sizes = {package: self._size(package, wheels or {}) for package in recipe.lock.packages}
        self.unsized = tuple(package for package, size in sizes.items() if size is None)
        room = min(BIG_AT_MOST, LAYERS_AT_MOST - _OTHERS - len(recipe.base.manifest.layers))
        if room < 0:
            raise BuildError(f"the base image has {len(recipe.base.manifest.layers)} layers: ours do not fit on top")
        big = sorted((-size, package.name) for package, size in sizes.items() if size and size >= BIG_BYTES)
        names = {name for _, name in big[:room]}
        self.big = tuple(package for package in recipe.lock.packages if package.name in names)
        buckets: dict[tuple[bool, int], list[LockedPackage]] = {}
        for package, size in sizes.items():
            if size is not None and package.name not in names:
                # By its name: another version of about the same size stays where it was.
                bucket = hashlib.sha256(package.name.encode()).digest()[0] % BUCKETS
                buckets.setdefault((size < SMALL_BYTES, bucket), []).append(package)
        self.buckets = tuple(tuple(buckets[bucket]) for bucket in sorted(buckets))

    @property
    def said(self) -> str:
        """Say which Python compiles, or why none does."""
        if self.interpreter is not None:
            return self.interpreter.version
        if not self.recipe.bytecode:
            return "none: not wanted"
        return f"none: no {self.python.abi} Python on the machine that built the image"

    def fingerprint(self, packed: Mapping[str, Packed]) -> str:
        """Say what the worker will measure inside."""
        rows = ((package.name, packed[package.name].fingerprint) for package in self.recipe.lock.packages)
        return fingerprint.environment(self.python.implementation, self.minor, self.python.abi, rows)

    def key(self, package: LockedPackage) -> str:
        """Name what a wheel is packed into."""
        identity = self.interpreter and self.interpreter.identity
        alone = package in self.big
        return key(packing.FORMAT, package.file.sha256, self.minor, self.codec.identity, identity, alone)

    def packed(self, package: LockedPackage) -> Packed | None:
        """Find out what a wheel was packed into before, if that is still there."""
        record = None if package in self.unsized else Records(self._cache).get("wheels", self.key(package))
        if record is None:
            return None
        known = Packed.from_json(record)
        with contextlib.suppress(FileNotFoundError):
            there = self._layout.blob_path(known.digest) if package in self.big else self.piece(known)
            return known if there.stat().st_size == known.size else None
        return None

    def writer(self, package: LockedPackage) -> BlobWriter:
        """Receive what a wheel is packed into: a layer, or a piece of one."""
        return self._layout.writer() if package in self.big else BlobWriter(self._cache / "pieces")

    def piece(self, packed: Packed) -> Path:
        """Place a piece of a bucket."""
        return self._cache / "pieces" / packed.digest.removeprefix("sha256:")

    def _size(self, package: LockedPackage, wheels: Mapping[str, Path]) -> int | None:
        if package.file.size is not None:
            return package.file.size
        records = Records(self._cache)
        known = records.get("sizes", package.file.sha256)
        if known is None and package.name in wheels:
            known = {"size": wheels[package.name].stat().st_size}
            records.put("sizes", package.file.sha256, known)
        return None if known is None else int(known["size"])
