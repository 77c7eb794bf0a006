"""What lies below the root of a target, how large it is, and what of it nobody needs any more."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass, field
from string import Template
from typing import TYPE_CHECKING

from clustrix.errors import BackendError, StoreError, TransportError
from clustrix.model import record as records

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta

    from clustrix.kubernetes.artifacts import Artifacts
    from clustrix.model.job import JobRecord
    from clustrix.target import Target

KINDS = ("jobs", "bundles", "blobs", "sifs", "venvs")
"""The directories below a root."""
_USED = "find jobs -mindepth 2 -maxdepth 2 -name 'task.*' -exec grep -{}E '[0-9a-f]{{64}}' {{}} + 2>/dev/null"

# A job changes when anything in its directory does; what is shared, when it is made or, for a SIF, used. The sizes of
# what is old are measured one by one, of all else together.
_LOOK = Template("""
cd $root 2>/dev/null || exit 0
LC_ALL=C; export LC_ALL
set -- $$(df -Pk . | tail -n 1); echo "free $$4"
for kind in $kinds; do
  [ ! -d $$kind ] || { set -- $$(du -sk $$kind); echo "total $$kind $$1"; }
done
$used | sed 's/^/used /'
[ ! -d jobs ] || ls jobs | sed 's/^/there /'
find jobs -mindepth 1 -maxdepth 1 -type d -mmin +$minutes 2>/dev/null | while read -r job; do
  [ -z "$$(find "$$job" -mindepth 1 -maxdepth 1 ! -mmin +$minutes)" ] || continue
  set -- "$$job"/ends/*.json; [ -e "$$1" ] || shift
  ends=$$#
  set -- $$(du -sk "$$job")
  echo "job $$1 $$ends $${job#*/} $$(cat "$$job"/job.json 2>/dev/null)"
done
find bundles blobs/sha256 sifs venvs -mindepth 1 -maxdepth 1 -mmin +$minutes 2>/dev/null | while read -r path; do
  set -- $$(du -sk "$$path")
  echo "shared $$1 $$path"
done
exit 0
""")

# A job that was submitted meanwhile may need what nobody needed before.
_REMOVE = Template("""
cd $root || exit
remove() { { rm -rf "$$1" 2>/dev/null || { chmod -R u+rwX "$$1"; rm -rf "$$1"; }; } && echo "removed $$1"; }
used=
while read -r path; do
  case $$path in
    jobs/*) remove "$$path"; continue;;
  esac
  [ -n "$$used" ] || used=" $$($used)"
  name=$${path##*/}
  case $$name in
    .*) remove "$$path";;
    *) case $$used in *"$${name%%.*}"*) ;; *) remove "$$path";; esac;;
  esac
done
exit 0
""")
_ARTIFACTS = "artifacts"
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Old:
    """Name what has not changed for a while, by its path below the root."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Say what lies below the root of a target.

    ``jobs`` are those that have ended and are old, ``shared`` what is old and needed by no other job; ``kept`` says of
    other old jobs why they stay. ``there`` are the ulids of all.
    """

    free_bytes: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    there: frozenset[str] = frozenset()
    jobs: Mapping[str, Old] = field(default_factory=dict)
    shared: Sequence[Old] = ()
    kept: Mapping[str, str] = field(default_factory=dict)


def look(target: Target, age: timedelta) -> Inventory:
    """Look once, and ask the scheduler of old jobs that have not written down their end.

    Raises:
        TransportError: the target cannot be reached.

    """
    if target.on_cluster:
        return _look_at_cluster(target, age)
    minutes = max(0, int(age.total_seconds()) // 60)
    script = _LOOK.substitute(
        root=shlex.quote(target.site.root), kinds=" ".join(KINDS), minutes=minutes, used=_USED.format("oH")
    )
    done = target.transport.run(script)
    if done.returncode != 0:
        said = done.stderr_text
        raise TransportError(f"{target.site.root} at {target.transport.address} cannot be read: {said}")
    lines = [line.partition(" ") for line in done.stdout.decode(errors="replace").splitlines()]
    told: dict[str, list[str]] = {kind: [] for kind in ("free", "total", "used", "there", "job", "shared")}
    for kind, _, rest in lines:
        if kind in told:  # start-up files may talk, too
            told[kind].append(rest)
    ended, kept = _ended(target, told["job"])
    staying = (line for line in told["used"] if line.split("/")[1] not in ended)
    needed = {match for line in staying for match in _HASH.findall(line.partition(":")[2])}
    shared = [Old(path, int(size) << 10) for size, _, path in (line.partition(" ") for line in told["shared"])]
    return Inventory(
        free_bytes=int(told["free"][0]) << 10 if told["free"] else None,
        sizes={name: int(size) << 10 for name, _, size in (line.partition(" ") for line in told["total"])},
        there=frozenset(told["there"]),
        jobs=ended,
        shared=[old for old in shared if not needed & set(_HASH.findall(old.path))],
        kept=kept,
    )


def remove(target: Target, paths: Iterable[str]) -> frozenset[str]:
    """Remove what `look` has found, and give what could be: the rest is needed again, or is not ours."""
    if target.on_cluster:
        return _remove_from_cluster(target, paths)
    ordered = sorted(paths, key=lambda path: not path.startswith("jobs/"))
    script = _REMOVE.substitute(root=shlex.quote(target.site.root), used=_USED.format("oh"))
    done = target.transport.run(script, stdin="".join(f"{path}\n" for path in ordered).encode())
    lines = done.stdout.decode(errors="replace").splitlines()
    return frozenset(line.removeprefix("removed ") for line in lines if line.startswith("removed "))


def _look_at_cluster(target: Target, age: timedelta) -> Inventory:
    from clustrix.kubernetes import leftovers

    before = time.time() - age.total_seconds()
    found = leftovers.look(target.namespace, before)
    jobs = {ulid: Old(f"{leftovers.JOBS}/{ulid}", size) for ulid, size in found.jobs.items()}
    shared = [Old(f"{leftovers.BUNDLES}/{name}", size) for name, size in found.bundles.items()]
    artifacts = _artifacts_of(target)
    for ulid, held in artifacts.find(target.namespace.mark, before).items() if artifacts else ():
        if ulid in jobs:
            jobs[ulid] = Old(jobs[ulid].path, jobs[ulid].size_bytes + sum(held.values()))
        elif ulid not in found.there:
            shared += [Old(f"{_ARTIFACTS}/{tag}", size) for tag, size in held.items()]
    return Inventory(there=found.there, jobs=jobs, shared=shared, kept=found.kept)


def _remove_from_cluster(target: Target, paths: Iterable[str]) -> frozenset[str]:
    from clustrix.kubernetes import leftovers
    from clustrix.kubernetes.artifacts import prefix

    names: dict[str, list[str]] = {leftovers.JOBS: [], leftovers.BUNDLES: [], _ARTIFACTS: []}
    for path in paths:
        kind, _, name = path.partition("/")
        names[kind].append(name)
    deleted: list[str] = []
    artifacts = _artifacts_of(target)
    if artifacts:
        deleted = artifacts.delete(names[_ARTIFACTS])
        artifacts.delete(tag for ulid in names[leftovers.JOBS] for tag in artifacts.tags(prefix(ulid)))
    gone = leftovers.remove(target.namespace, names[leftovers.JOBS], names[leftovers.BUNDLES])
    return frozenset(f"{kind}/{name}" for kind, name in (*gone, *((_ARTIFACTS, tag) for tag in deleted)))


def _artifacts_of(target: Target) -> Artifacts | None:
    """Give what looks after the registry of a cluster's jobs, if they have one."""
    from clustrix.kubernetes.artifacts import Artifacts
    from clustrix.oci.client import Client

    place = target.place
    if place.registry is None:
        return None
    return Artifacts(Client(insecure=[place.registry.partition("/")[0]] if place.insecure else ()), place.registry)


def _ended(target: Target, lines: Sequence[str]) -> tuple[dict[str, Old], dict[str, str]]:
    """Tell which old jobs have ended, and why the others stay."""
    found: dict[str, Old] = {}
    kept: dict[str, str] = {}
    unsure: list[tuple[JobRecord, Old]] = []
    for line in lines:
        size, ends, ulid, text = line.split(" ", 3)
        old = Old(f"jobs/{ulid}", int(size) << 10)
        try:
            record = records.load(text.encode())
        except StoreError:
            kept[ulid] = "its record cannot be read"
            continue
        if int(ends) >= record.workers:
            found[ulid] = old
        else:
            unsure.append((record, old))
    try:
        said = target.backend.status([record for record, _ in unsure]) if unsure else {}
    except BackendError as error:
        return found, kept | {record.id.ulid: error.message for record, _ in unsure}
    for record, old in unsure:
        if all(status.state.ended for status in said.get(record.id, {}).values()):
            found[record.id.ulid] = old
        else:
            kept[record.id.ulid] = "it has not ended"
    return found, kept
