"""Refuse to start user code in an environment that is not the one it was packed for."""

from __future__ import annotations

from clustrix.errors import EnvironmentMismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from clustrix.worker.task import Task

_NAMED = 10


def check(task: Task) -> str:
    """Compare this Python and what is installed beside it with what a task expects; give the fingerprint measured.

    Raises:
        EnvironmentMismatch: they differ; names what, up to ten distributions.

    """
    from clustrix.model import fingerprint
    from clustrix.worker import installed

    implementation, minor, abi = installed.identity()
    here = {"Python": minor, "implementation": implementation, "ABI": abi}
    expected = {"Python": task.python, "implementation": task.implementation, "ABI": task.abi}
    differing = [f"{name} is {here[name]}, not {expected[name]}" for name in here if here[name] != expected[name]]
    if differing:
        raise EnvironmentMismatch(
            f"the job was packed by another Python than the one of its environment: {'; '.join(differing)}",
            remedy="Use an image of the same minor version, or let clustrix build it: image=Image.from_environment().",
        )
    found = installed.fingerprints()
    measured = fingerprint.environment(implementation, minor, abi, found.items())
    if task.fingerprint is not None and measured != task.fingerprint:
        raise EnvironmentMismatch(
            f"the environment is not the one that was locked: {_difference(task.distributions, found)}",
            remedy="See: clustrix env diff. Build the image again, or submit in the environment it was made from.",
        )
    return measured


def _difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    rows = [
        _row(name, expected, found) for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)
    ]
    if not rows or not expected:
        return "its fingerprint differs"
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return ", ".join(rows[:_NAMED]) + more


def _row(name: str, expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    if name not in found:
        return f"{name} is missing"
    return f"{name} is another build" if name in expected else f"{name} was not locked"
