"""Images as a SIF, made by the Apptainer or Singularity of this machine: one file, which ``image="x.sif"`` takes.

The flags are those of https://apptainer.org/docs/user/main/cli/apptainer_build.html, which SingularityCE shares.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from clustrix.errors import ConfigError, DiskFull, ImageError, ImageUnavailable, RuntimeUnavailable
from clustrix.model.machine import platform_of
from clustrix.model.progress import SILENT
from clustrix.oci.layout import VERSION, disk_full
from clustrix.oci.manifest import encode_index
from clustrix.publish.base import Published, check_file

if TYPE_CHECKING:
    from clustrix.model.image import BuiltImage
    from clustrix.model.progress import Progress
    from clustrix.oci.layout import Layout

_ZSTD = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")  # half the time; not every mksquashfs has it
_GRACE = 10  # seconds


class Sif:
    """Write ``FILE``, without root; not the same bytes each time, since a SIF holds the time it was made."""

    def __init__(self, location: str) -> None:
        self.path = Path(location).expanduser()

    def publish(self, image: BuiltImage, layout: Layout, *, progress: Progress = SILENT) -> Published:
        """Make the SIF, in the place of one that may be there.

        Raises `RuntimeUnavailable` without Apptainer, `ImageError` in its words, `ImageUnavailable` for a blob that is
        not here, `DiskFull`, and `BadReference` for no place for it.
        """
        check_file(self.path)
        command = _command(image)
        manifest = layout.describe(image.manifest_digest)
        for blob in layout.manifest(manifest.digest).blobs:
            if not layout.has(blob.digest, blob.size):
                raise ImageUnavailable(f"{layout.path} holds no blob {blob.digest}")
        bar = progress.start(f"make {self.path}", None)
        try:
            with (
                disk_full(self.path),
                TemporaryDirectory(prefix=f".{self.path.name}-", dir=self.path.parent) as work,
                TemporaryDirectory(prefix="clustrix-", dir=_unpacking()) as scratch,
            ):
                # A layout of its own, at a relative place: Apptainer reads what follows a colon as a tag.
                source = Path(work, "layout")
                source.mkdir()
                (source / "blobs").symlink_to((layout.path / "blobs").absolute())
                (source / "oci-layout").write_bytes(VERSION)
                (source / "index.json").write_bytes(encode_index([manifest]))
                self._make(command, work, scratch)
                made = Path(work, "image.sif")
                size = made.stat().st_size
                made.replace(self.path)
        finally:
            bar.close()
        return Published(reference=str(self.path), uploaded_bytes=size)

    def _make(self, command: str, work: str, scratch: str) -> None:
        for options in (_ZSTD, ()):
            argv = [command, "--silent", "build", "--disable-cache", "--force", *options, "image.sif", "oci:layout"]
            status, said = _run(argv, work, scratch)
            if status == 0:
                return
            if re.search("no space left on device|disk quota exceeded", said, re.IGNORECASE):
                raise DiskFull(
                    f"no space left to make {self.path}: {said}",
                    remedy="Free some, or name a larger place for what is unpacked meanwhile in APPTAINER_TMPDIR.",
                )
        if re.search("namespace|newuidmap|setuid|operation not permitted", said, re.IGNORECASE):
            raise RuntimeUnavailable(
                f"{command} cannot work on this machine: {said}",
                remedy="Allow user namespaces, install apptainer-suid, or write oci-archive:FILE instead.",
            )
        raise ImageError(f"{command} cannot make {self.path}: {said or f'it ended with {status} and said nothing'}")


def _command(image: BuiltImage) -> str:
    """Find the program; RuntimeUnavailable where it cannot make this image into one that runs."""
    command = shutil.which("apptainer") or shutil.which("singularity")
    if command is None:
        raise RuntimeUnavailable(
            "a SIF is made by apptainer or singularity, and neither is in the PATH",
            remedy="Install Apptainer or load its module, or write oci-archive:FILE, which `apptainer build` reads "
            "elsewhere. Jobs on a cluster need none of it: clustrix makes their SIF there.",
        )
    machine = os.uname().machine
    # Whatever it is told, Apptainer notes its own architecture in the SIF, and that of the image would refuse to run.
    if image.platform.split("/")[:2] != platform_of(machine).split("/"):
        raise RuntimeUnavailable(
            f"{command} on this machine ({machine}) makes no SIF of an image for {image.platform}",
            remedy="Write oci-archive:FILE, and run `apptainer build` on a machine of that kind.",
        )
    return command


def _unpacking() -> str | None:
    """Say where Apptainer may unpack, as it would itself; ConfigError for no directory."""
    for name in ("APPTAINER_TMPDIR", "SINGULARITY_TMPDIR"):
        place = os.environ.get(name)
        if place:
            if not Path(place).is_dir():
                raise ConfigError(f"{name} names {place!r}, which is no directory", remedy=f"Make it, or unset {name}.")
            return place
    return None


def _run(argv: list[str], work: str, scratch: str) -> tuple[int, str]:
    """Give the exit status and all that was said; an interruption ends every process of it."""
    environment = {**os.environ, "LC_ALL": "C", "APPTAINER_TMPDIR": scratch, "SINGULARITY_TMPDIR": scratch}
    with subprocess.Popen(
        argv,
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for us, and we end it
    ) as process:
        try:
            said, _ = process.communicate()
        except BaseException:
            _end(process)
            raise
    return process.returncode, "\n".join(said.strip().splitlines()[-20:])


def _end(process: subprocess.Popen[str]) -> None:
    """Let it clean up, and leave none of its processes."""
    try:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_GRACE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
