"""What a job asked for, what it used, and what to ask for next time.

The rules, each with a test in ``tests/unit/model/test_usage.py``:

- Nothing is proposed before every item has ended, for what was not measured, or for what was not asked (cores always
  are). Items that failed are not looked at: what they would have needed nobody knows.
- Cores: processor seconds by wall seconds is how many an item kept busy. The busiest counts, of the items that took at
  least a tenth as long as the longest; a tenth of a core is left out, the rest rounded up.
- Memory: the peak and a quarter, rounded up to 64 MB below 1 GB, to 512 MB below 16 GB, to 1 GB above. The peak is that
  of the largest process; where children did more than a twentieth of the work, no less than asked is proposed.
- Time: the longest task and a half, and a minute for its start; rounded up to minutes, from an hour on to five. A task
  is its items from the first start to the last end. Where fewer cores are proposed it is the double and a minute: what
  takes W seconds and C processor seconds takes at most C/k + W(1 - 1/k) on k cores (Graham 1966; Brent 1974), which is
  less than 2W for the k of the rule above.
- Items that left no outcome (killed, cancelled, lost) may be the largest: beside them no less memory or time than asked
  is proposed.
- Where memory or time ran out, twice what was asked for; and no fewer cores where it was time.
- Of a task of several ranks rank 0 is measured, and what the others need is unknown: time alone is proposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from clustrix.model.outcome import OutcomeStatus
from clustrix.model.resources import Resources, parse_memory, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from clustrix.model.outcome import Outcome

MEMORY_MARGIN = 1.25
TIME_MARGIN = 1.5
TIME_MARGIN_FEWER_CORES = 2.0
START = 60.0  # seconds that a task may take until its first item begins
RAN_OUT = 2  # times what was asked for
_IDLE = 0.1  # of a core
_BRIEF = 0.1  # of the longest item
_CHILDREN = 0.05  # of the processor time
# What functions raise where a limit is on what may be allocated; numpy has its own. Of graphics memory it says nothing.
_NO_MEMORY = frozenset({"MemoryError", "_ArrayMemoryError", "OutOfMemory"})
_NO_TIME = "clustrix.errors.TimeLimit"  # what an `on_preempt` hook leaves
_MINUTE, _HOUR = 60, 3600
_MB, _GB = 1 << 20, 1 << 30
_STEPS = ((_GB, 64 * _MB), (16 * _GB, 512 * _MB))  # amounts below the first are rounded to the second


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Hold what is asked for, for one task; None where nothing is."""

    cores: int | None = None
    memory_bytes: int | None = None
    time: timedelta | None = None

    def __bool__(self) -> bool:
        return (self.cores, self.memory_bytes, self.time) != (None, None, None)

    @property
    def decorator(self) -> str:
        """Write it as a line of Python: ``@cluster(cores=2, memory="1.5GB", time="00:20:00")``."""
        options = [] if self.cores is None else [f"cores={self.cores}"]
        if self.memory_bytes is not None:
            options.append(f'memory="{memory_text(self.memory_bytes)}"')
        if self.time is not None:
            options.append(f'time="{time_text(self.time)}"')
        return f"@cluster({', '.join(options)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Compare what a job asked for with what it used; ``next`` is what to ask for, where something can be said.

    ``measured`` of ``items`` have ended with a value, and what was used is of these; ``failed`` have ended without,
    ``open`` have not ended. ``cpu_seconds`` and ``wall_seconds`` are sums over items, ``busiest_cores`` is of one item,
    ``peak_memory_bytes`` and ``longest_seconds`` are of one task. ``out_of_memory`` and ``out_of_time`` say that
    something was ended for it. ``notes`` say what to know of the figures.
    """

    items: int
    measured: int
    failed: int
    open: int
    asked: Request
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    busiest_cores: float | None = None
    peak_memory_bytes: int | None = None
    longest_seconds: float | None = None
    out_of_memory: bool = False
    out_of_time: bool = False
    next: Request = Request()
    notes: tuple[str, ...] = ()

    @property
    def busy_cores(self) -> float | None:
        """Count the cores that were busy, on average."""
        return self.cpu_seconds / self.wall_seconds if self.cpu_seconds is not None and self.wall_seconds else None

    @property
    def cores_fraction(self) -> float | None:
        """Give the part of the cores that was busy."""
        return _part(self.busy_cores, self.asked.cores)

    @property
    def memory_fraction(self) -> float | None:
        """Give the part of the memory that was used at the peak."""
        return _part(self.peak_memory_bytes, self.asked.memory_bytes)

    @property
    def time_fraction(self) -> float | None:
        """Give the part of the time that the longest task took."""
        return _part(self.longest_seconds, self.asked.time.total_seconds() if self.asked.time else None)

    @property
    def decorator(self) -> str | None:
        """Write what to ask for as a line to paste, with what stays as it was; None if nothing is proposed."""
        if not self.next:
            return None
        names = ("cores", "memory_bytes", "time")
        values = {name: getattr(self.next, name) or getattr(self.asked, name) for name in names}
        return Request(**values).decorator


def asked(settings: Mapping[str, object]) -> Request:
    """Read what the settings of a `JobRecord` ask for."""
    cores, memory, time = (settings.get(name) for name in ("cores", "memory", "time"))
    return Request(
        cores=cores if isinstance(cores, int) else 1,
        memory_bytes=parse_memory(memory) if isinstance(memory, (str, int)) else None,
        time=parse_time(time) if isinstance(time, (str, int, float)) else None,
    )


def ranks(settings: Mapping[str, object]) -> int:
    """Read how many ranks a task of these settings is."""
    nodes, options = settings.get("nodes"), settings.get("backend_options")
    given = options if isinstance(options, dict) else {}
    return Resources(nodes=nodes if isinstance(nodes, int) else 1, backend_options=given).ranks


def measure(
    outcomes: Iterable[Outcome],
    request: Request,
    *,
    items: int,
    lost: int = 0,
    ranks: int = 1,
    out_of_memory: bool = False,
    out_of_time: bool = False,
) -> Usage:
    """Compare and propose; ``lost`` is how many items ended without an outcome."""
    good, failed = [], lost
    for outcome in outcomes:
        kind = outcome.failure.type if outcome.failure is not None else ""
        out_of_memory |= kind.rpartition(".")[2] in _NO_MEMORY
        out_of_time |= kind == _NO_TIME
        if outcome.status is OutcomeStatus.SUCCESS:
            good.append(outcome.metadata)
        else:
            failed += 1
    timed = [(metadata, span) for metadata in good if (span := _span(metadata)) is not None]
    worked = [
        (seconds, end - start)
        for metadata, (start, end) in timed
        if (seconds := _number(metadata, "cpu_seconds")) is not None
    ]
    used = Usage(
        items=items,
        measured=len(good),
        failed=failed,
        open=items - len(good) - failed,
        asked=request,
        cpu_seconds=sum(seconds for seconds, _ in worked) if worked else None,
        wall_seconds=sum(wall for _, wall in worked) if worked else None,
        busiest_cores=_busiest(worked),
        peak_memory_bytes=max((int(peak) for peak in _numbers(good, "peak_memory_bytes")), default=None),
        longest_seconds=_longest(timed),
        out_of_memory=out_of_memory,
        out_of_time=out_of_time,
    )
    children = sum(_numbers(good, "child_cpu_seconds")) > _CHILDREN * (used.cpu_seconds or 0.0)
    return _with_proposal(used, children=children, lost=lost > 0, ranks=ranks)


def _with_proposal(used: Usage, *, children: bool, lost: bool, ranks: int) -> Usage:
    notes = []
    if ranks > 1:
        notes.append(f"A task is {ranks} ranks, and what was used is of rank 0: no cores or memory are proposed.")
    if children:
        notes.append("Processes of its own did part of the work: the peak of memory is that of the largest alone.")
    if used.out_of_memory:
        notes.append("Memory ran out" + ("." if used.asked.memory_bytes else ": ask for some with memory=."))
    if used.out_of_time:
        notes.append("Time ran out" + ("." if used.asked.time else ": ask for some with time=."))
    if used.open:
        notes.append(f"{used.open} of {used.items} items have not ended: nothing is proposed yet.")
        return replace(used, notes=tuple(notes))
    cores = _cores(used) if ranks == 1 else None
    request = Request(
        cores=cores,
        memory_bytes=_memory(used, no_less=children or lost) if ranks == 1 else None,
        time=_time(used, fewer_cores=cores is not None and cores < (used.asked.cores or 1), no_less=lost),
    )
    if not request:
        why = "Nothing was measured" if used.measured else "No item ended with a value"
        notes.append(f"{why}: nothing is proposed.")
    return replace(used, next=request, notes=tuple(notes))


def _cores(used: Usage) -> int | None:
    if used.busiest_cores is None:
        return None
    busy = max(1, math.ceil(used.busiest_cores - _IDLE))
    return max(busy, used.asked.cores or 1) if used.out_of_time else busy


def _memory(used: Usage, *, no_less: bool) -> int | None:
    limit = used.asked.memory_bytes
    if limit is None:
        return None
    if used.out_of_memory:
        return rounded_memory(RAN_OUT * limit)
    if used.peak_memory_bytes is None:
        return None
    proposed = rounded_memory(used.peak_memory_bytes * MEMORY_MARGIN)
    return max(proposed, limit) if no_less else proposed


def _time(used: Usage, *, fewer_cores: bool, no_less: bool) -> timedelta | None:
    limit = used.asked.time
    if limit is None:
        return None
    if used.out_of_time:
        return rounded_time(RAN_OUT * limit.total_seconds())
    if used.longest_seconds is None:
        return None
    margin = TIME_MARGIN_FEWER_CORES if fewer_cores else TIME_MARGIN
    proposed = rounded_time(used.longest_seconds * margin + START)
    return max(proposed, limit) if no_less else proposed


def rounded_memory(amount: float) -> int:
    """Round an amount of memory up to what people write."""
    step = next((step for limit, step in _STEPS if amount < limit), _GB)
    return math.ceil(amount / step) * step


def rounded_time(seconds: float) -> timedelta:
    """Round a length of time up to what people write."""
    step = _MINUTE if seconds < _HOUR else 5 * _MINUTE
    return timedelta(seconds=math.ceil(seconds / step) * step)


def memory_text(amount: int) -> str:
    """Write an amount of memory as `parse_memory` reads it, rounded up to whole megabytes (of 2**20 bytes)."""
    if amount >= _GB and amount % (_GB // 2) == 0:
        return f"{amount / _GB:g}GB"
    return f"{-(-amount // _MB)}MB"


def time_text(length: timedelta) -> str:
    """Write a length of time as `parse_time` reads it, ``1-02:30:00``, rounded up to seconds."""
    minutes, seconds = divmod(math.ceil(length.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:{seconds:02}"


def _busiest(worked: Sequence[tuple[float, float]]) -> float | None:
    """Give the most cores that an item kept busy, of those long enough for that to matter."""
    longest = max((wall for _, wall in worked), default=0.0)
    return max((seconds / wall for seconds, wall in worked if wall and wall >= _BRIEF * longest), default=None)


def _longest(timed: Iterable[tuple[Mapping[str, object], tuple[float, float]]]) -> float | None:
    """Give how long the longest task took; items that do not say whose they were count by themselves."""
    tasks: dict[object, tuple[float, float]] = {}
    for place, (metadata, (start, end)) in enumerate(timed):
        task = metadata.get("task")
        name = task if isinstance(task, int) else f"item {place}"
        first, last = tasks.get(name, (start, end))
        tasks[name] = min(first, start), max(last, end)
    return max((last - first for first, last in tasks.values()), default=None)


def _span(metadata: Mapping[str, object]) -> tuple[float, float] | None:
    start, end = _number(metadata, "started"), _number(metadata, "ended")
    # A clock that was set back measured nothing.
    return None if start is None or end is None or end < start else (start, end)


def _numbers(rows: Iterable[Mapping[str, object]], name: str) -> Iterator[float]:
    return (value for metadata in rows if (value := _number(metadata, name)) is not None)


def _number(metadata: Mapping[str, object], name: str) -> float | None:
    value = metadata.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _part(used: float | None, of: float | None) -> float | None:
    return used / of if used is not None and of else None
