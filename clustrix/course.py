"""What this process knows of one job, and of where it runs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from clustrix.errors import ClustrixError, ConnectionLost, JobError, UnknownJob

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clustrix.backends.base import Backend
    from clustrix.model.job import End, JobId, JobRecord, TaskStatus
    from clustrix.stores.base import Ended, RawOutcome, Store

_log = logging.getLogger("clustrix")
_TAIL = 4096  # bytes of output that an error shows, at most twenty lines of them
_AHEAD = 64  # outcomes that are fetched together


@dataclass(frozen=True, slots=True)
class Site:
    """Name what drives jobs at a target and where they leave their outcomes.

    ``grace`` is for how many seconds a job may be unknown to its scheduler, and without an outcome, before it is lost:
    shared file systems show new files late.
    """

    backend: Backend
    store: Store
    grace: float = 30.0


@dataclass(slots=True)
class Listener:
    """Collect the output of a job's tasks for one reader, from where that reader began."""

    pieces: deque[tuple[int, bytes]] = field(default_factory=deque)
    had: dict[int, int] = field(default_factory=dict)


class Course:
    """Hold what this process knows of one job. Every change notifies ``changed``."""

    def __init__(self, record: JobRecord, site: Site, key: bytes | None = None) -> None:
        self.record = record
        self.site = site
        self.changed = threading.Condition()
        self.ended: set[int] = set()  # items that have an outcome
        self.lost: dict[int, JobError] = {}  # items that will have none
        self.caught_up = False  # all that had ended before we looked is known
        self.trouble: ClustrixError | None = None  # nobody can tell how it goes on
        self.ends: dict[int, End] = {}
        self.said: Mapping[int, TaskStatus] | None = None
        self.listeners: list[Listener] = []
        self.unknown_since: float | None = None
        self.seen_since: dict[int, float] = {}  # tasks whose end a wrapper wrote down
        self._key = key
        self._waiting: dict[int, list[Callable[[], None]]] = {}
        self._fetched: dict[int, RawOutcome] = {}
        self._fetching = threading.Lock()
        self._read: set[int] = set()
        self._settled = False

    @property
    def over(self) -> bool:
        """Tell whether every item has an outcome or an error."""
        return len(self.ended) + len(self.lost) >= self.record.items

    def over_at(self, index: int) -> bool:
        """Tell whether one item has an outcome or an error."""
        return index in self.ended or index in self.lost

    def when_over(self, index: int, act: Callable[[], None]) -> None:
        """Call ``act`` once the item is over, at once if it is."""
        with self.changed:
            if not self.over_at(index):
                self._waiting.setdefault(index, []).append(act)
                return
        act()

    def wait(self, over: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until ``over()``, which is asked after every change; False when the time is up.

        Raises:
            ClustrixError: nobody can tell how the job goes on (a login that is refused now, for one).

        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.changed:
            while not over():
                if self.trouble is not None:
                    raise self.trouble
                left = 60.0 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                self.changed.wait(min(left, 60.0))
        return True

    def take(self, event: Ended) -> None:
        """Take down what a store reports."""
        if event.index is not None:
            self.settle(event.index)
        if event.task is not None and event.end is not None:
            with self.changed:
                self.ends[event.task] = event.end
                self.changed.notify_all()

    def settle(self, index: int, error: JobError | None = None) -> None:
        """Take down that an item has an outcome or, with ``error``, will have none."""
        with self.changed:
            if self.over_at(index) or index >= self.record.items:
                return
            if error is None:
                self.ended.add(index)
            else:
                self.lost[index] = error
            waiting = self._waiting.pop(index, [])
            self.changed.notify_all()
        for act in waiting:
            act()

    def key(self) -> bytes:
        """Give the key that signs the outcomes."""
        if self._key is None:
            self._key = self.site.store.key(self.record)
        return self._key

    def raw(self, index: int) -> RawOutcome:
        """Fetch an outcome, and with it the next that are there: one round trip for many."""
        with self._fetching:
            if index not in self._fetched:
                ahead = sorted(other for other in self.ended if index < other and other not in self._fetched)
                for outcome in self.site.store.read(self.record, [index, *ahead[: _AHEAD - 1]]):
                    self._fetched[outcome.index] = outcome
            if index not in self._fetched:
                raise ConnectionLost(f"the outcome of item {index} of {self.record.id} could not be read")
            self._read.add(index)
            if self.over and self._read >= self.ended:
                self._settle()
            return self._fetched.pop(index)

    def _settle(self) -> None:
        """Tell the target that all has been read, and let nobody wait for that."""
        if not self._settled:
            self._settled = True
            threading.Thread(target=_settle, args=(self.site, self.record), name="clustrix-settle").start()

    def tail(self, task: int) -> str:
        """Read the last lines of a task's output; nothing if the job's directory was removed."""
        text = ""
        with contextlib.suppress(UnknownJob):
            text = self.site.store.log(self.record, task, last_bytes=_TAIL).decode(errors="replace")
        return "\n".join(text.splitlines()[-20:])


def _settle(site: Site, record: JobRecord) -> None:
    try:
        site.backend.settle(record)
    except ClustrixError as error:  # what stays is removed by `clustrix gc`
        _log.debug("%s could not be settled: %s", record.id, error)


_lock = threading.Lock()
_courses: WeakValueDictionary[tuple[Site, JobId], Course] = WeakValueDictionary()


def course_of(record: JobRecord, site: Site, key: bytes | None = None) -> Course:
    """Give what this process knows of a job, the same to everybody who asks."""
    with _lock:
        course = _courses.get((site, record.id))
        if course is None:
            course = _courses[site, record.id] = Course(record, site, key)
        return course
