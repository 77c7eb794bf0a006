"""Drive any dialect through any transport: one way for every job (decisions 1, 18 and 20 of docs/adr)."""

from __future__ import annotations

import posixpath
import re
import secrets
import shlex
import time
from dataclasses import dataclass, field, replace
from string import Template
from typing import TYPE_CHECKING

from clustrix.backends import wrapper
from clustrix.backends.framing import Frame
from clustrix.backends.parcel import parcel
from clustrix.errors import BackendError, ConnectionLost, DiskFull, StoreError, SubmitRejected, UnsupportedResource
from clustrix.model import record as records
from clustrix.model.paths import JobPaths, SitePaths
from clustrix.schedulers.base import Launcher
from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from clustrix.model.job import JobId, JobRecord, JobSpec, TaskStatus
    from clustrix.schedulers.base import Dialect, Limits
    from clustrix.transports.base import Transport

_ATTEMPTS = 5
_AT_ONCE = 500  # jobs in one cancellation: arguments have a limit
_SETTLE = 1.0  # seconds before a cut submission is looked at again, doubled each time

_LOGIN = Template("""env | grep -E '^($names)='
timeout 30 "$${SHELL:-sh}" -lc env </dev/null 2>/dev/null | grep -E '^($names)='
exit 0
""")

# Claim the directory, unpack, submit, write down what the scheduler said. A cut connection does not end the script:
# it is past the point of no return, or it has noticed that its input is not whole.
_SUBMIT = Template("""
trap : HUP PIPE
umask 077
mkdir -p $jobs $bundles || exit
if ! mkdir $job 2>/dev/null; then
  [ -d $job ] || exit 1
  read -r host shell 2>/dev/null <$job/submitter
  round=0
  while [ ! -e $last_native_id ] && [ "$$host" = "$$(uname -n)" ] && kill -0 "$$shell" 2>/dev/null &&
    [ "$$shell" != $$$$ ] && [ $$round -lt 300 ]; do sleep 0.2; round=$$((round + 1)); done
  if [ $resume = no ]; then
    ask echo exists
    $recall
    ask $find
    exit 0
  fi
fi
echo "$$(uname -n) $$$$" >$job/submitter
tar -xof - -C $root || { rm -f $job/submitter; exit 75; }
[ -e $job/$whole ] || { rm -f $job/submitter; exit 74; }
rm -f $job/$whole
mkdir -p $directories || exit
for bundle in $job/incoming/*; do [ ! -e "$$bundle" ] || mv -f "$$bundle" $bundles/ || exit; done
[ ! -d $job/incoming ] || rmdir $job/incoming
missing=
for bundle in $needed; do [ -e $bundles/"$$bundle" ] || missing="$$missing $$bundle"; done
if [ -n "$$missing" ]; then
  rm -f $job/submitter
  ask echo missing $$missing
  exit 0
fi
ask echo submitted
submit() {
  trap : HUP PIPE
  place=$$1; shift
  "$$@" >"$$place.new" || { status=$$?; cat "$$place.new"; return $$status; }
  mv -f "$$place.new" "$$place" && cat "$$place"
}
status=0
$submit
rm -f $job/submitter
exit 0
""")
_CUT, _TAR_FAILED = 74, 75

_LOOK = """look() { cd "$1" && grep -s '' native-id native-id-[0-9]* /dev/null; }
"""
# The same once a submission that is under way has come to its end.
_SETTLED = """look() {
  [ -d "$1" ] || sleep 1
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
        submission = _Submission(
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
                raise BackendError(f"not cancelled: {_text(done.stderr or done.stdout)}")

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
                said = [line.partition(":") for line in _text(answer.stdout).splitlines()]
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
            raise BackendError(f"{self._transport.address} did not answer: {_text(done.stderr) or 'nothing was said'}")
        return answers

    def _exports(self) -> str:
        """Set the variables that the dialect's commands need as a login shell has them. Asked for once."""
        if self._variables is None:
            names = "|".join(self._dialect.variables)
            said = _text(self._transport.run(_LOGIN.substitute(names=names)).stdout) if names else ""
            found = dict(re.findall(rf"^({names})=(.*)$", said, re.MULTILINE)) if names else {}
            self._variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in found.items())
        return self._variables

    def _undo(self, spec: JobSpec, record: JobRecord, submission: _Submission) -> None:
        """Leave nothing behind of a job that was refused, also when the first of several submissions was accepted."""
        if submission.accepted:
            self.cancel([replace(record, native_id=join(submission.accepted))])
        self._transport.run(f"rm -rf {shlex.quote(self._site.job(spec.id.ulid).directory)}")


@dataclass(slots=True, kw_only=True)
class _Submission:
    """Bring one job to its target, through cuts and missing bundles."""

    dialect: Dialect
    transport: Transport
    exports: str
    site: SitePaths
    spec: JobSpec
    chunks: Sequence[tuple[JobSpec, int, int]]
    own: Mapping[str, bytes | Path]
    bundles: Mapping[str, bytes | Path]
    accepted: list[tuple[str, int]] = field(default_factory=list)

    @property
    def paths(self) -> JobPaths:
        """Place the job."""
        return self.site.job(self.spec.id.ulid)

    def run(self) -> str:
        """Go on until the scheduler has answered; ConnectionLost when that cannot be known."""
        send: Mapping[str, bytes | Path] = self.own
        resume = False
        attempt = 0
        while True:
            try:
                word, answers = self._once(send, resume=resume)
            except ConnectionLost:
                # It may have happened all the same: look before anything is done again.
                attempt += 1
                if attempt == _ATTEMPTS:
                    raise
                send, resume = self.own, False
                time.sleep(_SETTLE * 2 ** (attempt - 1))
                continue
            if word[0] == "submitted":
                return self._accept(answers)
            if word[0] == "missing":
                # What has arrived stays; only bundles travel now.
                send = {f"{self.paths.directory}/incoming/{name}": self.bundles[name] for name in word[1:]}
            elif (native_id := self._recall(answers)) is not None:
                return native_id
            resume = True

    def _once(self, send: Mapping[str, bytes | Path], *, resume: bool) -> tuple[list[str], Sequence[Completed]]:
        """One round trip: what the script came to, and the answers of the commands that belong to it."""
        frame = Frame()
        whole = f"whole-{secrets.token_hex(8)}"
        relative = {posixpath.relpath(name, self.site.root): content for name, content in send.items()}
        relative[posixpath.relpath(f"{self.paths.directory}/{whole}", self.site.root)] = b""
        script = self.exports + frame.prelude + self._script(whole, resume=resume)
        done = self.transport.run(script, stdin=parcel(relative))
        first, *answers = frame.answers(done.stdout) or [Completed(0, b"", b"")]
        word = _text(first.stdout).split()
        said = _text(done.stderr)
        if word:
            expected = {"missing": 0, "submitted": len(self.chunks), "exists": len(self.chunks) + 1}[word[0]]
            if len(answers) == expected or (word[0] == "submitted" and answers and answers[-1].returncode != 0):
                return word, answers
        elif done.returncode == _TAR_FAILED and ("no space" in said.lower() or "quota" in said.lower()):
            raise DiskFull(f"no space left at {self.transport.address} below {self.site.root}: {said}")
        elif done.returncode not in {_CUT, _TAR_FAILED}:
            raise StoreError(
                f"the job cannot be brought to {self.transport.address}:{self.site.root}: {said or 'no reason given'}",
                remedy="Set `root` to a directory that you may write to.",
            )
        raise ConnectionLost(f"the submission to {self.transport.address} was cut: {said or 'no answer'}")

    def _script(self, whole: str, *, resume: bool) -> str:
        quote, paths = shlex.quote, self.paths
        natives = [quote(paths.native_id_from(offset)) for _, offset, _ in self.chunks]
        submits = [
            f'[ "$status" != 0 ] || if [ -e {native} ]; then ask cat {native}; else '
            f"ask submit {native} {shlex.join(self.dialect.submit_argv(part, paths.script_from(offset)))}; fi"
            for native, (part, offset, _) in zip(natives, self.chunks, strict=True)
        ]
        return _SUBMIT.substitute(
            root=quote(self.site.root),
            jobs=quote(posixpath.dirname(paths.directory)),
            bundles=quote(self.site.bundles),
            job=quote(paths.directory),
            last_native_id=natives[-1],
            resume="yes" if resume else "no",
            recall="\n    ".join(f"ask cat {native}" for native in natives),
            find=shlex.join(self.dialect.find_argv(self.spec)),
            whole=whole,
            directories=" ".join(
                quote(place) for place in (paths.claims, paths.outcomes, paths.ends, paths.logs, paths.work)
            ),
            needed=" ".join(quote(name) for name in self.bundles),
            submit="\n".join(submits),
        )

    def _accept(self, answers: Sequence[Completed]) -> str:
        for answer, (_, offset, _) in zip(answers, self.chunks, strict=False):
            self.accepted.append((self.dialect.parse_submit(answer), offset))
        return join(self.accepted)

    def _recall(self, answers: Sequence[Completed]) -> str | None:
        """Tell what an earlier attempt came to: what it wrote down, else what the scheduler knows by the job's name."""
        *written, found = answers
        ids = [self.dialect.parse_submit(answer) if answer.returncode == 0 else None for answer in written]
        # The scheduler is asked for one: it may have accepted the first that is not written down, and no further.
        if None in ids and (native_id := self.dialect.parse_find(found)) is not None and native_id not in ids:
            ids[ids.index(None)] = native_id
        if None in ids:
            return None
        return join(
            (native_id, offset) for native_id, (_, offset, _) in zip(ids, self.chunks, strict=True) if native_id
        )


def join(submissions: Iterator[tuple[str, int]] | Sequence[tuple[str, int]]) -> str:
    """Write the ids of a job's submissions as one: ``4711 4712@1001``, each with its first task."""
    return " ".join(native_id if offset == 0 else f"{native_id}@{offset}" for native_id, offset in submissions)


def split(native_id: str) -> Sequence[tuple[str, int]]:
    """Read what `join` wrote."""
    pairs = (word.rpartition("@") for word in native_id.split())
    return [(name, int(offset)) if at else (offset, 0) for name, at, offset in pairs]


def _text(data: bytes) -> str:
    return data.decode(errors="replace").strip()
