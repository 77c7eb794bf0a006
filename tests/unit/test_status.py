"""Where jobs stand, asked once."""

from __future__ import annotations

import pytest

from clustrix import errors, status
from clustrix.course import Site
from clustrix.model.job import State, TaskStatus

from .sites import FakeSite, attach


def test_one_look_counts_what_has_ended(site: FakeSite) -> None:
    array = attach(site, items=3)
    site.statuses = {0: TaskStatus(state=State.RUNNING, node="n1")}
    site.finish(0, "fine", array.record)
    site.finish(1, KeyError("x"), array.record)
    said = status.survey(Site(site, site, 30.0), [array.record])[array.id]  # type: ignore[arg-type]
    assert (said.state, said.items, said.finished, said.failed, said.nodes) == (State.RUNNING, 3, 2, 1, ("n1",))
    site.finish(2, "fine", array.record)
    assert status.survey(Site(site, site, 30.0), [array.record])[array.id].state is State.FAILED  # type: ignore[arg-type]
    assert (site.asked, site.watches) == (2, 2)


def test_unknown_is_lost_once_the_grace_since_its_submission_is_over(site: FakeSite) -> None:
    array = attach(site)
    site.statuses = None
    states = [
        status.survey(Site(site, site, grace), [array.record])[array.id].state  # type: ignore[arg-type]
        for grace in (600.0, 0.0)
    ]
    assert states == [State.SUBMITTED, State.LOST]


def test_no_answer_is_no_state(site: FakeSite) -> None:
    array = attach(site)
    site.broken = errors.BackendError("slurmctld is down")
    with pytest.raises(errors.BackendError):
        status.survey(Site(site, site, 0.0), [array.record])  # type: ignore[arg-type]
    assert status.survey(Site(site, site, 0.0), []) == {}  # type: ignore[arg-type]
