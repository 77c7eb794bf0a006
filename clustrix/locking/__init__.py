"""Turn what is installed, or a file that describes it, into exact files for one Python and one platform.

`lock` decides, `fetch` brings the files here, `compare` says whether they are what is installed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from clustrix.errors import ConfigError, LockError
from clustrix.locking import described, live
from clustrix.locking.fetching import fetch
from clustrix.locking.inputs import identity
from clustrix.locking.pylock import read, write
from clustrix.locking.resolution import Locker
from clustrix.locking.target import PIP_TOOLS, UV, Target
from clustrix.model.environment import Environment, normalise
from clustrix.model.lock import Lock, LockResult, Report, Row, Status
from clustrix.worker import installed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clustrix.model.environment import Platform
    from clustrix.model.source import Source

__all__ = ["compare", "fetch", "identity", "lock", "read", "write"]


_COMPARABLE = frozenset({Status.SAME_VERSION, Status.REBUILT})


def lock(
    source: Source,
    platform: Platform,
    python: str,
    *,
    cache: Path,
    requirements: tuple[str, ...] = (),
    strict: bool = False,
    tool: str = UV,
    refresh: bool = False,
) -> LockResult:
    """Lock ``source`` for a platform and a Python (``3.11``, or ``3.11.7`` where the base is known).

    The live environment is locked as it is for its own platform: no version is chosen. For another platform the
    installed versions are constraints, and ``strict`` refuses any difference. ``requirements`` (PEP 508) are added and
    win over installed versions. ``tool`` is ``uv`` or ``pip-tools``. Answers of indexes are kept in ``cache`` and given
    again to the same question, unless ``refresh``.

    Raises:
        LockError: there is no tool, or a file cannot be read or is out of date.
        UnsupportedPackage: packages cannot be had for the target; named.
        HashMismatch: the index serves other files than a lock file lists.
        MissingExtra: pip-tools is asked for and not installed.

    """
    if tool not in {UV, PIP_TOOLS}:
        raise ConfigError(f"no such locker: {tool!r}", remedy=f"Lockers: {UV}, {PIP_TOOLS}.")
    target = Target(platform, python)
    locker = Locker(target, cache, tool, refresh)
    parts = live.collect(source, locker) if isinstance(source, Environment) else described.collect(source, locker)
    report = Report(tuple(parts.rows.values()), tuple(parts.notes))
    if strict and (differing := report.having(Status.ADDED, Status.DROPPED, Status.CHANGED)):
        names = ", ".join(f"{row.name} ({row.status.value})" for row in differing)
        raise LockError(
            f"the environment for {platform} would not be the one here: {names}",
            remedy="Run on a machine like the target, or allow the differences: strict=False.",
        )
    if requirements:
        _add(requirements, locker, parts)
    parts.notes += [f"resolved by {tool}" for tool in sorted(locker.used)]
    result = Lock(target.minor, platform, tuple(parts.packages.values()))
    return LockResult(result, Report(tuple(parts.rows.values()), tuple(parts.notes)), tuple(parts.travelling))


def compare(result: LockResult, environment: Environment, wheels: Mapping[str, Path]) -> Report:
    """Tell which locked wheels (fetched, by normalised name) hold exactly what is installed: every RECORD is compared.

    Raises:
        LockError: a file is no wheel.

    """
    here = {row.key: row for row in environment.distributions}

    def compared(row: Row) -> Row:
        installed_row = here.get(row.name)
        if row.status not in _COMPARABLE or row.name not in wheels or installed_row is None:
            return row
        own = installed.fingerprint_of(installed_row.location or "")
        if own == installed.of_wheel(wheels[row.name]):
            return replace(row, status=Status.EXACT)
        if row.status is Status.REBUILT:
            return row
        note = "the installed one has no RECORD to compare with" if own is None else row.note
        return replace(row, status=Status.OTHER_BUILD, note=note)

    return Report(tuple(map(compared, result.report.rows)), result.report.notes)


def _add(requirements: tuple[str, ...], locker: Locker, parts: live.Parts) -> None:
    """Add requirements and what they need, changing as few of the locked packages as they allow."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        asked = {normalise(Requirement(line).name) for line in requirements}
    except InvalidRequirement as error:
        raise LockError(f"not a requirement: {error}", remedy="Write it as pip does: 'httpx>=0.28'.") from error
    pins = [f"{package.name}=={package.version}" for name, package in parts.packages.items() if name not in asked]
    for entry in locker.resolve(list(requirements), pins):
        before = parts.packages.get(entry.name)
        if before is not None and before.version == entry.version:
            continue
        if entry.name in parts.rows and parts.rows[entry.name].status is Status.TRAVELS:
            continue
        status = Status.ADDED if before is None else Status.CHANGED
        parts.add(entry, locker, status, installed=before.version if before else None, note="asked for beside it")
