"""The worker as one zip file: what a job needs of clustrix, and the client's cloudpickle under its private name.

``python -I <zip> <job directory> <task number>`` runs it. Bytecode for this Python's minor version lies beside the
sources (as in the days before ``__pycache__``, which is how zipimport looks for it); other versions use the sources.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import clustrix
from clustrix.bundle import archive
from clustrix.worker.pickling import PRIVATE_NAME, source_of_cloudpickle

if TYPE_CHECKING:
    from collections.abc import Mapping

# What only a client does. The rest may be imported by user code inside a job.
_CLIENT = frozenset(
    {"artifacts", "backends", "bases", "build", "buildjob", "bundle", "capture", "cli", "engines", "inventory"}
    | {"kubernetes", "locking", "mpi", "notebook", "oci", "placement", "publish", "records", "registry", "runtimes"}
    | {"schedulers", "specification", "stores", "target", "transports", "trial"}
)
_CONTRACTS = frozenset({"stores/__init__.py", "stores/base.py"})  # which status.py and watch.py name

# Modules of users say `from clustrix import job`, inside a job too.
_REFUSAL = b"""\
from clustrix.errors import ConfigError


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_, **__):
        raise ConfigError(f"clustrix.{name} works where jobs are submitted, and this is inside of one")

    return refuse
"""

_MAIN = b"""\
import sys

if sys.version_info < (3, 10):
    sys.exit("clustrix: jobs need Python 3.10 or newer, and this is %s: %s" % (sys.version.split()[0], sys.executable))

from clustrix.worker.__main__ import main

sys.exit(main(sys.argv))
"""

_WRITTEN = {"__main__.py": _MAIN, "clustrix/catalogue.py": _REFUSAL, "clustrix/pipeline.py": _REFUSAL}

# As Python itself runs a zip file, but without `runpy`, which imports a tenth of what a worker does.
_START = """\
import sys, zipimport
del sys.argv[0]
sys.path.insert(0, sys.argv[0])
exec(zipimport.zipimporter(sys.argv[0]).get_code("__main__"))
"""

# Bytecode depends on what an interpreter did before, so a new one makes it, in fixed order. The hash of the source is
# not checked when it is loaded: both lie in one file.
_COMPILE = """\
import py_compile, sys
unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
for line in sys.stdin.read().splitlines():
    source, target, name = line.split("\\t")
    py_compile.compile(source, target, name, doraise=True, invalidation_mode=unchecked)
"""
_log = logging.getLogger(__name__)


def build(cache_dir: Path) -> archive.Bundle:
    """Make the worker bundle, or find the one made from the same files; the same bytes from the same files."""
    sources = _sources()
    directory = cache_dir / "worker"
    index = directory / f"{_key(sources)}.json"
    if index.is_file():
        known = archive.find(json.loads(index.read_bytes())["digest"], directory)
        if known is not None:
            return known
    made = archive.write(_entries(sources), directory)
    archive.save(index, json.dumps({"digest": made.digest}).encode())
    return made


def argv(interpreter: str, bundle: str) -> tuple[str, ...]:
    """Start the worker whose bundle lies at that path: ``<interpreter> -I <bundle>``, faster."""
    return (interpreter, "-I", "-c", _START, bundle)


@cache
def _sources() -> Mapping[str, Path]:
    """List the sources: name in the zip -> file here. Once a process: a walk over them is a tenth of a call."""
    root = Path(clustrix.__file__).parent
    found = {f"{PRIVATE_NAME}.py": Path(source_of_cloudpickle())}
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if relative.parts[0].removesuffix(".py") not in _CLIENT or relative.as_posix() in _CONTRACTS:
            found[f"clustrix/{relative.as_posix()}"] = path
    return found


def _key(sources: Mapping[str, Path]) -> str:
    rows = [[name, str(path), (at := path.stat()).st_mtime_ns, at.st_size] for name, path in sorted(sources.items())]
    document = [sys.version, {name: text.decode() for name, text in _WRITTEN.items()}, rows]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:32]


def _entries(sources: Mapping[str, Path]) -> list[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as scratch:
        sources = dict(sources)
        for number, (name, text) in enumerate(_WRITTEN.items()):
            sources[name] = Path(scratch, f"written-{number}.py")
            sources[name].write_bytes(text)
        bytecode = _bytecode(sources, Path(scratch))
        return [*((name, path.read_bytes()) for name, path in sources.items()), *bytecode, *_licences()]


def _bytecode(sources: Mapping[str, Path], scratch: Path) -> list[tuple[str, bytes]]:
    compiled = {f"{name}c": scratch / f"{number}.pyc" for number, name in enumerate(sorted(sources))}
    rows = [f"{path}\t{compiled[name + 'c']}\t{name}" for name, path in sorted(sources.items())]
    done = subprocess.run(
        [sys.executable, "-B", "-s", "-S", "-c", _COMPILE],
        input="\n".join(rows),
        env={"PYTHONHASHSEED": "0"},
        cwd=scratch,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        _log.warning("jobs will start more slowly: the worker could not be compiled: %s", done.stderr.strip())
        return []
    return [(name, path.read_bytes()) for name, path in compiled.items()]


def _licences() -> list[tuple[str, bytes]]:
    from importlib.metadata import PackageNotFoundError, distribution

    found = []
    for name in ("clustrix", "cloudpickle"):
        try:
            here = distribution(name)
        except PackageNotFoundError:  # run from a source tree; cloudpickle's source holds its licence, too
            continue
        text = here.read_text("licenses/LICENSE") or here.read_text("LICENSE")
        if text:
            found.append((f"licenses/{name}", text.encode()))
    return found
