"""Submit functions to a site without the pipeline: what every backend suite stands on."""

from __future__ import annotations

import contextlib
import linecache
import secrets
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix import handle
from clustrix.backends.batch import BatchBackend
from clustrix.bundle import worker
from clustrix.course import Site
from clustrix.errors import ConnectionLost
from clustrix.model.job import JobId, JobRecord, JobSpec, new_ulid
from clustrix.model.paths import SitePaths
from clustrix.model.resources import Resources
from clustrix.stores.directory import DirectoryStore
from clustrix.worker import installed, payload, task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from clustrix.schedulers.base import Dialect
    from clustrix.transports.base import Completed, Transport


def by_value(source: str) -> Callable[..., Any]:
    """Make the last function of ``source``, as if it had been typed into a prompt."""
    text, file = textwrap.dedent(source), f"<prompt-{secrets.token_hex(4)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), names)  # noqa: S102 - the test's own text
    return [value for value in names.values() if callable(value)][-1]


@dataclass
class Desk:
    """Hold one way to run jobs: dialect, transport, root, and the interpreter that they find there."""

    dialect: Dialect
    transport: Transport
    root: str
    cache: Path
    interpreter: Sequence[str] = (sys.executable,)
    wrap: Callable[[Sequence[str]], Sequence[str]] = tuple
    grace: float = 30.0
    resources: Resources = field(default_factory=Resources)
    site: Site = field(init=False)
    sent: list[JobRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.site = Site(
            BatchBackend(self.dialect, self.transport, self.root), DirectoryStore(self.transport, self.root), self.grace
        )

    def prepare(
        self,
        source: str,
        items: Sequence[tuple[Any, ...]] = ((),),
        *,
        workers: int | None = None,
        slices: tuple[tuple[int, int], ...] | None = None,
        name: str = "test",
        variables: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> tuple[JobSpec, JobRecord, dict[str, bytes | Path]]:
        """Make what `Backend.submit` takes."""
        job = JobId("test", new_ulid())
        fields = {"resources": self.resources, **fields}
        site = self.paths
        paths = site.job(job.ulid)
        count = workers or len(items)
        slices = slices or tuple((index, index + 1) for index in range(len(items)))
        function = by_value(source)
        packed = Path(tempfile.mkdtemp(dir=self.cache)) / "payload"
        with packed.open("wb") as file:
            payload.pack(file, function, [(arguments, {}) for arguments in items], variables)
        bundle = worker.build(self.cache)
        here = installed.interpreter()
        job_task = task.Task(
            job_id=str(job),
            function_name=payload.name_of(function),
            items=len(items),
            slices=slices,
            workers=count,
            python=here.minor,
            implementation=here.implementation,
            abi=here.abi,
            requeue=fields["resources"].requeue,
            workdir=paths.work,
        )
        argv = self.wrap(
            (*self.interpreter[:-1], *worker.argv(self.interpreter[-1], site.bundle(bundle.digest)), paths.directory)
        )
        spec = JobSpec(id=job, name=name, items=len(items), slices=slices, workers=count, argv=tuple(argv), **fields)
        record = JobRecord(
            id=job,
            name=name,
            function=job_task.function_name,
            created=time.time(),
            items=len(items),
            workers=count,
            root=site.root,
            target=_settings(fields["resources"]),
        )
        files: dict[str, bytes | Path] = {
            paths.payload: packed,
            paths.key: secrets.token_bytes(32),
            paths.task: task.write(job_task),
            site.bundle(bundle.digest): bundle.path,
        }
        return spec, record, files

    def submit(self, source: str, items: Sequence[tuple[Any, ...]] = ((),), **options: Any) -> handle.JobArray:
        """Submit a function of that source, called once per tuple of arguments."""

        def again(_: handle.JobArray, indices: Sequence[int]) -> handle.JobArray:
            return self.submit(source, [items[index] for index in indices])

        spec, record, files = self.prepare(source, items, **options)
        self.sent.append(record)
        native_id = self.site.backend.submit(spec, record, files)
        record = handle_record(record, native_id)
        self.sent[-1] = record
        return handle.attach(record, self.site, retry=again)

    def call(self, source: str, *arguments: Any, **options: Any) -> handle.Job:
        """Submit one call."""
        return self.submit(source, (arguments,), **options).job()

    @property
    def paths(self) -> SitePaths:
        """Place what jobs see of the root."""
        return SitePaths(self.root)

    def path(self, job: handle.Job | handle.JobArray, *parts: str) -> str:
        """Place a file of the job."""
        return "/".join((self.paths.job(job.id.ulid).directory, *parts))

    def remains(self, job: handle.Job) -> str:
        """List what is left of a job."""
        return self.transport.run(f"ls -A '{self.root}/jobs' | grep {job.id.ulid}").stdout.decode()

    def clear(self) -> None:
        """Leave no process behind."""
        self.site.backend.cancel(self.sent)


def _settings(asked: Resources) -> dict[str, object]:
    """Give what a record holds of a request."""
    seconds = None if asked.time is None else asked.time.total_seconds()
    given = {"cores": asked.cores, "memory": asked.memory_bytes, "time": seconds}
    return {name: value for name, value in given.items() if value is not None}


def handle_record(record: JobRecord, native_id: str) -> JobRecord:
    """Fill in the native id."""
    import dataclasses

    return dataclasses.replace(record, native_id=native_id)


class Unreliable:
    """Count the round trips of a transport, and cut some: ``before`` they reach the host, or ``after``."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.runs = 0
        self.cut: dict[int, str] = {}
        self.dead = False

    @property
    def address(self) -> str:
        return self.transport.address

    def run(self, script: str, **options: Any) -> Completed:
        self.runs += 1
        how = self.cut.pop(self.runs, None)
        if self.dead or how == "before":
            raise ConnectionLost("cut before anything was done")
        done = self.transport.run(script, **options)
        if how == "after":
            raise ConnectionLost("cut before the answer")
        return done

    @contextlib.contextmanager
    def stream(self, script: str) -> Iterator[Iterator[bytes]]:
        if self.dead:
            raise ConnectionLost("the host is not there")
        with self.transport.stream(script) as chunks:
            yield self._alive(chunks)

    def _alive(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self.dead:
                raise ConnectionLost("the host went away")
            yield chunk

    def put(self, *args: Any, **options: Any) -> None:
        self.transport.put(*args, **options)

    def get(self, *args: Any, **options: Any) -> None:
        self.transport.get(*args, **options)

    def close(self) -> None:
        self.transport.close()
