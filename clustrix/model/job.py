"""One job: what it runs, where its files are, what is known of it."""

from __future__ import annotations

import enum
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clustrix.errors import UnknownJob
from clustrix.model.resources import Mount, Resources

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from clustrix.model.image import BuiltImage

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = re.compile(f"[{_CROCKFORD}]{{26}}")


def new_ulid(now: float | None = None) -> str:
    """Make a sortable unique name of 26 characters (https://github.com/ulid/spec)."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


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


@dataclass(frozen=True, slots=True)
class SitePaths:
    """Own every path below a target's root (absolute, POSIX; the same inside and outside a container)."""

    root: str

    @property
    def bundles(self) -> str:
        """Content-addressed worker and code bundles, ``<sha256>.zip``."""
        return f"{self.root}/bundles"

    @property
    def blobs(self) -> str:
        """OCI blobs that a SIF is built from."""
        return f"{self.root}/blobs/sha256"

    @property
    def sifs(self) -> str:
        """SIF files, ``<config digest>.sif``."""
        return f"{self.root}/sifs"

    @property
    def venvs(self) -> str:
        """Environments of the venv runtime, one directory a lock digest."""
        return f"{self.root}/venvs"

    def bundle(self, digest: str) -> str:
        """Place one bundle."""
        return f"{self.bundles}/{digest.removeprefix('sha256:')}.zip"

    def job(self, ulid: str) -> JobPaths:
        """Place one job."""
        return JobPaths(f"{self.root}/jobs/{ulid}")


@dataclass(frozen=True, slots=True)
class JobPaths:
    """Own every file name of a job's directory. Nobody else spells one.

    A call is a map of one item: ``outcomes/0.json`` is written last and by rename, so where it is, the item has
    ended and ``outcomes/0.pkl`` (value or exception) is whole.
    """

    directory: str

    @property
    def record(self) -> str:
        """Hold the `JobRecord`, for whoever reattaches from another machine."""
        return f"{self.directory}/job.json"

    @property
    def task(self) -> str:
        """Hold what the worker needs to know (`clustrix.worker.payload.Task`)."""
        return f"{self.directory}/task.json"

    @property
    def payload(self) -> str:
        """Hold the function and the items."""
        return f"{self.directory}/payload"

    @property
    def key(self) -> str:
        """Hold the key that signs outcomes, mode 0600."""
        return f"{self.directory}/key"

    @property
    def script(self) -> str:
        """Hold what the scheduler runs."""
        return f"{self.directory}/script.sh"

    @property
    def native_id(self) -> str:
        """Hold the scheduler's id, written by the submission itself."""
        return f"{self.directory}/native-id"

    @property
    def claims(self) -> str:
        """Hold one directory per claimed slice: mkdir is the claim."""
        return f"{self.directory}/claims"

    @property
    def outcomes(self) -> str:
        """Hold the outcomes of all items."""
        return f"{self.directory}/outcomes"

    @property
    def ends(self) -> str:
        """Hold how each task's process ended, ``<task>.json``, written outside the container."""
        return f"{self.directory}/ends"

    @property
    def logs(self) -> str:
        """Hold the output of each task, ``<task>.out``: standard output and error together."""
        return f"{self.directory}/logs"

    def outcome(self, index: int) -> str:
        """Place the metadata of one item's outcome (result.json of FEATURES F3)."""
        return f"{self.outcomes}/{index}.json"

    def value(self, index: int) -> str:
        """Place the pickled value or exception of one item."""
        return f"{self.outcomes}/{index}.pkl"

    def claim(self, slice_index: int) -> str:
        """Place the claim on one slice of the items."""
        return f"{self.claims}/{slice_index}"

    def end(self, task: int | str) -> str:
        """Place the end of one task; scripts pass a shell variable."""
        return f"{self.ends}/{task}.json"

    def log(self, task: int | str) -> str:
        """Place the output of one task; scripts pass a shell variable."""
        return f"{self.logs}/{task}.out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Say where an environment stands at a target, and how a runtime starts it.

    ``location`` is the runtime's own: a directory, an image id, the path of a SIF. ``enforced`` tells whether
    the runtime can hold a job to its memory.
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
    the script. No tag, no secret.
    """

    id: JobId
    name: str
    items: int
    slices: tuple[tuple[int, int], ...]
    workers: int
    max_parallel: int | None = None
    resources: Resources = field(default_factory=Resources)
    argv: tuple[str, ...]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Describe one task's end: by the wrapper on the node, or by the scheduler's accounting."""

    kind: EndKind
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """Say what a scheduler says of one task; ``end`` is set once it says that the task is over."""

    state: State
    reason: str = ""
    expected_start: datetime | None = None
    node: str | None = None
    end: End | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """Hold what the journal remembers of a job, enough to find it again from another process.

    ``root`` and ``address`` say where its directory is; the key that signs its outcomes is not in here but in
    a file of its own, mode 0600.
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
    state: State = State.SUBMITTED
