"""Map 1,000 short calls at the target of this directory's configuration: the seconds that it took."""

from __future__ import annotations

import sys
import time
from pathlib import Path

MODULE = """
from clustrix import cluster

@cluster
def same(number):
    return number
"""


def main() -> None:
    items = int(sys.argv[1])
    Path("caller.py").write_text(MODULE)
    sys.path.insert(0, str(Path.cwd()))
    from caller import same

    assert same(1) == 1  # places the image
    start = time.perf_counter()
    assert list(same.map(range(items)).results()) == list(range(items))
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
