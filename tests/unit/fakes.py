"""A target that is a list: what is submitted to it is kept, and computed or ended as a test says."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clustrix.course import Site
from clustrix.model.job import End, EndKind, JobId, JobRecord, JobSpec, Placed, State, TaskStatus
from clustrix.model.outcome import Failure, Outcome, OutcomeStatus
from clustrix.model.paths import SitePaths
from clustrix.runtimes.base import Need
from clustrix.stores.base import Ended, RawOutcome
from clustrix.worker.outcome import seal
from clustrix.worker.payload import Payload


@dataclass(eq=False)
class FakeBackend:
    """Compute every item at once, or end it as the next of ``ends`` says; refuse with ``refusal``."""

    ends: list[EndKind] = field(default_factory=list)
    refusal: BaseException | None = None
    silence: Exception | None = None
    submitted: list[tuple[JobSpec, JobRecord, dict[str, Any]]] = field(default_factory=list)
    outcomes: dict[str, dict[int, RawOutcome]] = field(default_factory=dict)
    states: dict[str, EndKind] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    cancelled: list[JobId] = field(default_factory=list)
    settled: list[JobId] = field(default_factory=list)
    metadata: dict[str, object] = field(default_factory=dict)

    def submit(self, spec: JobSpec, record: JobRecord, files: Mapping[str, bytes | Path]) -> str:
        if self.refusal:
            raise self.refusal
        ulid = spec.id.ulid
        content = {name: data if isinstance(data, bytes) else data.read_bytes() for name, data in files.items()}
        self.submitted.append((spec, record, content))
        paths = SitePaths(record.root).job(ulid)
        self.keys[ulid] = content[paths.key]
        if self.ends:
            self.states[ulid] = self.ends.pop(0)
            self.outcomes[ulid] = {}
        else:
            with closing(Payload(str(files[paths.payload]))) as payload:
                self.outcomes[ulid] = {index: self._run(payload, index, ulid) for index in range(spec.items)}
        return f"native-{len(self.submitted)}"

    def _run(self, payload: Payload, index: int, ulid: str) -> RawOutcome:
        args, kwargs = payload.item(index)
        failure, value, status = None, b"", OutcomeStatus.SUCCESS
        try:
            value = pickle.dumps(payload.function()(*args, **kwargs))
        except Exception as error:
            status, value = OutcomeStatus.ERROR, pickle.dumps(error)
            failure = Failure(type=type(error).__name__, message=str(error), traceback="remote traceback")
        outcome = Outcome(
            index=index,
            function_name="f",
            status=status,
            value_sha256=hashlib.sha256(value).hexdigest(),
            value_bytes=len(value),
            failure=failure,
            metadata=self.metadata,
        )
        return RawOutcome(index, seal(outcome, self.keys[ulid]), value)

    def preview(self, spec: JobSpec) -> str:
        return f"run {spec.name}"

    def status(self, jobs: Sequence[JobRecord]) -> Mapping[JobId, Mapping[int, TaskStatus]]:
        if self.silence:
            raise self.silence
        kinds = {job.id: self.states[job.id.ulid] for job in jobs if job.id.ulid in self.states}
        return {job: {0: TaskStatus(state=State.FAILED, end=End(kind=kind))} for job, kind in kinds.items()}

    def cancel(self, jobs: Sequence[JobRecord]) -> None:
        self.cancelled += [job.id for job in jobs]
        self.states.update({job.id.ulid: EndKind.CANCELLED for job in jobs})

    def settle(self, job: JobRecord) -> None:
        self.settled.append(job.id)


@dataclass(eq=False)
class FakeStore:
    """Show what the backend computed."""

    backend: FakeBackend
    removed: list[JobId] = field(default_factory=list)

    def watch(self, jobs: Sequence[JobRecord], *, output: object = None) -> Iterator[Ended | None]:
        for job in jobs:
            for index in self.backend.outcomes[job.id.ulid]:
                yield Ended(job.id.ulid, index=index)
        while True:
            yield None
            for job in jobs:
                if job.id.ulid in self.backend.states:
                    yield Ended(job.id.ulid, task=0, end=End(kind=self.backend.states[job.id.ulid]))

    def read(self, job: JobRecord, indices: Sequence[int]) -> Iterator[RawOutcome]:
        yield from (row for index, row in self.backend.outcomes[job.id.ulid].items() if index in indices)

    def metadata(self, job: JobRecord, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        yield from ((row.index, row.metadata) for row in self.read(job, indices))

    def ends(self, job: JobRecord) -> Mapping[int, End]:
        return {}

    def owners(self, job: JobRecord) -> Mapping[int, int]:
        return dict.fromkeys(range(job.items), 0)

    def failures(self, jobs: Sequence[JobRecord]) -> Mapping[str, frozenset[int]]:
        return {job.id.ulid: frozenset() for job in jobs}

    def cancelled(self, job: JobRecord) -> bool:
        return job.id in self.backend.cancelled

    def key(self, job: JobRecord) -> bytes:
        return self.backend.keys[job.id.ulid]

    def log(self, job: JobRecord, task: int, *, last_bytes: int | None = None) -> bytes:
        return b"output\n"

    def remove(self, job: JobRecord) -> None:
        self.removed.append(job.id)


class FakeRuntime:
    """Wrap nothing."""

    needs = Need.LOCK
    enforces_memory = False

    def wrap(self, placed: Placed, argv: Sequence[str], **_: object) -> tuple[str, ...]:
        return ("run", *argv)


class _Target(SimpleNamespace):
    __hash__ = object.__hash__


def target(root: Path, backend: FakeBackend, *, plain: bool = True) -> Any:
    """Stand in for `clustrix.target.Target`."""
    store: Any = FakeStore(backend)
    return _Target(
        name="fake",
        plain=plain,
        on_cluster=False,
        here=True,
        site=SitePaths(str(root)),
        runtime=FakeRuntime(),
        runtime_name="fake",
        backend=backend,
        store=store,
        jobs=Site(backend, store, grace=0.0),
        room=lambda cores: 8 // cores,
    )
