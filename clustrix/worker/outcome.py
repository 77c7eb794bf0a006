"""The file that tells how an item ended, and its way back to the caller.

``outcomes/<i>.json`` holds the fields of `clustrix.model.outcome.Outcome` and a ``mac``: HMAC-SHA256, under the key of
the job, of the document without it in canonical form (sorted keys, no blanks, ASCII). It names the pickled value by
size and sha256, so checking the one is checking the other. Nothing is unpickled before.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING

from clustrix import errors
from clustrix.model.outcome import Failure, Outcome, OutcomeStatus
from clustrix.worker import sealing

if TYPE_CHECKING:
    from collections.abc import Mapping

_DO_NOT_TRUST = "Do not use it. Somebody else may be able to write to the job's directory; see: clustrix doctor"


class RemoteTraceback(Exception):
    """Show, as the cause of an exception, where it was raised on the other machine."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def seal(outcome: Outcome, key: bytes) -> bytes:
    """Write an outcome as signed JSON."""
    return sealing.seal(
        index=outcome.index,
        function_name=outcome.function_name,
        status=outcome.status.value,
        value=None if outcome.value_sha256 is None else (outcome.value_sha256, outcome.value_bytes),
        failure=outcome.failure,
        metadata=outcome.metadata,
        key=key,
    )


def verify(metadata: bytes, key: bytes, *, index: int) -> Outcome:
    """Read an outcome that the worker of this job wrote for this item.

    Raises:
        Tampered: somebody else wrote or changed it.

    """
    try:
        document = json.loads(metadata)
        mac = document.pop("mac")
        genuine = hmac.compare_digest(mac, _mac(document, key)) and document["index"] == index
    except (ValueError, TypeError, KeyError, AttributeError):
        genuine = False
    if not genuine:
        raise errors.Tampered(
            f"the outcome of item {index} is not signed with the key of its job", remedy=_DO_NOT_TRUST
        )
    return _outcome(document)


def read(
    metadata: bytes, value: bytes, key: bytes, *, index: int, job_id: str | None = None, log_tail: str | None = None
) -> object:
    """Give the value of an item, or raise what the function raised: `verify`, then `load`."""
    return load(verify(metadata, key, index=index), value, job_id=job_id, log_tail=log_tail)


def load(outcome: Outcome, value: bytes, *, job_id: str | None = None, log_tail: str | None = None) -> object:
    """Unpickle the value of a verified outcome, or raise what the function raised.

    An exception has its own type, and the remote traceback, host and log tail as its cause; one that cannot be rebuilt
    here is a `JobFailed` with everything in text.

    Raises:
        Tampered: ``value`` is not what the outcome names.
        StoreError: the value cannot be rebuilt here.
        JobError: `UserExit`, `JobFailed`, or the worker's refusal.

    """
    if outcome.value_sha256 is not None and (
        len(value) != outcome.value_bytes or hashlib.sha256(value).hexdigest() != outcome.value_sha256
    ):
        raise errors.Tampered(
            f"the value of item {outcome.index} is not the one that its outcome names", remedy=_DO_NOT_TRUST
        )
    if outcome.status is OutcomeStatus.SUCCESS:
        return _value(outcome, value)
    raise _error(outcome, value, job_id, log_tail)


def _value(outcome: Outcome, value: bytes) -> object:
    from clustrix.worker.pickling import loads

    try:
        return loads(value)
    except Exception as error:
        raise errors.StoreError(
            f"the result of {outcome.function_name} cannot be rebuilt here: {type(error).__name__}: {error}",
            remedy="Ask for it in an environment and a directory where the modules of its classes can be imported.",
        ) from error


def _error(outcome: Outcome, value: bytes, job_id: str | None, log_tail: str | None) -> Exception:
    failure = outcome.failure or Failure(type="unknown", message="", traceback="")
    if outcome.status is OutcomeStatus.REFUSED:
        kind = _error_class(failure.type)
        if issubclass(kind, errors.JobError):
            return kind(failure.message, job_id=job_id, index=outcome.index, log_tail=log_tail)
        return kind(failure.message)
    text = _remote_text(outcome, failure, job_id)
    error = _rebuild(value) if outcome.value_sha256 is not None else None
    if isinstance(error, errors.UserExit | errors.TimeLimit | errors.Preempted):
        error.job_id, error.index, error.log_tail = job_id, outcome.index, log_tail
        error.remote_traceback = text if failure.type != f"{type(error).__module__}.{type(error).__name__}" else None
        return error
    if error is not None:
        tail = f"\nLast lines of its output:\n{log_tail.rstrip()}" if log_tail else ""
        error.__cause__ = RemoteTraceback(text + tail)
        return error
    kind = _error_class(failure.type) if failure.type.startswith(errors.__name__) else errors.JobFailed
    kind = kind if issubclass(kind, errors.JobError) else errors.JobFailed
    return kind(
        failure.message if kind is not errors.JobFailed else f"{failure.type}: {failure.message}",
        job_id=job_id,
        index=outcome.index,
        remote_traceback=text,
        log_tail=log_tail,
    )


def _rebuild(value: bytes) -> Exception | None:
    from clustrix.worker.pickling import loads

    try:
        error = loads(value)
    except Exception:  # noqa: BLE001 - whatever it is, the text says more
        return None
    return error if isinstance(error, Exception) else None


def _remote_text(outcome: Outcome, failure: Failure, job_id: str | None) -> str:
    host = outcome.metadata.get("hostname", "an unknown host")
    lines = [f"On {host}, item {outcome.index} of job {job_id}:" if job_id else f"On {host}, item {outcome.index}:"]
    lines.append(failure.traceback.rstrip())
    if failure.local_variables:
        lines.append("Local variables where it was raised:")
        lines += [f"  {name} = {text}" for name, text in failure.local_variables]
    return "\n".join(lines)


def _error_class(name: str) -> type[errors.ClustrixError]:
    found = getattr(errors, name.rpartition(".")[2], None)
    return found if isinstance(found, type) and issubclass(found, errors.ClustrixError) else errors.JobFailed


def _outcome(document: Mapping[str, object]) -> Outcome:
    failure, result = document["failure"], document["result"]
    metadata = document["metadata"]
    if isinstance(failure, dict):
        failure = Failure(**{**failure, "local_variables": tuple(failure["local_variables"].items())})
    return Outcome(
        index=int(str(document["index"])),
        function_name=str(document["function_name"]),
        status=OutcomeStatus(document["status"]),
        value_sha256=result["sha256"] if isinstance(result, dict) else None,
        value_bytes=result["bytes"] if isinstance(result, dict) else 0,
        failure=failure if isinstance(failure, Failure) else None,
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def _mac(document: Mapping[str, object], key: bytes) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.digest(key, canonical.encode(), "sha256").hex()
