"""Follow jobs: one stream of ends and one status query per target, whatever the number of jobs (decision 20)."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from clustrix.conclusion import conclude
from clustrix.errors import (
    AuthenticationFailed,
    BackendError,
    ClustrixError,
    ConnectionLost,
    HostKeyError,
    JobError,
    TransportError,
    UnknownJob,
)
from clustrix.stores.base import Ended, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from clustrix.backends.base import Backend
    from clustrix.model.job import End, JobId, JobRecord, TaskStatus
    from clustrix.stores.base import RawOutcome, Store, Watch

_log = logging.getLogger("clustrix")
_LONGEST_BACK_OFF = 60.0
_STATUS = (1.0, 30.0)  # seconds between two status queries: at first, and after a long time without news
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

    def follow(self, *, afresh: bool = False) -> None:
        """See to it that changes become known; ``afresh``, because output is wanted that was not before."""
        self.trouble = None  # whatever it was, it is tried again
        if not self.over:
            _follow(self, afresh=afresh)

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

    @contextlib.contextmanager
    def listening(self) -> Iterator[Listener]:
        """Collect output, from its beginning."""
        listener = Listener()
        with self.changed:
            self.listeners.append(listener)
        try:
            self.follow(afresh=True)
            yield listener
        finally:
            with self.changed:
                self.listeners.remove(listener)


class _Follower:
    """Follow the courses of one site in a thread that ends when nothing is left to follow."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.lock = threading.Lock()
        self.courses: dict[str, Course] = {}
        self.thread: threading.Thread | None = None
        self.watch: Watch | None = None
        self.stale = False
        self.failures = 0
        self.silent = False  # the scheduler has not answered when it was asked last
        self.wake = threading.Event()

    def add(self, course: Course, *, afresh: bool) -> None:
        with self.lock:
            ulid = course.record.id.ulid
            if self.courses.get(ulid) is course and not afresh:
                return
            self.courses[ulid] = course
            self.stale = True
            self.wake.set()
            if self.watch is not None:
                self.watch.close()
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name="clustrix-watch", daemon=True)
                self.thread.start()

    def _run(self) -> None:
        self.pace = _Pace()
        while courses := self._next():
            try:
                with contextlib.closing(self._events(courses)) as events:
                    for event in events:
                        if self.failures:
                            _log.warning("%s answers again", _name(courses))
                        self.failures = 0
                        self._take(event, courses)
                        if all(course.over for course in courses.values()):
                            break
            except (AuthenticationFailed, HostKeyError) as error:
                self._give_up(courses, error)
            except (TransportError, BackendError) as error:
                self._try_again(courses, error)
            except ClustrixError as error:
                self._give_up(courses, error)
            except Exception as error:  # noqa: BLE001 - raised again where somebody waits
                wrapped = ClustrixError(f"following {_name(courses)} failed: {error!r}")
                wrapped.__cause__ = error
                self._give_up(courses, wrapped)

    def _next(self) -> Mapping[str, Course]:
        """Take what is to be followed now; the thread ends when it is nothing."""
        with self.lock:
            self.courses = {ulid: course for ulid, course in self.courses.items() if not course.over}
            self.stale = False
            self.wake.clear()
            if not self.courses:
                self.thread = None
            return dict(self.courses)

    def _try_again(self, courses: Mapping[str, Course], error: ClustrixError) -> None:
        """No answer is no end: say it once, and go on asking."""
        if self.stale:
            return
        self.failures += 1
        if self.failures == 1:
            _log.warning("%s does not answer, still trying: %s", _name(courses), error)
        self.wake.wait(min(0.5 * 2**self.failures, _LONGEST_BACK_OFF))

    def _events(self, courses: Mapping[str, Course]) -> Generator[Ended | Output | None, None, None]:
        """Watch, until it breaks or somebody wants to watch more."""
        wanted: dict[str, dict[int, int]] = {}
        for ulid, course in courses.items():
            with course.changed:
                if course.listeners:
                    tasks = {task for listener in course.listeners for task in listener.had}
                    wanted[ulid] = {t: min(one.had.get(t, 0) for one in course.listeners) for t in tasks}
        self._places = {(ulid, task): at for ulid, had in wanted.items() for task, at in had.items()}
        watch = self.site.store.watch([course.record for course in courses.values()], output=wanted)
        with self.lock:
            self.watch = watch
            stale = self.stale
        try:
            if not stale:
                yield from watch
        finally:
            with self.lock:
                self.watch = None
            watch.close()

    def _take(self, event: Ended | Output | None, courses: Mapping[str, Course]) -> None:
        if isinstance(event, Output):
            self._deliver(courses[event.ulid], event)
        elif isinstance(event, Ended):
            self.pace.restart()
            course = courses[event.ulid]
            course.take(event)
            # Whoever ends with 0 has left outcomes for all that it claimed; if not, the next query tells. So a map of
            # many tasks is not a query for each of them.
            ended_badly = event.end is not None and event.end.exit_code != 0
            if ended_badly and course.caught_up and not course.over:
                self._conclude({event.ulid: course})
        else:
            self._catch_up(courses)
            if self.pace.due():
                self._conclude({ulid: course for ulid, course in courses.items() if not course.over})
                self.pace.rest()

    def _catch_up(self, courses: Mapping[str, Course]) -> None:
        """Everything that had ended is known now."""
        new = [course for course in courses.values() if not course.caught_up]
        for course in new:
            with course.changed:
                course.caught_up = True
                course.changed.notify_all()
        ended = {course.record.id.ulid: course for course in new if course.ends and not course.over}
        if ended:
            self._conclude(ended)

    def _deliver(self, course: Course, event: Output) -> None:
        place = event.ulid, event.task
        start = self._places.get(place, 0)
        self._places[place] = end = start + len(event.data)
        with course.changed:
            for listener in course.listeners:
                had = listener.had.get(event.task, 0)
                if start <= had < end:
                    listener.pieces.append((event.task, event.data[had - start :]))
                    listener.had[event.task] = end
            course.changed.notify_all()

    def _conclude(self, courses: Mapping[str, Course]) -> None:
        """Ask the scheduler once for all, and see which items will never have an outcome."""
        if not courses:
            return
        try:
            said = self.site.backend.status([course.record for course in courses.values()])
        except BackendError as error:  # outcomes come without it
            if not self.silent:
                _log.warning("the scheduler of %s does not answer, still trying: %s", _name(courses), error)
            self.silent = True
            return
        if self.silent:
            _log.warning("the scheduler of %s answers again", _name(courses))
        self.silent = False
        for course in courses.values():
            with course.changed:
                course.said = said.get(course.record.id)
                course.changed.notify_all()
            conclude(course, patience=self.site.grace)

    def _give_up(self, courses: Mapping[str, Course], error: ClustrixError) -> None:
        with self.lock:
            for ulid in courses:
                self.courses.pop(ulid, None)
        for course in courses.values():
            with course.changed:
                course.trouble = error
                course.changed.notify_all()


class _Pace:
    """Say when the next status query is due: ever later, as long as nothing happens."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._interval = _STATUS[0]
        self._next = time.monotonic() + self._interval

    def rest(self) -> None:
        """Count from now: the query may have taken longer than the interval, and other news has waited for it."""
        self._next = time.monotonic() + self._interval

    def due(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._interval = min(self._interval * 1.5, _STATUS[1])
        self._next = time.monotonic() + self._interval
        return True


def _settle(site: Site, record: JobRecord) -> None:
    try:
        site.backend.settle(record)
    except ClustrixError as error:  # what stays is removed by `clustrix gc`
        _log.debug("%s could not be settled: %s", record.id, error)


def _name(courses: Mapping[str, Course]) -> str:
    first = next(iter(courses.values())).record.id
    return str(first) if len(courses) == 1 else f"target {first.target}"


_lock = threading.Lock()
_courses: WeakValueDictionary[tuple[Site, JobId], Course] = WeakValueDictionary()
_followers: dict[Site, _Follower] = {}


def course_of(record: JobRecord, site: Site, key: bytes | None = None) -> Course:
    """Give what this process knows of a job, the same to everybody who asks."""
    with _lock:
        course = _courses.get((site, record.id))
        if course is None:
            course = _courses[site, record.id] = Course(record, site, key)
        return course


def _follow(course: Course, *, afresh: bool = False) -> None:
    with _lock:
        follower = _followers.setdefault(course.site, _Follower(course.site))
    follower.add(course, afresh=afresh)
