"""The termination message of a pod: how its items ended, and their outcomes or where these lie.

A kubelet keeps up to 4096 bytes of UTF-8 that a container left in ``/dev/termination-log`` in the pod's status
(https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/). Ours is a word for the version
and, in base64, a zlib stream of a line of JSON and the bytes that it counts::

    clustrix/1 eJx...

The line says: ``ended``, runs of items that ended alike, ``[first, last + 1, status]``; ``inline``, for each outcome
that follows its item and the sizes of its metadata and value; ``manifest`` and ``layers``, which name an artifact with
outcomes in the registry; ``log``, that they are in the courier's log; ``derived``, that they are signed with the key
that `derive` makes; ``memory``, that a process of the container was killed for its memory; ``told``, items that ended
after the pod had been told to go.

A pod that ended well says it at the end of its output, too. There user code may have written whatever it likes: a
message without outcomes, which are signed themselves, is followed by a signature of its own (`sign`).
"""

from __future__ import annotations

from clustrix.errors import StoreError
from clustrix.model import stdlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

LIMIT = 3072
"""The most characters that a message may have, of a pod's 12 KiB for all its containers."""
_VERSION = "clustrix/1"
_LARGEST = 8 << 20  # of what is unpacked
_MOST_ITEMS = 1_000_000
_STATUSES = frozenset({"success", "error", "refused"})


class Layer:
    """Name a blob with the outcomes of some items, in order: a tar archive of their ``<i>.json`` and ``<i>.pkl``."""

    def __init__(self, digest: str, size: int, items: tuple[int, ...]) -> None:
        # No dataclass: importing those would take a fifth of the time in which a worker starts.
        self.digest = digest
        self.size = size
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Message:
    """Say how the items of a pod ended: ``statuses`` by item; the fields are those of the module's description."""

    def __init__(
        self,
        *,
        statuses: Mapping[int, str] | None = None,
        inline: Mapping[int, tuple[bytes, bytes]] | None = None,
        manifest: str | None = None,
        layers: tuple[Layer, ...] = (),
        log: bool = False,
        derived: bool = False,
        memory: bool = False,
        told: tuple[int, ...] = (),
    ) -> None:
        self.statuses = statuses or {}
        self.inline = inline or {}
        self.manifest = manifest
        self.layers = layers
        self.log = log
        self.derived = derived
        self.memory = memory
        self.told = told

    def but(self, **fields: Any) -> Message:  # noqa: ANN401
        """Say the same with other ``fields``."""
        return Message(**{**vars(self), **fields})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def derive(key: bytes) -> bytes:
    """Make the key of a main container whose courier alone has that of the job."""
    return stdlib.hmac_sha256(key, b"main")


def encode(message: Message) -> str:
    """Write a message; whether it fits in `LIMIT` is for the caller to see."""
    import binascii
    import zlib

    head: dict[str, object] = {"ended": _runs(message.statuses)}
    body = []
    if message.inline:
        head["inline"] = [[index, len(text), len(value)] for index, (text, value) in message.inline.items()]
        body = [part for pair in message.inline.values() for part in pair]
    if message.layers:
        head["layers"] = [[layer.digest, layer.size, spans(layer.items)] for layer in message.layers]
    if message.told:
        head["told"] = spans(message.told)
    for name in ("manifest", "log", "derived", "memory"):
        if value := getattr(message, name):
            head[name] = value
    packed = zlib.compress(stdlib.encode(head).encode() + b"\n" + b"".join(body), 9)
    return f"{_VERSION} {binascii.b2a_base64(packed, newline=False).decode()}"


def decode(text: str) -> Message:
    """Read a message.

    Raises:
        StoreError: it is none, was cut short, or is of another version of clustrix.

    """
    import binascii
    import zlib

    version, _, packed = text.strip().partition(" ")
    if version != _VERSION:
        raise _bad("of another version of clustrix" if version.startswith("clustrix/") else "not one of clustrix")
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(binascii.a2b_base64(packed.encode("ascii")), _LARGEST)
        if not unpacker.eof:
            raise _bad("cut short, or too large")
        head, _, body = data.partition(b"\n")
        return _read(stdlib.decode(head), body)
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error, RecursionError) as error:
        raise _bad(f"damaged ({type(error).__name__})") from error


def sign(said: str, key: bytes) -> str:
    """Add a signature to a message that `encode` made."""
    return f"{said} {stdlib.hmac_sha256(key, said.encode()).hex()}"


def spans(items: Iterable[int]) -> list[list[int]]:
    """Write item numbers in order as half-open ranges."""
    found: list[list[int]] = []
    for item in items:
        if found and found[-1][1] == item:
            found[-1][1] += 1
        else:
            found.append([item, item + 1])
    return found


def items_of(ranges: Iterable[Any]) -> tuple[int, ...]:
    """Read what `spans` wrote; ValueError or TypeError for what it never writes."""
    found: list[int] = []
    for start, stop in ranges:
        if type(start) is not int or not 0 <= start < stop <= _MOST_ITEMS or stop - start > _MOST_ITEMS - len(found):
            raise ValueError(f"no range of items: {start!r} to {stop!r}")
        found += range(start, stop)
    return tuple(found)


def _runs(statuses: Mapping[int, str]) -> list[list[object]]:
    found: list[list[Any]] = []
    for index in sorted(statuses):
        if found and found[-1][1] == index and found[-1][2] == statuses[index]:
            found[-1][1] += 1
        else:
            found.append([index, index + 1, statuses[index]])
    return found


def _read(head: Mapping[str, Any], body: bytes) -> Message:
    statuses: dict[int, str] = {}
    for start, stop, status in head["ended"]:
        if status not in _STATUSES:
            raise ValueError(f"no status: {status!r}")
        statuses.update(dict.fromkeys(items_of([(start, stop)]), status))
    manifest = head.get("manifest")
    return Message(
        statuses=statuses,
        inline=dict(_inline(head.get("inline", ()), body)),
        manifest=None if manifest is None else _digest(manifest),
        layers=tuple(
            Layer(_digest(digest), _size(size), items_of(held)) for digest, size, held in head.get("layers", ())
        ),
        log=head.get("log") is True,
        derived=head.get("derived") is True,
        memory=head.get("memory") is True,
        told=items_of(head.get("told", ())),
    )


def _inline(rows: Iterable[Any], body: bytes) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    place = 0
    for index, text, value in rows:
        middle = place + _size(text)
        end = middle + _size(value)
        if end > len(body):
            raise ValueError("shorter than it says")
        yield _size(index), (body[place:middle], body[middle:end])
        place = end


def _size(number: object) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"no size: {number!r}")
    return number


def _digest(text: object) -> str:
    if not isinstance(text, str) or len(text) != len("sha256:") + 64 or not text.startswith("sha256:"):
        raise ValueError(f"no digest: {text!r}")
    int(text[7:], 16)
    return text


def _bad(how: str) -> StoreError:
    return StoreError(f"the termination message of the pod is {how}")
