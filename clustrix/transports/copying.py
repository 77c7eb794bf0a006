"""Copy one file through a shell of the other side: resumed after a cut, verified by sha256, renamed into place.

A part lies beside its destination, under a name of the copy that writes it; one that nobody has written to for minutes
is taken over by renaming it. Whatever goes wrong with parts shows in the digest of the whole, and the copy starts anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import secrets
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

from clustrix.errors import ConnectionLost, DiskFull, TransportError
from clustrix.oci.layout import disk_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from io import BufferedReader
    from pathlib import Path

    from clustrix.model.progress import Bar, Progress
    from clustrix.transports.shell import Shell

    Begin = Callable[[str], AbstractContextManager[Shell]]

_CHUNK = 1 << 20
_SEGMENT = 1 << 26  # what a digest is of
_SMALL = 1 << 20  # below, looking for parts costs more than it saves
_ABANDONED = 2  # minutes
_ATTEMPTS = 4
_DAMAGED = 65  # EX_DATAERR of sysexits.h

# coreutils count on one core; openssl, which login nodes have too, uses what the processor has for it.
_SUM = """LC_ALL=C; export LC_ALL
sum=sha256sum; ! command -v openssl >/dev/null || sum='openssl dgst -sha256 -r'
"""
# What has arrived is counted while the rest is on its way.
_PUT = """umask 077
mkdir -p -- {directory} && cd -- {directory} || exit 1
p={part}; n=0
counted() {{
  got=$(dd if="$p" bs=128K skip="$1" count="$2" iflag=skip_bytes,count_bytes,fullblock status=none | $sum)
  [ "${{got%% *}}" = "$3" ]
}}
{resume}echo "$n"
at=0 counts=
: >>"$p"
while [ "$at" -lt {size} ]; do
  end=$((at + {segment}))
  [ "$end" -le {size} ] || end={size}
  if [ "$n" -lt "$end" ]; then
    dd bs=128K count=$((end - n)) iflag=count_bytes,fullblock status=none >>"$p" || {{ rm -f "$p"; exit 1; }}
    n=$end
  fi
  read -r want || exit 1
  counted "$at" "$((end - at))" "$want" &
  at=$end counts="$counts $!"
done
for count in $counts; do
  wait "$count" || {{ rm -f "$p"; exit 65; }}
done
chmod {mode:o} "$p" && mv -fT "$p" {destination}
"""
_RESUME = """if [ ! -f "$p" ]; then
  old=$(find . -maxdepth 1 -name '.{key}.*.part' -mmin +{abandoned} | head -n 1)
  [ -z "$old" ] || mv "$old" "$p" 2>/dev/null
fi
if [ -f "$p" ]; then
  n=$(wc -c <"$p")
  [ "$n" -le {size} ] || {{ n=0; rm "$p"; }}
fi
"""
_GET = """f={source}
exec 4<"$f" || exit 1
set -- $(stat -Lc '%s %Y' -- "$f")
read -r n known
[ "$known" = "$1-$2" ] && [ "$n" -le "$1" ] || n=0
echo "$1 $2 $n"
$sum <"$f" >&2 &
if [ "$n" = 0 ]; then cat <&4; else tail -c +$((n + 1)) <&4; fi
wait
"""


@contextlib.contextmanager
def _writing(destination: Path) -> Iterator[None]:
    try:
        with disk_full(destination):
            yield
    except OSError as error:
        raise TransportError(f"{destination} cannot be written: {error.strerror}") from error


def _opened(source: Path) -> BufferedReader:
    try:
        return source.open("rb")
    except OSError as error:
        raise TransportError(f"{source} cannot be read: {error.strerror}") from error


class _DamagedError(Exception):
    """What arrived is not what was sent."""


def put(begin: Begin, source: Path, destination: str, *, mode: int, progress: Progress, address: str) -> None:
    """Copy a file there; ConnectionLost after several cuts, TransportError, DiskFull."""
    with _opened(source) as file, contextlib.ExitStack() as undo:
        about = os.fstat(file.fileno())
        key = _key(destination, about.st_size, about.st_mtime_ns)
        part = f".{key}.{secrets.token_hex(8)}.part"
        directory, name = posixpath.split(destination)
        # Counting leaves the interpreter to others: it goes on during the login, and beside the sending.
        pool = ThreadPoolExecutor(1)
        undo.callback(pool.shutdown, cancel_futures=True)
        counts = [pool.submit(_counted, source, at) for at in range(0, about.st_size, _SEGMENT)]

        def attempt(bar: _Meter, *, again: bool) -> None:
            look = again or about.st_size > _SMALL
            resume = _RESUME.format(key=key, abandoned=_ABANDONED, size=about.st_size) if look else ""
            script = _SUM + _PUT.format(
                directory=shlex.quote(directory),
                part=part,
                size=about.st_size,
                segment=_SEGMENT,
                mode=mode,
                resume=resume,
                destination=shlex.quote(f"./{name}"),
            )
            with begin(script) as shell:
                _send(shell, file, about.st_size, counts, bar, wait=look)
                list(shell.output())
                _check(shell, f"{destination} on {address}", bar)

        _attempts(attempt, progress.start(f"upload {source.name}", about.st_size), f"{source} to {address}")


def get(begin: Begin, source: str, destination: Path, *, progress: Progress, address: str) -> None:
    """Copy a file here; ConnectionLost after several cuts, TransportError, DiskFull."""
    key = _key(address, source, destination.name)
    with _writing(destination):
        destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = _adopt(destination.parent, key)

    def attempt(bar: _Meter, *, again: bool) -> None:  # noqa: ARG001 - a part is looked for anyway
        nonlocal part
        with begin(_SUM + _GET.format(source=shlex.quote(source))) as shell:
            known = part.name.split(".")[2] if part is not None else "-"
            offer = f"{part.stat().st_size if part is not None else 0} {known}\n"
            with contextlib.suppress(OSError):  # a script that has ended says why
                shell.pipe.write(offer.encode())
            header = shell.line().split()
            if len(header) != 3 or not all(word.isdigit() for word in header):  # noqa: PLR2004 - size, time, offset
                list(shell.output())
                _check(shell, f"{source} on {address}", bar)
                raise TransportError(f"{source} on {address}: unexpected answer {header}")
            size, changed, offset = (int(word) for word in header)
            own = destination.parent / f".{key}.{size}-{changed}.{secrets.token_hex(8)}.part"
            if part is not None:
                part.replace(own)
            part = own
            with _writing(destination):
                digest = _receive(shell, own, offset, size, bar)
            _check(shell, f"{source} on {address}", bar)
            if shell.errors().split()[0].decode() != digest:
                own.unlink()
                part = None
                raise _DamagedError
            own.replace(destination)

    _attempts(attempt, progress.start(f"download {posixpath.basename(source)}", None), f"{source} from {address}")


class _Meter:
    """Move a bar to where the copy is, forwards and back."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self.shown = 0
        self.resumed = False

    def at(self, position: int) -> None:
        self._bar.advance(position - self.shown)
        self.shown = position


def _attempts(attempt: Callable[..., None], bar: Bar, what: str) -> None:
    """Go on after cuts as long as that makes sense, and start anew once if what was found of a copy is no good."""
    meter = _Meter(bar)
    try:
        for number in range(_ATTEMPTS):
            try:
                attempt(meter, again=number > 0)
            except ConnectionLost:  # noqa: PERF203 - an attempt takes longer
                if number == _ATTEMPTS - 1:
                    raise
            except _DamagedError:
                if not meter.resumed:
                    raise TransportError(
                        f"{what}: the copy is not the original; it changed on the way, or while it was copied"
                    ) from None
            else:
                return
        raise TransportError(f"{what}: {_ATTEMPTS} copies were not the original")
    finally:
        bar.close()


def _counted(source: Path, at: int) -> bytes:
    """Give the digest of a segment, as a line."""
    digest, buffer, left = hashlib.sha256(), memoryview(bytearray(_CHUNK)), _SEGMENT
    with _opened(source) as file:
        file.seek(at)
        while left and (length := file.readinto(buffer[:left])):
            digest.update(buffer[:length])
            left -= length
    return digest.hexdigest().encode() + b"\n"


def _send(shell: Shell, file: BinaryIO, size: int, counts: list[Future[bytes]], bar: _Meter, *, wait: bool) -> None:
    position = int(shell.line() or 0) if wait else 0
    bar.resumed = position > 0
    file.seek(position)
    for number, count in enumerate(counts):
        end = min(size, (number + 1) * _SEGMENT)
        while position < end:
            data = file.read(min(_CHUNK, end - position))
            if not data:
                raise TransportError(f"{file.name} became shorter while it was copied")
            if not _written(shell, data):
                return
            position += len(data)
            bar.at(position)
        _written(shell, count.result())


def _written(shell: Shell, data: bytes) -> bool:
    """Send; False once the other side has stopped listening, whose answer says why."""
    try:
        shell.pipe.write(data)
    except OSError:
        return False
    return True


def _receive(shell: Shell, part: Path, offset: int, size: int, bar: _Meter) -> str:
    bar.resumed = offset > 0
    digest = hashlib.sha256()
    with part.open("ab") as file:
        if file.tell() != offset:
            file.truncate(offset)
        with part.open("rb") as start:
            while data := start.read(_CHUNK):
                digest.update(data)
        position = offset
        for data in shell.output():
            view = memoryview(data)
            for at in range(0, len(view), _CHUNK):  # what a processor's cache holds; the system is slower with more
                file.write(view[at : at + _CHUNK])
                digest.update(view[at : at + _CHUNK])
            position += len(data)
            bar.at(position)
    if shell.returncode == 0 and position != size:
        raise _DamagedError
    return digest.hexdigest()


def _check(shell: Shell, what: str, bar: _Meter) -> None:
    """Turn a failed script into an error."""
    if shell.returncode == 0:
        return
    said = shell.errors().decode(errors="replace").strip()
    if re.search("No space left on device|Disk quota exceeded", said):
        raise DiskFull(f"no space left for {what}: {said}", remedy="See what lies there with: clustrix gc --dry-run")
    if shell.returncode == _DAMAGED:
        raise _DamagedError
    bar.at(0)
    raise TransportError(f"{what}: {said or f'the copy ended with status {shell.returncode}'}")


def _adopt(directory: Path, key: str) -> Path | None:
    """Take over a part that its writer has left."""
    for old in directory.glob(f".{key}.*.part"):
        try:
            if old.stat().st_mtime < time.time() - 60 * _ABANDONED:
                _, _, identity, _, _ = old.name.split(".")
                return old.rename(directory / f".{key}.{identity}.{secrets.token_hex(8)}.part")
        except (OSError, ValueError):  # noqa: PERF203 - there is hardly ever one
            continue  # somebody else was quicker
    return None


def _key(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
