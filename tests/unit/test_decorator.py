"""What ``@cluster`` makes of a function, and where its calls go."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from clustrix import config, decorator
from clustrix.decorator import RemoteFunction, cluster
from clustrix.errors import ConfigError, UnknownOption
from clustrix.model.job import State


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decorator, "_said", False)
    config.load.cache_clear()


@cluster
def double(number: int, *, plus: int = 0) -> int:
    """Double a number."""
    return 2 * number + plus


def plain(number: int) -> int:
    return number + 1


wrapped = cluster(cores=2)(plain)


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @cluster(cores=3)
    def apply(self, number: int) -> int:
        return self.factor * number

    @staticmethod
    @cluster
    def static(number: int) -> int:
        return -number

    @classmethod
    @cluster
    def named(cls) -> str:
        return cls.__name__


def test_metadata_is_kept() -> None:
    assert (double.__name__, double.__doc__, double.__wrapped__.__name__) == ("double", "Double a number.", "double")
    assert repr(double) == f"<cluster function {__name__}.double>"


def test_without_a_target_calls_run_here_and_say_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert [double(1), double(2, plus=1), Scale(5).apply(2), Scale.static(2), Scale.named()] == [2, 5, 10, -2, "Scale"]
    assert list(double.map([1, 2, 3])) == [2, 4, 6]
    assert list(Scale(2).apply.starmap([(1,), (2,)])) == [2, 4]
    assert double.submit(4).result() == double.options(async_submit="yes")(4).result() == 8
    config.configure(async_submit=True)
    assert double(4).result() == 8
    assert double.options(async_submit=False)(4) == 8
    assert capsys.readouterr().err.count("no target is configured") == 1


def test_inside_a_job_calls_run_in_place_whatever_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLUSTRIX_IN_JOB", "1")
    far = double.options(target="far")
    assert (far(3), list(far.map([1])), far.submit(1).result()) == (6, [2], 2)
    assert far.options(async_submit=True)(4).result() == 8
    assert capsys.readouterr().err == ""


def test_a_failure_here_is_its_own() -> None:
    @cluster
    def fail() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        fail()
    job = fail.submit()
    with pytest.raises(KeyError, match="gone"):
        job.result()
    assert (job.status().state, job.status().failed, job.logs()) == (State.FAILED, 1, "")


def test_a_call_in_place_says_where_it_stands_as_a_job_does() -> None:
    said = double.map([1, 2]).status()
    assert (said.id, said.state, said.items, said.finished, said.failed) == (None, State.SUCCEEDED, 2, 2, 0)
    assert list(double.submit(1).logs(follow=True)) == []


def test_a_target_that_is_asked_for_is_never_swapped() -> None:
    with pytest.raises(UnknownOption, match="unknown target 'hcp'"):
        double.options(target="hcp")(1)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"memroy": "1GB"}, "unknown setting 'memroy'\n.*'memory'"),
        ({"tagret": "x"}, "'target'"),
        ({"host": "h"}, "host is a setting of a target, not of a call"),
        ({"retries": -1}, "retries must be a whole number of at least 0"),
        ({"cores": "four"}, "cores must be a whole number"),
        ({"memory": "lots"}, "not an amount of memory"),
        ({"parallel": 4}, "parallel is true or false, not 4"),
    ],
)
def test_options_are_checked_before_anything_runs(options: dict[str, object], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        cluster(**options)
    with pytest.raises(ConfigError, match=pattern):
        double.options(**options)


def test_only_functions_are_decorated() -> None:
    async def later() -> None: ...

    for wrong in (3, staticmethod(plain), later):
        with pytest.raises(ConfigError):
            cluster(wrong)  # type: ignore[call-overload]


def test_it_pickles_by_reference_or_as_what_it_is_made_of() -> None:
    assert pickle.loads(pickle.dumps(double)) is double
    again = pickle.loads(pickle.dumps(wrapped))
    assert isinstance(again, RemoteFunction)
    assert (again.local(1), again._options) == (2, {"cores": 2})
    bound = pickle.loads(pickle.dumps(Scale(3).apply)).local
    assert bound(2) == 6
    assert sys.modules[__name__].double is double


def test_options_add_up() -> None:
    assert double.options(cores=2).options(memory="1GB")._options == {"cores": 2, "memory": "1GB"}
