"""A virtual environment (PEP 405) at the target, made from the locked wheels, for the target's own Python.

It needs no packaging tool there: the wheels are unpacked on the way, as `clustrix.model.wheel` plans it. Nothing is
isolated and no memory is enforced: a job sees what the account sees.
"""

from __future__ import annotations

import io
import posixpath
import secrets
import shlex
import sys
import tarfile
import time
import zipfile
import zlib
from string import Template
from typing import TYPE_CHECKING

from clustrix.errors import ConfigError, DiskFull, LockError, RuntimeUnavailable, TransportError, UnsupportedPackage
from clustrix.model import wheel
from clustrix.model.job import Placed
from clustrix.runtimes.base import Need
from clustrix.transports.base import Pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from clustrix.model.lock import Lock
    from clustrix.model.paths import SitePaths
    from clustrix.model.progress import Progress
    from clustrix.model.resources import Mount
    from clustrix.runtimes.base import Artifact
    from clustrix.transports.base import Transport

_CHUNK = 1 << 20
_PROBE = (
    "import os, platform, sys; print('python', sys.implementation.name, '%d.%d.%d' % sys.version_info[:3],"
    " platform.machine(), platform.libc_ver()[1] or '-', "
    "os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable)); "
    "sys.exit(sys.implementation.name != 'cpython' or '%d.%d' % sys.version_info[:2] != sys.argv[1])"
)
# An environment whose Python has gone is made anew. Pythons of pyenv and uv are often in nobody's PATH.
_LOOK = Template("""
if [ -e $place/pyvenv.cfg ] && [ -x $place/bin/python ]; then echo ready; exit 0; fi
for python in $own $names "$$HOME"/.pyenv/versions/$minor.*/bin/python$minor \\
    "$$HOME"/.local/share/uv/python/*-$minor.*/bin/python$minor; do
  command -v "$$python" >/dev/null 2>&1 && "$$python" -I -c $probe $minor </dev/null 2>/dev/null && break
done
exit 0
""")
# Two clients may do the same: the rename decides, and a directory that lost ends up inside the one that won.
_UNPACK = Template("""
umask 077
new=$venvs/$name place=$place
mkdir -p $venvs && mkdir "$$new" || exit
trap 'rm -rf "$$new"' EXIT
tar -xof - -C "$$new" || exit 75
[ -e "$$new"/whole ] || exit 74
rm -f "$$new"/whole
if [ -e "$$place" ] && ! [ -x "$$place"/bin/python ]; then mv "$$place" "$$new.gone" && rm -rf "$$new.gone"; fi
[ -e "$$place" ] || mv "$$new" "$$place"
rm -rf "$$place"/$name
""")


class Venv:
    """Place locked environments as directories named by their lock's digest."""

    needs = Need.LOCK
    enforces_memory = False
    commands: tuple[str, ...] = ()

    def ensure(self, artifact: Artifact, transport: Transport, site: SitePaths, *, progress: Progress) -> Placed:
        """Make the environment unless it is there: one round trip if it is, two if not.

        Raises:
            RuntimeUnavailable: the target has no Python of that minor version, or one of another platform.
            LockError: a wheel of the lock is not here.
            DiskFull: there is no space at the target.

        """
        lock = artifact.lock
        if lock is None:
            raise LockError("the venv runtime needs a lock, and was given an image")
        place = f"{site.venvs}/{lock.digest.removeprefix('sha256:')}"
        python = _look(lock, place, transport)
        if python is not None:
            _unpack(lock, artifact.wheels or {}, place, python, transport=transport, progress=progress)
        return Placed(runtime="venv", location=place, interpreter=f"{place}/bin/python")

    def wrap(
        self,
        placed: Placed,
        argv: Sequence[str],
        *,
        mounts: Sequence[Mount],
        variables: Mapping[str, str],
        gpus: int,
        memory_bytes: int | None,
        cores: int,
    ) -> tuple[str, ...]:
        """Give the command as it is: the host's files and devices are there already; ConfigError for other mounts."""
        del placed, gpus, memory_bytes, cores
        for mount in mounts:
            if mount.source != mount.target or mount.read_only:
                raise ConfigError(
                    f"the mount {mount.source}:{mount.target}{':ro' if mount.read_only else ''} needs a container",
                    remedy="In a virtual environment a job sees the host's directories where they are. "
                    "Use runtime docker, podman or apptainer, or leave the mount out.",
                )
        settings = [f"{name}={value}" for name, value in variables.items()]
        return ("env", *settings, *argv) if settings else tuple(argv)


def _look(lock: Lock, place: str, transport: Transport) -> tuple[str, str] | None:
    """Find the Python to use, as (path, version); None if the environment is there."""
    own = getattr(sys, "_base_executable", sys.executable) if transport.address == "local" else ""
    names = [f"python{lock.python}", "python3", "python"]
    done = transport.run(
        _LOOK.substitute(
            place=shlex.quote(place),
            own=shlex.quote(own) if own else "",
            names=" ".join(names),
            minor=lock.python,
            probe=shlex.quote(_PROBE),
        )
    )
    lines = done.stdout.decode(errors="replace").splitlines()
    if "ready" in lines:
        return None
    found = [line.split(" ", 5)[1:] for line in lines if line.startswith("python ")]
    for implementation, version, machine, libc, path in found:
        fits = implementation == "cpython" and version.startswith(f"{lock.python}.")
        if fits and machine == lock.platform.machine and _libc(libc) >= lock.platform.glibc:
            return path, version
    seen = ", ".join(
        sorted(
            {
                f"{path} ({implementation} {version}, {machine}, glibc {libc})"
                for implementation, version, machine, libc, path in found
            }
        )
    )
    raise RuntimeUnavailable(
        f"{transport.address} has no CPython {lock.python} for {lock.platform}; found: {seen or 'no Python at all'}",
        remedy=f"Install Python {lock.python} there so that `python{lock.python}` is in the PATH of a login shell, "
        "or use a runtime with containers.",
    )


def _libc(text: str) -> tuple[int, int]:
    """Read ``2.36``; systems without glibc have no floor to meet."""
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (999, 0)


def _unpack(
    lock: Lock,
    wheels: Mapping[str, Path],
    place: str,
    python: tuple[str, str],
    *,
    transport: Transport,
    progress: Progress,
) -> None:
    missing = [package.name for package in lock.packages if package.name not in wheels]
    if missing:
        raise LockError(f"the wheels of {', '.join(missing)} were not fetched")
    name = f"{posixpath.basename(place)}.{secrets.token_hex(8)}.new"
    script = _UNPACK.substitute(
        venvs=shlex.quote(posixpath.dirname(place)), place=shlex.quote(place), name=shlex.quote(name)
    )
    total = sum(path.stat().st_size for path in wheels.values())
    bar = progress.start(f"environment {lock.digest[7:19]}", total)

    def pieces() -> Iterator[bytes]:
        yield from _base(python, lock.python)
        for package in lock.packages:
            path = wheels[package.name]
            yield from _wheel(package.file.filename, path, f"{place}/bin/python", lock.python)
            bar.advance(path.stat().st_size)
        yield from _file("whole", b"")
        yield bytes(2 * tarfile.BLOCKSIZE)

    try:
        done = transport.run(script, stdin=io.BufferedReader(Pieces(pieces()), _CHUNK))
    finally:
        bar.close()
    if done.returncode != 0:
        said = done.stderr_text
        if "no space" in said.lower() or "quota" in said.lower():
            raise DiskFull(f"no space left at {transport.address} for the environment {place}: {said}")
        raise TransportError(f"the environment {place} cannot be made at {transport.address}: {said}")


def _base(python: tuple[str, str], minor: str) -> Iterator[bytes]:
    interpreter, version = python
    for path, target in wheel.links(interpreter, minor).items():
        link = tarfile.TarInfo(path)
        link.type, link.linkname, link.mode, link.mtime = tarfile.SYMTYPE, target, 0o777, int(time.time())
        yield link.tobuf(tarfile.PAX_FORMAT)
    yield from _file("pyvenv.cfg", wheel.pyvenv_cfg(interpreter, version))


def _wheel(filename: str, path: Path, interpreter: str, minor: str) -> Iterator[bytes]:
    try:
        yield from _installed(filename, path, interpreter, minor)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UnsupportedPackage(f"{path} cannot be read as a wheel: {error}") from error


def _installed(filename: str, path: Path, interpreter: str, minor: str) -> Iterator[bytes]:
    """Write the members of a wheel and what an installer adds."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        modes = {name: member.external_attr >> 16 for name, member in members.items()}
        plan = wheel.plan(filename, modes, archive.read, minor=minor)
        written = {plan.installer_path: wheel.INSTALLER}
        scripts = {f"bin/{script.name}": script.text(interpreter) for script in plan.scripts}
        for member in plan.members:
            if member.script:
                scripts[member.path] = wheel.localise(archive.read(member.source), interpreter)
            else:
                yield _header(member.path, members[member.source].file_size, executable=member.executable)
                with archive.open(member.source) as content:
                    while chunk := content.read(_CHUNK):
                        yield chunk
                yield bytes(-members[member.source].file_size % tarfile.BLOCKSIZE)
        for name, text in scripts.items():
            yield from _file(name, text, executable=True)
        for name, text in {**written, plan.record_path: plan.record({**written, **scripts})}.items():
            yield from _file(name, text)


def _file(path: str, content: bytes, *, executable: bool = False) -> Iterator[bytes]:
    yield _header(path, len(content), executable=executable)
    yield content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _header(path: str, size: int, *, executable: bool) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.mtime = size, 0o755 if executable else 0o644, int(time.time())
    return entry.tobuf(tarfile.PAX_FORMAT)
