"""Apptainer and Singularity: a SIF is made once per image and site, on the login node, and jobs run inside of it.

What a job sees of the host is what was declared: no home, no variables, no site-wide binds, a scratch of its own. The
flags are those of https://apptainer.org/docs/user/main/cli/apptainer_exec.html, which SingularityCE shares.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import ConfigError, ConnectionLost, DiskFull, ImageUnavailable, RuntimeUnavailable
from clustrix.model.job import Placed
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import Descriptor, encode_index
from clustrix.oci.reference import Reference
from clustrix.runtimes.base import Need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.errors import ClustrixError
    from clustrix.model.image import BuiltImage
    from clustrix.model.paths import SitePaths
    from clustrix.model.progress import Progress
    from clustrix.model.resources import Mount
    from clustrix.runtimes.base import Artifact
    from clustrix.transports.base import Transport

_ATTEMPTS = 4

# One round trip: which command there is, whether it can work, what it is told to start, what is missing for that.
_LOOK = """
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
echo "command $command"
[ -z "$module" ] || echo "module $module"
echo "version $("$command" --version 2>/dev/null)"
echo "setuid $("$command" buildcfg 2>/dev/null | sed -n 's/^[A-Z]*_SUID_INSTALL=//p')"
echo "limit $(cat /proc/sys/user/max_user_namespaces 2>/dev/null)"
echo "namespaces $(unshare -Ur true 2>&1 && echo yes)"
if [ -f "$sif" ]; then touch -c "$sif" 2>/dev/null; echo 'sif yes'; exit 0; fi
for blob in $blobs; do [ -e "$blob_directory/$blob" ] || echo "missing $blob"; done
"""

# The lock saves work, the rename makes it right: whoever loses the lock to a thief only works in vain.
_MAKE = """
LC_ALL=C; export LC_ALL
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
trap 'kill $beat; rm -rf "$work" "$scratch"; rmdir "$lock"' EXIT
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
make() {
  rm -f "$work/image.sif"
  "$command" --silent build --disable-cache "$@" "$work/image.sif" "$source" >"$work/said" 2>&1 </dev/null &&
    "$command" --silent exec --contain "$work/image.sif" sh -c : >"$work/said" 2>&1 </dev/null
}
# zstd packs in half the time; old kernels and tools do not have it.
make --mksquashfs-args '-comp zstd -Xcompression-level 1' || make || { tail -n 20 "$work/said" >&2; exit 1; }
sum=sha256sum; ! command -v openssl >/dev/null || sum='openssl dgst -sha256 -r'
digest=$($sum <"$work/image.sif") && echo "sha256:${digest%% *}" >"$work/sum" &&
  mv -f "$work/sum" "$sif.digest" && mv -f "$work/image.sif" "$sif"
"""

_RUN = """
command=$1 module=$2 gpus=$3 flags=$4
shift 4
[ -z "$module" ] || module load "$module" || exit 69
for name in $(env | sed -n 's/^\\([AS][A-Z]*_[A-Za-z0-9_]*\\)=.*/\\1/p'); do
  case $name in APPTAINER*|SINGULARITY*) unset "$name";; esac
done
case $command in *singularity*) prefix=SINGULARITYENV_;; *) prefix=APPTAINERENV_;; esac
while [ "$1" != -- ]; do export "$prefix$1"; shift; done
shift
for name in CLUSTRIX_NATIVE_ID CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES; do
  eval "value=\\${$name-}"
  [ -z "$value" ] || export "$prefix$name=$value"
done
if [ "$gpus" != 0 ]; then
  if [ -e /dev/nvidiactl ]; then set -- --nv "$@"
  elif [ -e /dev/kfd ]; then set -- --rocm "$@"
  else echo "clustrix: $gpus GPUs were asked for and $(uname -n) shows none" >&2; exit 69; fi
fi
scratch=$(mktemp -d "${TMPDIR:-/tmp}/clustrix-XXXXXXXX") || exit 75
"$command" --silent exec --cleanenv --contain --pid --ipc $flags --workdir "$scratch" "$@" &
child=$!
trap 'kill -TERM $child 2>/dev/null' TERM INT HUP
for signal in USR1 USR2; do trap "kill -$signal $child 2>/dev/null" $signal; done
while :; do
  wait $child
  code=$?
  kill -0 $child 2>/dev/null || break
done
rm -rf "$scratch"
exit $code
"""
# What site administrators bind everywhere stays out, and values are not evaluated by a shell.
_MODERN_FLAGS = "--no-eval --no-mount bind-paths --bind /etc/hosts"


@dataclass(frozen=True, slots=True)
class _Site:
    """Hold what a look at a site has found."""

    sif: str
    command: str
    module: str
    version: str
    has_sif: bool
    missing: tuple[str, ...]

    @property
    def flags(self) -> str:
        """Give the flags that only later versions know: Apptainer 1.1, SingularityCE 3.10."""
        match = re.search(r"(\d+)\.(\d+)", self.version)
        number = (int(match[1]), int(match[2])) if match else (0, 0)
        least = (1, 1) if "apptainer" in self.version.lower() else (3, 10) if "ce" in self.version else (99, 0)
        return _MODERN_FLAGS if number >= least else ""


class Apptainer:
    """Run in a SIF of the target."""

    needs = Need.SIF
    enforces_memory = False
    commands = ("apptainer", "singularity")

    def ensure(self, artifact: Artifact, transport: Transport, site: SitePaths, *, progress: Progress) -> Placed:
        """See that the SIF stands at the target, and make it there from blobs or by digest from a registry.

        Raises:
            RuntimeUnavailable: no Apptainer there, or one that cannot start anything; says why.
            ImageUnavailable: the image is neither here nor where the target reaches it.
            DiskFull: no space, or a quota, at the target.

        """
        if artifact.sif is not None:
            return self._existing(artifact.sif, transport, site, progress)
        image = artifact.image
        if image is None:
            raise ImageUnavailable("the runtime apptainer needs an image, and was given a lock")
        sif = f"{site.sifs}/{image.config_digest.removeprefix('sha256:')}.sif"
        parts = _parts(artifact)
        found = _look(transport, site, sif, parts)
        if not found.has_sif:
            self._make(artifact, transport, site, found, progress)
        return _placed(found, image.interpreter or _interpreter(transport, found))

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
        """Run the command inside, with a scratch of its own as ``/tmp`` and home; ConfigError for odd mounts.

        The scheduler holds it to its memory and cores.
        """
        del memory_bytes, cores
        options = dict(placed.options)
        module = options.get("module", "")
        inside = {"TMPDIR": "/tmp", "PYTHONNOUSERSITE": "1", **variables}  # noqa: S108 - the container's own
        binds = [word for mount in mounts for word in ("--mount", _mount(mount))]
        # Only a login shell is sure to know the module command.
        shell = ("bash", "-lc") if module else ("sh", "-c")
        settings = (options.get("command", "apptainer"), module, str(gpus), options.get("flags", _MODERN_FLAGS))
        names = (f"{name}={value}" for name, value in inside.items())
        return (*shell, _RUN, "apptainer", *settings, *names, "--", *binds, placed.location, *argv)

    def _existing(self, sif: str, transport: Transport, site: SitePaths, progress: Progress) -> Placed:
        """Use a SIF as it is: at the target under that path, or here, from where it travels."""
        here = Path(sif).expanduser()
        place = str(here.absolute()) if transport.address == "local" else sif
        found = _look(transport, site, place)
        if not found.has_sif and transport.address != "local" and here.is_file():
            with here.open("rb") as file:
                digest = hashlib.sha256()
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            place = f"{site.sifs}/{digest.hexdigest()}.sif"
            found = _look(transport, site, place)
            if not found.has_sif:
                transport.put(here, place, progress=progress)
        elif not found.has_sif:
            raise ImageUnavailable(
                f"there is no {place} at {transport.address}",
                remedy="Give a path of this machine, or an absolute path of the target that you may read.",
            )
        return _placed(found, _interpreter(transport, found))

    def _make(
        self, artifact: Artifact, transport: Transport, site: SitePaths, found: _Site, progress: Progress
    ) -> None:
        image = artifact.image
        assert image is not None  # noqa: S101 - ensure() has looked
        index, source = "", ""
        if _parts(artifact):
            assert artifact.layout is not None  # noqa: S101 - the parts are in it
            layout = Layout(artifact.layout)
            for blob in found.missing:
                transport.put(layout.blob_path(f"sha256:{blob}"), f"{site.blobs}/{blob}", progress=progress)
            index = encode_index([_own(image, layout)]).decode()
        elif image.reference is not None:
            source = f"docker://{_by_digest(image)}"
        else:
            raise ImageUnavailable(
                f"the image {image.config_digest} is neither here in full nor in a registry",
                remedy="Build it again, or push it to a registry that the target reaches.",
            )
        script = _assign(sif=found.sif, blob_directory=site.blobs, command=found.command, index=index, source=source)
        bar = progress.start(f"make {posixpath.basename(found.sif)}", None)
        try:
            for left in reversed(range(_ATTEMPTS)):
                try:
                    done = transport.run(script + _MAKE)
                except ConnectionLost:  # noqa: PERF203 - it goes on there, and the next attempt waits
                    if not left:
                        raise
                else:
                    break
        finally:
            bar.close()
        if done.returncode != 0:
            raise _failure(_text(done.stderr), source or f"the image {image.config_digest}", transport)


def _look(transport: Transport, site: SitePaths, sif: str, parts: Sequence[Descriptor] = ()) -> _Site:
    """Ask what there is; RuntimeUnavailable."""
    blobs = " ".join(part.digest.removeprefix("sha256:") for part in parts)
    done = transport.run(_assign(sif=sif, blobs=blobs, blob_directory=site.blobs) + _LOOK)
    lines = [line.partition(" ") for line in _text(done.stdout).splitlines()]
    facts = {key: value for key, _, value in lines}
    if not facts.get("command"):
        raise RuntimeUnavailable(
            f"{transport.address} has neither apptainer nor singularity, in its PATH or in a module of that name"
            + (f": {_text(done.stderr)}" if "command" not in facts else ""),
            remedy="Ask the site for it, or use runtime: venv on a host without a scheduler.",
        )
    if (
        facts.get("setuid") != "1"
        and not facts["namespaces"].endswith("yes")
        and "not found" not in facts["namespaces"]
    ):
        raise RuntimeUnavailable(
            f"{facts['command']} at {transport.address} is installed without setuid, and accounts may not make user "
            f"namespaces there (user.max_user_namespaces={facts['limit'] or 'unknown'}; {facts['namespaces'].strip()})",
            remedy="Ask the site to allow user namespaces, or to install apptainer-suid.",
        )
    return _Site(
        sif=sif,
        command=facts["command"],
        module=facts.get("module", ""),
        version=facts["version"],
        has_sif="sif" in facts,
        missing=tuple(value for key, _, value in lines if key == "missing"),
    )


def _interpreter(transport: Transport, found: _Site) -> str:
    """Find the Python of an image that nobody has measured."""
    inside = "command -v python3 || command -v python"
    argv = [found.command, "--silent", "exec", "--cleanenv", "--contain", found.sif, "sh", "-c", inside]
    done = transport.run(f"{shlex.join(argv)} </dev/null")
    place = _text(done.stdout).splitlines()[-1:]
    if done.returncode != 0 or not place:
        said = _text(done.stderr)
        if said:
            raise _failure(said, found.sif, transport)
        raise ImageUnavailable(f"{found.sif} holds no Python", remedy="Use an image that has python3 in its PATH.")
    return place[0]


def _placed(found: _Site, interpreter: str) -> Placed:
    options = (("command", found.command), ("module", found.module), ("flags", found.flags))
    return Placed(runtime="apptainer", location=found.sif, interpreter=interpreter, options=options)


def _parts(artifact: Artifact) -> Sequence[Descriptor]:
    """List the blobs of an image, if all of them are here."""
    image = artifact.image
    if image is None or artifact.layout is None:
        return ()
    layout = Layout(artifact.layout)
    if not layout.has(image.manifest_digest):
        return ()
    manifest = layout.manifest(image.manifest_digest)
    parts = (_own(image, layout), manifest.config, *manifest.layers)
    return parts if all(layout.has(part.digest, part.size) for part in parts) else ()


def _own(image: BuiltImage, layout: Layout) -> Descriptor:
    size = layout.blob_path(image.manifest_digest).stat().st_size
    return Descriptor(layout.manifest(image.manifest_digest).media_type, image.manifest_digest, size)


def _by_digest(image: BuiltImage) -> str:
    return str(Reference.parse(image.reference or "").with_digest(image.manifest_digest))


def _failure(said: str, what: str, transport: Transport) -> ClustrixError:
    """Turn what Apptainer said into an error."""
    if re.search("no space left on device|disk quota exceeded", said, re.IGNORECASE):
        return DiskFull(
            f"no space left at {transport.address} to make the SIF of {what}: {said}",
            remedy="Free some space, or set `root` to a file system with a larger quota (not TMPDIR's).",
        )
    if re.search("namespace|newuidmap|fuse|setuid|operation not permitted", said, re.IGNORECASE):
        return RuntimeUnavailable(f"Apptainer at {transport.address} cannot start {what}: {said}")
    return ImageUnavailable(f"{transport.address} cannot have {what}: {said or 'nothing was said'}")


def _mount(mount: Mount) -> str:
    """Write a --mount: comma-separated values, as encoding/csv of Go reads them."""
    fields = ["type=bind", f"source={mount.source}", f"destination={mount.target}"]
    if mount.read_only:
        fields.append("ro")
    if any("\n" in field for field in fields):
        raise ConfigError(f"a directory with a line break in its name cannot be mounted: {mount.source!r}")
    return ",".join('"' + field.replace('"', '""') + '"' if set(field) & set('",') else field for field in fields)


def _assign(**values: str) -> str:
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _text(data: bytes) -> str:
    return data.decode(errors="replace").strip()
