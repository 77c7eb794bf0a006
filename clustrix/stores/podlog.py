"""Outcomes in the termination messages of pods and, where they are too large, in the log of their courier.

For clusters whose pods may not reach any registry. What a pod can bring back this way is at most
`clustrix.worker.podlog.LIMIT` characters; a result that is larger is `ResultTooLarge`.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

from clustrix.errors import ConnectionLost
from clustrix.kubernetes import names
from clustrix.stores.pods import PodStore, unpack
from clustrix.worker import podlog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clustrix.model.job import JobRecord
    from clustrix.stores.base import RawOutcome
    from clustrix.stores.pods import Remains

_LATE, _LOOK = 5.0, 0.1  # seconds until a line must be there, and between two looks


class PodLog(PodStore):
    """Read what pods left in their messages and logs."""

    def announced(self, ulid: str, left: Remains) -> Sequence[int]:
        """List the items of which a pod left an outcome; of one that was killed, what its courier had written."""
        del ulid
        return tuple(left.message.statuses) or tuple(self._records(left))

    def apart(self, job: JobRecord, wanted: Sequence[tuple[Remains, Sequence[int]]]) -> Iterator[RawOutcome]:
        """Read the logs of couriers."""
        for left, indices in wanted:
            records = self._records(left, indices)
            for index in indices:
                if index not in records:
                    raise ConnectionLost(f"the outcome of item {index} of {job.id} is not in the log of {left.name}")
                yield from unpack(io.BytesIO(records[index]), [index])

    def _records(self, left: Remains, indices: Sequence[int] = ()) -> Mapping[int, bytes]:
        """Read a log until these items are in it: what was written last shows up late."""
        deadline = time.monotonic() + _LATE
        while True:
            stream = self.cluster.log(left.name, names.COURIER)
            found = {} if stream is None else podlog.read(b"".join(stream))
            if set(indices) <= found.keys() or time.monotonic() > deadline:
                return found
            time.sleep(_LOOK)
