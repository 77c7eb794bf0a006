"""The builder: same recipe, same image; nothing is done twice; nothing half-made stays."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clustrix.build import bytecode
from clustrix.build.layers import Layers
from clustrix.errors import (
    BuildError,
    ConfigError,
    CredentialsInLayer,
    DiskFull,
    HashMismatch,
    UnsupportedPackage,
)
from clustrix.model import fingerprint
from clustrix.oci.layout import BlobWriter, Layout
from clustrix.oci.manifest import ImageConfig
from clustrix.worker import installed
from tests.unit.wheels import make_wheel

from .bases import DEBIAN, LIBC, make_base, probed
from .recipes import PACKAGES, SITE, Environment, leftovers, locked


def test_everything_is_where_an_installer_puts_it(environment: Environment) -> None:
    result = environment.build()
    entries = environment.entries(result)
    files = {path for path, entry in entries.items() if entry.isreg()}
    venv = "opt/clustrix/venv"
    assert {
        f"{SITE}/alpha/__init__.py",
        f"{SITE}/beta.pth",
        f"{SITE}/space/one.py",
        f"{venv}/share/beta/table.csv",
        f"{venv}/bin/alpha",
        f"{venv}/bin/beta",
        f"{venv}/pyvenv.cfg",
        "opt/clustrix/pylock.toml",
        "opt/clustrix/fingerprint",
    } <= files
    assert {path: entry.linkname for path, entry in entries.items() if entry.issym()} == {
        f"{venv}/bin/python": "/usr/bin/python3.11",
        f"{venv}/bin/python3": "python",
        f"{venv}/bin/python3.11": "python",
        f"{venv}/lib64": "lib",
    }
    executable = {path for path, entry in entries.items() if entry.isreg() and entry.mode == 0o755}
    assert executable == {f"{venv}/bin/alpha", f"{venv}/bin/beta"}
    assert {entry.mode for entry in entries.values() if entry.isreg()} == {0o644, 0o755}
    assert {(entry.uid, entry.gid, entry.uname, entry.mtime) for entry in entries.values()} == {(0, 0, "", 315532800)}
    assert environment.read(result, f"{venv}/bin/beta").startswith(b"#!/opt/clustrix/venv/bin/python\n")
    assert b"home = /usr/bin\n" in environment.read(result, f"{venv}/pyvenv.cfg")
    record = environment.read(result, f"{SITE}/alpha-1.0.dist-info/RECORD").decode()
    assert "../../../bin/alpha,sha256=" in record
    assert "alpha-1.0.dist-info/INSTALLER,sha256=" in record
    # Only the last layer knows the base.
    assert {layer.title for layer in result.layers if b"/usr/bin/python3.11" in raw(environment, layer.digest)} == {
        "environment"
    }


def raw(environment: Environment, digest: str) -> bytes:
    from clustrix.build.compression import uncompressed
    from clustrix.oci.manifest import OCI_LAYER_GZIP

    with Layout(environment.place / "layout").open_blob(digest) as blob, uncompressed(blob, OCI_LAYER_GZIP) as stream:
        return stream.read()


def test_the_configuration_and_the_manifest(environment: Environment) -> None:
    environment.base = make_base(environment.place / "base2", [DEBIAN, {"etc/x": b"x"}], env=["PATH=/usr/bin", "A=1"])
    result = environment.build(variables=(("B", "2"),), labels=(("mine", "yes"),), created=1_700_000_000)
    layout = Layout(environment.place / "layout")
    manifest = layout.manifest(result.image.manifest_digest)
    config = ImageConfig.parse(layout.read_blob(result.image.config_digest))
    assert config.descriptor.digest == result.image.config_digest == manifest.config.digest
    assert config.env == {
        "PATH": "/opt/clustrix/venv/bin:/usr/bin",
        "A": "1",
        "B": "2",
        "VIRTUAL_ENV": "/opt/clustrix/venv",
    }
    assert "Entrypoint" not in config.settings
    assert config.created == "2023-11-14T22:13:20Z"
    assert config.labels == {
        "dev.clustrix.lock": result.image.lock_digest,
        "dev.clustrix.fingerprint": result.image.fingerprint,
        "dev.clustrix.python": "3.11",
        "dev.clustrix.bytecode": "none: not wanted",
        "mine": "yes",
    }
    assert len(config.diff_ids) == len(config.history) == len(manifest.layers) == 2 + len(result.layers)
    for layer, diff_id in zip(manifest.layers[2:], config.diff_ids[2:], strict=True):
        assert "sha256:" + hashlib.sha256(raw(environment, layer.digest)).hexdigest() == diff_id
        assert layout.has(layer.digest, layer.size)


def test_the_fingerprint_is_the_one_that_is_measured_inside(environment: Environment) -> None:
    result = environment.build()
    root = environment.place / "root"
    for path, entry in environment.entries(result).items():
        if entry.isreg():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(environment.read(result, path))
    site = [str(root / SITE)]
    rows = installed.fingerprints(site).items()
    assert fingerprint.environment("cpython", "3.11", "cp311", rows) == result.image.fingerprint
    assert list(installed.altered(site)) == []
    assert len(rows) == len(PACKAGES)


def test_same_recipe_same_image_wherever_and_however(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests, layers = set(), set()
    wanted = bytecode.find(f"cp3{sys.version_info[1]}")
    assert wanted is not None
    # The image is for 3.11, so let whatever runs these tests pass for it.
    monkeypatch.setattr(bytecode, "find", lambda _abi: wanted)
    for number, workers in enumerate((1, 4)):
        environment = Environment(tmp_path / f"place {number}")
        names = list(environment.wheels)
        random.Random(number).shuffle(names)
        for name in names:
            path = environment.wheels[name]
            os.utime(path, (1_000_000_000 * number + 1,) * 2)
        environment.wheels = {name: environment.wheels[name] for name in names}
        monkeypatch.setenv("TZ", ("UTC", "Asia/Tokyo")[number])
        time.tzset()
        result = environment.build(workers=workers, bytecode=True)
        digests.add((result.image.config_digest, result.image.manifest_digest))
        layers.add(tuple(layer.diff_id for layer in result.layers))
        assert any(path.endswith(".pyc") for path in environment.entries(result))
    monkeypatch.undo()
    time.tzset()
    assert len(digests) == len(layers) == 1


def test_big_wheels_are_layers_and_small_ones_stay_in_their_bucket(environment: Environment) -> None:
    first = environment.build()
    assert first.layers[0].title == "big 1.0"
    assert first.layers[-1].title == "environment"
    environment.add("beta-two", "2.0", files={"beta_two.py": "WORDS = 2\n"})
    second = environment.build()
    made = [layer.title for layer in second.layers if not layer.reused]
    assert len(made) == 2  # its bucket and the last layer
    assert "beta-two 2.0" in made[0]
    assert second.packed_bytes < 10_000
    assert second.reused_bytes > 0
    assert {layer.digest for layer in first.layers[:-1]} - {layer.digest for layer in second.layers} == {
        layer.digest for layer in first.layers if "beta-two" in layer.title
    }


def test_nothing_is_read_or_packed_twice(environment: Environment) -> None:
    builder, recipe = environment.builder(), environment.recipe()
    assert builder.find(recipe) is None
    assert {package.name for package in builder.missing(recipe)} == set(environment.wheels)
    first = builder.build(recipe, environment.wheels)
    assert builder.find(recipe) == replace(first, layers=tuple(replace(layer, reused=True) for layer in first.layers))
    shutil.rmtree(environment.place / "wheels")
    assert builder.build(recipe, {}).packed_bytes == 0
    assert builder.missing(recipe) == ()
    other = environment.recipe(packages=recipe.lock.packages, variables=(("A", "1"),))
    assert builder.build(other, {}).packed_bytes == 0  # only the configuration is another one


def test_what_was_lost_is_made_again(environment: Environment) -> None:
    builder, recipe = environment.builder(), environment.recipe()
    first = builder.build(recipe, environment.wheels)
    builder.layout.blob_path(first.layers[0].digest).unlink()
    pieces = sorted((environment.place / "cache/pieces").iterdir())
    pieces[0].write_bytes(b"short")
    assert builder.find(recipe) is None
    assert len(builder.missing(recipe)) == 2
    assert builder.build(recipe, environment.wheels).image == first.image
    (environment.place / "cache/images").rename(environment.place / "cache/old")
    for record in (environment.place / "cache/layers").iterdir():
        record.write_text("{")
    assert builder.build(recipe, environment.wheels).image == first.image


def test_a_lock_without_sizes(environment: Environment) -> None:
    with_sizes = environment.recipe()
    packages = tuple(locked(wheel, size=False) for wheel in environment.wheels.values())
    recipe, builder = environment.recipe(packages=packages), environment.builder()
    assert len(builder.missing(recipe)) == len(packages)
    assert builder.build(recipe, environment.wheels).image == builder.build(with_sizes, environment.wheels).image
    assert builder.missing(recipe) == ()


def test_more_big_wheels_than_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustrix.build.plan.BIG_BYTES", 1)
    environment = Environment(tmp_path, {f"package{number}": {} for number in range(130)})
    environment.base = make_base(tmp_path / "tall", [DEBIAN, *({f"f{n}": b""} for n in range(20))])
    result = environment.build()
    manifest = Layout(tmp_path / "layout").manifest(result.image.manifest_digest)
    assert 21 + 80 < len(manifest.layers) <= 127
    found = {path for path in environment.entries(result) if path.endswith("/METADATA")}
    assert len(found) == 130
    environment.base = make_base(tmp_path / "taller", [DEBIAN, *({f"f{n}": b""} for n in range(112))])
    with pytest.raises(BuildError, match="113 layers"):
        environment.build()


def test_wheels_that_quarrel_over_a_file(tmp_path: Path) -> None:
    same = {f"package{number}": {"files": {"LICENSE": f"licence {number}\n"}} for number in range(20)}
    environment = Environment(tmp_path, same)
    result = environment.build()  # `entries` checks that no layer has a path twice
    assert len([path for path in environment.entries(result) if path.endswith("METADATA")]) == 20
    owner = environment.read(result, f"{SITE}/LICENSE")
    assert owner.startswith(b"licence")
    assert environment.builder().verify(environment.recipe(), environment.wheels).image == result.image


def test_where_wheels_came_from_does_not_show_in_the_image(environment: Environment) -> None:
    recipe = environment.recipe()
    elsewhere = [replace(row, file=replace(row.file, url=f"https://mirror/{row.name}")) for row in recipe.lock.packages]
    images = []
    for packages in (recipe.lock.packages, tuple(elsewhere)):
        pylock = "\n".join(f'wheels = [{{ url = "{package.file.url}" }}]' for package in packages)
        result = environment.build(packages=packages, pylock=pylock)
        images.append(result.image)
        said = environment.read(result, "opt/clustrix/pylock.toml").decode()
        assert 'path = "alpha-1.0-py3-none-any.whl"' in said
        assert "url" not in said
    assert images[0] == images[1]
    assert not [layer for layer in result.layers if str(environment.place).encode() in raw(environment, layer.digest)]


def test_verify(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    builder, recipe = environment.builder(), environment.recipe()
    result = builder.verify(recipe, environment.wheels)
    assert builder.find(recipe) is not None
    assert leftovers(environment.place) == []
    counter = iter(range(1000))
    monkeypatch.setattr("clustrix.model.wheel.INSTALLER", b"x")
    monkeypatch.setattr("clustrix.build.packing.tar.MTIME", next(counter) + 1)
    with pytest.raises(BuildError, match=r"another image: .*big 1\.0"):
        builder.verify(recipe, environment.wheels)
    assert result.image == builder.build(recipe, environment.wheels).image


def test_another_base_may_be_too_old_for_what_was_packed_before(environment: Environment) -> None:
    environment.add("alpha", tag="cp311-cp311-manylinux_2_34_x86_64")
    environment.build()
    old = {"usr/lib/x86_64-linux-gnu/libc.so.6": LIBC.replace(b"2.36", b"2.31")}
    environment.base = make_base(environment.place / "old", [DEBIAN, old])
    with pytest.raises(UnsupportedPackage, match=r"glibc 2\.31.*alpha-1\.0-cp311"):
        environment.build()


def test_an_image_of_ours_as_a_base_is_cleared_first(environment: Environment) -> None:
    first = environment.build()
    layout = Layout(environment.place / "layout")
    layout.tag("first", layout.manifest(first.image.manifest_digest).descriptor)
    environment.base = f"oci:{environment.place}/layout:first"
    del environment.wheels["alpha"]
    second = environment.build()
    assert [entry.name for entry in environment.members(second, second.layers[0].digest)] == ["opt", "opt/.wh.clustrix"]
    assert environment.entries(second)["opt/clustrix/venv/bin/python"].linkname == "/usr/bin/python3.11"
    config = ImageConfig.parse(layout.read_blob(second.image.config_digest))
    assert config.env["PATH"] == "/opt/clustrix/venv/bin:/usr/local/bin:/usr/bin:/bin"
    assert config.labels["dev.clustrix.fingerprint"] == second.image.fingerprint


# --- bytecode -------------------------------------------------------------------------------------


def test_bytecode_is_used_without_a_look_at_the_source(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = bytecode.find(f"cp3{sys.version_info[1]}")
    assert own is not None
    monkeypatch.setattr(bytecode, "find", lambda _abi: own)
    result = environment.build(bytecode=True)
    entries = environment.entries(result)
    tag = own.cache_tag
    assert f"{SITE}/alpha/__pycache__/__init__.{tag}.pyc" in entries
    assert f"{SITE}/alpha/tests/__init__.py" in entries
    assert f"{SITE}/alpha/tests/__pycache__/__init__.{tag}.pyc" not in entries  # nobody imports tests
    assert f"{SITE}/alpha/__pycache__/template.{tag}.pyc" not in entries  # it is no Python
    assert environment.read(result, f"{SITE}/space/__pycache__/one.{tag}.pyc")[4:8] == b"\x01\0\0\0"
    assert (
        f"alpha/__pycache__/__init__.{tag}.pyc,,\n"
        in environment.read(result, f"{SITE}/alpha-1.0.dist-info/RECORD").decode()
    )
    assert result.bytecode == own.version
    root = environment.place / "run"
    for name in ("space/one.py", f"space/__pycache__/one.{tag}.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(environment.read(result, f"{SITE}/{name}"))
    (root / "space/one.py").write_text("raise SystemExit('the source was read')\n")
    code = "import space.one as m; print(m.ONE, m.__cached__, (lambda: 0).__code__.co_filename, m.__spec__.origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 ")


def test_without_such_a_python_there_is_no_bytecode_and_it_says_so(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytecode, "find", lambda _abi: None)
    result = environment.build(bytecode=True)
    assert result.bytecode == "none: no cp311 Python on the machine that built the image"
    config = ImageConfig.parse(Layout(environment.place / "layout").read_blob(result.image.config_digest))
    assert config.labels["dev.clustrix.bytecode"] == result.bytecode
    assert environment.builder().find(environment.recipe(bytecode=True)) is None  # next time there may be one


# --- bad input ------------------------------------------------------------------------------------


def break_hash(environment: Environment) -> dict[str, Any]:
    recipe = environment.recipe()
    environment.wheels["alpha"].write_bytes(environment.wheels["alpha"].read_bytes() + b"x")
    return {"packages": recipe.lock.packages}


def break_zip(environment: Environment) -> dict[str, Any]:
    data = environment.wheels["alpha"].read_bytes()
    environment.wheels["alpha"].write_bytes(data.replace(b"alpha runs", b"ALPHA runs"))
    return {}


def truncate(environment: Environment) -> dict[str, Any]:
    environment.wheels["alpha"].write_bytes(environment.wheels["alpha"].read_bytes()[:200])
    return {}


def newer_glibc(environment: Environment) -> dict[str, Any]:
    environment.add("alpha", tag="cp311-cp311-manylinux_2_39_x86_64")
    return {}


def other_machine(environment: Environment) -> dict[str, Any]:
    environment.add("alpha", tag="cp311-cp311-manylinux_2_17_aarch64")
    return {}


def other_python(environment: Environment) -> dict[str, Any]:
    environment.add("alpha", tag="cp312-cp312-manylinux_2_17_x86_64")
    return {}


def other_package(environment: Environment) -> dict[str, Any]:
    environment.wheels["alpha"] = environment.wheels["alpha"].rename(environment.place / "alpha-1.0-py3-none-any.whl")
    package = locked(environment.wheels["beta-two"])
    file = replace(package.file, filename="beta_two-1.0-py3-none-any.whl")
    environment.wheels["alpha"] = environment.wheels["beta-two"]
    return {"packages": (replace(package, name="alpha", file=file),)}


def secret_in_wheel(environment: Environment) -> dict[str, Any]:
    environment.add("alpha", files={"alpha/.pypirc": "[pypi]\n"})
    return {}


def secret_in_variable(environment: Environment) -> dict[str, Any]:
    return {"variables": (("TOKEN", "ghp_" + "a1B2" * 9),)}


def secret_in_lock(environment: Environment) -> dict[str, Any]:
    return {"pylock": 'url = "https://me:hunter2@index.example/simple"\n'}


def unknown_compression(environment: Environment) -> dict[str, Any]:
    return {"compression": "bzip2"}


def absent_wheel(environment: Environment) -> dict[str, Any]:
    recipe = environment.recipe()
    del environment.wheels["alpha"]
    return {"packages": recipe.lock.packages}


@pytest.mark.parametrize(
    ("break_it", "error", "words"),
    [
        (break_hash, HashMismatch, "alpha.* is not the alpha-1.0-py3-none-any.whl that was locked"),
        (break_zip, UnsupportedPackage, "cannot be read as a wheel.*CRC"),
        (truncate, UnsupportedPackage, "cannot be read as a wheel"),
        (newer_glibc, UnsupportedPackage, "glibc 2.36.*manylinux_2_39"),
        (other_machine, UnsupportedPackage, "x86_64.*aarch64"),
        (other_python, UnsupportedPackage, "cp311.*cp312"),
        (other_package, UnsupportedPackage, "beta_two.* holds beta-two 1.0, not alpha"),
        (secret_in_wheel, CredentialsInLayer, r"alpha/\.pypirc"),
        (secret_in_variable, CredentialsInLayer, "variable TOKEN holds a GitHub token"),
        (secret_in_lock, CredentialsInLayer, "lock file holds a password"),
        (unknown_compression, ConfigError, "bzip2"),
        (absent_wheel, BuildError, "no wheel was given for alpha"),
    ],
)
def test_bad_input(environment: Environment, break_it: Any, error: type[Exception], words: str) -> None:
    more = break_it(environment)
    with pytest.raises(error, match=words):
        environment.build(**more)
    assert leftovers(environment.place) == []
    assert not (environment.place / "cache/images").exists()


def test_a_full_disk(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = environment.recipe()

    def refuse(self: BlobWriter, data: bytes) -> None:
        from clustrix.oci.layout import disk_full

        with disk_full(environment.place):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(BlobWriter, "write", refuse)
        with pytest.raises(DiskFull):
            environment.builder().build(recipe, environment.wheels)
    assert leftovers(environment.place) == []
    environment.builder().build(recipe, environment.wheels)


SCRIPT = """
import sys, pickle
from pathlib import Path
place = Path(sys.argv[1])
builder, recipe, wheels = pickle.loads((place / "job").read_bytes())
print("go", flush=True)
print(builder.build(recipe, wheels).image.config_digest)
status = Path("/proc/self/status")
if status.exists():
    # ru_maxrss would count what the process that started this one had.
    print(*(line for line in status.read_text().splitlines() if line.startswith("VmHWM")), file=sys.stderr)
"""
PEAK = re.compile(r"VmHWM:\s*(\d+) kB\n")


def start(environment: Environment, wheels: dict[str, Path], **more: Any) -> subprocess.Popen[str]:
    import pickle

    job = (environment.builder(), environment.recipe(**more), wheels)
    (environment.place / "job").write_bytes(pickle.dumps(job))
    argv = [sys.executable, "-c", SCRIPT, str(environment.place)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_leaves_nothing_half_made(environment: Environment) -> None:
    """A wheel that is a pipe keeps a build waiting in the middle of its work, for as long as it takes."""
    recipe = environment.recipe()
    pipe = environment.place / "pipe.whl"
    os.mkfifo(pipe)
    process = start(environment, {**environment.wheels, "alpha": pipe}, packages=recipe.lock.packages)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    with pipe.open("wb") as end:  # returns when the build has opened the other end
        end.write(b"x" * 1000)
        end.flush()
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert process.returncode != 0
    assert leftovers(environment.place) == []
    assert not (environment.place / "cache/images").exists()
    environment.builder().build(recipe, environment.wheels)


def test_two_builds_of_one_lock_at_once(environment: Environment) -> None:
    processes = [start(environment, environment.wheels) for _ in range(2)]
    digests = set()
    for process in processes:
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        digests.add(said.split()[-1])
    assert len(digests) == 1
    assert leftovers(environment.place) == []


def test_memory_stays_small_whatever_the_wheel(tmp_path: Path) -> None:
    environment = Environment(tmp_path, {})
    wheel = make_wheel(tmp_path, "huge", "1.0", files={})
    with zipfile.ZipFile(wheel, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("huge.bin", "w") as member:
        for _ in range(120):
            member.write(bytes(1 << 20))
    environment.wheels = {"huge": wheel}
    process = start(environment, environment.wheels)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells how much memory another process had")
    (peak,) = PEAK.findall(said)
    assert int(peak) < 110 * 1024
    member_size = json.loads((next((tmp_path / "cache/wheels").iterdir())).read_text())["size"]
    assert member_size < 20 << 20


def test_zstd(environment: Environment) -> None:
    first, second = environment.build(), environment.build(compression="zstd")
    assert first.image.config_digest == second.image.config_digest
    assert first.image.manifest_digest != second.image.manifest_digest
    manifest = Layout(environment.place / "layout").manifest(second.image.manifest_digest)
    assert manifest.layers[-1].media_type.endswith("tar+zstd")
    assert set(environment.entries(first)) == set(environment.entries(second))


def deflate(wheel: Path, *, garbage: bytes = b"") -> bytes:
    """Compress the members of a wheel, as real ones are; give the first one's stream."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)
            if garbage:
                assert archive.fp is not None
                archive.fp.write(garbage)
                archive.start_dir = archive.fp.tell()
                archive.filelist[-1].compress_size += len(garbage)
        first = archive.filelist[0]
    start = first.header_offset + 30 + len(first.filename)
    return wheel.read_bytes()[start : start + first.compress_size]


TABLE = "".join(f"{number},{number * number % 977}\n" for number in range(20_000))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_a_wheel_has_deflated_is_not_deflated_again(environment: Environment, compression: str) -> None:
    environment.wheels.clear()
    environment.add("table", files={"table.csv": TABLE, "table.py": ""})
    stored = environment.build(compression=compression)
    stream = deflate(environment.wheels["table"])
    result = environment.build(compression=compression)
    layer = result.layers[0]
    assert layer.diff_id == stored.layers[0].diff_id  # the same files, the same tar
    blob = Layout(environment.place / "layout").read_blob(layer.digest)
    assert (stream in blob) == (compression == "gzip")
    assert environment.read(result, f"{SITE}/table.csv") == TABLE.encode()
    if compression == "gzip":  # and others than isal read it
        assert "sha256:" + hashlib.sha256(gzip.decompress(blob)).hexdigest() == layer.diff_id


def test_a_stream_that_goes_on_behind_its_end_is_refused(environment: Environment) -> None:
    deflate(environment.add("table", files={"table.csv": TABLE}), garbage=b"more")
    with pytest.raises(UnsupportedPackage, match="cannot be read"):
        environment.build()


def test_a_missing_minor(tmp_path: Path) -> None:
    base = probed(make_base(tmp_path / "base"), tmp_path)
    with pytest.raises(BuildError, match=r"no Python 3\.12"):
        base.python("3.12")
    assert Layers(Layout(tmp_path / "layout"), tmp_path / "cache").workers >= 1


def test_without_isal_the_image_is_the_same(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    from clustrix.build import compression

    first = environment.build()
    for name in ("isal", "isal.isal_zlib", "isal.igzip"):
        monkeypatch.setitem(sys.modules, name, None)
    compression.codec.cache_clear()
    compression.deflate.cache_clear()
    try:
        assert compression.codec("gzip").identity.startswith("zlib-")
        second = environment.build()
        assert second.packed_bytes > 0
        assert second.image.config_digest == first.image.config_digest
    finally:
        compression.codec.cache_clear()
        compression.deflate.cache_clear()
