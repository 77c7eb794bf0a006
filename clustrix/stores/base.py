"""The contract of a store: where a payload waits and where outcomes are found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clustrix.model.job import End, JobRecord


@dataclass(frozen=True, slots=True)
class RawOutcome:
    """Hold one item's outcome as it was found: not yet authenticated, not yet unpickled."""

    index: int
    metadata: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """Report that an item has an outcome (``index``), or that a task's process is over (``task``, ``end``)."""

    ulid: str
    index: int | None = None
    task: int | None = None
    end: End | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """Report new bytes of a task's output."""

    ulid: str
    task: int
    data: bytes


class Watch(Protocol):
    """Iterate over what jobs do: what ended, what they print, and None now and then, so that a caller can act."""

    def __iter__(self) -> Iterator[Ended | Output | None]:
        """Report each end once, and what had ended before first, then None."""
        ...

    def close(self) -> None:
        """End the watch, from any thread; iterating raises `ConnectionLost` then."""
        ...


class Store(Protocol):
    """Read what jobs left behind. Submission itself writes the payload (decision 18)."""

    def watch(self, jobs: Sequence[JobRecord], *, output: Mapping[str, Mapping[int, int]] = ...) -> Watch:
        """Watch jobs; ConnectionLost when it breaks, and then watch again.

        ``output`` names jobs (ulid) whose tasks' logs are reported too, always before the end of their task, and the
        bytes of each task's log that are known already.
        """
        ...

    def read(self, job: JobRecord, indices: Sequence[int]) -> Iterator[RawOutcome]:
        """Read outcomes in one round trip; those that do not exist are left out."""
        ...

    def metadata(self, job: JobRecord, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Read outcomes as `read` does, without their values: (item, text, not yet authenticated)."""
        ...

    def ends(self, job: JobRecord) -> Mapping[int, End]:
        """Read how the tasks' processes ended, as their wrapper saw it."""
        ...

    def key(self, job: JobRecord) -> bytes:
        """Read the key that signs the job's outcomes."""
        ...

    def record(self, ulid: str) -> JobRecord:
        """Read the record beside a job; `UnknownJob` if there is none."""
        ...

    def failures(self, jobs: Sequence[JobRecord]) -> Mapping[str, frozenset[int]]:
        """Tell which items have an outcome that is not a value, by ulid; for show: it is not authenticated."""
        ...

    def cancelled(self, job: JobRecord) -> bool:
        """Tell whether somebody asked to cancel the job."""
        ...

    def owners(self, job: JobRecord) -> Mapping[int, int]:
        """Tell which task has begun, or alone may begin, which item: item number -> task number."""
        ...

    def log(self, job: JobRecord, task: int, *, last_bytes: int | None = None) -> bytes:
        """Read the output of a task, all of it or its last bytes; UnknownJob if the job was removed."""
        ...

    def remove(self, job: JobRecord) -> None:
        """Delete everything of the job."""
        ...
