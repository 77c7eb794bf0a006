# ruff: noqa: PTH105, PTH110, PTH123
# pathlib would take a seventh of the time in which a worker starts.
"""The container beside user code that alone has the registry's login and the key of the job.

``python -I <worker zip> --courier <root> <ulid>`` runs as a native sidecar
(https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/). It shares the root of the pod with the main
container, whose outcomes are signed with a key that is derived from the job's; it checks them, signs them with that of
the job and brings them to the registry or, where ``CLUSTRIX_SINK`` is ``podlog``, writes them to its log. It does so
when the main container says that all are there, and for what is there when it is told to go: then the main container
has ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from clustrix.errors import ClustrixError, ResultTooLarge, Tampered
from clustrix.model.slices import items_of
from clustrix.worker import delivery as deliveries
from clustrix.worker import message as messages
from clustrix.worker import podlog, supplies
from clustrix.worker import task as tasks
from clustrix.worker.outcome import seal, verify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clustrix.worker.artifacts import Repository
    from clustrix.worker.delivery import Delivery, Written

_LOOK = 0.02
_PATIENCE, _LAST_PATIENCE = 300.0, 15.0  # seconds for which a registry may be away: before and after it is told to go
_HURRY, _TIMEOUT = 5.0, 60.0
_EXCUSE = 1500  # characters that an outcome takes which says that the real one is too large


def main(argv: list[str]) -> int:
    """Send what the main container leaves, until it is told to go."""
    _, _, root, ulid = argv
    os.umask(0o077)
    courier = _Courier(root, ulid)
    signal.signal(signal.SIGTERM, lambda *_: courier.leave())
    courier.run()
    return 0


class _Courier:
    def __init__(self, root: str, ulid: str) -> None:
        self._root = root
        self._paths = supplies.directories(root, ulid)
        self._task = tasks.read(_bytes(supplies.secret(root, "task.json")))
        self._key = _bytes(supplies.secret(root, "key"))
        self._number = supplies.number()
        self._items = items_of(self._task.slices, self._task.workers, self._number)
        self._log = os.environ.get("CLUSTRIX_SINK") == "podlog"
        self._tag = deliveries.tag(ulid, self._number, os.environ.get("CLUSTRIX_POD_UID", "pod"))
        self._delivery: Delivery | None = None
        self._told = False
        self._pace = deliveries.Pace()

    def leave(self) -> None:
        """Be told to go."""
        self._told = True
        if self._delivery is not None:
            self._delivery.repository.patience = _LAST_PATIENCE

    def run(self) -> None:
        """Fetch what the main container waits for, and send what it leaves."""
        try:
            if supplies.missing(self._root, self._paths):
                supplies.fetch(self._root, self._paths, self._repository(), self._items)
        except ClustrixError as error:
            self._write(self._paths.unfetched, str(error))
        while not self._told and not self._due():
            if len(self._items) > 1 and not self._log and self._pace.due():
                self._send_some()
            time.sleep(_LOOK)
        # The main container may have said all there was to say by itself.
        if not os.path.exists(self._paths.receipt) and (self._due() or deliveries.written(self._paths, self._items)):
            self._write(self._paths.receipt, self._send())
        while not self._told:
            time.sleep(_LOOK)

    def _due(self) -> bool:
        return os.path.exists(self._paths.handover) or os.path.exists(self._paths.receipt)

    def _send(self) -> str:
        """Send all that is there, and give the message that tells where it is."""
        outcomes = self._signed(self._items)
        try:
            if self._log:
                return self._print(outcomes)
            delivery = self._to_registry()
            patience = _LAST_PATIENCE if self._told else _PATIENCE
            delivery.repository.patience, delivery.repository.timeout = patience, _TIMEOUT
            delivery.push_new(outcomes)
            return deliveries.pointing(outcomes, delivery)
        except ClustrixError as error:
            print(f"clustrix: the outcomes cannot be sent: {error}", file=sys.stderr, flush=True)
            return deliveries.excuse(self._task, self._number, outcomes, error, self._key)

    def _send_some(self) -> None:
        try:
            delivery = self._to_registry()
            delivery.repository.patience, delivery.repository.timeout = 0, _HURRY
            delivery.push_new(self._signed(delivery.unsent(self._items)))
        except (ClustrixError, OSError) as error:
            self._pace.complain(error)

    def _print(self, outcomes: Sequence[Written]) -> str:
        """Write outcomes to the log; in the place of one that there is no room for, why it is not there."""
        room = podlog.LIMIT - _EXCUSE * len(outcomes)
        said: list[Written] = []
        for row in outcomes:
            index, _, value = row
            packed = podlog.pack(deliveries.archive([row])[1], room + _EXCUSE)
            if packed is None:
                size = os.stat(value).st_size if value else 0  # noqa: PTH116
                row = index, self._too_large(index, size), None  # noqa: PLW2901
                packed = podlog.pack(deliveries.archive([row])[1], podlog.LIMIT) or b""
            room += _EXCUSE - podlog.length(packed)
            said.append(row)
            for line in podlog.lines(index, packed):
                sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        return messages.encode(messages.Message(statuses=deliveries.statuses(said), log=True))

    def _too_large(self, index: int, size: int) -> bytes:
        error = ResultTooLarge(
            f"the result of item {index} has {size} bytes, and the log of a pod takes {podlog.LIMIT >> 20} MiB of text",
            remedy="Write it to a volume and return its path, or use `store: registry`.",
        )
        return deliveries.failed(self._task, self._number, index, error, self._key, refused=True)

    def _signed(self, items: Sequence[int]) -> list[Written]:
        """Read the outcomes that are there, each signed with the key of the job once its own signature is checked."""
        return [self._sign(*row) for row in deliveries.written(self._paths, items)]

    def _sign(self, index: int, text: bytes, value: str | None) -> Written:
        try:
            return index, seal(verify(text, messages.derive(self._key), index=index), self._key), value
        except Tampered as error:
            return index, deliveries.failed(self._task, self._number, index, error, self._key, refused=True), None

    def _repository(self) -> Repository:
        from clustrix.worker.artifacts import Login, Repository

        return Repository(Login.read(_bytes(supplies.secret(self._root, "registry.json"))), patience=_PATIENCE)

    def _to_registry(self) -> Delivery:
        if self._delivery is None:
            self._delivery = deliveries.Delivery(self._repository(), self._tag)
        return self._delivery

    @staticmethod
    def _write(path: str, text: str) -> None:
        with open(f"{path}.part", "w") as file:
            file.write(text)
        os.replace(f"{path}.part", path)


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
