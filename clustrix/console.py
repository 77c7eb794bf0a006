"""Show what the tasks of a job print, while it runs."""

from __future__ import annotations

import codecs
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from clustrix import watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.course import Course, Listener


Wait = Callable[[Callable[[], bool], "float | None"], bool]
"""Wait until something is the case or so many seconds have passed; tell whether it is."""


@contextlib.contextmanager
def showing(course: Course, stream_to: TextIO | None) -> Iterator[Wait]:
    """Give a way to wait that shows output meanwhile, if it is given a stream.

    The waiting thread writes: notebooks route what is printed by its thread.
    """
    if stream_to is None:
        watch.follow(course)
        yield course.wait
        return
    with watch.listening(course) as listener:
        text = _Text(labelled=course.record.workers > 1)

        def wait(over: Callable[[], bool], timeout: float | None) -> bool:
            deadline = None if timeout is None else time.monotonic() + timeout
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                in_time = course.wait(lambda: bool(listener.pieces) or over(), left)
                _write(stream_to, text.take(listener))
                if over() or not in_time:
                    return over()

        try:
            yield wait
        finally:
            _write(stream_to, text.take(listener) + text.rest())


def follow(course: Course, over: Callable[[], bool]) -> Iterator[str]:
    """Give output as it comes, until the end."""
    with watch.listening(course) as listener:
        text = _Text(labelled=course.record.workers > 1)
        while not over():
            course.wait(lambda: bool(listener.pieces) or over())
            if piece := text.take(listener):
                yield piece
        if course.over and not listener.had:
            # It had ended before anybody listened: nothing will be told any more.
            logs = (course.site.store.log(course.record, task) for task in range(course.record.workers))
            listener.pieces.extend(enumerate(logs))
        if piece := text.take(listener) + text.rest():
            yield piece


def _write(stream: TextIO, text: str) -> None:
    if text:
        stream.write(text)
        stream.flush()


class _Text:
    """Turn pieces of output into text; with several tasks, into whole lines that say whose they are."""

    def __init__(self, *, labelled: bool) -> None:
        self._labelled = labelled
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._lines: dict[int, str] = {}

    def take(self, listener: Listener) -> str:
        """Take what has come."""
        found = []
        while listener.pieces:
            task, data = listener.pieces.popleft()
            decoder = self._decoders.setdefault(task, codecs.getincrementaldecoder("utf-8")("replace"))
            text = decoder.decode(data)
            if not self._labelled:
                found.append(text)
                continue
            *lines, self._lines[task] = (self._lines.get(task, "") + text).split("\n")
            found += [f"[{task}] {line}\n" for line in lines]
        return "".join(found)

    def rest(self) -> str:
        """Take lines that were never ended."""
        return "".join(f"[{task}] {line}\n" for task, line in self._lines.items() if line)
