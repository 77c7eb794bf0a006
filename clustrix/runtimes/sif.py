"""The SIFs of a site: whether one is there, and how it is made there once, whoever asks for it at the same time.

Apptainer is asked on the host itself or, where login nodes forbid or lack it, in a job; files are looked at on the
host in any case, which shares them with the compute nodes.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clustrix.errors import ConnectionLost, DiskFull, ImageUnavailable, JobError, RuntimeUnavailable
from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.errors import ClustrixError
    from clustrix.model.paths import SitePaths
    from clustrix.model.progress import Progress
    from clustrix.transports.base import Transport

Run = Callable[[str], Completed]
"""Run an sh script to its end; ConnectionLost, or JobError where it is a job."""

_ATTEMPTS = 4

# Which command there is, whether it can work, what it is told to start.
_TOOL = """
LC_ALL=C; export LC_ALL
command=$(command -v apptainer || command -v singularity)
module=
if [ -z "$command" ]; then
  for module in apptainer singularity singularityce singularity-ce; do
    command=$(bash -lc "module load $module >/dev/null 2>&1; command -v apptainer || command -v singularity" \\
      </dev/null 2>/dev/null | tail -n 1)
    case $command in /*) break;; *) command=;; esac
  done
fi
[ -n "$command" ] || { echo 'command '; exit 0; }
version=$("$command" --version 2>&1 </dev/null) || { echo "command $command"; echo "refused "$version; exit 0; }
printf 'command %s\\nmodule %s\\nversion %s\\n' "$command" "$module" "$version"
echo "setuid $("$command" buildcfg 2>/dev/null | sed -n 's/^[A-Z]*_SUID_INSTALL=//p')"
echo "limit $(cat /proc/sys/user/max_user_namespaces 2>/dev/null)"
echo "namespaces $(unshare -Ur true 2>&1 && echo yes)"
"""

# What is there of a SIF, and of what jobs have found out.
_FILES = """
for note in "$tool" "$python"; do
  [ ! -f "$note" ] || { cat "$note"; touch -c "$note"; }
done
if [ -f "$sif" ]; then
  touch -c "$sif" 2>/dev/null
  echo "sif $(stat -Lc '%i-%s' "$sif")"
  exit 0
fi
for blob in $blobs; do [ -e "$blob_directory/$blob" ] || echo "missing $blob"; done
"""

# The lock saves work, the rename makes it right: whoever loses the lock to a thief only works in vain.
_MAKE = """
umask 077
trap : HUP PIPE
directory=${sif%/*}; lock=$sif.lock; tries=0
mkdir -p "$directory" || exit 1
until mkdir "$lock" 2>/dev/null; do
  if [ -f "$sif" ]; then exit 0; fi
  if [ -d "$lock" ]; then
    tries=0
    [ -z "$(find "$lock" -maxdepth 0 -mmin +1)" ] || rmdir "$lock" 2>/dev/null
  else
    tries=$((tries + 1))
    [ $tries -lt 20 ] || { mkdir "$lock"; exit 1; }
  fi
  sleep 0.5
done
(while kill -0 $$ && touch -c "$lock"; do sleep 5; done) >/dev/null 2>&1 </dev/null &
beat=$!
scratch=$(mktemp -d "${TMPDIR:-/tmp}/clustrix-XXXXXXXX") && work=$(mktemp -d "$directory/.making-XXXXXXXX")
made=$?
child=
trap 'kill $beat; rm -rf "$work" "$scratch"; [ -z "$lock" ] || rmdir "$lock"' EXIT
# A job that is cancelled: who waits for the lock need not wait for what is left to clean up.
trap 'rmdir "$lock"; lock=; kill $child 2>/dev/null; wait $child; exit 143' TERM
[ $made = 0 ] || exit 1
if [ -f "$sif" ]; then exit 0; fi
find "$directory" -maxdepth 1 -name '.making-*' -mmin +600 -exec rm -rf {} + 2>/dev/null
if [ -n "$index" ]; then
  source=oci:$work/layout
  mkdir "$work/layout" && ln -s "${blob_directory%/*}" "$work/layout/blobs" &&
    echo '{"imageLayoutVersion": "1.0.0"}' >"$work/layout/oci-layout" &&
    printf '%s' "$index" >"$work/layout/index.json" || exit 1
fi
APPTAINER_TMPDIR=$scratch SINGULARITY_TMPDIR=$scratch
export APPTAINER_TMPDIR SINGULARITY_TMPDIR
# In the background: a shell that waits for what it has started in the foreground hears no signal (POSIX).
run() {
  "$command" --silent "$@" >"$work/said" 2>&1 </dev/null &
  child=$!
  while :; do
    wait $child
    code=$?
    kill -0 $child 2>/dev/null || return $code
  done
}
make() {
  rm -f "$work/image.sif"
  run build --disable-cache "$@" "$work/image.sif" "$source" &&
    run exec --contain "$work/image.sif" sh -c :
}
# zstd packs in half the time; old kernels and tools do not have it.
make --mksquashfs-args '-comp zstd -Xcompression-level 1' || make || { tail -n 20 "$work/said" >&2; exit 1; }
sum=sha256sum; ! command -v openssl >/dev/null || sum='openssl dgst -sha256 -r'
digest=$($sum <"$work/image.sif") && echo "sha256:${digest%% *}" >"$work/sum" &&
  mv -f "$work/sum" "$sif.digest" && mv -f "$work/image.sif" "$sif" || exit 1
"""

_PYTHON = """
found=$("$command" --silent exec --cleanenv --contain "$sif" \\
  sh -c 'command -v python3 || command -v python || :' </dev/null) || exit
echo "python $found"
"""
# Only a command that has started something is worth remembering.
_REMEMBER_TOOL = """
mkdir -p "${tool%/*}"
printf 'command %s\\nmodule %s\\nversion %s\\n' "$command" "$module" "$version" >"$tool.$$" &&
  mv -f "$tool.$$" "$tool" || :
"""
_REMEMBER_PYTHON = """
printf 'python %s\\nof %s\\n' "$found" "$mark" >"$python.$$" && mv -f "$python.$$" "$python" || :
"""
_FACT = re.compile(r"(command|module|version|refused|setuid|limit|namespaces|sif|python|of|missing) (.*)")


@dataclass(frozen=True, slots=True)
class Found:
    """Hold what a look at a site has found.

    ``mark`` changes when the file does, and is empty where there is none. ``tool`` has ``command``, ``module`` and
    ``version`` of Apptainer; it is empty, and ``python`` None, where no job has told it yet.
    """

    sif: str
    mark: str
    tool: Mapping[str, str]
    python: str | None
    missing: tuple[str, ...]

    @property
    def has_sif(self) -> bool:
        """Tell whether the SIF is there."""
        return bool(self.mark)


@dataclass(frozen=True, slots=True)
class Sifs:
    """Look for SIFs at a site and make them; ``on_nodes`` runs what the host itself may not, None if it may."""

    transport: Transport
    site: SitePaths
    on_nodes: Run | None = None

    def look(self, sif: str, blobs: Sequence[str] = ()) -> Found:
        """See whether a SIF is there, and which of its blobs are not; one round trip.

        Raises:
            RuntimeUnavailable: Apptainer is not there, or cannot work.

        """
        script = self._begin(sif, blobs=" ".join(blobs))
        done = self.transport.run(script + _FILES if self.on_nodes else script + _TOOL + _FILES)
        facts = dict(_facts(done))
        if not self.on_nodes:
            _refuse_unusable(facts, done, self.transport.address)
        mark = facts.get("sif", "")
        return Found(
            sif=sif,
            mark=mark,
            tool=facts if "command" in facts else {},
            python=facts.get("python") if facts.get("of") == mark else None,
            missing=tuple(value for key, value in _facts(done) if key == "missing"),
        )

    def make(self, found: Found, *, what: str, progress: Progress, index: str = "", source: str = "") -> Found:
        """Make a SIF: of the site's blobs by an OCI ``index``, or of what Apptainer knows as ``source``.

        Raises:
            RuntimeUnavailable: Apptainer cannot start it.
            ImageUnavailable: it cannot be had, or its job ended before it was made.
            DiskFull: no space, or a quota.

        """
        script = self._begin(found.sif, index=index, source=source)
        bar = progress.start(f"make {posixpath.basename(found.sif)}", None)
        try:
            if self.on_nodes:
                self._in_job(script + _TOOL + _MAKE + _REMEMBER_TOOL, what)
                return self.look(found.sif)
            self._here(script + _assign(command=found.tool["command"]) + _MAKE, what)
            return replace(found, mark="new")
        finally:
            bar.close()

    def use(self, found: Found, interpreter: str | None = None) -> tuple[Mapping[str, str], str]:
        """Give Apptainer and the Python of a SIF, looking for it inside where nobody has measured the image.

        Raises:
            RuntimeUnavailable: Apptainer cannot start it.
            ImageUnavailable: it holds no Python.

        """
        python = interpreter or found.python
        if found.tool and python:
            return found.tool, python
        script = self._begin(found.sif, mark=found.mark)
        if self.on_nodes:
            facts = self._in_job(script + _TOOL + _PYTHON + _REMEMBER_TOOL + _REMEMBER_PYTHON, found.sif)
        else:
            facts = {**found.tool, **self._here(script + _assign(command=found.tool["command"]) + _PYTHON, found.sif)}
        python = interpreter or facts.get("python")
        if not python:
            raise ImageUnavailable(f"{found.sif} holds no Python", remedy="Use an image that has python3 in its PATH.")
        return facts, python

    def _begin(self, sif: str, **values: str) -> str:
        """Name the files. What jobs find out lies beside the SIFs: it holds for every client."""
        name = hashlib.sha256(sif.encode()).hexdigest()[:32]
        tool, python = (f"{self.site.sifs}/{kind}" for kind in (".apptainer", f".python-{name}"))
        notes = {"tool": tool, "python": python} if self.on_nodes else {"tool": "", "python": ""}
        return _assign(sif=sif, blob_directory=self.site.blobs, **notes, **values)

    def _here(self, script: str, what: str) -> dict[str, str]:
        for left in reversed(range(_ATTEMPTS)):
            try:
                done = self.transport.run(f"LC_ALL=C; export LC_ALL\n{script}")
            except ConnectionLost:  # noqa: PERF203 - it goes on there, and the next attempt waits
                if not left:
                    raise
            else:
                break
        if done.returncode != 0:
            raise _failure(done.stderr_text, what, self.transport.address)
        return dict(_facts(done))

    def _in_job(self, script: str, what: str) -> dict[str, str]:
        assert self.on_nodes is not None  # noqa: S101 - who calls this has looked
        try:
            done = self.on_nodes(script)
        except JobError as error:
            raise ImageUnavailable(
                f"{self.transport.address} cannot have {what}: {error.message}"
                + (f"\n{error.log_tail.rstrip()}" if error.log_tail else ""),
                remedy=error.remedy,
            ) from error
        facts = dict(_facts(done))
        _refuse_unusable(facts, done, f"a compute node of {self.transport.address}")
        if done.returncode != 0:
            said = "\n".join(line for line in done.stderr_text.splitlines() if not _FACT.fullmatch(line))
            raise _failure(said, what, f"a compute node of {self.transport.address}")
        return facts


def _facts(done: Completed) -> Iterator[tuple[str, str]]:
    for line in done.stdout_text.splitlines():
        if match := _FACT.fullmatch(line):
            yield match[1], match[2]


def _refuse_unusable(facts: Mapping[str, str], done: Completed, where: str) -> None:
    """Refuse what has no Apptainer, or one that cannot work; RuntimeUnavailable."""
    if not facts.get("command"):
        raise RuntimeUnavailable(
            f"{where} has neither apptainer nor singularity, in its PATH or in a module of that name"
            + (f": {done.stderr_text}" if "command" not in facts else ""),
            remedy="If compute nodes have it: sif_build: job. Else ask the site for it, or use runtime: venv on a host "
            "without a scheduler.",
        )
    if "refused" in facts:
        raise RuntimeUnavailable(
            f"{facts['command']} does not start on {where}: {facts['refused']}",
            remedy="If compute nodes start it: sif_build: job.",
        )
    namespaces = facts.get("namespaces", "")
    if facts.get("setuid") != "1" and not namespaces.endswith("yes") and "not found" not in namespaces:
        raise RuntimeUnavailable(
            f"{facts['command']} at {where} is installed without setuid, and accounts may not make user "
            f"namespaces there (user.max_user_namespaces={facts.get('limit') or 'unknown'}; {namespaces.strip()})",
            remedy="If compute nodes allow them: sif_build: job. Else ask the site to allow user namespaces, or to "
            "install apptainer-suid.",
        )


def _failure(said: str, what: str, where: str) -> ClustrixError:
    """Turn what Apptainer said into an error."""
    if re.search("no space left on device|disk quota exceeded", said, re.IGNORECASE):
        return DiskFull(
            f"no space left at {where} to make the SIF of {what}: {said}",
            remedy="Free some space, or set `root` to a file system with a larger quota (not TMPDIR's).",
        )
    if re.search("namespace|newuidmap|fuse|setuid|operation not permitted", said, re.IGNORECASE):
        return RuntimeUnavailable(f"Apptainer at {where} cannot start {what}: {said}")
    return ImageUnavailable(f"{where} cannot have {what}: {said or 'nothing was said'}")


def _assign(**values: str) -> str:
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
