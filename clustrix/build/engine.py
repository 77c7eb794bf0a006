"""A base image that Docker or Podman makes first: of a Dockerfile, or with apt packages added to another.

The engine runs what others wrote; our environment goes on top of what it made as on any base. It needs no index and no
secret for that. https://docs.docker.com/reference/cli/docker/buildx/build/, podman-build(1), docker-save(1),
https://github.com/moby/moby/blob/v28.0.0/image/spec/spec.md
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from clustrix.build.compression import codec
from clustrix.errors import BuildError, ImageError, RuntimeUnavailable
from clustrix.model.progress import SILENT
from clustrix.oci.layout import CHUNK
from clustrix.oci.manifest import OCI_CONFIG, Descriptor, ImageConfig, Manifest
from clustrix.records import key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clustrix.model.progress import Progress
    from clustrix.oci.layout import Layout
    from clustrix.records import Records

COMMANDS = ("docker", "podman")
_LINES = 20  # of an engine's output, in an error
_FORMAT = 1


def find() -> str:
    """Name the engine of this machine that answers; `RuntimeUnavailable` if none does."""
    said = []
    for command in filter(shutil.which, COMMANDS):
        done = _run(command, "info")
        if done.returncode == 0:
            return command
        said.append(f"{command}: {_last(done, 1)}")
    raise RuntimeUnavailable(
        f"apt packages and Dockerfiles need Docker or Podman here: {'; '.join(said) or 'neither is installed'}",
        remedy="Start one, or name as base= an image that has what you need.",
    )


def name_of(digest: str) -> str:
    """Name an image in an engine by its config digest."""
    return f"clustrix:{digest.partition(':')[2][:32]}"


def has(engine: str, digest: str) -> bool:
    """Tell whether the engine has an image under `name_of`."""
    return _run(engine, "image", "inspect", name_of(digest)).returncode == 0


def instructions(base: str, packages: tuple[str, ...], user: str) -> str:
    """Write the Dockerfile that adds apt packages, and leaves the image to the ``user`` that it was for."""
    install = f"DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {' '.join(packages)}"
    back = f"USER {user}\n" if user else ""
    return f"FROM {base}\nUSER root\nRUN apt-get update && {install} && rm -rf /var/lib/apt/lists/*\n{back}"


def make(engine: str, what: str, argv: tuple[str, ...], *, text: str = "", progress: Progress = SILENT) -> str:
    """Have an engine build, and give the id of the image; ``text`` is the Dockerfile where argv ends with ``-``.

    Raises `BuildError` with the engine's last lines.
    """
    bar = progress.start(what, None)
    try:
        with tempfile.TemporaryDirectory() as place:
            note = Path(place, "id")
            done = _run(engine, "build", "--force-rm", "--iidfile", str(note), *argv, text=text)
            if done.returncode == 0:
                return note.read_text().strip()
    finally:
        bar.close()
    remedy = "The lines above are the engine's own."
    if re.search("apt-get: (command )?not found", _last(done, _LINES)):
        remedy = "The base has no apt-get: name one of Debian or Ubuntu with base=."
    raise BuildError(f"{engine} could not do this: {what}\n{_last(done, _LINES)}", remedy=remedy)


def take(
    engine: str,
    identity: str,
    layout: Layout,
    *,
    records: Records,
    known: Mapping[str, Descriptor] | None = None,
    progress: Progress = SILENT,
) -> Descriptor:
    """Bring an image from the engine into a layout, and describe its manifest.

    ``known`` are layers of its base, by diff id; others are compressed once. Raises `ImageError`, `DiskFull`.
    """
    with tempfile.TemporaryFile() as file:
        done = subprocess.run([engine, "save", identity], stdout=file, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise ImageError(f"{engine} cannot save {identity}: {done.stderr.decode(errors='replace').strip()}")
        bar = progress.start("take the base from the engine", file.tell())
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                (entry,) = json.loads(_open(archive, "manifest.json").read())
                settings = _open(archive, entry["Config"]).read()
                layers = []
                for diff_id, name in zip(ImageConfig.parse(settings).diff_ids, entry["Layers"], strict=True):
                    layer = (known or {}).get(diff_id) or _squeezed_before(diff_id, layout, records)
                    if layer is None:
                        layer = _squeezed(_open(archive, name), diff_id, layout)
                        records.put("engine-layers", key(_FORMAT, diff_id), layer.to_json())
                    layers.append(layer)
                    bar.advance(archive.getmember(name).size)
        except (tarfile.TarError, KeyError, ValueError, TypeError) as error:
            raise ImageError(f"what {engine} saved as {identity} cannot be read: {error}") from error
        finally:
            bar.close()
    config = layout.put_blob(settings, media_type=OCI_CONFIG)
    manifest = Manifest(config, tuple(layers))
    return layout.put_blob(manifest.encode(), media_type=manifest.media_type)


def tag(engine: str, identity: str, digest: str) -> None:
    """Name an image of the engine as `name_of` does."""
    done = _run(engine, "tag", identity, name_of(digest))
    if done.returncode != 0:
        raise ImageError(f"{engine} cannot name {identity}: {_last(done, 1)}")


def _open(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """Open a member; a layer that stands there twice is a link to the other."""
    member = archive.getmember(name)
    if member.issym():
        member = archive.getmember(posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname)))
    file = archive.extractfile(member)
    if file is None:
        raise KeyError(name)
    return file


def _squeezed_before(diff_id: str, layout: Layout, records: Records) -> Descriptor | None:
    found = records.get("engine-layers", key(_FORMAT, diff_id))
    layer = Descriptor.from_json(found) if found else None
    return layer if layer and layout.has(layer.digest, layer.size) else None


def _squeezed(file: IO[bytes], diff_id: str, layout: Layout) -> Descriptor:
    """Compress a layer into the layout; `ImageError` if it is not what the configuration says."""
    how = codec("gzip")
    compressor, whole = how.compressor(), hashlib.sha256()
    with layout.writer() as blob:
        while data := file.read(CHUNK):
            whole.update(data)
            blob.write(compressor.compress(data))
        blob.write(compressor.flush())
        if f"sha256:{whole.hexdigest()}" != diff_id:
            raise ImageError(f"the engine saved another layer than {diff_id}")
        return Descriptor(how.media_type, blob.commit(), blob.size)


def _run(engine: str, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([engine, *argv], input=text, capture_output=True, text=True, errors="replace", check=False)


def _last(done: subprocess.CompletedProcess[str], lines: int) -> str:
    return "\n".join(f"{done.stdout}\n{done.stderr}".strip().splitlines()[-lines:])
