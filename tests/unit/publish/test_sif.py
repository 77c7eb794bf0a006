"""A SIF by way of a command that is not there: what it is asked, and what becomes of what it says."""

import dataclasses
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from clustrix import cli
from clustrix.errors import BadReference, ConfigError, DiskFull, ImageError, ImageUnavailable, RuntimeUnavailable
from clustrix.model.image import BuiltImage
from clustrix.oci.layout import Layout
from clustrix.publish import destination, registry_of, sif

HERE = "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
SYSTEM = "/usr/bin:/bin"
MAKES = 'printf made >"$image"'
# Nothing but what a shell has built in: there is no other program in its PATH.
COMMAND = """#!/bin/sh
printf '%s\\n' "$@" -- >>{notes}/argv
printf '%s\\n' "$APPTAINER_TMPDIR" "$SINGULARITY_TMPDIR" "$PWD" >{notes}/places
for image; do [ "$image" != image.sif ] || break; done
printf unpacked >"$APPTAINER_TMPDIR/rootfs"
{does}
"""


@dataclasses.dataclass
class Machine:
    """Has one command in its PATH or none, an image, and a place for the SIF."""

    place: Path
    layout: Layout
    image: BuiltImage

    def __post_init__(self):
        self.bin, self.notes, self.scratch = (self.place / name for name in ("bin", "notes", "scratch"))
        self.target = self.place / "a: place" / "fit.sif"
        for directory in (self.bin, self.notes, self.scratch, self.target.parent):
            directory.mkdir()

    def install(self, does=MAKES, name="apptainer"):
        program = self.bin / name
        program.write_text(COMMAND.format(notes=self.notes, does=does))
        program.chmod(0o755)

    def publish(self, text=None, **changes):
        image = dataclasses.replace(self.image, **changes)
        return destination(text or str(self.target)).publish(image, self.layout)

    def said(self, name):
        return (self.notes / name).read_text()

    def left_behind(self):
        return sorted({*self.target.parent.iterdir(), *self.scratch.iterdir()} - {self.target})


@pytest.fixture
def machine(tmp_path, monkeypatch, layout, build):
    machine = Machine(tmp_path, layout, dataclasses.replace(build(b"base", b"wheels"), platform=HERE))
    monkeypatch.setenv("PATH", str(machine.bin))
    monkeypatch.setenv("APPTAINER_TMPDIR", str(machine.scratch))
    return machine


@pytest.mark.parametrize("name", ["apptainer", "singularity"])
def test_it_is_made_aside_from_a_layout_of_this_image(machine, name):
    copy = f"{shutil.which('cp', path=SYSTEM)} -rL layout {machine.notes}/layout"  # looked at while it is there
    machine.install(f"{MAKES}; {copy}", name)
    machine.target.write_text("older")
    published = machine.publish(f"sif:{machine.target}")
    assert (published.reference, published.uploaded_bytes, published.unchanged) == (str(machine.target), 4, False)
    assert (machine.target.read_text(), machine.left_behind()) == ("made", [])
    zstd = ["--mksquashfs-args", "-comp zstd -Xcompression-level 1"]
    argv = ["--silent", "build", "--disable-cache", "--force", *zstd, "image.sif", "oci:layout", "--"]
    assert machine.said("argv").splitlines() == argv
    unpacked, same, work = map(Path, machine.said("places").splitlines())
    assert unpacked == same
    assert unpacked.parent == machine.scratch
    assert work.parent == machine.target.parent  # the same file system, for the rename
    read = Layout(machine.notes / "layout")
    assert read.resolve().digest == machine.image.manifest_digest
    assert all(read.has(blob.digest) for blob in read.manifest(machine.image.manifest_digest).blobs)


def test_without_zstd_it_is_made_all_the_same(machine):
    machine.install(f'case "$*" in *zstd*) echo Compressor \\"zstd\\" is not supported; exit 1;; esac; {MAKES}')
    machine.publish()
    first, second, rest = machine.said("argv").split("--\n")
    assert ("zstd" in first, "zstd" in second, rest) == (True, False, "")
    assert (machine.target.read_text(), machine.left_behind()) == ("made", [])


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("FATAL: while creating squashfs: write /x: no space left on device", DiskFull),
        ("FATAL: copying: Disk quota exceeded", DiskFull),
        ("ERROR: Failed to create user namespace: not allowed", RuntimeUnavailable),
        ("FATAL: conveyor failed to get: unexpected EOF", ImageError),
        ("", ImageError),
    ],
)
def test_what_it_says_is_told_and_the_old_one_stays(machine, said, kind):
    machine.install(f'printf half >"$image"; echo "{said}" >&2; exit 255')
    machine.target.write_text("older")
    with pytest.raises(kind) as caught:
        machine.publish()
    assert type(caught.value) is kind
    assert (said or "ended with 255") in str(caught.value)
    assert (machine.target.read_text(), machine.left_behind()) == ("older", [])


def test_what_is_missing_is_told_before_anything_is_made(machine, monkeypatch):
    with pytest.raises(RuntimeUnavailable, match="neither is in the PATH") as caught:
        machine.publish()
    assert "oci-archive:FILE" in caught.value.remedy
    machine.install()
    with pytest.raises(RuntimeUnavailable, match="no SIF of an image for linux/s390x"):
        machine.publish(platform="linux/s390x")
    for place in (machine.target.parent, machine.target.parent / "absent" / "x.sif"):
        with pytest.raises(BadReference, match="directory"):
            machine.publish(f"sif:{place}")
    monkeypatch.setenv("APPTAINER_TMPDIR", "/nowhere/at/all")
    with pytest.raises(ConfigError, match="APPTAINER_TMPDIR names '/nowhere/at/all'"):
        machine.publish()
    gone = machine.layout.manifest(machine.image.manifest_digest).layers[1].digest
    machine.layout.blob_path(gone).unlink()
    with pytest.raises(ImageUnavailable, match=gone):
        machine.publish()
    assert not (machine.notes / "argv").exists()
    assert (machine.target.exists(), machine.left_behind()) == (False, [])


def test_ctrl_c_ends_every_process_and_leaves_nothing(machine, monkeypatch):
    monkeypatch.setattr(sif, "_GRACE", 0.1)
    begun = threading.Event()

    class Waited(subprocess.Popen):
        def communicate(self, *arguments, **options):
            begun.set()  # before it, an interrupt would find nobody who knows of the process
            return super().communicate(*arguments, **options)

    monkeypatch.setattr(sif.subprocess, "Popen", Waited)
    sleep, ready = shutil.which("sleep", path=SYSTEM), machine.notes / "ready"
    machine.install(f"{MAKES}; trap '' TERM; {sleep} 1000 & echo $$ $! >{machine.notes}/pids; : >{ready}; wait")

    heard = threading.Event()

    def on_interrupt(number, frame):
        if not heard.is_set():
            heard.set()
            raise KeyboardInterrupt

    def press():
        while not ready.exists():
            time.sleep(0.01)
        begun.wait()
        while not heard.is_set():  # Python does not hear a signal that comes just before it begins to wait
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            heard.wait(0.1)

    previous = signal.signal(signal.SIGINT, on_interrupt)
    finger = threading.Thread(target=press, daemon=True)
    try:
        finger.start()
        with pytest.raises(KeyboardInterrupt):
            machine.publish()
    finally:
        signal.signal(signal.SIGINT, previous)
    finger.join()
    deadline = time.monotonic() + 30
    while any(map(runs, machine.said("pids").split())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (machine.target.exists(), machine.left_behind()) == (False, [])


def runs(pid):
    """Tell whether a process runs; one that nobody has asked about after its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_sif_has_no_tag_and_no_registry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["build", "--output", "fit.sif", "--tag", "1"])
    assert done.exit_code == 2
    assert "a SIF has no tag" in done.output
    assert [registry_of(text) for text in ("a/fit.sif", "sif:a.io/fit", "a.io/fit.sif:1")] == [None, None, "a.io"]
