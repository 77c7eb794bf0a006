"""The contract of a backend: accept a job once, say where it stands, cancel it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from clustrix.model.job import JobId, JobRecord, JobSpec, TaskStatus


class Backend(Protocol):
    """Drive whatever runs jobs at a target."""

    def submit(self, spec: JobSpec, record: JobRecord, files: Mapping[str, bytes | Path]) -> str:
        """Bring the job's files (absolute path there -> content) and submit it; give the native id.

        Once and only once, also when the connection is cut on the way (decision 18). A second call with the same spec
        finds what the first one did.

        Raises:
            SubmitRejected: the scheduler's own words.
            UnsupportedResource: something that was asked for cannot be expressed here.

        """
        ...

    def preview(self, spec: JobSpec) -> str:
        """Show the script or manifest that `submit` would hand over."""
        ...

    def status(self, jobs: Sequence[JobRecord]) -> Mapping[JobId, Mapping[int, TaskStatus]]:
        """Ask once for all jobs: task number -> status; a job that is not known any more is left out."""
        ...

    def cancel(self, jobs: Sequence[JobRecord]) -> None:
        """Cancel jobs, waiting or running, with every process of theirs."""
        ...

    def settle(self, job: JobRecord) -> None:
        """Know that every outcome of a job has been read: the target need not keep it any longer."""
        ...


@runtime_checkable
class Launching(Protocol):
    """Start tasks that are several processes: what some backends can besides."""

    def interfaces(self) -> frozenset[str]:
        """Name the interfaces by which MPI programs find each other there; none where only one process is started."""
        ...
