"""Who needs whom among installed distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clustrix.model.environment import Distribution, Environment, Origin, normalise

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

CLUSTRIX = "clustrix"


def left_out(environment: Environment) -> frozenset[str]:
    """Name (normalised) clustrix and what only clustrix needs.

    What clustrix needs is left out if nothing else here needs it, even for an extra, and if nobody asked for it: pip
    says so by REQUESTED. uv writes REQUESTED for everything, so what uv installed stays: leaving out a package that
    the caller's code imports would be worse than an image with some more megabytes.
    """
    rows = {row.key: row for row in environment.distributions}
    if CLUSTRIX not in rows:
        return frozenset()
    needs = {name: _needs(row, rows, all_extras=name == CLUSTRIX) for name, row in rows.items()}
    own = _reachable([CLUSTRIX], needs)
    kept = {name for name in rows if name not in own or rows[name].requested or rows[name].installer != "pip"}
    might_need = {name: _needs(row, rows, all_extras=True) for name, row in rows.items() if name != CLUSTRIX}
    return frozenset(own - _reachable(kept - {CLUSTRIX}, might_need)) | {CLUSTRIX}


def roots(distributions: Iterable[Distribution]) -> list[Distribution]:
    """List the distributions that no other one needs: what to ask for where the rest has to be resolved again.

    What an editable needs counts as asked for, since the editable itself takes no part in a resolution.
    """
    rows = {row.key: row for row in distributions}
    resolved = {name: row for name, row in rows.items() if row.origin is not Origin.EDITABLE}
    needs = {name: _needs(row, resolved, all_extras=False) for name, row in resolved.items()}
    needed = {other for name, others in needs.items() for other in others if other != name}
    asked = sorted(resolved.keys() - needed)
    # Distributions that need each other in a circle have no root: the first of each circle is one.
    for name in sorted(resolved):
        if name not in _reachable(asked, needs):
            asked.append(name)
    return [resolved[name] for name in sorted(asked)]


def _reachable(start: Iterable[str], needs: Mapping[str, frozenset[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs.get(name, ())
    return found


def _needs(row: Distribution, rows: Collection[str], *, all_extras: bool) -> frozenset[str]:
    """Name what a distribution needs of ``rows``; only unconditional needs and those that hold here, or any."""
    from packaging.requirements import InvalidRequirement, Requirement

    found = set()
    for line in row.requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            # A legacy spelling that installers no longer accept either: nothing follows from it.
            continue
        name = normalise(requirement.name)
        if name not in rows:
            continue
        if all_extras or requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.add(name)
    return frozenset(found)
