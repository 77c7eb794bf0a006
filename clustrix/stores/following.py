"""Follow the pods of jobs: their ends as one watch tells them, and their logs, each line once and before the end."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clustrix.errors import ClustrixError, ConnectionLost, RegistryDenied, RegistryError
from clustrix.kubernetes import names, pods
from clustrix.model.job import End, EndKind, State
from clustrix.stores.base import Ended, Output

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clustrix.kubernetes.streams import Stream
    from clustrix.model.job import JobRecord
    from clustrix.stores.pods import PodStore

    Pod = Mapping[str, Any]

_BEAT = 1.0
KUBELET = (b"failed to try resolving symlinks in path ", b"unable to retrieve container logs for ")
"""How a kubelet begins what it says in the place of a log that it has deleted."""
_MARK = b"clustrix/1 "
_LONGEST = 8192  # characters of a message, by far
_LOGS = 20  # logs that are followed, and read at an end, at a time


@dataclass(slots=True)
class _Log:
    """Hold how far the log of a pod has been shown; ``skip`` bytes of it were known before.

    The last line of a pod's output may be its message (`clustrix.worker.pod`), which is not shown: ``held`` is what may
    become one.
    """

    pod: str
    uid: str
    ulid: str
    task: int
    skip: int
    at: int = 0
    held: bytes = b""
    stream: Stream | None = None
    over: bool = False
    ends: list[Ended] = field(default_factory=list)

    def shown(self) -> list[Output]:
        """Take what is held up to where a message may begin."""
        place = self.held.find(_MARK)
        if place < 0:
            place = len(self.held) - max(size for size in range(len(_MARK)) if self.held.endswith(_MARK[:size]))
        return self.pass_on(place)

    def pass_on(self, size: int) -> list[Output]:
        """Take the first bytes of what is held."""
        data, self.held = self.held[:size], self.held[size:]
        return self.take(data)

    def take(self, data: bytes) -> list[Output]:
        """Take the next bytes of the log."""
        self.at += len(data)
        new = data[max(0, len(data) - max(0, self.at - self.skip)) :]
        return [Output(self.ulid, self.task, new)] if new else []


class Following:
    """Iterate over what jobs do; see `clustrix.stores.base.Watch`."""

    def __init__(self, store: PodStore, jobs: Sequence[JobRecord], output: Mapping[str, Mapping[int, int]]) -> None:
        self._store = store
        self._jobs = {job.id.ulid: job for job in jobs}
        self._known = {ulid: dict(had) for ulid, had in output.items()}
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._watch = store.cluster.watch_pods(names.selector(list(self._jobs)))
        self._closed = False
        self._reported: set[tuple[str, int]] = set()
        self._ended: set[str] = set()  # pods, by uid
        self._logs: dict[str, _Log] = {}
        self._unread = 0
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """End the watch, from any thread; iterating raises `ConnectionLost` then."""
        self._closed = True
        self._watch.close()
        for log in list(self._logs.values()):
            if log.stream is not None:
                log.stream.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._events.put(("CLOSED", None))

    def __iter__(self) -> Iterator[Ended | Output | None]:
        """Report what happens; ConnectionLost."""
        threading.Thread(target=self._listen, name="clustrix-pods", daemon=True).start()
        synced, first, beat = False, True, 0.0
        while True:
            with contextlib.suppress(queue.Empty):
                kind, thing = self._events.get(timeout=_BEAT)
                if self._closed:
                    raise ConnectionLost("the watch over the pods was closed")
                synced = synced or kind == "SYNCED"
                yield from self._take(kind, thing)
            now = time.monotonic()
            if synced and (not (self._unread and first)) and (first or now - beat >= _BEAT):
                first, beat = False, now
                yield None

    def _listen(self) -> None:
        try:
            for kind, pod in self._watch:
                self._events.put((kind, pod))
        except Exception as error:  # noqa: BLE001 - raised again where it is iterated
            self._events.put(("BROKEN", error))

    def _take(self, kind: str, thing: Any) -> Iterator[Ended | Output]:  # noqa: ANN401 - what the kind says
        if kind == "BROKEN":
            raise thing
        if kind in {"ADDED", "MODIFIED", "DELETED"}:
            ulid = names.ulid_of(thing)
            if ulid in self._jobs:
                yield from self._see(ulid, thing)
        elif kind == "OUTPUT":
            log, data = thing
            if not log.over:
                log.held += data
                yield from self._listen_to(log)
        elif kind == "WHOLE":
            log, data = thing
            self._unread -= 1
            log.over = True
            if log.stream is not None:
                log.stream.close()
            yield from log.take(data[log.at :])
            yield from log.ends

    def _listen_to(self, log: _Log) -> Iterator[Ended | Output]:
        """Show what a pod prints but for its message, which says a second before its status how its items ended."""
        yield from log.shown()
        while b"\n" in log.held or len(log.held) > _LONGEST:
            said = log.held.partition(b"\n")[0].decode(errors="replace")
            left = self._store.heard(self._jobs[log.ulid], log.pod, log.uid, log.task, said)
            if left is not None:
                log.over = True
                self._ended.add(log.uid)
                new = [index for index in left.message.statuses if (log.ulid, index) not in self._reported]
                self._reported.update((log.ulid, index) for index in new)
                yield from (Ended(log.ulid, index=index) for index in new)
                return
            yield from log.pass_on(len(_MARK))
            yield from log.shown()

    def _see(self, ulid: str, pod: Pod) -> Iterator[Ended | Output]:
        uid = pod["metadata"]["uid"]
        if uid in self._ended:
            return
        if not pods.ended(pod) or _is_sending(pod):
            if ulid in self._known and uid not in self._logs and pods.status_of(pod).state is State.RUNNING:
                self._follow(ulid, pod)
            return
        self._ended.add(uid)
        ends = self._ends(ulid, pod)
        if ulid not in self._known or pods.terminated(pod) is None:
            yield from ends
            return
        log = self._log(ulid, pod)
        log.ends = ends
        self._unread += 1
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_LOGS, "clustrix-logs")
        self._pool.submit(self._read, log)

    def _ends(self, ulid: str, pod: Pod) -> list[Ended]:
        """Tell which outcomes a pod left and, where that may not be all, how it ended."""
        left = self._store.remember(ulid, pod)
        try:
            announced = self._store.counting(self._jobs[ulid], left)
        except RegistryDenied:
            raise
        except RegistryError as error:  # no answer is no end
            self._ended.discard(left.uid)
            raise ConnectionLost(error.message) from error
        end = self._store.end(pod)
        if end is not None and end.kind is EndKind.PREEMPTED and self._store.cancelled(self._jobs[ulid]):
            end = End(kind=EndKind.CANCELLED, node=pods.node_of(pod))
        new = [index for index in announced if (ulid, index) not in self._reported]
        self._reported.update((ulid, index) for index in new)
        found = [Ended(ulid, index=index) for index in new]
        if end is not None and (not left.good or end.kind is not EndKind.EXITED):
            found.append(Ended(ulid, task=left.task, end=end))
        return found

    def _log(self, ulid: str, pod: Pod) -> _Log:
        """Find or begin what is known of a pod's log; only of a task's first pod some of it was known before."""
        uid = pod["metadata"]["uid"]
        if uid not in self._logs:
            task = pods.task_of(pod)
            self._logs[uid] = _Log(pod["metadata"]["name"], uid, ulid, task, self._known[ulid].pop(task, 0))
        return self._logs[uid]

    def _follow(self, ulid: str, pod: Pod) -> None:
        if sum(not log.over for log in self._logs.values()) < _LOGS:
            log = self._log(ulid, pod)
            threading.Thread(target=self._show, args=(log,), name="clustrix-log", daemon=True).start()

    def _show(self, log: _Log) -> None:
        """Pass on what a pod prints, while it runs; what is missing in the end is read then."""
        with contextlib.suppress(ClustrixError):
            log.stream = self._store.cluster.log(log.pod, names.MAIN, follow=True)
            if log.stream is not None and (self._closed or log.over):
                log.stream.close()
            elif log.stream is not None:
                for data in log.stream:
                    if not data.startswith(KUBELET):
                        self._events.put(("OUTPUT", (log, data)))

    def _read(self, log: _Log) -> None:
        data = b""
        with contextlib.suppress(ClustrixError):
            data = self._store.text(log.pod)
        self._events.put(("WHOLE", (log, data)))


def _is_sending(pod: Pod) -> bool:
    """Tell whether a courier may still send what the main container, which was killed, had ended before."""
    couriers = [row for row in pod["spec"].get("initContainers") or () if row["name"] == names.COURIER]
    final = pod["status"].get("phase") in {"Failed", "Succeeded"}
    return bool(couriers) and not (final or pods.succeeded(pod) or pods.terminated(pod, names.COURIER))
