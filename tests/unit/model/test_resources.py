"""Amounts as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from clustrix.errors import ConfigError
from clustrix.model.resources import Resources, parse_memory, parse_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16GB", 16 * 2**30),
        ("16 GiB", 16 * 2**30),
        ("16g", 16 * 2**30),
        ("16Gi", 16 * 2**30),  # as people write it on Kubernetes
        ("1.5M", 1572864),
        ("0.3K", 308),  # rounded up, never down
        ("512", 512),
        (2048, 2048),
        (10.5, 11),
    ],
)
def test_memory(text: str | float, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "16 GB; rm -rf ~", "-1G", "0", 0, True, "1e3", "3i", "8Gb/s", "1.G.5"])
def test_no_memory(text: str | float) -> None:
    with pytest.raises(ConfigError, match="memory"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("02:00:00", timedelta(hours=2)),
        ("02:30", timedelta(hours=2, minutes=30)),
        ("1-12:00:00", timedelta(days=1, hours=12)),
        ("90m", timedelta(minutes=90)),
        ("1h30m", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("45 s", timedelta(seconds=45)),
        (90, timedelta(seconds=90)),
        (timedelta(hours=1), timedelta(hours=1)),
    ],
)
def test_time(text: str | float | timedelta, expected: timedelta) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "soon", "2:00:00; reboot", "00:00:00", 0, -5, False, timedelta(0), "1:2:3:4"]
)
def test_no_time(text: str | float | timedelta) -> None:
    with pytest.raises(ConfigError, match="length of time"):
        parse_time(text)


@pytest.mark.parametrize(("name", "value"), [("cores", 0), ("cores", 1.5), ("gpus", -1), ("nodes", 0), ("cores", True)])
def test_counts_are_whole_and_sensible(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        Resources(**{name: value})  # type: ignore[arg-type]
