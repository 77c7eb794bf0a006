"""How a worker writes down the end of an item; `clustrix.worker.outcome` tells the format and reads it."""

from __future__ import annotations

from clustrix.model import stdlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from clustrix.model.outcome import Failure


def seal(
    *,
    index: int,
    function_name: str,
    status: str,
    value: tuple[str, int] | None,
    failure: Failure | None,
    metadata: Mapping[str, object],
    key: bytes,
) -> bytes:
    """Write an outcome as signed JSON; ``value`` is the sha256 and the size of the pickled one."""
    document = {
        "index": index,
        "function_name": function_name,
        "status": status,
        "result": value and {"file": f"{index}.pkl", "sha256": value[0], "bytes": value[1]},
        "failure": failure
        and {
            "type": failure.type,
            "message": failure.message,
            "traceback": failure.traceback,
            "local_variables": dict(failure.local_variables),
        },
        "metadata": dict(metadata),
    }
    mac = stdlib.hmac_sha256(key, stdlib.encode(document).encode()).hex()
    return stdlib.encode({**document, "mac": mac}).encode() + b"\n"
