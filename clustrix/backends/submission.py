"""One submission, through cuts and missing bundles: claim, unpack, submit, write down (decision 18 of docs/adr)."""

from __future__ import annotations

import posixpath
import secrets
import shlex
import time
from dataclasses import dataclass, field
from string import Template
from typing import TYPE_CHECKING

from clustrix.backends.framing import Frame
from clustrix.backends.parcel import parcel
from clustrix.errors import ConnectionLost, DiskFull, StoreError
from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from clustrix.model.job import JobSpec
    from clustrix.model.paths import JobPaths, SitePaths
    from clustrix.schedulers.base import Dialect
    from clustrix.transports.base import Transport

_ATTEMPTS = 5
_SETTLE = 1.0  # seconds before a cut submission is looked at again, doubled each time

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


@dataclass(slots=True, kw_only=True)
class Submission:
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
        word = first.stdout_text.split()
        said = done.stderr_text
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


def join(submissions: Iterable[tuple[str, int]]) -> str:
    """Write the ids of a job's submissions as one: ``4711 4712@1001``, each with its first task."""
    return " ".join(native_id if offset == 0 else f"{native_id}@{offset}" for native_id, offset in submissions)


def split(native_id: str) -> Sequence[tuple[str, int]]:
    """Read what `join` wrote."""
    pairs = (word.rpartition("@") for word in native_id.split())
    return [(name, int(offset)) if at else (offset, 0) for name, at, offset in pairs]
