"""How long `from clustrix import cluster` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ground as grounds
from measure import Bar, Measure, Table, alternate, middle, over, seconds

if TYPE_CHECKING:
    from pathlib import Path

    from ground import Ground

STATEMENTS = {
    "clustrix": "from clustrix import cluster",
    "submitit": "import submitit",
    "parsl": "import parsl",
    "floor": "pass",
}
LIMIT_SECONDS = 0.040


def measure(ground: Ground, rounds: int) -> Measure:
    """Start a Python for each statement, five times a round, and take away what a Python takes that does nothing."""
    return found(samples(ground.peers, 5 * rounds), ground.versions(ground.peers, "submitit", "parsl"))


def samples(python: Path, rounds: int) -> dict[str, list[float]]:
    """Time the statements that an environment knows."""
    cases = {
        name: lambda statement=statement: seconds(lambda: grounds.run(python, "-c", statement))
        for name, statement in STATEMENTS.items()
    }
    for case in cases.values():
        case()  # their files are in memory from here on
    return over(alternate(cases, rounds, quiet=True), "floor")


def found(times: dict[str, list[float]], versions: dict[str, str]) -> Measure:
    """Say what was found."""
    return Measure(
        "Import",
        "`from clustrix import cluster`, `import submitit` and `import parsl`: the time of a whole process, less that"
        " of a Python that does nothing, in the same environment and the same round.",
        [Table("import", times)],
        [Bar("`from clustrix import cluster`", middle(times, "clustrix"), LIMIT_SECONDS, "s")],
        versions,
    )
