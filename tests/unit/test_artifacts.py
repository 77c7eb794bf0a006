"""A lock is kept until something changes that decides on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clustrix import artifacts, locking
from clustrix.model.environment import Platform
from clustrix.model.lock import Lock, LockResult, Report
from clustrix.model.source import RequirementsSource, ScriptSource

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from clustrix.model.source import Source

ON = Platform("x86_64", (2, 17))


def test_a_lock_is_made_again_when_an_included_file_changes_and_not_when_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Source] = []

    def lock(source: Source, platform: Platform, python: str, **_: Any) -> LockResult:
        made.append(source)
        return LockResult(Lock(python, platform, ()), Report((), ()), ())

    monkeypatch.setattr(artifacts, "cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(locking, "lock", lock)
    listed, included, script = (tmp_path / name for name in ("requirements.txt", "more.txt", "fit.py"))
    listed.write_text("-r more.txt\n")
    included.write_text("six\n")
    script.write_text('# /// script\n# dependencies = ["six"]\n# ///\nprint(1)\n')
    requirements, code = RequirementsSource(str(listed)), ScriptSource(str(script))

    def times(source: Source) -> int:
        artifacts.lock(source, ON, "3.11")
        return made.count(source)

    assert [times(requirements), times(requirements), times(code), times(code)] == [1, 1, 1, 1]
    included.write_text("rich\n")
    script.write_text(script.read_text().replace("print(1)", "print(2)"))
    assert [times(requirements), times(code)] == [2, 1]
    script.write_text(script.read_text().replace("six", "rich"))
    assert times(code) == 2
