"""The contract of a dialect: build a command, read what it printed. No I/O, no clock, no threads.

A scheduler is one file with one class. `clustrix.backends.batch` drives any dialect through any transport.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from clustrix.errors import ConfigError, UnsupportedResource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.model.job import JobPaths, JobSpec, TaskStatus
    from clustrix.model.resources import Resources
    from clustrix.transports.base import Completed

_NOTICE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Hold what a site allows; None where it does not say.

    ``max_array_index`` is the highest task number that the site accepts.
    """

    max_array_index: int | None = None


class Dialect(Protocol):
    """Speak one scheduler's language.

    Every value of a user is quoted, or refused with `UnsupportedResource` or `ConfigError`. A script ends by
    running the job's wrapper, ``task.sh NUMBER``, which is the same for every scheduler.
    """

    name: str
    commands: tuple[str, ...]
    """The commands that the host must have."""
    variables: tuple[str, ...]
    """The variables without which they do not work, and which may be set in login shells alone."""
    array_index: str
    """The sh expression of the task's number inside a script, counted from 0."""
    native_id: str
    """The sh expression of the scheduler's id of the task inside a script."""

    def script(self, spec: JobSpec, paths: JobPaths, *, offset: int = 0, tasks: int = 1) -> str:
        """Write the script of one submission: ``tasks`` tasks numbered from ``offset``."""
        ...

    def submit_argv(self, spec: JobSpec, script: str) -> tuple[str, ...]:
        """Command that submits the script at that path."""
        ...

    def parse_submit(self, completed: Completed) -> str:
        """Read the native id; `SubmitRejected` with the scheduler's own words if it refused."""
        ...

    def find_argv(self, spec: JobSpec) -> tuple[str, ...]:
        """Command that looks for a job by its unique name, when it is not known whether it was accepted."""
        ...

    def parse_find(self, completed: Completed) -> str | None:
        """Read the native id, or None if the scheduler is sure that there is none."""
        ...

    def status_argv(self, native_ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Commands, run in one round trip, that ask for all of these jobs."""
        ...

    def parse_status(
        self, native_ids: Sequence[str], answers: Sequence[Completed]
    ) -> Mapping[str, Mapping[int, TaskStatus]]:
        """Read native id -> task number -> status. A job that the scheduler is sure not to know is left out.

        So is a task of which it says nothing yet; one that it has forgotten is `State.LOST`.

        Raises:
            BackendError: the scheduler did not answer: which is not the same as not knowing.

        """
        ...

    def cancel_argv(self, native_ids: Sequence[str]) -> tuple[str, ...]:
        """Command that cancels these jobs, waiting or running."""
        ...

    def limits_argv(self) -> tuple[str, ...] | None:
        """Command that prints the site's limits, if there is one."""
        ...

    def parse_limits(self, completed: Completed) -> Limits:
        """Read the limits; what is not said stays None."""
        ...


@runtime_checkable
class Launcher(Protocol):
    """Start a task as many processes at once, its ranks: what some dialects can besides.

    Then ``script`` takes requests for several nodes, and each rank is ``worker --rank`` (`clustrix.worker.ranks`).
    """

    def launch_argv(self, spec: JobSpec, paths: JobPaths) -> tuple[str, ...]:
        """Give the command that starts what follows it once for every rank."""
        ...

    def interfaces_argv(self) -> tuple[str, ...]:
        """Command that prints the process-management interfaces by which MPI programs find each other here."""
        ...

    def parse_interfaces(self, completed: Completed) -> frozenset[str]:
        """Read their names, as ``JobSpec.mpi`` has them; UnparsableOutput."""
        ...


@runtime_checkable
class Namesake(Protocol):
    """Have commands of names that another scheduler's have, too: some dialects are told apart by what they answer."""

    def version_argv(self) -> tuple[str, ...]:
        """Command that prints whose they are."""
        ...

    def parse_version(self, completed: Completed) -> str:
        """Read name and version; ConfigError, with the backend to set, if they are another scheduler's."""
        ...


def job_name(spec: JobSpec) -> str:
    """Make a name that is unique, so that a scheduler can be asked for it, and plain enough for every one of them."""
    name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', spec.name)[:60]}-{spec.id.ulid}"
    return name if name[0].isalpha() else f"job{name}"


def task_command(modules: Sequence[str], wrapper: str) -> str:
    """Write the command that loads the modules and runs the wrapper of ``$task``."""
    if not modules:
        return f'sh {shlex.quote(wrapper)} "$task"'
    load = 'task=$1; wrapper=$2; shift 2; module load "$@" || exit 1; exec sh "$wrapper" "$task"'
    names = " ".join(shlex.quote(one_line("modules", name)) for name in modules)
    # Only a login shell is sure to know the module command.
    return f'bash -lc {shlex.quote(load)} bash "$task" {shlex.quote(wrapper)} {names}'


def notice(limit: timedelta | None) -> int:
    """Give the seconds before its time limit at which a task's wrapper is told by SIGXCPU that it is near."""
    return _NOTICE if limit is None else min(_NOTICE, max(1, limit // timedelta(seconds=10)))


def refuse(asked: Resources, scheduler: str, remedies: Mapping[str, str]) -> None:
    """Refuse what a scheduler does not know, each with its remedy, and tasks of several nodes; UnsupportedResource."""
    for name, remedy in remedies.items():
        if getattr(asked, name):
            raise UnsupportedResource(f"{name}={getattr(asked, name)!r} means nothing to {scheduler}", remedy=remedy)
    if asked.nodes > 1:
        raise UnsupportedResource(
            f"nodes={asked.nodes}: one task runs on one node; programs that span nodes (MPI) are not launched yet",
            remedy="Leave nodes out, and divide the work with .map.",
        )


def one_line(name: str, value: object) -> str:
    """Give the text of a user's value; ConfigError, naming it, unless it is one line of printable text."""
    text = str(value)
    if isinstance(value, (dict, list, tuple, set)) or not text:
        raise ConfigError(f"{name} must be a text or a number, not {value!r}")
    if not text.isprintable():
        raise ConfigError(f"{name} must be one line of printable text, not {text!r}")
    return text


def printable(text: str) -> str:
    """Make a text fit for a comment."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
