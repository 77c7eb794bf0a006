"""Every item belongs to one range, and the ranges shrink."""

from __future__ import annotations

import pytest

from clustrix.errors import ConfigError
from clustrix.model.slices import share


@pytest.mark.parametrize("items", [1, 2, 7, 50, 1000])
@pytest.mark.parametrize("workers", [1, 3, 8, 2000])
def test_ranges_cover_all_items_in_order_and_shrink(items: int, workers: int) -> None:
    slices = share(items, workers)
    assert [number for start, stop in slices for number in range(start, stop)] == list(range(items))
    sizes = [stop - start for start, stop in slices]
    assert sizes == sorted(sizes, reverse=True)
    assert len(slices) >= min(items, workers)
    assert sizes[-1] == 1
    assert len(slices) <= 2 * workers * 12


def test_a_chunksize_is_obeyed() -> None:
    assert share(5, 2, chunksize=2) == ((0, 2), (2, 4), (4, 5))
    assert share(0, 2) == ()
    with pytest.raises(ConfigError, match="chunksize"):
        share(5, 2, chunksize=0)
