"""Outcomes in a directory of the target, read through its transport."""

from __future__ import annotations

import contextlib
import io
import random
import re
import secrets
import shlex
import tarfile
from string import Template
from types import MappingProxyType
from typing import TYPE_CHECKING

from clustrix.errors import ConnectionLost, StoreError, UnknownJob
from clustrix.model import record as records
from clustrix.model.paths import JobPaths, SitePaths
from clustrix.stores.base import Ended, Output, RawOutcome
from clustrix.transports.base import Pieces
from clustrix.worker import task as tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clustrix.model.job import End, JobRecord
    from clustrix.transports.base import Completed, Transport

_NEAR = (0.02, 0.5)  # seconds between two looks on this machine: at first, and after a long time without news
_FAR = (0.2, 5.0)
_FOLLOWING = 1.0  # the most when output is to be shown
_AT_ONCE = 500  # outcomes in one round trip

# Lines of `ls -lR`: a slice's directory, the mark of an item that was begun, the mark of whoever claimed the slice.
_HEADER = re.compile(r"\./(\d+):")
_MARK = re.compile(r" item-(\d+) -> (\d+)$")
_CLAIM = re.compile(r"-.* (\d+)")

# Names are listed by the shell itself; nothing is started as long as there is no news. Every $beat ms a line is said in
# any case, and every name is looked at again. A new file in a directory makes NFS forget what it has cached of it.
_WATCH = Template("""
scan() {
  j=$$1
  cd "$$2" 2>/dev/null || return 0
  set -- outcomes/*.json ends/*.json
  n=$$#
  eval "last=\\$${$$n}; had=\\$${n_$$j:-0}; follow=\\$${follow_$$j:-}"
  [ "$$1" != 'outcomes/*.json' ] || n=$$((n - 1))
  [ "$$last" != 'ends/*.json' ] || n=$$((n - 1))
  # What has ended by now has written all its output by now.
  [ -z "$$follow" ] || output
  [ "$$n" -ne "$$had" ] || [ -n "$$full" ] || return 0
  eval "n_$$j=$$n"
  for file; do
    i=$${file#*/}; i=$${i%.json}
    case $$i in ''|*[!0-9]*) continue;; esac
    case $$file in
      outcomes/*)
        eval "seen=\\$${o_$${j}_$$i:-}"
        [ -n "$$seen" ] || { eval "o_$${j}_$$i=1"; news=1; printf '%s outcome %s %s\\n' $marker "$$j" "$$i"; };;
      ends/*)
        said=; read -r said <"$$file" 2>/dev/null
        eval "seen=\\$${e_$${j}_$$i:-}"
        [ "$$seen" = "$$said" ] && continue
        eval "e_$${j}_$$i=\\$$said"; news=1
        printf '%s end %s %s %s\\n' $marker "$$j" "$$i" "$$said";;
    esac
  done
}
output() {
  set -- $$(wc -c logs/*.out 2>/dev/null)
  while [ $$# -ge 2 ]; do
    size=$$1 file=$$2; shift 2
    i=$${file#*/}; i=$${i%.out}
    case $$i in ''|*[!0-9]*) continue;; esac
    eval "at=\\$${l_$${j}_$$i:-0}"
    [ "$$size" -gt "$$at" ] || continue
    printf '%s output %s %s %s\\n' $marker "$$j" "$$i" $$((size - at))
    tail -c +$$((at + 1)) "$$file" | head -c $$((size - at))
    eval "l_$${j}_$$i=$$size"; news=1
  done
}
$known
wait=$floor idle=0 full=1
while :; do
  news=
  $scans
  full=
  if [ -n "$$news" ]; then wait=$floor; else wait=$$((wait + wait / 10 + 1)); fi
  [ $$wait -le $ceiling ] || wait=$ceiling
  if [ $$idle -le 0 ]; then
    printf '%s beat\\n' $marker
    idle=$beat full=1
    $poke
  fi
  idle=$$((idle - wait))
  part=$$((wait % 1000 + 1000))
  sleep $$((wait / 1000)).$${part#1} || sleep 1
done
""")


class DirectoryStore:
    """Read what jobs left below the root of a target."""

    def __init__(self, transport: Transport, root: str, *, floor: float | None = None) -> None:
        self._transport = transport
        self._site = SitePaths(root)
        near = transport.address == "local"
        self._poke = not near
        self._floor, self._ceiling = _NEAR if near else _FAR
        if floor is not None:
            self._floor = floor

    def watch(
        self, jobs: Sequence[JobRecord], *, output: Mapping[str, Mapping[int, int]] = MappingProxyType({})
    ) -> _Watch:
        """Watch jobs with one remote script, whatever their number."""
        marker = f"clustrix-{secrets.token_hex(12)}"
        return _Watch(self._transport, self._script(jobs, output, marker), marker, [job.id.ulid for job in jobs])

    def read(self, job: JobRecord, indices: Sequence[int]) -> Iterator[RawOutcome]:
        """Read outcomes as one tar stream; those that do not exist are left out."""
        for start in range(0, len(indices), _AT_ONCE):
            yield from self._read(job, indices[start : start + _AT_ONCE], ("json", "pkl"))

    def metadata(self, job: JobRecord, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Read outcomes as `read` does, and no value."""
        for start in range(0, len(indices), _AT_ONCE):
            for outcome in self._read(job, indices[start : start + _AT_ONCE], ("json",)):
                yield outcome.index, outcome.metadata

    def ends(self, job: JobRecord) -> Mapping[int, End]:
        """Read how the tasks' processes ended, as their wrapper saw it."""
        said = self._run(f"cd {_directory(job)} 2>/dev/null && grep -s '' ends/*.json /dev/null; exit 0").stdout
        found = {}
        for line in said.decode(errors="replace").splitlines():
            name, _, text = line.partition(":")
            found[int(name.removeprefix("ends/").removesuffix(".json"))] = records.load_end(text.encode())
        return found

    def failures(self, jobs: Sequence[JobRecord]) -> Mapping[str, frozenset[int]]:
        """Tell which items have an outcome that is not a value, by ulid; one round trip."""
        looks = (
            f'(cd {_directory(job)}/outcomes && grep -lE \'"status": ?"(error|refused)"\' *.json) 2>/dev/null\n'
            f"echo {job.id.ulid}"
            for job in jobs
        )
        said = self._run("\n".join([*looks, "exit 0"])).stdout.decode()
        found: dict[str, frozenset[int]] = {}
        indices: list[int] = []
        for line in said.splitlines():
            if line.endswith(".json"):
                indices.append(int(line.removesuffix(".json")))
            else:
                found[line], indices = frozenset(indices), []
        return found

    def owners(self, job: JobRecord) -> Mapping[int, int]:
        """Tell which task has begun, or alone may begin, which item; see `clustrix.worker.claims`."""
        look = f"cd {_directory(job)} && cat task.json && echo && cd claims && LC_ALL=C ls -lR"
        task, _, claims = self._run(look, job).stdout.partition(b"\n\n")
        slices = tasks.read(task).slices
        shared = len(slices) > job.workers
        found: dict[int, int] = {}
        if not shared:
            for place, (start, stop) in enumerate(slices):
                found.update(dict.fromkeys(range(start, stop), place))
        begun: dict[int, int] = {}
        items = range(0)
        for line in claims.decode(errors="replace").splitlines():
            if header := _HEADER.fullmatch(line):
                items = range(*slices[int(header[1])])
            elif mark := _MARK.search(line):
                begun[int(mark[1])] = int(mark[2])
            elif (claim := _CLAIM.fullmatch(line)) and (not shared or len(items) == 1):
                found.update(dict.fromkeys(items, int(claim[1])))
        return {**found, **begun}

    def cancelled(self, job: JobRecord) -> bool:
        """Tell whether somebody asked to cancel the job."""
        return self._run(f"[ -e {shlex.quote(_paths(job).cancelled)} ]; echo $?").stdout.strip() == b"0"

    def key(self, job: JobRecord) -> bytes:
        """Read the key that signs the job's outcomes; UnknownJob."""
        return self._run(f"cat {shlex.quote(_paths(job).key)}", job).stdout

    def record(self, ulid: str) -> JobRecord:
        """Read the record beside a job; UnknownJob if there is none."""
        done = self._run(f"cat {shlex.quote(self._site.job(ulid).record)}")
        if done.returncode != 0:
            raise UnknownJob(f"there is no job {ulid} below {self._site.root} at {self._transport.address}")
        return records.load(done.stdout)

    def log(self, job: JobRecord, task: int, *, last_bytes: int | None = None) -> bytes:
        """Read the output of a task, all of it or its last bytes; nothing if it has not started.

        Raises:
            UnknownJob: the job's directory was removed.

        """
        command = "cat" if last_bytes is None else f"tail -c {last_bytes}"
        read = f"{command} {shlex.quote(_paths(job).log(task))} 2>/dev/null"
        return self._run(f"[ -d {_directory(job)} ] || exit; {read}; exit 0", job).stdout

    def remove(self, job: JobRecord) -> None:
        """Delete everything of the job."""
        done = self._run(f"rm -rf {_directory(job)}")
        if done.returncode != 0:
            raise StoreError(f"{job.id} cannot be deleted: {done.stderr_text}")

    def _run(self, script: str, job: JobRecord | None = None) -> Completed:
        done = self._transport.run(script)
        if job is not None and done.returncode != 0:
            if self._transport.run(f"[ -d {_directory(job)} ]").returncode == 0:
                raise StoreError(f"the files of {job.id} cannot be read: {done.stderr_text}")
            raise UnknownJob(
                f"{job.id} has no directory at {self._transport.address} any more", remedy="It was removed there."
            )
        return done

    def _script(self, jobs: Sequence[JobRecord], output: Mapping[str, Mapping[int, int]], marker: str) -> str:
        known = []
        for number, job in enumerate(jobs):
            if job.id.ulid in output:
                known.append(f"follow_{number}=1")
                known += [f"l_{number}_{task}={size}" for task, size in output[job.id.ulid].items()]
        # Many clients that started together shall not ask together.
        floor = self._floor * random.uniform(0.85, 1.15)  # noqa: S311 - no secret
        ceiling = min(self._ceiling, _FOLLOWING) if output else self._ceiling
        places = [_directory(job) for job in jobs]
        looks = [f"{place}/outcomes/.look" for place in places]
        # Not by ``:``, a special built-in: the directory may have been removed, which would end the shell (POSIX).
        poke = [f"true 2>/dev/null >{look}" for look in looks] + [f"rm -f {' '.join(looks)}"]
        return _WATCH.substitute(
            marker=marker,
            known="\n".join(known),
            floor=max(1, round(floor * 1000)),
            ceiling=max(1, round(max(ceiling, floor) * 1000)),
            beat=1000,
            scans="\n  ".join(f"scan {number} {place}" for number, place in enumerate(places)),
            poke="\n    ".join(poke) if self._poke else ":",
        )

    def _read(self, job: JobRecord, indices: Sequence[int], kinds: Sequence[str]) -> Iterator[RawOutcome]:
        marker = f"clustrix-{secrets.token_hex(12)}"
        script = "\n".join(
            [
                f"printf '%s\\n' {marker}",
                f"list=/dev/null; cd {_directory(job)}/outcomes 2>/dev/null && list=-",
                f"tar -cf - -T $list 2>/dev/null <<'{marker}'",
                *(f"{index}.{kind}" for index in indices for kind in kinds),
                marker,
                f"printf '%s\\n' {marker}",
            ]
        )
        metadata: dict[int, bytes] = {}
        with self._transport.stream(script) as chunks:
            file = io.BufferedReader(Pieces(chunks), 1 << 20)
            mark = marker.encode() + b"\n"
            while (line := file.readline()) and not line.endswith(mark):
                pass  # noise
            if not line:
                raise StoreError(f"the outcomes of {job.id} cannot be read at {self._transport.address}")
            try:
                with tarfile.open(fileobj=file, mode="r|") as archive:
                    for member in archive:
                        content = archive.extractfile(member)
                        index = int(member.name.partition(".")[0])
                        data = content.read() if content is not None else b""
                        if member.name.endswith(".json"):
                            metadata[index] = data
                        elif index in metadata:
                            yield RawOutcome(index, metadata.pop(index), data)
                        # Else its worker has died, or is just about to write the outcome that makes it count.
            except tarfile.TarError as error:
                raise ConnectionLost(f"reading outcomes of {job.id} was cut: {error}") from error
            if not file.read().endswith(mark):
                raise ConnectionLost(f"reading outcomes of {job.id} was cut")
        for index, text in metadata.items():  # an outcome without a value
            yield RawOutcome(index, text, b"")


class _Watch:
    """Read the lines that the script prints, and the bytes that some of them announce."""

    def __init__(self, transport: Transport, script: str, marker: str, ulids: Sequence[str]) -> None:
        self._marker = f"{marker} ".encode()
        self._ulids = ulids
        self._buffer = b""
        self._stack = contextlib.ExitStack()
        self._chunks = self._stack.enter_context(transport.stream(script))

    def close(self) -> None:
        """End the script."""
        self._stack.close()

    def __iter__(self) -> Iterator[Ended | Output | None]:
        """Report what happens; ConnectionLost."""
        while True:
            kind, *words = self._line()
            if kind == "beat":
                yield None
            elif kind == "outcome":
                yield Ended(self._ulids[int(words[0])], index=int(words[1]))
            elif kind == "end":
                end = records.load_end(" ".join(words[2:]).encode())
                yield Ended(self._ulids[int(words[0])], task=int(words[1]), end=end)
            else:
                for data in self._data(int(words[2])):
                    yield Output(self._ulids[int(words[0])], int(words[1]), data)

    def _line(self) -> list[str]:
        """Give the words of the next line, past any noise."""
        while True:
            start = self._buffer.find(self._marker)
            end = self._buffer.find(b"\n", start) if start >= 0 else -1
            if end >= 0:
                line = self._buffer[start + len(self._marker) : end]
                self._buffer = self._buffer[end + 1 :]
                return line.decode(errors="replace").split(" ")
            self._more()

    def _data(self, size: int) -> Iterator[bytes]:
        """Give the next ``size`` bytes as they come."""
        while size:
            if not self._buffer:
                self._more()
            piece = self._buffer[:size]
            self._buffer = self._buffer[len(piece) :]
            size -= len(piece)
            yield piece

    def _more(self) -> None:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise ConnectionLost("the watch over the jobs ended")
        self._buffer += chunk


def _paths(job: JobRecord) -> JobPaths:
    return SitePaths(job.root).job(job.id.ulid)


def _directory(job: JobRecord) -> str:
    return shlex.quote(_paths(job).directory)
