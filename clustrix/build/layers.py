"""Images without a daemon: every big wheel a layer, the small ones in stable buckets, one small layer on top.

All layers but the last fit every base with the same minor version of Python. Nothing in them depends on time, place,
order or number of workers, so the config digest (decision 12) is a function of the recipe alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.build import files, packing, sbom, tags, tar
from clustrix.build.base import BuildResult, LayerReport, Recipe
from clustrix.build.baseimage import as_oci
from clustrix.build.compression import codec, uncompressed
from clustrix.build.plan import Plan
from clustrix.build.pool import Pool
from clustrix.errors import BuildError
from clustrix.model import wheel
from clustrix.model.image import VENV, BuiltImage
from clustrix.model.progress import SILENT
from clustrix.oci.layout import CHUNK, BlobWriter, Layout
from clustrix.oci.manifest import TITLE, Descriptor, Manifest
from clustrix.records import Records, key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from clustrix.build.compression import Codec
    from clustrix.build.packing import Packed
    from clustrix.model.lock import LockedPackage
    from clustrix.model.progress import Progress

WORKERS_AT_MOST = 8
LOCK_PATH = "/opt/clustrix/pylock.toml"
CLEARED = "opt/.wh.clustrix"
"""What hides the directory of all this, where a base holds one already."""
FINGERPRINT_PATH = "/opt/clustrix/fingerprint"
FINGERPRINT = "dev.clustrix.fingerprint"
SBOM_PATH = "/opt/clustrix/sbom.cdx.json"


@dataclass(frozen=True, slots=True)
class Layers:
    """Build into ``layout``; ``cache`` keeps what was packed before. Several builds may share both.

    ``workers`` processes compile, one a core, but a login node is not for one user alone; twice as many threads pack,
    for half of them wait.
    """

    layout: Layout
    cache: Path
    workers: int = min(os.cpu_count() or 1, WORKERS_AT_MOST)

    def find(self, recipe: Recipe) -> BuildResult | None:
        """Give the image if it was built before and is whole; needs no wheel, no network."""
        return self._found(recipe, _key(recipe, files.collect(recipe.files)))

    def missing(self, recipe: Recipe) -> tuple[LockedPackage, ...]:
        """List the packages whose wheels `build` will read: the others were packed before."""
        plan = Plan(recipe, self.layout, self.cache)
        return tuple(package for package in recipe.lock.packages if plan.packed(package) is None)

    def build(self, recipe: Recipe, wheels: Mapping[str, Path], *, progress: Progress = SILENT) -> BuildResult:
        """Make the image from wheels by normalised name (those that are `missing` are enough).

        Raises `HashMismatch`, `UnsupportedPackage`, `BaseImageError` (no such Python), `CredentialsInLayer`,
        `DiskFull`, `BuildError`. Whatever happens, nothing half-made stays.
        """
        entries = files.collect(recipe.files)
        name = _key(recipe, entries)
        if (found := self._found(recipe, name)) is not None:
            return found
        _refuse(recipe)
        plan = Plan(recipe, self.layout, self.cache, wheels)
        packed, of_wheels = self._pack(plan, wheels, progress)
        layers = [
            *self._cleared(plan),
            *of_wheels,
            *self._files(plan, entries),
            self._environment(plan, packed),
        ]
        result = self._image(plan, plan.fingerprint(packed), layers)
        if recipe.bytecode and plan.interpreter is None:
            return result  # tried again next time: there may be such a Python then
        record = {"image": asdict(result.image), "layers": [asdict(layer) for layer in result.layers]}
        Records(self.cache).put("images", name, {**record, "bytecode": result.bytecode})
        return result

    def verify(self, recipe: Recipe, wheels: Mapping[str, Path], *, progress: Progress = SILENT) -> BuildResult:
        """Build once more from nothing, beside the cache, and compare: `BuildError` unless it is the same image."""
        first = self.build(recipe, wheels, progress=progress)
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache, prefix=".verify-") as place:
            clean = replace(self, layout=Layout(Path(place) / "layout"), cache=Path(place) / "cache")
            again = clean.build(recipe, wheels, progress=progress)
        if again.image.config_digest != first.image.config_digest:
            pairs = zip(first.layers, again.layers, strict=True)
            differ = [one.title for one, other in pairs if one.diff_id != other.diff_id]
            raise BuildError(
                f"a second build gave another image: {first.image.config_digest} and {again.image.config_digest}; "
                f"layers that differ: {', '.join(differ) or 'none'}"
            )
        return first

    def _found(self, recipe: Recipe, name: str) -> BuildResult | None:
        record = Records(self.cache).get("images", name)
        if record is None:
            return None
        image = BuiltImage(**record["image"])
        layers = tuple(LayerReport(**{**layer, "reused": True}) for layer in record["layers"])
        whole = [(layer.digest, layer.size) for layer in layers] + [
            (image.config_digest, None),
            (image.manifest_digest, None),
        ]
        if not all(self.layout.has(digest, size) for digest, size in whole):
            return None
        return BuildResult(
            image=image, layers=layers, base_reference=recipe.base.reference, bytecode=record["bytecode"]
        )

    def _pack(
        self, plan: Plan, wheels: Mapping[str, Path], progress: Progress
    ) -> tuple[Mapping[str, Packed], list[LayerReport]]:
        """Pack what was not packed before: give all of it by normalised name, and the layers it comes to."""
        packages = plan.recipe.lock.packages
        tags.check(packages, plan.recipe.base.platform, plan.python)
        packed = {package.name: known for package in packages if (known := plan.packed(package))}
        todo = [package for package in packages if package.name not in packed]
        if absent := [package.name for package in todo if package.name not in wheels]:
            raise BuildError(f"no wheel was given for {', '.join(absent)}")
        # Big ones first, so that no worker is left with one at the end.
        sizes = {package.name: wheels[package.name].stat().st_size for package in todo}
        todo.sort(key=lambda package: -sizes[package.name])
        with (
            contextlib.closing(progress.start("pack", sum(sizes.values()))) as bar,
            Pool(plan.interpreter if todo else None, self.cache, self.workers) as pool,
        ):

            def pack(package: LockedPackage) -> Packed:
                with plan.writer(package) as blob:
                    made = packing.pack(
                        package,
                        wheels[package.name],
                        blob,
                        plan.codec,
                        minor=plan.minor,
                        alone=package in plan.big,
                        pool=pool,
                    )
                Records(self.cache).put("wheels", plan.key(package), made.to_json())
                bar.advance(sizes[package.name])
                return made

            def stack(bucket: Sequence[LockedPackage]) -> list[LayerReport]:
                pieces = {row: packed.get(row.name) or new[row.name].result() for row in bucket}
                return list(self._bucket(plan, pieces))

            new = {package.name: pool.submit(pack, package) for package in todo}
            # After all of `new`: what a bucket waits for has begun when the bucket begins.
            buckets = [pool.submit(stack, bucket) for bucket in plan.buckets]
            pool.wait([*new.values(), *buckets])
        packed.update((name, future.result()) for name, future in new.items())
        big = [_alone(row, packed[row.name], reused=row.name not in new) for row in plan.big]
        return packed, [*big, *(layer for bucket in buckets for layer in bucket.result())]

    def _cleared(self, plan: Plan) -> Iterator[LayerReport]:
        """Hide the environment of a base that was built here too: ours takes its place, and does not add to it."""
        if FINGERPRINT in plan.recipe.base.config.labels:
            identity = key(packing.FORMAT, plan.codec.identity, "cleared")
            yield self._tar("without the base's environment", identity, plan, lambda s: s.file(CLEARED, 0, ()))

    def _bucket(self, plan: Plan, wheels: Mapping[LockedPackage, Packed]) -> Iterator[LayerReport]:
        titles = {packed: f"{package.name} {package.version}" for package, packed in wheels.items()}
        for pieces in packing.stack(list(wheels.values())):
            yield self._stacked(plan, ", ".join(titles[piece] for piece in pieces), pieces)

    def _stacked(self, plan: Plan, title: str, pieces: list[Packed]) -> LayerReport:
        identity = key(packing.FORMAT, plan.codec.identity, [piece.digest for piece in pieces])

        def write(blob: BlobWriter) -> None:
            blob.write(_squeeze(plan.codec, packing.opening(pieces)))
            for piece in pieces:
                with plan.piece(piece).open("rb") as file:
                    while data := file.read(CHUNK):
                        blob.write(data)
            blob.write(_squeeze(plan.codec, tar.END))

        def diff_id(digest: str) -> str:
            whole = hashlib.sha256()
            with self.layout.open_blob(digest) as blob, uncompressed(blob, plan.codec.media_type) as stream:
                while data := stream.read(CHUNK):
                    whole.update(data)
            return "sha256:" + whole.hexdigest()

        return self._layer(title, identity, write, diff_id)

    def _files(self, plan: Plan, entries: tuple[files.Entry, ...]) -> Iterator[LayerReport]:
        if not entries:
            return
        base = plan.recipe.base
        identity = key(packing.FORMAT, plan.codec.identity, base.digest, [entry.identity() for entry in entries])
        yield self._tar("added files", identity, plan, lambda stream: files.write(entries, stream, base))

    def _environment(self, plan: Plan, packed: Mapping[str, Packed]) -> LayerReport:
        recipe, root = plan.recipe, VENV.lstrip("/")
        links = {f"{root}/{path}": target for path, target in wheel.links(plan.base_python, plan.minor).items()}
        texts = {
            f"{root}/pyvenv.cfg": wheel.pyvenv_cfg(plan.base_python, plan.python.version),
            LOCK_PATH.lstrip("/"): _portable(recipe).encode(),
            FINGERPRINT_PATH.lstrip("/"): f"{plan.fingerprint(packed)}\n".encode(),
            SBOM_PATH.lstrip("/"): sbom.cyclonedx(recipe.lock),
        }
        scripts = {
            f"{root}/bin/{script.name}": script.text(packing.INTERPRETER)
            for package in recipe.lock.packages
            for script in packed[package.name].scripts
        }
        contents = {**texts, **scripts}

        def write(stream: tar.TarStream) -> None:
            for path in sorted({*links, *contents}):
                if path in links:
                    stream.link(path, links[path])
                else:
                    stream.file(path, len(contents[path]), (contents[path],), executable=path in scripts)

        hashes = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
        identity = key(packing.FORMAT, plan.codec.identity, links, hashes)
        return self._tar("environment", identity, plan, write)

    def _tar(self, title: str, identity: str, plan: Plan, write: Callable[[tar.TarStream], None]) -> LayerReport:
        digests = []

        def stream(blob: BlobWriter) -> None:
            entries = tar.TarStream(blob, plan.codec)
            write(entries)
            entries.raw(tar.END)
            digests.append(entries.finish())

        return self._layer(title, identity, stream, lambda _: digests[0])

    def _layer(
        self, title: str, identity: str, write: Callable[[BlobWriter], None], diff_id: Callable[[str], str]
    ) -> LayerReport:
        """Make a layer, unless it was made before."""
        records = Records(self.cache)
        known = records.get("layers", identity)
        if known is not None and self.layout.has(known["digest"], known["size"]):
            return LayerReport(title, known["digest"], known["diff_id"], known["size"], reused=True)
        with self.layout.writer() as blob:
            write(blob)
            digest = blob.commit()
        made = LayerReport(title, digest, diff_id(digest), blob.size, reused=False)
        records.put("layers", identity, {"digest": digest, "diff_id": made.diff_id, "size": made.size})
        return made

    def _image(self, plan: Plan, mark: str, layers: list[LayerReport]) -> BuildResult:
        recipe, base = plan.recipe, as_oci(plan.recipe.base.manifest)
        path = recipe.base.config.env.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        path = path.removeprefix(f"{VENV}/bin:")
        labels = {
            "dev.clustrix.lock": recipe.lock.digest,
            FINGERPRINT: mark,
            "dev.clustrix.python": plan.minor,
            "dev.clustrix.bytecode": plan.said,
            **dict(recipe.labels),
        }
        created = datetime.fromtimestamp(recipe.created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = replace(recipe.base.config, created=created)
        config = config.add_layers((layer.diff_id, f"clustrix: {layer.title}") for layer in layers).with_settings(
            env={"PATH": f"{VENV}/bin:{path}", "VIRTUAL_ENV": VENV, **dict(recipe.variables)},
            labels=labels,
            Entrypoint=None,  # no two runtimes agree on when one runs
            Cmd=[packing.INTERPRETER],
        )
        made = tuple(
            Descriptor(plan.codec.media_type, layer.digest, layer.size, {TITLE: layer.title}) for layer in layers
        )
        origin = {"org.opencontainers.image.base.name": recipe.base.reference} if recipe.base.reference else {}
        manifest = Manifest(
            config=config.descriptor,
            layers=(*base.layers, *made),
            annotations={
                "org.opencontainers.image.created": created,
                "org.opencontainers.image.base.digest": recipe.base.manifest_digest,
                **origin,
                **labels,
            },
        )
        self.layout.put_blob(config.encode())
        self.layout.put_blob(manifest.encode())
        image = BuiltImage(
            config_digest=config.descriptor.digest,
            manifest_digest=manifest.descriptor.digest,
            platform=config.platform,
            python=plan.minor,
            interpreter=packing.INTERPRETER,
            fingerprint=mark,
            lock_digest=recipe.lock.digest,
        )
        return BuildResult(image=image, layers=tuple(layers), base_reference=recipe.base.reference, bytecode=plan.said)


def _alone(package: LockedPackage, packed: Packed, *, reused: bool) -> LayerReport:
    title = f"{package.name} {package.version}"
    return LayerReport(title, packed.digest, packed.diff_id, packed.size, reused=reused)


def _key(recipe: Recipe, entries: tuple[files.Entry, ...]) -> str:
    facts: list[Any] = [
        packing.FORMAT,
        recipe.lock.digest,
        hashlib.sha256(_portable(recipe).encode()).hexdigest(),
        recipe.base.digest,
        recipe.base.reference,
        [entry.identity() for entry in entries],
        recipe.variables,
        recipe.labels,
        codec(recipe.compression).identity,
        recipe.bytecode,
        recipe.created,
    ]
    return key(*facts)


def _portable(recipe: Recipe) -> str:
    """Give the lock file with the names of wheels alone (PEP 751's ``path``).

    Where one machine found them says nothing elsewhere, may be private, and would make another image of the same lock.
    """
    text = recipe.pylock
    for package in recipe.lock.packages:
        text = text.replace(f'url = "{package.file.url}"', f'path = "{package.file.filename}"')
    return text


def _refuse(recipe: Recipe) -> None:
    texts = {f"the variable {name}": value for name, value in recipe.variables}
    labels = {f"the label {name}": value for name, value in recipe.labels}
    files.refuse_secrets({**texts, **labels, "the lock file": _portable(recipe)})


def _squeeze(codec: Codec, data: bytes) -> bytes:
    compressor = codec.compressor()
    return compressor.compress(data) + compressor.flush()
