"""Patterns mean the same everywhere, and a time that no calendar knows breaks no list."""

from __future__ import annotations

from datetime import timezone

import pytest

from clustrix.model.files import Entry, matches, split


@pytest.mark.parametrize(
    ("pattern", "plain", "parts"),
    [
        ("*.csv", ".", ("*.csv",)),
        ("data/deep/*.csv", "data/deep", ("*.csv",)),
        ("/a/./b//c", "/a/b/c", ()),
        ("a*/b/**", ".", ("a*", "b", "**", "*")),
        ("**/**/x", ".", ("**", "x")),
        ("**", ".", ("**", "*")),
        ("~/a/?", "~/a", ("?",)),
        ("", ".", ()),
    ],
)
def test_a_pattern_is_parted_where_it_begins_to_be_one(pattern: str, plain: str, parts: tuple[str, ...]) -> None:
    assert split(pattern) == (plain, parts)


@pytest.mark.parametrize(
    ("pattern", "path", "meant"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "a/a.csv", False),
        ("*", ".hidden", True),
        ("*", "new\nline", True),
        ("**/*.csv", "a.csv", True),
        ("**/*.csv", "a/b/c.csv", True),
        ("a/**/b/**/c", "a/b/c", True),
        ("a/**/b/**/c", "a/x/y/b/z/c", True),
        ("a/**/b/**/c", "a/x/c", False),
        ("[!a]?[]]", "bc]", True),
        ("A*", "abc", False),
        ("a**z", "abcz", True),
        ("**", "", False),
        ("caf?", "caf\udce9", True),
    ],
)
def test_what_a_pattern_means(pattern: str, path: str, meant: bool) -> None:
    assert matches(split("./" + pattern)[1] or (pattern,), tuple(filter(None, path.split("/")))) is meant


@pytest.mark.parametrize("seconds", [10**12, -(10**12)])
def test_times_of_no_calendar(seconds: int) -> None:
    about = Entry("/", "a", "f", 1, seconds * 10**9, 0o644, None).info()
    assert about.path == "/a"
    assert (about.modified.year, about.modified.tzinfo) == (9999 if seconds > 0 else 1, timezone.utc)
