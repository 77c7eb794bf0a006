"""What a worker must know to do its part of a job: ``task.json``. No secret is in it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clustrix.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
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

    job_id: str
    function_name: str
    items: int
    slices: tuple[tuple[int, int], ...]
    workers: int
    python: str
    implementation: str
    abi: str
    fingerprint: str | None = None
    distributions: Mapping[str, str] = field(default_factory=dict)
    lock_digest: str | None = None
    image_digest: str | None = None
    code: tuple[str, ...] = ()
    cores: int | None = None
    requeue: bool = False
    workdir: str | None = None


def write(task: Task) -> bytes:
    """Give the text of ``task.json``."""
    # As `asdict` does, which copies every fingerprint on the way.
    document = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    return (json.dumps(document, indent=1) + "\n").encode()


def read(text: bytes) -> Task:
    """Read ``task.json``.

    Raises:
        StoreError: it is no task, or one of another version of clustrix.

    """
    try:
        document = json.loads(text)
        document["slices"] = tuple((int(start), int(stop)) for start, stop in document["slices"])
        document["code"] = tuple(document["code"])
        return Task(**document)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"task.json cannot be read: {error}", remedy="Submit the job again.") from error
