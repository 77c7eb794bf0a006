"""Errors say the remedy and survive a process boundary."""

from __future__ import annotations

import pickle

import pytest

from clustrix import errors

MADE = [
    errors.ConfigError("no such place", remedy="Name another."),
    errors.UnknownOption("option", "memry", ["memory", "cores"]),
    errors.MissingExtra("docker", "docker", needed_for="runtime 'docker'"),
    errors.JobFailed("it failed", job_id="hpc/1", index=3, remote_traceback="Traceback ...", log_tail="the end"),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_pickles_whole(error: errors.ClustrixError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    assert "Did you mean 'memory'?" in str(errors.UnknownOption("option", "memry", ["memory", "cores"]))
    assert "Known: cores, memory." in str(errors.UnknownOption("option", "zzz", ["memory", "cores"]))


def test_a_missing_extra_names_the_command() -> None:
    assert "pip install 'clustrix[docker]'" in str(errors.MissingExtra("docker", "docker", needed_for="this"))


def test_a_job_error_shows_what_happened_there() -> None:
    text = str(MADE[3])
    assert "Traceback ..." in text
    assert "the end" in text
