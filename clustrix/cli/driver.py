"""The process that `clustrix run` starts: the script, in the environment of its lock, with clustrix beside it.

clustrix and what it needs come last on sys.path, so that every package of the lock is the one the script gets.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import sys
import tempfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import clustrix
from clustrix.capture.packages import OURS
from clustrix.errors import ClustrixError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

_START = "import sys; sys.path.append(sys.argv.pop(1)); from clustrix.cli.driver import main; main()"


def argv(interpreter: str, beside: Path, options: Mapping[str, str], script: Path, arguments: list[str]) -> list[str]:
    """Give the command that runs a script; ``options`` are settings for its calls."""
    return [interpreter, "-I", "-c", _START, str(beside), json.dumps(dict(options)), str(script), *arguments]


def main() -> None:
    """Run the script of the command line that `argv` made; what it does not catch is told as the command line does."""
    options, script, *arguments = sys.argv[1:]
    from clustrix.cli import INTERRUPTED, output
    from clustrix.cli.progress import shown
    from clustrix.config import configure

    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent.absolute()))
    try:
        configure(**json.loads(options))
        with shown():
            runpy.run_path(script, run_name="__main__")
    except KeyboardInterrupt:
        output.note("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - whatever a script raises
        if isinstance(error, BrokenPipeError) and output.unread():
            sys.exit(0)
        trace = _of_script(error, script)
        if isinstance(error, ClustrixError) and not os.environ.get("CLUSTRIX_DEBUG"):
            sys.exit(output.complain(error, f"{script}:{trace.tb_lineno}" if trace else ""))
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


def _of_script(error: BaseException, script: str) -> TracebackType | None:
    """Leave out of a traceback what is of us; None where the script did not come to run.

    Of what a job raised that is all that lies behind the call: its own traceback is the cause. An error of ours is
    shown whole.
    """
    from clustrix.worker.outcome import RemoteTraceback

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    step = trace if isinstance(error.__cause__, RemoteTraceback) else None
    while step is not None:
        if step.tb_next is not None and step.tb_next.tb_frame.f_globals.get("__package__") == "clustrix":
            step.tb_next = None
        step = step.tb_next
    return trace


def beside(directory: Path) -> Path:
    """Make a directory that holds clustrix and what it needs, out of what is installed here, or find it.

    Links, not copies: it is gone when this installation is.
    """
    entries = {"clustrix": Path(clustrix.__file__).parent}
    for found in _needed("clustrix"):
        for name in {file.parts[0] for file in found.files or () if file.parts[0] not in {"..", "__pycache__"}}:
            if not name.endswith(".pth"):
                entries.setdefault(name, Path(str(found.locate_file(name))))
    key = hashlib.sha256(json.dumps([sys.version, sorted((n, str(p)) for n, p in entries.items())]).encode())
    made = directory / key.hexdigest()[:32]
    if not made.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=directory, prefix="."))
        (scratch / OURS).touch()
        for name, source in entries.items():
            _link(source, scratch / name)
        try:
            scratch.rename(made)
        except OSError:  # another process made it
            shutil.rmtree(scratch)
    return made


def _link(source: Path, target: Path) -> None:
    if os.name == "posix":
        target.symlink_to(source)
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def _needed(name: str) -> Iterator[Distribution]:
    """Find the installed distributions that clustrix needs, and those of its extras that are there."""
    from packaging.requirements import Requirement

    todo, seen = [(name, frozenset({"", "docker", "kubernetes", "pip-tools", "zstd"}))], set()
    while todo:
        current, extras = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            found = distribution(current)
        except PackageNotFoundError:  # of an extra that is not installed; or clustrix runs from its source
            continue
        yield found
        for text in found.requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                todo.append((requirement.name, frozenset({"", *requirement.extras})))
