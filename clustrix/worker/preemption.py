# ruff: noqa: PTH108, PTH110, PTH123
# pathlib would take a seventh of the time in which a worker starts.
"""Let user code save its work when its place is taken away: a hook that runs when the task is told to end.

That is SIGTERM, from whoever ends the task: a time limit that is near, a scheduler that preempts or requeues. Where
``clustrix cancel`` asked for it nothing is saved, and nobody is asked.
"""

from __future__ import annotations

import os

from clustrix.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from clustrix.model.paths import JobPaths

    Hook = Callable[[], object]
    HookT = TypeVar("HookT", bound=Hook)


def on_preempt(hook: HookT) -> HookT:
    """Call ``hook()`` when the job is told to end before it has; also as a decorator.

    It is called in the main thread, between two steps of Python, about a minute before the time limit (a tenth of the
    limit for short ones) or when the scheduler takes the place away, and the job ends when it returns. What it returns
    is ``checkpoint`` of the `TimeLimit` or `Preempted` that the caller gets. The last hook holds, for the call that
    registered it. Outside of a job it is never called.

    Raises:
        ConfigError: called in another thread than the main one.

    """
    if _stay is not None and _stay.process == os.getpid():
        try:
            _stay.keep(hook)
        except ValueError as error:
            raise ConfigError(
                "on_preempt works in the main thread only", remedy="Call it before you start threads."
            ) from error
    return hook


class _Stay:
    """Hold what is to be done for the item that runs; ``leave(hook, late)`` calls the hook and writes it down."""

    __slots__ = ("before", "hook", "leave", "paths", "process", "task")

    def __init__(self, paths: JobPaths, task: int, leave: Callable[[Hook, bool], None]) -> None:
        self.paths = paths
        self.task = task
        self.leave = leave
        self.process = os.getpid()
        self.hook: Hook | None = None
        self.before: Any = None

    def keep(self, hook: Hook) -> None:
        import signal

        if self.hook is None:
            self.before = signal.signal(signal.SIGTERM, _told)
            self.hook = hook
            open(self.paths.hook(self.task), "w").close()  # now the wrapper tells us when the time is nearly over
        self.hook = hook


_stay: _Stay | None = None


def begin(paths: JobPaths, task: int, leave: Callable[[Hook, bool], None]) -> None:
    """Take hooks from now on: user code begins."""
    global _stay  # noqa: PLW0603 - signals belong to the process
    _stay = _Stay(paths, task, leave)


def end() -> None:
    """Take no hooks, and call none: user code has ended."""
    global _stay
    stay, _stay = _stay, None
    if stay is not None and stay.hook is not None and stay.process == os.getpid():
        import signal

        signal.signal(signal.SIGTERM, stay.before)
        os.unlink(stay.paths.hook(stay.task))


def _told(number: int, _: object) -> None:
    import signal

    stay = _stay
    if stay is None or stay.hook is None or stay.process != os.getpid():  # a process that user code forked
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    signal.signal(number, signal.SIG_IGN)  # it comes from several sides
    if not os.path.exists(stay.paths.cancelled):
        stay.leave(stay.hook, os.path.exists(stay.paths.late(stay.task)))
    os._exit(128 + number)
