"""A package of the caller's own, with data and a module-level value that cannot be pickled."""

import threading
from dataclasses import dataclass
from pathlib import Path

LOCK = threading.Lock()


@dataclass
class Point:
    x: int
    y: int


def unit() -> str:
    return Path(__file__).with_name("unit.txt").read_text().strip()


def mover(by):
    """Give a closure: it travels by value, and uses what its module holds."""

    def move(point):
        with LOCK:
            return Point(point.x + by, point.y)

    return move
