"""What is proposed, rule by rule, and what is not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from clustrix.model import usage
from clustrix.model.outcome import Failure, Outcome, OutcomeStatus
from clustrix.model.resources import parse_memory, parse_time
from clustrix.model.usage import Request, Usage

MB, GB = 2**20, 2**30
ASKED = Request(cores=8, memory_bytes=8 * GB, time=timedelta(hours=2))


def item(index: int = 0, *, failure: str | None = None, **metadata: object) -> Outcome:
    """Measure 100 s, one core and 1000 MB, unless a test says something else."""
    usual = {"task": 0, "started": 1000.0, "ended": 1100.0, "cpu_seconds": 100.0, "peak_memory_bytes": 1000 * MB}
    return Outcome(
        index=index,
        function_name="f",
        status=OutcomeStatus.ERROR if failure else OutcomeStatus.SUCCESS,
        failure=Failure(type=failure, message="", traceback="") if failure else None,
        metadata={**usual, **metadata},
    )


def measured(*outcomes: Outcome, request: Request = ASKED, items: int | None = None, **options: Any) -> Usage:
    return usage.measure(outcomes, request, items=len(outcomes) if items is None else items, **options)


def test_used_and_asked_are_compared() -> None:
    found = measured(item(0), item(1, started=1100.0, ended=1200.0, cpu_seconds=300.0, peak_memory_bytes=2 * GB))
    assert (found.measured, found.failed, found.open) == (2, 0, 0)
    assert (found.cpu_seconds, found.wall_seconds, found.busy_cores) == (400.0, 200.0, 2.0)
    assert (found.cores_fraction, found.memory_fraction, found.time_fraction) == (0.25, 0.25, 200 / 7200)
    assert not found.notes


@pytest.mark.parametrize(
    ("seconds", "cores"), [(0.1, 1), (100.0, 1), (109.0, 1), (111.0, 2), (240.0, 3), (780.0, 8), (1250.0, 13)]
)
def test_cores_are_what_was_busy_rounded_up(seconds: float, cores: int) -> None:
    assert measured(item(cpu_seconds=seconds)).next.cores == cores


def test_cores_are_those_of_the_busiest_item_that_matters() -> None:
    brief = item(1, started=1100.0, ended=1101.0, cpu_seconds=8.0)
    busy = item(2, started=1101.0, ended=1121.0, cpu_seconds=100.0)
    assert measured(item(), brief).next.cores == 1
    assert measured(item(), brief, busy).next.cores == 5


@pytest.mark.parametrize(
    ("peak", "text"),
    [(10 * MB, "64MB"), (200 * MB, "256MB"), (1000 * MB, "1.5GB"), (1600 * MB, "2GB"), (15 * GB, "19GB")],
)
def test_memory_is_the_peak_and_a_quarter_in_a_round_number(peak: int, text: str) -> None:
    proposed = measured(item(), item(1, peak_memory_bytes=peak + 1), item(2, peak_memory_bytes=5)).next
    small = measured(item(peak_memory_bytes=peak)).next.memory_bytes
    assert small == parse_memory(text)
    assert small >= 1.25 * peak
    assert proposed.memory_bytes is not None
    assert proposed.memory_bytes >= 1250 * MB


def test_children_that_worked_leave_memory_at_what_was_asked() -> None:
    little, much = item(child_cpu_seconds=4.0), item(child_cpu_seconds=6.0)
    assert measured(little).next.memory_bytes == parse_memory("1.5GB")
    assert measured(much).next.memory_bytes == ASKED.memory_bytes
    assert "largest" in measured(much).notes[0]
    assert measured(item(child_cpu_seconds=6.0, peak_memory_bytes=8 * GB)).next.memory_bytes == 10 * GB


@pytest.mark.parametrize(
    ("seconds", "cores", "proposed"),
    [(1.0, 1, "00:02:00"), (100.0, 1, "00:04:00"), (100.0, 2, "00:05:00"), (3000.0, 1, "01:20:00")],
)
def test_time_is_the_longest_task_and_a_half_and_doubled_on_fewer_cores(
    seconds: float, cores: int, proposed: str
) -> None:
    asked = Request(cores=cores, time=timedelta(hours=9))
    one = item(0, ended=1000.0 + seconds, cpu_seconds=seconds)
    other = item(1, task=1, started=5000.0, ended=5000.5, cpu_seconds=0.5)
    assert measured(one, other, request=asked).next.time == parse_time(proposed)


def test_items_of_a_task_are_one_length_of_time() -> None:
    rows = [item(n, started=1000.0 + 100 * n, ended=1100.0 + 100 * n) for n in range(3)]
    assert measured(*rows).longest_seconds == 300.0
    apart = [item(n, task=n, started=1000.0 + 100 * n, ended=1100.0 + 100 * n) for n in range(3)]
    assert measured(*apart).longest_seconds == 100.0


def test_whoever_ran_out_gets_twice_as_much() -> None:
    found = measured(item(), items=2, lost=1, out_of_memory=True)
    assert (found.failed, found.next.memory_bytes, found.next.cores) == (1, 16 * GB, 1)
    for kind in ("MemoryError", "numpy._core._exceptions._ArrayMemoryError"):
        assert measured(item(failure=kind)).next == Request(memory_bytes=16 * GB)
    assert measured(item(failure="torch.OutOfMemoryError")).next == Request()
    # One that used all of its time gets more of it and no fewer cores.
    found = measured(item(), items=2, lost=1, out_of_time=True)
    assert (found.next.time, found.next.cores) == (timedelta(hours=4), 8)
    assert measured(item(failure="clustrix.errors.TimeLimit")).next.time == timedelta(hours=4)
    # What nobody asked for cannot be doubled.
    found = measured(items=1, lost=1, out_of_memory=True, out_of_time=True, request=Request(cores=1))
    assert found.next == Request()
    assert "ask for some with memory=" in found.notes[0]
    assert "ask for some with time=" in found.notes[1]


def test_what_left_no_outcome_may_be_the_largest() -> None:
    found = measured(item(), items=2, lost=1)
    assert found.next == Request(cores=1, memory_bytes=ASKED.memory_bytes, time=ASKED.time)
    more = measured(item(ended=9000.0, peak_memory_bytes=8 * GB), items=2, lost=1).next
    assert (more.memory_bytes, more.time) == (10 * GB, parse_time("04:30:00"))


def test_nothing_is_proposed_from_failures() -> None:
    found = measured(item(failure="ValueError", cpu_seconds=900.0, peak_memory_bytes=9 * GB))
    assert (found.failed, found.measured, found.next, found.decorator) == (1, 0, Request(), None)
    assert (found.busy_cores, found.peak_memory_bytes, found.longest_seconds) == (None, None, None)
    assert "nothing is proposed" in found.notes[0]
    beside = measured(item(), item(1, failure="ValueError", cpu_seconds=900.0, peak_memory_bytes=9 * GB))
    assert beside.next == measured(item()).next


def test_nothing_is_proposed_before_the_end() -> None:
    found = measured(item(), items=3)
    assert (found.open, found.next, found.decorator) == (2, Request(), None)
    assert found.busy_cores == 1.0
    assert found.notes == ("2 of 3 items have not ended: nothing is proposed yet.",)


def test_nothing_is_proposed_for_what_was_not_measured_or_not_asked() -> None:
    old = item(cpu_seconds=None, peak_memory_bytes=None)
    assert measured(old).next == Request(time=timedelta(seconds=240))
    assert measured(item(ended=900.0)).next == Request(memory_bytes=parse_memory("1.5GB"))  # the clock was set back
    assert measured(item(), request=Request(cores=4)).next == Request(cores=1)


def test_of_ranks_time_alone_is_proposed() -> None:
    found = measured(item(), ranks=4)
    assert found.next == Request(time=timedelta(seconds=240))
    assert "rank 0" in found.notes[0]


def test_the_settings_of_a_record_say_what_was_asked() -> None:
    assert usage.asked({}) == Request(cores=1)
    assert usage.asked({"cores": 2, "memory": 3 * GB, "time": 90.0}) == Request(
        cores=2, memory_bytes=3 * GB, time=timedelta(seconds=90)
    )
    assert usage.ranks({}) == 1
    assert usage.ranks({"nodes": 2, "backend_options": {"ntasks-per-node": 3}}) == 6


def test_the_line_to_paste_means_what_it_says() -> None:
    found = measured(item())
    assert found.decorator == '@cluster(cores=1, memory="1.5GB", time="00:05:00")'
    # What nothing is proposed for stays as it was.
    assert measured(item(), ranks=2).decorator == '@cluster(cores=8, memory="8GB", time="00:04:00")'
    for amount in (64 * MB, 100 * MB + 1, GB, 3 * GB // 2, 5 * GB + 64 * MB):
        assert 0 <= parse_memory(usage.memory_text(amount)) - amount < MB
    for seconds in (1, 59, 3600, 86400 * 3 + 3661):
        assert parse_time(usage.time_text(timedelta(seconds=seconds))) == timedelta(seconds=seconds)
