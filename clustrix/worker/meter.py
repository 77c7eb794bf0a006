# ruff: noqa: PTH123, PTH208
# pathlib would take a seventh of the time in which a worker starts.
"""Measure what a process and its children have used so far; `clustrix.model.usage` says what that means."""

from __future__ import annotations

import os
import sys

_USER = 11  # where utime is in /proc/PID/stat behind the name; stime, cutime and cstime follow (proc(5))


def processor_seconds() -> tuple[float, float] | None:
    """Measure the processor time of this process, and that of its children: the ended and, on Linux, the living."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime + _of_the_living()


def peak_memory() -> int | None:
    """Measure the most memory that this process, or any one that it has waited for, ever had, in bytes.

    It never falls, so an item has at least what those before it in the same process had; and processes that ran side
    by side are not added up (getrusage(2): RUSAGE_CHILDREN is the largest child, not the whole tree).
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return usage if sys.platform == "darwin" else usage * 1024


def _of_the_living() -> float:
    """Add up the processor time of children that nobody has waited for yet: a pool that is kept for the next call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (AttributeError, ChildProcessError):  # there are none, and nothing is read; macOS before Python 3.13
        return 0.0
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:  # no /proc
        return 0.0
    children = {child for thread in threads for child in _text(f"/proc/self/task/{thread}/children").split()}
    fields = (_text(f"/proc/{child.decode()}/stat").rpartition(b")")[2].split() for child in children)
    return sum(int(ticks) for row in fields for ticks in row[_USER : _USER + 4]) / os.sysconf("SC_CLK_TCK")


def _text(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # a thread that is over, a child that another one has just waited for
        return b""
