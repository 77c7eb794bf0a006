"""What the stores of Kubernetes share: outcomes that pods announce in their termination messages.

One watch over the pods of all jobs. A pod that was started twice may leave two outcomes of an item: the first pod that
ended with 0 counts, which is the one that its Job counts, too.
"""

from __future__ import annotations

import hmac
import logging
import re
import signal
import tarfile
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from clustrix.errors import StoreError, UnknownJob
from clustrix.kubernetes import names, pods
from clustrix.model import record as records
from clustrix.model.job import End, EndKind
from clustrix.model.slices import items_of
from clustrix.stores.base import RawOutcome
from clustrix.stores.following import KUBELET, Following
from clustrix.worker import message as messages
from clustrix.worker import outcome as outcomes
from clustrix.worker import task as tasks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from clustrix.kubernetes.connection import Cluster
    from clustrix.model.job import JobRecord

    Pod = Mapping[str, Any]

_log = logging.getLogger("clustrix")
_REMEMBERED = 64  # jobs whose messages are kept here
_MESSAGE = re.compile(rb"clustrix/1 [A-Za-z0-9+/=]+( [0-9a-f]{64})?\n?\Z")  # the last line of a pod that ended well
_LINE = 20  # bytes of a line, at least on average, where the end of a log is asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """Hold what a pod left that has ended; ``good`` tells that its worker ended as it should."""

    name: str
    uid: str
    task: int
    good: bool
    at: str
    message: messages.Message


def remains_of(pod: Pod) -> Remains:
    """Read what a pod that has ended left in its status."""
    text, said = pods.message_of(pod), messages.Message()
    if text:
        try:
            said = messages.decode(text)
        except StoreError as error:
            _log.warning("pod %s: %s", pod["metadata"]["name"], error)
    state = pods.terminated(pod) or {}
    return Remains(
        name=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        task=pods.task_of(pod),
        good=pods.succeeded(pod),
        at=str(state.get("finishedAt") or ""),
        message=said,
    )


class PodStore:
    """Read what the pods of jobs left behind; where outcomes are that fit in no message is for the stores to know."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._remains: dict[str, dict[str, Remains]] = {}
        self._keys: dict[str, bytes] = {}
        self._slices: dict[str, tuple[tuple[int, int], ...]] = {}

    def apart(self, job: JobRecord, wanted: Sequence[tuple[Remains, Sequence[int]]]) -> Iterator[RawOutcome]:
        """Read outcomes of items that pods left and that are not in their messages."""
        raise NotImplementedError

    def announced(self, ulid: str, left: Remains) -> Sequence[int]:
        """List the items of which a pod left an outcome."""
        del ulid
        return tuple(left.message.statuses)

    def counting(self, job: JobRecord, left: Remains) -> Sequence[int]:
        """List the items of which a pod left an outcome that counts.

        What user code saved or raised when it was told to go is nobody's business where somebody cancelled the job.
        """
        announced = self.announced(job.id.ulid, left)
        failed = {index for index in left.message.told if left.message.statuses.get(index) != "success"}
        if not failed or not self.cancelled(job):
            return announced
        return [index for index in announced if index not in failed]

    def watch(
        self, jobs: Sequence[JobRecord], *, output: Mapping[str, Mapping[int, int]] = MappingProxyType({})
    ) -> Following:
        """Watch jobs with one watch over their pods, whatever their number."""
        return Following(self, jobs, output)

    def end(self, pod: Pod) -> End | None:
        """Say how a pod ended, as `pods.end_of`, with what its first process knows besides.

        Memory may have run out for a process that user code had started; 143 is how it says that it was told to go, and
        who takes too long over it is killed.
        """
        end = pods.end_of(pod)
        if end is None:
            return None
        if end.kind is EndKind.EXITED and remains_of(pod).message.memory:
            return End(kind=EndKind.OUT_OF_MEMORY, exit_code=end.exit_code, node=end.node)
        told = end.kind is EndKind.SIGNALLED and end.signal == signal.SIGTERM
        killed = end.kind is EndKind.NODE_FAILURE or (end.kind is EndKind.SIGNALLED and end.signal == signal.SIGKILL)
        if told or (killed and pods.deleted(pod)):
            return End(kind=EndKind.PREEMPTED, exit_code=end.exit_code, message="its pod was deleted", node=end.node)
        return end

    def _look_for(self, job: JobRecord, missing: Collection[int], there: Sequence[Pod]) -> None:
        """Look for outcomes of tasks that have no pod any more, where nobody stopped the job."""
        found = self.cluster.jobs(names.selector([job.id.ulid]))
        if not found or any(part["spec"].get("suspend") for part in found):
            return
        owners, present = self.owners(job), {pods.task_of(pod) for pod in there}
        if gone := {owners[index] for index in missing} - present:
            self.recall(job.id.ulid, gone)

    def recall(self, ulid: str, tasks: Collection[int]) -> None:
        """Keep what pods of these tasks left that are gone, if that is anywhere."""

    def remember(self, ulid: str, pod: Pod) -> Remains:
        """Keep what a pod left."""
        return self.keep(ulid, remains_of(pod))

    def keep(self, ulid: str, left: Remains) -> Remains:
        """Keep what somebody left, of the latest jobs."""
        self._remains.setdefault(ulid, {})[left.uid] = left
        while len(self._remains) > _REMEMBERED:
            del self._remains[next(iter(self._remains))]
        return left

    def heard(self, job: JobRecord, name: str, uid: str, task: int, said: str) -> Remains | None:
        """Keep what a pod said at the end of its output; None if it is nothing that the worker of this job wrote."""
        said = said.rstrip("\n")
        unsigned = said.rpartition(" ")[0]
        try:
            signed = hmac.compare_digest(said.encode(), messages.sign(unsigned, self.key(job)).encode())
            message = messages.decode(unsigned if signed else said)
            for index, (text, _) in message.inline.items():
                key = self.key(job)
                outcomes.verify(text, messages.derive(key) if message.derived else key, index=index)
        except StoreError:
            return None
        if not message.statuses or not (signed or message.inline.keys() == message.statuses.keys()):
            return None
        left = Remains(name=name, uid=uid, task=task, good=True, at="", message=message)
        return self.keep(job.id.ulid, left)

    def read(self, job: JobRecord, indices: Sequence[int]) -> Iterator[RawOutcome]:
        """Read outcomes; those that do not exist are left out."""
        ulid = job.id.ulid
        if not set(indices) <= self._holders(job).keys():
            there = self._pods([job])
            for pod in there:
                if pods.ended(pod):
                    self.remember(ulid, pod)
            if missing := set(indices) - self._holders(job).keys():
                self._look_for(job, missing, there)
        holders = self._holders(job)
        apart: dict[str, tuple[Remains, list[int]]] = {}
        for index in indices:
            left = holders.get(index)
            if left is None:
                continue
            if index in left.message.inline:
                text, value = left.message.inline[index]
                yield RawOutcome(index, self._signed(job, text, index) if left.message.derived else text, value)
            else:
                apart.setdefault(left.uid, (left, []))[1].append(index)
        yield from self.apart(job, list(apart.values()))

    def metadata(self, job: JobRecord, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Read outcomes as `read` does: in a pod's message, and in its archives, values lie between them."""
        for outcome in self.read(job, indices):
            yield outcome.index, outcome.metadata

    def _holders(self, job: JobRecord) -> dict[int, Remains]:
        """Tell which pod's outcome of an item counts."""
        found: dict[int, Remains] = {}
        for left in sorted(self._remains.get(job.id.ulid, {}).values(), key=lambda one: (not one.good, one.at)):
            for index in self.counting(job, left):
                found.setdefault(index, left)
        return found

    def _signed(self, job: JobRecord, text: bytes, index: int) -> bytes:
        """Sign what a main container signed with the key that it has in place of the job's."""
        key = self.key(job)
        return outcomes.seal(outcomes.verify(text, messages.derive(key), index=index), key)

    def ends(self, job: JobRecord) -> Mapping[int, End]:
        """Tell how the tasks ended; of one that was started again, how it ended last."""
        found: dict[int, End] = {}
        for pod in sorted(self._pods([job]), key=lambda pod: str(pod["metadata"].get("creationTimestamp"))):
            end = self.end(pod)
            found.pop(pods.task_of(pod), None)
            if end is not None:
                found[pods.task_of(pod)] = end
        return found

    def failures(self, jobs: Sequence[JobRecord]) -> Mapping[str, frozenset[int]]:
        """Tell which items have an outcome that is not a value, by ulid."""
        found: dict[str, set[int]] = {job.id.ulid: set() for job in jobs}
        for pod in self._pods(jobs):
            ulid = names.ulid_of(pod)
            if ulid in found and pods.ended(pod):
                said = remains_of(pod).message.statuses
                found[ulid] |= {index for index, status in said.items() if status != "success"}
        return {ulid: frozenset(items) for ulid, items in found.items()}

    def owners(self, job: JobRecord) -> Mapping[int, int]:
        """Tell which task alone does which item."""
        slices = self._slices.get(job.id.ulid)
        if slices is None:
            slices = self._slices[job.id.ulid] = tasks.read(self._secret(job)["task.json"]).slices
        return {index: task for task in range(job.workers) for index in items_of(slices, job.workers, task)}

    def cancelled(self, job: JobRecord) -> bool:
        """Tell whether somebody asked to cancel the job."""
        found = self.cluster.job(names.job_name(job.id.ulid))
        return found is not None and names.CANCELLED in (found["metadata"].get("annotations") or {})

    def key(self, job: JobRecord) -> bytes:
        """Read the key that signs the job's outcomes; UnknownJob."""
        if job.id.ulid not in self._keys:
            self._keys[job.id.ulid] = self._secret(job)["key"]
        return self._keys[job.id.ulid]

    def record(self, ulid: str) -> JobRecord:
        """Read the record beside a job; UnknownJob if there is none."""
        found = self.cluster.job(names.job_name(ulid))
        text = ((found or {}).get("metadata", {}).get("annotations") or {}).get(names.RECORD)
        if text is None:
            raise UnknownJob(f"there is no job {ulid} in namespace {self.cluster.space} of {self.cluster.server}")
        return records.load(text.encode())

    def log(self, job: JobRecord, task: int, *, last_bytes: int | None = None) -> bytes:
        """Read the output of a task, all of it or its last bytes; nothing if it has not started.

        Of a long output only what the kubelet has kept.

        Raises:
            UnknownJob: the job was removed.

        """
        there = [pod for pod in self._pods([job]) if pods.task_of(pod) == task]
        if not there:
            if self.cluster.job(names.job_name(job.id.ulid)) is None:
                raise self._unknown(job)
            return b""
        good = [pod for pod in there if pods.succeeded(pod)]
        last = (good or sorted(there, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))))[-1]
        lines = None if last_bytes is None else 1 + max(1, last_bytes // _LINE)
        data = self.text(last["metadata"]["name"], lines)
        return data if last_bytes is None else data[-last_bytes:] if last_bytes else b""

    def text(self, pod: str, lines: int | None = None) -> bytes:
        """Read the log of a pod, or its last lines; nothing where there is none."""
        stream = self.cluster.log(pod, names.MAIN, tail_lines=lines)
        data = b"" if stream is None else b"".join(stream)
        return b"" if data.startswith(KUBELET) else _MESSAGE.sub(b"", data)

    def remove(self, job: JobRecord) -> None:
        """Delete the Job, and with it its pods and its Secret, and what it has elsewhere."""
        self._remains.pop(job.id.ulid, None)
        self._keys.pop(job.id.ulid, None)
        self._slices.pop(job.id.ulid, None)
        self.discard([job.id.ulid])
        for part in self.cluster.jobs(names.selector([job.id.ulid])):
            place = self.cluster.path("jobs", part["metadata"]["name"])
            self.cluster.delete(place, {"propagationPolicy": "Background"})

    def discard(self, ulids: Collection[str]) -> None:
        """Delete what jobs have elsewhere; before the cluster forgets their pods, which tell what that is."""

    def _pods(self, jobs: Sequence[JobRecord]) -> Sequence[Pod]:
        return self.cluster.pods(names.selector([job.id.ulid for job in jobs]))

    def _secret(self, job: JobRecord) -> Mapping[str, bytes]:
        found = self.cluster.secret(names.job_name(job.id.ulid))
        if found is None:
            raise self._unknown(job)
        return found

    def _unknown(self, job: JobRecord) -> UnknownJob:
        return UnknownJob(f"{job.id} is not in namespace {self.cluster.space} any more", remedy="It was removed there.")


def unpack(file: BinaryIO, indices: Collection[int]) -> Iterator[RawOutcome]:
    """Read outcomes from an archive of `clustrix.worker.delivery`; StoreError for anything else."""
    metadata: dict[int, bytes] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                number, _, kind = member.name.partition(".")
                index = int(number)
                if index not in indices:
                    continue
                content = archive.extractfile(member)
                data = content.read() if content is not None else b""
                if kind == "json":
                    metadata[index] = data
                else:
                    yield RawOutcome(index, metadata.pop(index), data)
    except (tarfile.TarError, ValueError, KeyError) as error:
        raise StoreError(f"an archive of outcomes is damaged: {error}") from error
    for index, text in metadata.items():  # an outcome without a value
        yield RawOutcome(index, text, b"")
