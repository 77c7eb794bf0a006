"""What a worker must know to do its part of a job: ``task.json``. No secret is in it."""

from __future__ import annotations

from clustrix.errors import StoreError
from clustrix.model import stdlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Task:
    """Describe the work that the tasks of a job share.

    ``slices`` are half-open ranges of item numbers. With as many ``workers`` as slices each task does the slice of its
    own number; with fewer workers, tasks claim slices until none is left.

    ``python`` (the minor version, ``3.11``), ``implementation`` (``cpython``) and ``abi`` (``cp311``) are those that
    pickled the payload. ``fingerprint`` is what must be installed (None: measure and report), ``distributions`` the
    fingerprint of each by normalised name, so that a difference can be named. ``code`` are the digests of code
    bundles, which lie beside the worker's own. ``cores`` sets the threads of numeric libraries; ``requeue`` tells
    that a scheduler may start a task again, which then begins again what it had not ended; ``workdir`` is where the
    function starts.
    """

    def __init__(
        self,
        *,
        job_id: str,
        function_name: str,
        items: int,
        slices: tuple[tuple[int, int], ...],
        workers: int,
        python: str,
        implementation: str,
        abi: str,
        fingerprint: str | None = None,
        distributions: Mapping[str, str] | None = None,
        lock_digest: str | None = None,
        image_digest: str | None = None,
        code: tuple[str, ...] = (),
        cores: int | None = None,
        requeue: bool = False,
        workdir: str | None = None,
    ) -> None:
        # No dataclass: importing those would take a fifth of the time in which a worker starts.
        self.job_id = job_id
        self.function_name = function_name
        self.items = items
        self.slices = slices
        self.workers = workers
        self.python = python
        self.implementation = implementation
        self.abi = abi
        self.fingerprint = fingerprint
        self.distributions = distributions or {}
        self.lock_digest = lock_digest
        self.image_digest = image_digest
        self.code = code
        self.cores = cores
        self.requeue = requeue
        self.workdir = workdir


def write(task: Task) -> bytes:
    """Give the text of ``task.json``; ``slices`` are in it as ``[start, stop, size]`` of ranges of one size each."""
    import json

    runs: list[list[int]] = []
    for start, stop in task.slices:
        if runs and runs[-1][2] == stop - start > 0:
            runs[-1][1] = stop
        else:
            runs.append([start, stop, stop - start])
    return (json.dumps({**vars(task), "slices": runs}, indent=1) + "\n").encode()


def read(text: bytes) -> Task:
    """Read ``task.json``.

    Raises:
        StoreError: it is no task, or one of another version of clustrix.

    """
    try:
        document = stdlib.decode(text)
        document["slices"] = tuple((at, at + size) for run in document["slices"] for at, size in _each(*map(int, run)))
        document["code"] = tuple(document["code"])
        return Task(**document)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"task.json cannot be read: {error}", remedy="Submit the job again.") from error


def _each(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    return ((at, size) for at in (range(start, stop, size) if size else (start,)))
