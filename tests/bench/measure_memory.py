"""How much memory a build and push of a very big wheel needs."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import zipfile
from typing import TYPE_CHECKING

import ground as grounds
import index
from measure import Bar, Measure, Table

if TYPE_CHECKING:
    from pathlib import Path

    from ground import Ground

OURS = "clustrix build, with push"
LIMIT_MB = 300
NAME = "enormous-1.0-py3-none-any.whl"
FILES, FILE_BYTES = 4, 250_000_000
_PIECE = 1 << 20


def measure(ground: Ground, rounds: int) -> Measure:
    """Build an image of one wheel of 1 GB, push it, and ask the system for the most memory that this took."""
    wheels = grounds.CACHE / "enormous"
    write_wheel(wheels)
    site = ground.fresh("enormous-index")
    index.write_pages(wheels, site)
    peaks = []
    with index.serve(site) as url:
        for number in range(rounds):
            state = ground.fresh("state")
            environment = {**os.environ, "CLUSTRIX_STATE_DIR": str(state), "UV_DEFAULT_INDEX": url}
            environment["UV_CACHE_DIR"] = str(ground.fresh("uv-cache"))
            requirements = ground.write("requirements.txt", "enormous==1.0\n")
            reference = f"{ground.registry.host}/enormous:{number}"
            argv = [ground.scientific.parent / "clustrix", "build", "--requirements", requirements]
            argv += ["--base", ground.base, "--output", reference, "--insecure-registry", "--json"]
            peaks.append(grounds.peak_bytes(*argv, env=environment) / 1e6)
            print(f"  round {number + 1}: {peaks[-1]:.0f} MB", flush=True)
        stored = sum(path.stat().st_size for path in ground.registry.storage.rglob("data"))
        assert stored >= FILES * FILE_BYTES, f"only {stored} bytes arrived in the registry"
    return found(peaks)


def found(peaks: list[float]) -> Measure:
    """Say what was found."""
    text = (
        "A wheel of 1 GB that cannot be compressed is fetched from the index, packed and pushed. The figure is the"
        " highest resident set of any of its processes, as wait4(2) tells it."
    )
    return Measure(
        "Memory", text, [Table("peak", {OURS: peaks}, "MB")], [Bar("peak memory", max(peaks), LIMIT_MB, "MB")]
    )


def write_wheel(directory: Path, *, files: int = FILES, file_bytes: int = FILE_BYTES) -> Path:
    """Write a wheel of random bytes, unless it stands there."""
    path = directory / NAME
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    source = random.Random(1)
    record = []
    temporary = directory / ".enormous"
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        for number in range(files):
            name, digest, left = f"enormous/{number}.bin", hashlib.sha256(), file_bytes
            with wheel.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                while left:
                    piece = source.randbytes(min(_PIECE, left))
                    digest.update(piece)
                    member.write(piece)
                    left -= len(piece)
            record.append(f"{name},sha256={_encoded(digest.digest())},{file_bytes}")
        texts = {
            "enormous/__init__.py": "",
            "enormous-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: enormous\nVersion: 1.0\n",
            "enormous-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        for name, text in texts.items():
            wheel.writestr(zipfile.ZipInfo(name), text)
            record.append(f"{name},sha256={_encoded(hashlib.sha256(text.encode()).digest())},{len(text)}")
        own = "enormous-1.0.dist-info/RECORD"
        wheel.writestr(zipfile.ZipInfo(own), "\n".join([*record, f"{own},,", ""]))
    return temporary.replace(path)


def _encoded(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
