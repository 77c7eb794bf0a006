"""How one item of a job ended, as its worker wrote it down."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class OutcomeStatus(enum.Enum):
    """Say what the pickled bytes beside an outcome hold."""

    SUCCESS = "success"  # the value
    ERROR = "error"  # the exception of user code
    REFUSED = "refused"  # nothing: the worker would not start user code (mismatched environment, unreadable payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Describe an exception in text, for when it cannot be rebuilt, and to show where it came from.

    ``local_variables`` are (name, shortened repr) of the frame that raised.
    """

    type: str  # module.QualName
    message: str
    traceback: str
    local_variables: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Hold the metadata of one item's end; its value is bytes apart, named by size and sha256.

    ``metadata`` has hostname, native_job_id, task (its number), python_version, image_digest, lock_digest, fingerprint,
    started, ended (seconds since the epoch), cpu_seconds (of the process and its children, in between),
    child_cpu_seconds (the children's part) and peak_memory_bytes (of the largest process so far).
    """

    index: int
    function_name: str
    status: OutcomeStatus
    value_sha256: str | None = None
    value_bytes: int = 0
    failure: Failure | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
