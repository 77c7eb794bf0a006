"""What jobs of a made-up site used."""

from __future__ import annotations

import pytest

from clustrix import errors, handle
from clustrix.model.job import End, EndKind, State, TaskStatus

from .sites import FakeSite, attach


def test_usage_is_of_what_has_ended_and_reads_no_value(site: FakeSite) -> None:
    array = attach(site, items=100, asked={"cores": 2, "time": 60.0})
    for index in range(99):
        site.finish(index, ValueError("no") if index == 7 else index, array.record)
    assert array.wait(0.1) is False
    found = array.usage()
    assert (found.items, found.measured, found.failed, found.open) == (100, 98, 1, 1)
    assert (found.busy_cores, found.decorator) == (1.0, None)
    site.finish(99, 1, array.record)
    assert array.wait(60)
    assert array[3].usage().decorator == '@cluster(cores=1, time="00:02:00")'
    assert [len(look) for look in site.looks] == [99, 100]  # one round trip each
    assert not site.reads
    assert not site.settled
    site.signs = b"another" * 5
    with pytest.raises(errors.Tampered):
        array.usage()


def test_usage_is_no_guess_where_nobody_answers(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "_ANSWER", 0.05)
    site.broken = errors.ConnectionLost("the line is dead")
    with pytest.raises(errors.ConnectionLost, match="the line is dead"):
        attach(site).job().usage()


def test_usage_of_what_was_killed_asks_for_more(site: FakeSite) -> None:
    array = attach(site, items=2, workers=2, asked={"memory": 2**30, "time": 600.0})
    site.owned = {0: 0, 1: 1}
    site.finish(0, 1, array.record)
    site.statuses = {
        0: TaskStatus(state=State.SUCCEEDED, end=End(kind=EndKind.EXITED, exit_code=0)),
        1: TaskStatus(state=State.FAILED, end=End(kind=EndKind.OUT_OF_MEMORY)),
    }
    found = array.usage()  # before anybody has asked what became of the other
    assert (found.failed, found.out_of_memory, found.out_of_time) == (1, True, False)
    assert found.decorator == '@cluster(cores=1, memory="2GB", time="00:10:00")'
