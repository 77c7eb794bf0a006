"""One wheel becomes one piece of a layer, installed as an installer would, packed once ever."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from clustrix.build import tar
from clustrix.build.compression import deflate
from clustrix.errors import CredentialsInLayer, HashMismatch, UnsupportedPackage
from clustrix.model import credentials, wheel
from clustrix.model.image import VENV

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from typing_extensions import Self

    from clustrix.build.bytecode import Compiler
    from clustrix.build.compression import Codec
    from clustrix.build.pool import Pool
    from clustrix.model.lock import LockedPackage
    from clustrix.oci.layout import BlobWriter

FORMAT = "4"
"""Changes whenever the same wheels would make other layers."""
ROOT = VENV.lstrip("/")
INTERPRETER = f"{VENV}/bin/python"
_CHUNK = 1 << 20
_LOCAL_HEADER = 30
_EMBEDDED_BYTES = 32 << 10  # from here on what a wheel has deflated stays so: small files are smaller together
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError)


@dataclass(frozen=True, slots=True)
class Packed:
    """Describe a packed wheel: its bytes, what it measures once installed, and the console scripts it declares.

    A piece of a layer lists its ``files``, and the ``directories`` that have to stand before it.
    """

    digest: str
    diff_id: str
    size: int
    fingerprint: str
    scripts: tuple[wheel.Script, ...]
    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Packed:
        """Read the JSON form."""
        lists = {
            "scripts": tuple(wheel.Script(**script) for script in record["scripts"]),
            "files": tuple(record["files"]),
            "directories": tuple(record["directories"]),
        }
        return cls(**{**record, **lists})


class Archive:
    """Read the members of a wheel, with a third of the work of `zipfile`, which still reads the directory.

    https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, section 4.3.7
    """

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self._file = path.open("rb")
        self.members = {member.filename: member for member in self._zip.infolist()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._zip.close()

    def read(self, name: str) -> bytes:
        """Read a small member whole."""
        return b"".join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read a member piece by piece and check its CRC."""
        if self._plain(name):
            yield from (piece for _, piece in self.pieces(name))
        else:
            yield self._zip.read(name)

    def deflated(self, name: str) -> bool:
        """Say whether `pieces` are those of a deflate stream."""
        return self._plain(name) and self.members[name].compress_type == zipfile.ZIP_DEFLATED

    def pieces(self, name: str) -> Iterator[tar.Piece]:
        """Read a member of a common kind as it is stored and as it was, side by side, and check its CRC."""
        member = self.members[name]
        self._file.seek(member.header_offset)
        header = self._file.read(_LOCAL_HEADER)
        self._file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        checksum, crc32 = 0, deflate().crc32
        left = member.compress_size
        inflate = deflate().decompressobj(-15) if member.compress_type == zipfile.ZIP_DEFLATED else None
        while left:
            stored = data = self._file.read(min(_CHUNK, left))
            if not data:
                break
            left -= len(data)
            while data:
                piece = inflate.decompress(data, 4 * _CHUNK) if inflate else data
                data = inflate.unconsumed_tail if inflate else b""
                checksum = crc32(piece, checksum)
                yield stored, piece
                stored = b""
        if inflate and (rest := inflate.flush()):
            checksum = crc32(rest, checksum)
            yield b"", rest
        if checksum != member.CRC or (inflate and (inflate.unused_data or not inflate.eof)):
            raise zipfile.BadZipFile(f"bad CRC-32 or length for {name!r}")

    def _plain(self, name: str) -> bool:
        member = self.members[name]
        return member.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} and not member.flag_bits & 1


def verify(package: LockedPackage, path: Path, check: Callable[[], None]) -> None:
    """Check that a wheel is the file that was locked; `HashMismatch`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            check()
            digest.update(data)
    if digest.hexdigest() != package.file.sha256:
        raise HashMismatch(
            f"{path} is not the {package.file.filename} that was locked: its sha256 is {digest.hexdigest()}, "
            f"not {package.file.sha256}",
            remedy="Remove it and fetch it again; if it stays so, the index serves another file than was locked.",
        )


def pack(
    package: LockedPackage,
    path: Path,
    blob: BlobWriter,
    codec: Codec,
    *,
    minor: str,
    alone: bool,
    pool: Pool,
) -> Packed:
    """Write a wheel into ``blob``: a whole layer if ``alone``, else a piece of one that `opening` begins.

    Raises `HashMismatch`, `UnsupportedPackage`, `CredentialsInLayer`, `DiskFull`.
    """
    verify(package, path, pool.check)
    try:
        with Archive(path) as archive:
            modes = {name: member.external_attr >> 16 for name, member in archive.members.items()}
            plan = wheel.plan(package.file.filename, modes, archive.read, minor=minor)
            _check(package, plan)
            compiled = _Bytecode(plan, path, package.file.sha256, pool)
            stream = tar.TarStream(blob, codec, own_directories=alone, check=pool.check)
            try:
                paths = _install(plan, archive, stream, compiled, embeds=codec.embeds)
            finally:
                compiled.remove()
            if alone:
                stream.raw(tar.END)
            diff_id = stream.finish()
    except (*_BROKEN, deflate().error) as error:
        raise UnsupportedPackage(f"{path} cannot be read as a wheel: {error}") from error
    listed = ((), ()) if alone else (tuple(paths), tuple(sorted(stream.directories)))
    return Packed(blob.commit(), diff_id, blob.size, plan.fingerprint, plan.scripts, *listed)


def opening(pieces: Iterable[Packed]) -> bytes:
    """Give the directories that have to stand in a layer before its pieces."""
    directories = {directory for piece in pieces for directory in piece.directories}
    return b"".join(tar.header(directory, kind=tar.DIRECTORY, mode=0o755) for directory in sorted(directories))


def stack(pieces: Sequence[Packed]) -> list[list[Packed]]:
    """Share pieces out so that no layer has a path twice; where wheels quarrel over a file, the later one has it."""
    layers: list[list[Packed]] = []
    owners: dict[str, int] = {}
    for piece in pieces:
        level = max((owners[path] + 1 for path in piece.files if path in owners), default=0)
        owners.update(dict.fromkeys(piece.files, level))
        layers += [[]] if level == len(layers) else []
        layers[level].append(piece)
    return layers


def _check(package: LockedPackage, plan: wheel.Plan) -> None:
    if plan.name != package.name:
        raise UnsupportedPackage(f"{package.file.filename} holds {plan.name} {plan.version}, not {package.name}")
    for member in plan.members:
        if what := credentials.by_name(member.path):
            raise CredentialsInLayer(
                f"{package.file.filename} holds {what}: {member.path}", remedy="Lock another version of it."
            )


def _install(
    plan: wheel.Plan, archive: Archive, stream: tar.TarStream, compiled: _Bytecode, *, embeds: bool
) -> list[str]:
    """Write the members of a wheel, its bytecode and what an installer adds, sorted by path; give the paths."""
    written = {plan.installer_path: wheel.INSTALLER}
    for member in plan.members:
        if member.script:
            content = archive.read(member.source)
            changed = wheel.localise(content, INTERPRETER)
            if changed != content:
                written[member.path] = changed
    scripts = {f"bin/{script.name}": script.text(INTERPRETER) for script in plan.scripts}
    record = plan.record({**written, **scripts}, compiled.sizes)
    written[plan.record_path] = record
    members = {member.path: member for member in plan.members}
    paths = sorted({*members, *written, *compiled.sizes})
    for path in paths:
        place = f"{ROOT}/{path}"
        executable = path in members and members[path].executable
        if path in written:
            stream.file(place, len(written[path]), (written[path],), executable=executable)
        elif path in members:
            source = members[path].source
            known = archive.members[source]
            if embeds and known.file_size >= _EMBEDDED_BYTES and archive.deflated(source):
                stream.embed(place, known.file_size, known.CRC, archive.pieces(source), executable=executable)
            else:
                stream.file(place, known.file_size, archive.chunks(source), executable=executable)
        else:
            stream.file(place, compiled.sizes[path], (compiled.read(path),))
    return paths


class _Bytecode:
    """Hold the bytecode of one wheel in temporary files."""

    def __init__(self, plan: wheel.Plan, path: Path, name: str, pool: Pool) -> None:
        from clustrix.build.bytecode import JOB_MODULES

        self.sizes: dict[str, int] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        self._files: list[Path] = []
        if (compiler := pool.compiler) is None:
            return
        own = {member.path for member in plan.members}
        modules = [(source, target, made) for source, target, made in _modules(plan, compiler) if made not in own]
        jobs: list[tuple[list[str], Future[tuple[Path, list[int | None]]]]] = []
        for start in range(0, len(modules), JOB_MODULES):
            job = modules[start : start + JOB_MODULES]
            sources = [(source, f"{VENV}/{target}") for source, target, _ in job]
            output = f"{name}-{start}"
            jobs.append(([made for _, _, made in job], pool.compiling.submit(compiler.compile, path, output, sources)))
        for made, future in jobs:
            file, sizes = future.result()
            self._files.append(file)
            offset = 0
            for pyc, size in zip(made, sizes, strict=True):
                if size is not None:
                    self.sizes[pyc], self._places[pyc] = size, (file, offset)
                    offset += size

    def read(self, path: str) -> bytes:
        file, offset = self._places[path]
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(self.sizes[path])

    def remove(self) -> None:
        for file in self._files:
            file.unlink(missing_ok=True)


def _modules(plan: wheel.Plan, compiler: Compiler) -> Iterator[tuple[str, str, str]]:
    """List what is worth compiling: (member, path, path of the .pyc). Packages' own tests are not."""
    for member in plan.members:
        directory, _, name = member.path.rpartition("/")
        below = directory[len(plan.site) + 1 :].split("/")
        if member.path.startswith(f"{plan.site}/") and name.endswith(".py") and not {"test", "tests"} & set(below):
            pyc = f"{directory}/__pycache__/{name[:-3]}.{compiler.interpreter.cache_tag}.pyc"
            yield member.source, member.path, pyc
