"""One job: what it runs and what is known of it. Where its files are is in `clustrix.model.paths`."""

from __future__ import annotations

import enum
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clustrix.errors import UnknownJob
from clustrix.model.paths import JobPaths, SitePaths
from clustrix.model.resources import Mount, Resources

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from clustrix.model.image import BuiltImage

__all__ = [
    "End",
    "EndKind",
    "JobId",
    "JobPaths",
    "JobRecord",
    "JobSpec",
    "Placed",
    "SitePaths",
    "State",
    "TaskStatus",
    "born",
    "new_ulid",
]

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = re.compile(f"[{_CROCKFORD}]{{26}}")


def new_ulid(now: float | None = None) -> str:
    """Make a sortable unique name of 26 characters (https://github.com/ulid/spec)."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def born(ulid: str) -> float:
    """Say when a ulid was made, in seconds since the epoch."""
    number = 0
    for letter in ulid.upper():
        number = number << 5 | _CROCKFORD.index(letter)
    return (number >> 80) / 1000


@dataclass(frozen=True, slots=True, order=True)
class JobId:
    """Name a job: ``target/ulid``."""

    target: str
    ulid: str

    @classmethod
    def parse(cls, text: str) -> JobId:
        """Read ``target/ulid``; `UnknownJob` if it is none."""
        target, _, ulid = text.rpartition("/")
        if not target or not _ULID.fullmatch(ulid):
            raise UnknownJob(f"not a job id: {text!r}", remedy="Job ids look like target/01J...; see: clustrix jobs")
        return cls(target, ulid)

    def __str__(self) -> str:
        return f"{self.target}/{self.ulid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Say where an environment stands at a target, and how a runtime starts it.

    ``location`` is the runtime's own: a directory, an image id, the path of a SIF.
    """

    runtime: str
    location: str
    interpreter: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """Hold everything a backend needs to run a job, and nothing else.

    ``items`` values are computed by ``workers`` tasks, which claim ``slices`` (half-open ranges of item numbers).
    ``argv`` is the finished command of one task, runtime included; the task's number is its last argument, added by
    the script. ``mpi`` names the interface by which the ranks of a task find each other, where it is more than one
    process. No tag, no secret.
    """

    id: JobId
    name: str
    items: int
    slices: tuple[tuple[int, int], ...]
    workers: int
    max_parallel: int | None = None
    resources: Resources = field(default_factory=Resources)
    argv: tuple[str, ...]
    mpi: str | None = None
    image: BuiltImage | None = None
    lock_digest: str | None = None
    mounts: tuple[Mount, ...] = ()

    def __post_init__(self) -> None:
        covered = [number for start, stop in self.slices for number in range(start, stop)]
        if covered != list(range(self.items)):
            raise ValueError(f"slices {self.slices} do not cover {self.items} items in order")


class State(enum.Enum):
    """Say where a job stands, in the order of its life."""

    SUBMITTED = "submitted"
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """Tell whether nothing more will happen."""
        return self in {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.LOST}


class EndKind(enum.Enum):
    """Say how a task's process ended, one taxonomy over all schedulers (decision 19)."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out-of-memory"
    TIME_LIMIT = "time-limit"
    NODE_FAILURE = "node-failure"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    UNSCHEDULABLE = "unschedulable"
    IMAGE_UNAVAILABLE = "image-unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Describe one task's end: by the wrapper on the node, or by the scheduler's accounting."""

    kind: EndKind
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    node: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """Say what a scheduler says of one task; ``end`` is set once it says that the task is over."""

    state: State
    reason: str = ""
    expected_start: datetime | None = None
    node: str | None = None
    end: End | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """Say where a job stands: ``finished`` of ``items`` have ended, ``failed`` of them without a value.

    ``id`` is None of a call in place.
    """

    id: JobId | None
    state: State
    items: int
    finished: int
    failed: int
    reason: str = ""
    expected_start: datetime | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """Hold what the journal remembers of a job, enough to find it again from another process.

    ``root`` says where its directory is at the target; the key that signs its outcomes is not in here but in a file
    of its own, mode 0600. ``native_id`` is the backend's own; None until it accepted the job. ``unenforced`` names
    the settings that nothing at the target holds the job to.
    """

    id: JobId
    name: str
    function: str
    created: float  # seconds since the epoch
    items: int
    workers: int
    root: str
    target: Mapping[str, object]  # the target's settings as configured, less secrets
    native_id: str | None = None
    image: str | None = None  # config digest
    lock_digest: str | None = None
    fingerprint: str | None = None
    unenforced: tuple[str, ...] = ()
    state: State = State.SUBMITTED
