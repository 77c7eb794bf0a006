"""By what the ranks of a task find each other: what the site offers, and what the MPI of the image speaks."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from clustrix import config
from clustrix.backends.base import Launching
from clustrix.errors import ClustrixError, UnsupportedResource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clustrix.model.image import BuiltImage
    from clustrix.model.job import Placed
    from clustrix.target import Target
    from clustrix.transports.base import Completed

NONE = "none"
"""Ranks that find each other by themselves, as ``torch.distributed`` does by MASTER_ADDR."""

# Which library mpi4py finds, and no MPI_Init: that would look for the other ranks.
_LOOK = """
import json, sys
found = {}
try:
    import mpi4py
    found["mpi4py"] = mpi4py.__version__
    mpi4py.rc.initialize = False
    from mpi4py import MPI
    found["library"] = MPI.Get_library_version().splitlines()[0].strip("\\0 ")
except ModuleNotFoundError as error:
    if error.name != "mpi4py":
        found["error"] = str(error)
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
print("clustrix-mpi", json.dumps(found))
"""
# Of what was tried: Open MPI 4 and later, MPICH 4 and later as they are built by default.
_SPEAKS: Mapping[str, tuple[str, ...]] = {"Open MPI": ("pmix",), "MPICH": ("pmi2",)}


def choose(
    target: Target, placed: Placed, image: BuiltImage | None, asked: str | None, run: Callable[[str], Completed]
) -> str | None:
    """Choose the interface for an image at a target; ``asked`` is chosen if the site has it, whatever the image.

    ``run`` runs a script where the runtime starts. Both sides are asked once. None where nothing starts ranks there,
    which the dialect says when it is asked for them.

    Raises:
        UnsupportedResource: they have none in common; says what was found.

    """
    backend = target.backend
    offered = backend.interfaces() if isinstance(backend, Launching) else frozenset()
    if not offered:
        return None
    there = f"{target.name} offers {', '.join(sorted(offered))}"
    if asked is not None:
        if asked not in offered:
            raise UnsupportedResource(f"mpi={asked!r}: {there} (srun --mpi=list)", remedy="Name one of these.")
        return asked
    found = _of_image(target, placed, image, run)
    if "mpi4py" not in found:
        return NONE
    remedy = (
        "Put an MPI into the image that it offers (the packages openmpi and mpich are such), or name the interface "
    )
    remedy += 'that yours speaks: backend_options={"mpi": "pmi2"}.'
    if "library" not in found:
        raise UnsupportedResource(
            f"mpi4py {found['mpi4py']} of the image finds no MPI: {found.get('error')}", remedy=remedy
        )
    speaks = next((names for maker, names in _SPEAKS.items() if found["library"].startswith(maker)), ())
    for name in speaks:
        if name in offered:
            return name
    known = f"speaks {' or '.join(speaks)}" if speaks else "speaks nobody knows what"
    raise UnsupportedResource(f"the MPI of the image is {found['library']}, which {known}; {there}", remedy=remedy)


_looked: dict[str, Mapping[str, str]] = {}


def _of_image(
    target: Target, placed: Placed, image: BuiltImage | None, run: Callable[[str], Completed]
) -> Mapping[str, str]:
    """Look into an image once: for good where it is named by a digest, else once a process."""
    from clustrix.records import Records, key

    records = Records(config.cache_directory())
    name = key(image.config_digest) if image else f"{target.transport.address} {placed.location}"
    known = records.get("mpi", name) if image else _looked.get(name)
    if known is not None:
        return {fact: str(text) for fact, text in known.items()}
    asking = (placed.interpreter, "-I", "-c", _LOOK)
    argv = target.runtime.wrap(placed, asking, mounts=(), variables={}, gpus=0, memory_bytes=None, cores=1)
    done = run(shlex.join(argv))
    lines = done.stdout.decode(errors="replace").splitlines()
    said = [line.partition(" ")[2] for line in lines if line.startswith("clustrix-mpi ")]
    if not said:
        words = done.stderr_text
        raise ClustrixError(f"{placed.location} cannot be looked into: {words or done.returncode}")
    found: dict[str, str] = json.loads(said[-1])
    if image:
        records.put("mpi", name, found)
    _looked[name] = found
    return found
