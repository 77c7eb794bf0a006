"""Find jobs again, in any process: in the journal of this machine, or beside the job at its target."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING

from clustrix import config
from clustrix import target as targets
from clustrix.errors import ClustrixError, UnknownJob
from clustrix.handle import Job, JobArray, attach
from clustrix.journal import Journal
from clustrix.model.job import JobId, JobRecord, JobStatus
from clustrix.status import survey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.target import Target


def job(name: str) -> Job | JobArray:
    """Take up a job by its id, or the beginning of it; of this machine's journal, or of a configured target.

    Raises:
        UnknownJob: nobody knows it.

    """
    array = array_of(name)
    return array if len(array) > 1 else array.job()


def array_of(name: str) -> JobArray:
    """Take up any job as an array; a call is a map of one item."""
    record = find(name)
    return attach(record, targets.of_record(record).jobs)


def find(name: str) -> JobRecord:
    """Find the record of a job: in the journal, or beside the job at its target."""
    try:
        return Journal().find(name)
    except UnknownJob:
        # Submitted from elsewhere: whoever reaches the target finds the record beside the job, or says that it is not.
        whole = None
        with contextlib.suppress(UnknownJob):
            whole = JobId.parse(name)
        if whole is not None and whole.target in config.load().target_names:
            return targets.of(config.load().resolve(whole.target)).store.record(whole.ulid)
        raise


def jobs() -> list[Job | JobArray]:
    """List the jobs of this machine's journal, the newest first; nobody is asked."""
    found: list[Job | JobArray] = []
    for record in Journal().list():
        array = attach(record, targets.of_record(record).jobs)
        found.append(array if record.items > 1 else array.job())
    return found


def statuses(records: Sequence[JobRecord]) -> Mapping[JobId, JobStatus | ClustrixError]:
    """Ask every target once where its jobs stand; the error in the place of those that do not answer."""
    groups: dict[Target, list[JobRecord]] = defaultdict(list)
    for record in records:
        groups[targets.of_record(record)].append(record)
    found: dict[JobId, JobStatus | ClustrixError] = {}
    journal = Journal()
    for target, group in groups.items():
        try:
            said = survey(target.jobs, group)
        except ClustrixError as error:
            found.update(dict.fromkeys((record.id for record in group), error))
            continue
        found.update(said)
        for identity, status in said.items():
            if status.state.ended:
                with contextlib.suppress(UnknownJob):  # found at its target, not submitted from here
                    journal.update(identity, state=status.state)
    return found
