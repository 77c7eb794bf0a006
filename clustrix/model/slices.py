"""How the items of a map are shared out among its tasks."""

from __future__ import annotations

from clustrix.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def share(items: int, workers: int, chunksize: int | None = None) -> tuple[tuple[int, int], ...]:
    """Cut ``items`` into half-open ranges that ``workers`` tasks claim one after the other.

    Without ``chunksize`` the ranges shrink towards the end (guided self-scheduling: Polychronopoulos and Kuck,
    IEEE Transactions on Computers C-36, 1987): half of what is left, shared evenly, so that short calls are packed and
    the last range to end is a small one.

    Raises:
        ConfigError: ``chunksize`` is not positive.

    """
    if chunksize is not None and chunksize < 1:
        raise ConfigError(f"chunksize must be at least 1, not {chunksize}")
    slices: list[tuple[int, int]] = []
    start = 0
    while start < items:
        size = chunksize or -(-(items - start) // (2 * max(1, workers)))
        stop = min(items, start + size)
        slices.append((start, stop))
        start = stop
    return tuple(slices)


def items_of(slices: Sequence[tuple[int, int]], workers: int, task: int) -> list[int]:
    """List the items of one of ``workers`` tasks that cannot see each other: it has every ``workers``-th range."""
    return [index for place in range(task, len(slices), workers) for index in range(*slices[place])]
