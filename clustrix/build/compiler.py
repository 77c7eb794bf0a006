"""Compile modules of wheels: a program for the image's minor version of Python, run by `clustrix.build.bytecode`.

Reads one JSON job a line: ``{"wheel": path, "output": path, "modules": [[member, file name once installed], ...]}``.
Writes the .pyc files of a job one after the other into its output and answers ``{"sizes": [size or null, ...]}``, or
``{"errno": number, "strerror": text}`` if that could not be done.

Bytecode depends on what the process did before: marshal marks objects by how often they are referred to, and strings
are shared through one table. So every job is done by a fork of a process that has done nothing yet; where there is no
fork, a process does one job. The .pyc files are unchecked and hash-based (PEP 552): no time, no size, and nobody looks
at the source again.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # modules beside this file are not for this program

import gc
import json
import marshal
import os
import zipfile
from importlib.util import MAGIC_NUMBER, source_hash
from types import CodeType

_UNCHECKED_HASH = (1).to_bytes(4, "little")
# Before 3.11, marshal wrote frozensets in the order of their hashes, and the hashes of these differ from run to run.
_UNORDERED = {type(None), type(...)} if sys.version_info < (3, 11) else set()


def main() -> None:
    """Answer jobs until there are no more."""
    gc.disable()
    while line := sys.stdin.buffer.readline():
        if not hasattr(os, "fork"):
            _answer(line)
            return
        child = os.fork()
        if child == 0:
            _answer(line)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit("a compilation ended with a signal or an error")


def _answer(line: bytes) -> None:
    job = json.loads(line)
    answer: dict[str, object] = {}
    try:
        with zipfile.ZipFile(job["wheel"]) as wheel, open(job["output"], "xb") as output:  # noqa: PTH123
            pycs = (_compile(wheel.read(member), name) for member, name in job["modules"])
            answer["sizes"] = [None if pyc is None else output.write(pyc) for pyc in pycs]
    except OSError as error:
        answer = {"errno": error.errno, "strerror": error.strerror}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _compile(source: bytes, name: str) -> "bytes | None":
    """Give the .pyc, None for what this Python cannot compile (templates, another version's syntax)."""
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None
    if _UNORDERED and _is_unordered(code):
        return None
    return b"".join((MAGIC_NUMBER, _UNCHECKED_HASH, source_hash(source), marshal.dumps(code)))


def _is_unordered(constant: object) -> bool:
    if isinstance(constant, CodeType):
        return any(map(_is_unordered, constant.co_consts))
    if isinstance(constant, frozenset):
        return any(type(element) in _UNORDERED for element in constant)
    return isinstance(constant, tuple) and any(map(_is_unordered, constant))


if __name__ == "__main__":
    main()
