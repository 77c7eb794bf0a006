"""Drive any dialect through any transport: one way for every job (decisions 1, 18 and 20 of docs/adr)."""

from __future__ import annotations

import posixpath
import re
import shlex
from dataclasses import replace
from string import Template
from typing import TYPE_CHECKING

from clustrix.backends import wrapper
from clustrix.backends.framing import Frame
from clustrix.backends.submission import Submission, join, split
from clustrix.errors import BackendError, DiskFull, SubmitRejected, UnsupportedResource
from clustrix.model import record as records
from clustrix.model.paths import JobPaths, SitePaths
from clustrix.schedulers.base import Launcher
from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from clustrix.model.job import JobId, JobRecord, JobSpec, TaskStatus
    from clustrix.schedulers.base import Dialect, Limits
    from clustrix.transports.base import Transport

_AT_ONCE = 500  # jobs in one cancellation: arguments have a limit

_LOGIN = Template("""env | grep -E '^($names)='
timeout 30 "$${SHELL:-sh}" -lc env </dev/null 2>/dev/null | grep -E '^($names)='
exit 0
""")

_LOOK = """look() { cd "$1" && grep -s '' native-id native-id-[0-9]* /dev/null; }
"""
# The same once a submission that is under way has come to its end; one that was just sent may be about to begin.
_SETTLED = """began=$(date +%s)
look() {
  [ -d "$1" ] || [ "$(date +%s)" -gt "$began" ] || sleep 1
  cd "$1" || return
  round=0
  while read -r host shell 2>/dev/null <submitter && [ "$host" = "$(uname -n)" ] && kill -0 "$shell" 2>/dev/null &&
    [ $round -lt 300 ]; do sleep 0.2; round=$((round + 1)); done
  grep -s '' native-id native-id-[0-9]* /dev/null
}
"""


class BatchBackend:
    """Submit, watch and cancel jobs of one scheduler on one host, below one directory."""

    def __init__(self, dialect: Dialect, transport: Transport, root: str) -> None:
        self._dialect = dialect
        self._transport = transport
        self._site = SitePaths(root)
        self._known_limits: Limits | None = None
        self._known_interfaces: frozenset[str] | None = None
        self._known_ids: dict[JobId, str] = {}
        self._variables: str | None = None

    def submit(self, spec: JobSpec, record: JobRecord, files: Mapping[str, bytes | Path]) -> str:
        """Bring the job's files and submit it, once and only once; see `clustrix.backends.base.Backend`.

        Files outside of the job's directory are bundles: they travel only if the target does not have them.
        """
        paths = self._site.job(spec.id.ulid)
        spec = self._launched(spec, paths)
        chunks = self._chunks(spec)
        own = {
            paths.record: records.dump(record),
            paths.wrapper: wrapper.text(spec, paths, native_id=self._dialect.native_id).encode(),
            **{
                paths.script_from(offset): self._dialect.script(part, paths, offset=offset, tasks=tasks).encode()
                for part, offset, tasks in chunks
            },
            **{name: content for name, content in files.items() if name.startswith(f"{paths.directory}/")},
        }
        bundles = {posixpath.basename(name): content for name, content in files.items() if name not in own}
        submission = Submission(
            dialect=self._dialect,
            transport=self._transport,
            exports=self._exports(),
            site=self._site,
            spec=spec,
            chunks=chunks,
            own=own,
            bundles=bundles,
        )
        try:
            native_id = submission.run()
        except (SubmitRejected, DiskFull):
            self._undo(spec, record, submission)
            raise
        self._known_ids[spec.id] = native_id
        return native_id

    def preview(self, spec: JobSpec) -> str:
        """Show the script of the first submission, and the wrapper that it calls."""
        paths = self._site.job(spec.id.ulid)
        spec = self._launched(spec, paths)
        part, offset, tasks = self._chunks(spec)[0]
        script = self._dialect.script(part, paths, offset=offset, tasks=tasks)
        return f"{script}\n# {paths.wrapper}\n{wrapper.text(spec, paths, native_id=self._dialect.native_id)}"

    def status(self, jobs: Sequence[JobRecord]) -> Mapping[JobId, Mapping[int, TaskStatus]]:
        """Ask once for all jobs; BackendError when the scheduler does not answer."""
        native = self._native_ids(jobs)
        parts = {job: split(native_id) for job, native_id in native.items()}
        ids = [native_id for submissions in parts.values() for native_id, _ in submissions]
        if not ids:
            return {}
        answers = self._ask(self._dialect.status_argv(ids))
        known = self._dialect.parse_status(ids, answers)
        return {
            job: {
                offset + number: status
                for native_id, offset in submissions
                for number, status in known.get(native_id, {}).items()
            }
            for job, submissions in parts.items()
            if any(native_id in known for native_id, _ in submissions)
        }

    def cancel(self, jobs: Sequence[JobRecord]) -> None:
        """Mark the jobs as cancelled, then cancel them; BackendError if one is still there."""
        native = self._native_ids(jobs, define=_SETTLED)
        marks = [JobPaths(f"{job.root}/jobs/{job.id.ulid}").cancelled for job in jobs]
        ids = [native_id for text in native.values() for native_id, _ in split(text)]
        for start in range(0, max(len(marks), 1), _AT_ONCE):
            quoted = " ".join(shlex.quote(mark) for mark in marks[start : start + _AT_ONCE])
            self._transport.run(f'for mark in {quoted}; do [ ! -d "${{mark%/*}}" ] || true >"$mark"; done')
        for start in range(0, len(ids), _AT_ONCE):
            (done,) = self._ask([self._dialect.cancel_argv(ids[start : start + _AT_ONCE])])
            # Schedulers complain of jobs that have ended meanwhile, which is what was wanted.
            if done.returncode != 0 and any(
                not status.state.ended for tasks in self.status(jobs).values() for status in tasks.values()
            ):
                raise BackendError(f"not cancelled: {done.stderr_text or done.stdout_text}")

    def settle(self, job: JobRecord) -> None:
        """Keep the job's directory until somebody removes it."""

    def interfaces(self) -> frozenset[str]:
        """Ask once what MPI programs find each other by; BackendError when the scheduler does not answer."""
        if self._known_interfaces is None:
            self._known_interfaces = frozenset()
            if isinstance(self._dialect, Launcher):
                (answer,) = self._ask([self._dialect.interfaces_argv()])
                self._known_interfaces = self._dialect.parse_interfaces(answer)
        return self._known_interfaces

    def _launched(self, spec: JobSpec, paths: JobPaths) -> JobSpec:
        """Let the scheduler's launcher start a task that is several processes; other dialects refuse it by name."""
        if spec.resources.ranks == 1 or not isinstance(self._dialect, Launcher):
            return spec
        return replace(spec, argv=(*self._dialect.launch_argv(spec, paths), *spec.argv))

    def _chunks(self, spec: JobSpec) -> list[tuple[JobSpec, int, int]]:
        """Divide the tasks among as many submissions as the site's limit asks for."""
        if spec.workers == 1:
            return [(spec, 0, 1)]
        if self._known_limits is None:
            argv = self._dialect.limits_argv()
            self._known_limits = self._dialect.parse_limits(self._ask([argv])[0] if argv else Completed(0, b"", b""))
        highest = self._known_limits.max_array_index
        most = spec.workers if highest is None else highest + 1
        offsets = range(0, spec.workers, most)
        if spec.max_parallel is not None and len(offsets) > 1:
            if spec.max_parallel < len(offsets):
                raise UnsupportedResource(
                    f"max_parallel={spec.max_parallel}: the site's limit on arrays makes {len(offsets)} submissions, "
                    "and each runs at least one task",
                    remedy=f"Set a larger chunksize, or max_parallel={len(offsets)}.",
                )
            spec = replace(spec, max_parallel=spec.max_parallel // len(offsets))
        return [(spec, offset, min(most, spec.workers - offset)) for offset in offsets]

    def _native_ids(self, jobs: Sequence[JobRecord], *, define: str = _LOOK) -> Mapping[JobId, str]:
        """Give the native ids, from the records or from the jobs' directories; a job without one is left out."""
        found = {job.id: job.native_id or self._known_ids.get(job.id) for job in jobs}
        asked = [job for job in jobs if found[job.id] is None]
        if asked:
            places = [shlex.quote(f"{job.root}/jobs/{job.id.ulid}") for job in asked]
            answers = self._ask([("look", place) for place in places], define=define)
            for job, answer in zip(asked, answers, strict=True):
                said = [line.partition(":") for line in answer.stdout_text.splitlines()]
                offsets = {name: int(name.removeprefix("native-id").lstrip("-") or 0) for name, _, _ in said}
                if offsets:
                    self._known_ids[job.id] = found[job.id] = join(
                        (self._dialect.parse_submit(Completed(0, text.encode(), b"")), offsets[name])
                        for name, _, text in said
                    )
        return {job: native_id for job, native_id in found.items() if native_id is not None}

    def _ask(self, commands: Sequence[Sequence[str]], *, define: str = "") -> Sequence[Completed]:
        """Run commands in one round trip; BackendError if the host does not answer to each."""
        frame = Frame()
        questions = "\n".join(f"ask {' '.join(command) if define else shlex.join(command)}" for command in commands)
        done = self._transport.run(f"{self._exports()}{define}{frame.prelude}{questions}\nexit 0\n")
        answers = frame.answers(done.stdout)
        if len(answers) != len(commands):
            raise BackendError(f"{self._transport.address} did not answer: {done.stderr_text or 'nothing was said'}")
        return answers

    def _exports(self) -> str:
        """Set the variables that the dialect's commands need as a login shell has them. Asked for once."""
        if self._variables is None:
            names = "|".join(self._dialect.variables)
            said = self._transport.run(_LOGIN.substitute(names=names)).stdout_text if names else ""
            found = dict(re.findall(rf"^({names})=(.*)$", said, re.MULTILINE)) if names else {}
            self._variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in found.items())
        return self._variables

    def _undo(self, spec: JobSpec, record: JobRecord, submission: Submission) -> None:
        """Leave nothing behind of a job that was refused, also when the first of several submissions was accepted."""
        if submission.accepted:
            self.cancel([replace(record, native_id=join(submission.accepted))])
        self._transport.run(f"rm -rf {shlex.quote(self._site.job(spec.id.ulid).directory)}")
