"""Follow jobs: one stream of ends and one status query per target, whatever the number of jobs (decision 20)."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from clustrix.conclusion import conclude
from clustrix.course import Listener
from clustrix.errors import (
    AuthenticationFailed,
    BackendError,
    ClustrixError,
    HostKeyError,
    TransportError,
)
from clustrix.stores.base import Ended, Output

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from clustrix.course import Course, Site
    from clustrix.stores.base import Watch

_log = logging.getLogger("clustrix")
_LONGEST_BACK_OFF = 60.0
_STATUS = (1.0, 30.0)  # seconds between two status queries: at first, and after a long time without news


def follow(course: Course, *, afresh: bool = False) -> None:
    """See to it that changes become known; ``afresh``, because output is wanted that was not before."""
    course.trouble = None  # whatever it was, it is tried again
    if course.over:
        return
    with _lock:
        follower = _followers.setdefault(course.site, _Follower(course.site))
    follower.add(course, afresh=afresh)


@contextlib.contextmanager
def listening(course: Course) -> Iterator[Listener]:
    """Collect output, from its beginning."""
    listener = Listener()
    with course.changed:
        course.listeners.append(listener)
    try:
        follow(course, afresh=True)
        yield listener
    finally:
        with course.changed:
            course.listeners.remove(listener)


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


def _name(courses: Mapping[str, Course]) -> str:
    first = next(iter(courses.values())).record.id
    return str(first) if len(courses) == 1 else f"target {first.target}"


_lock = threading.Lock()
_followers: dict[Site, _Follower] = {}
