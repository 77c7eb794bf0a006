"""Apptainer and Singularity: a SIF is made once per image and site, and jobs run inside of it.

What a job sees of the host is what was declared: no home, no variables, no site-wide binds, a scratch of its own. The
flags are those of https://apptainer.org/docs/user/main/cli/apptainer_exec.html, which SingularityCE shares.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.errors import ImageUnavailable
from clustrix.model.job import Placed
from clustrix.oci.layout import Layout
from clustrix.oci.manifest import Descriptor, encode_index
from clustrix.oci.reference import Reference
from clustrix.runtimes.base import Need, bind
from clustrix.runtimes.sif import Sifs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.model.image import BuiltImage
    from clustrix.model.paths import SitePaths
    from clustrix.model.progress import Progress
    from clustrix.model.resources import Mount
    from clustrix.runtimes.base import Artifact
    from clustrix.runtimes.sif import Found, Run
    from clustrix.transports.base import Transport

_RUN = """
command=$1 module=$2 gpus=$3 flags=$4
shift 4
[ -z "$module" ] || module load "$module" || exit 69
case $(export -p) in *APPTAINER*|*SINGULARITY*)
  for name in $(env | sed -n 's/^\\([AS][A-Z]*_[A-Za-z0-9_]*\\)=.*/\\1/p'); do
    case $name in APPTAINER*|SINGULARITY*) unset "$name";; esac
  done
esac
case $command in *singularity*) prefix=SINGULARITYENV_;; *) prefix=APPTAINERENV_;; esac
while [ "$1" != -- ]; do export "$prefix$1"; shift; done
shift
for name in CLUSTRIX_NATIVE_ID CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES; do
  eval "value=\\${$name-}"
  [ -z "$value" ] || export "$prefix$name=$value"
done
if [ -n "${CLUSTRIX_RANKS-}" ]; then
  names=$(env | sed -n -e 's/^\\(SLURM_[A-Za-z0-9_]*\\)=.*/\\1/p' -e 's/^\\(PMI[A-Z0-9]*_[A-Za-z0-9_]*\\)=.*/\\1/p')
  for name in $names RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT MPIR_CVAR_NOLOCAL; do
    eval "value=\\${$name-}"
    export "$prefix$name=$value"
  done
fi
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


class Apptainer:
    """Run in a SIF of the target.

    ``on_nodes`` runs an sh script where jobs run, and is given where the login node may not start Apptainer.
    """

    needs = Need.SIF
    enforces_memory = False
    commands = ("apptainer", "singularity")

    def __init__(self, on_nodes: Run | None = None) -> None:
        self._on_nodes = on_nodes

    def ensure(self, artifact: Artifact, transport: Transport, site: SitePaths, *, progress: Progress) -> Placed:
        """See that the SIF stands at the target, and make it there from blobs or by digest from a registry.

        Raises:
            RuntimeUnavailable: no Apptainer there, or one that cannot start anything; says why.
            ImageUnavailable: the image is neither here nor where the target reaches it.
            DiskFull: no space, or a quota, at the target.

        """
        sifs = Sifs(transport, site, self._on_nodes)
        if artifact.sif is not None:
            return _existing(artifact.sif, sifs, progress)
        image = artifact.image
        if image is None:
            raise ImageUnavailable("the runtime apptainer needs an image, and was given a lock")
        parts = _parts(artifact)
        place = f"{site.sifs}/{image.config_digest.removeprefix('sha256:')}.sif"
        found = sifs.look(place, [part.digest.removeprefix("sha256:") for part in parts])
        if not found.has_sif:
            found = _make(artifact, sifs, found, progress)
        return _placed(found, *sifs.use(found, image.interpreter))

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
        binds = [word for mount in mounts for word in ("--mount", bind(mount, target="destination", read_only="ro"))]
        # Only a login shell is sure to know the module command.
        shell = ("bash", "-lc") if module else ("sh", "-c")
        settings = (options.get("command", "apptainer"), module, str(gpus), options.get("flags", _MODERN_FLAGS))
        names = (f"{name}={value}" for name, value in inside.items())
        return (*shell, _RUN, "apptainer", *settings, *names, "--", *binds, placed.location, *argv)


def _existing(sif: str, sifs: Sifs, progress: Progress) -> Placed:
    """Use a SIF as it is: at the target under that path, or here, from where it travels."""
    here = Path(sif).expanduser()
    address = sifs.transport.address
    place = str(here.absolute()) if address == "local" else sif
    found = sifs.look(place)
    if not found.has_sif and address != "local" and here.is_file():
        with here.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        place = f"{sifs.site.sifs}/{digest.hexdigest()}.sif"
        found = sifs.look(place)
        if not found.has_sif:
            sifs.transport.put(here, place, progress=progress)
            found = sifs.look(place)
    if not found.has_sif:
        raise ImageUnavailable(
            f"there is no {place} at {address}",
            remedy="Give a path of this machine, or an absolute path of the target that you may read.",
        )
    return _placed(found, *sifs.use(found))


def _make(artifact: Artifact, sifs: Sifs, found: Found, progress: Progress) -> Found:
    image = artifact.image
    assert image is not None  # noqa: S101 - ensure() has looked
    if _parts(artifact):
        assert artifact.layout is not None  # noqa: S101 - the parts are in it
        layout = Layout(artifact.layout)
        for blob in found.missing:
            sifs.transport.put(layout.blob_path(f"sha256:{blob}"), f"{sifs.site.blobs}/{blob}", progress=progress)
        index = encode_index([_own(image, layout)]).decode()
        return sifs.make(found, index=index, what=f"the image {image.config_digest}", progress=progress)
    if image.reference is None:
        raise ImageUnavailable(
            f"the image {image.config_digest} is neither here in full nor in a registry",
            remedy="Build it again, or push it to a registry that the target reaches.",
        )
    source = f"docker://{_by_digest(image)}"
    return sifs.make(found, source=source, what=source, progress=progress)


def _placed(found: Found, tool: Mapping[str, str], interpreter: str) -> Placed:
    options = (("command", tool["command"]), ("module", tool.get("module", "")), ("flags", _flags(tool["version"])))
    return Placed(runtime="apptainer", location=found.sif, interpreter=interpreter, options=options)


def _flags(version: str) -> str:
    """Give the flags that only later versions know: Apptainer 1.1, SingularityCE 3.10."""
    match = re.search(r"(\d+)\.(\d+)", version)
    number = (int(match[1]), int(match[2])) if match else (0, 0)
    least = (1, 1) if "apptainer" in version.lower() else (3, 10) if "ce" in version else (99, 0)
    return _MODERN_FLAGS if number >= least else ""


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
