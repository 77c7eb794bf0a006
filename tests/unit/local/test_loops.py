# ruff: noqa: B007, PERF401, PERF402, PLW0120, PTH123, RET503, UP028 - loops as people write them
"""A loop that is shared out gives what it gives as it was written, or it is refused with the reason."""

from __future__ import annotations

import operator
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clustrix import cluster, config
from clustrix.errors import ConfigError, ParallelError
from clustrix.local import pool
from clustrix.local.loops import Split

OFFSET = 10


@pytest.fixture(autouse=True)
def importable(monkeypatch) -> None:
    """Let other processes find this module."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[3])])


def squares(count):
    found = []
    for i in range(count):
        found.append(i * i)
    return found


def everything(names, scale=2, *, start=0):
    table, seen, total, pids = {}, set(), start, set()
    for index, (name, value) in enumerate(names):
        if not name:
            continue
        size = len(name) * scale + OFFSET
        for letter in name:
            seen.add(letter)
        table[name] = size
        total += value
        pids.add(os.getpid())
    else:
        total += 1000
    for index in range(3):
        table[index] = [x + index for x in range(index)]
    return table, seen, total, pids


def nested(rows):
    out = [0] * len(rows)
    while not all(out):
        for number, row in enumerate(rows):
            total = 0
            for value in row:
                total += value
            out[number] = total
    return out


def failing(items, log):
    for item in items:
        log.append(item)
        10 // item
    return log


def closure(factor):
    def inner(count):
        found = []
        for i in range(count):
            found.append(i * factor)
        return found

    return inner


class Thing:
    factor = 3

    def method(self, count):
        found = []
        for i in range(count):
            found.append(i * self.factor)
        return found


def test_in_order_and_by_several_processes() -> None:
    assert Split(squares)(5) == [0, 1, 4, 9, 16]
    names = [("abc", 1), ("", 99), ("d", 0.1), ("efgh", 0.2)]
    for arguments in ({}, {"scale": 5, "start": 3}):
        found, expected = Split(everything)(names, **arguments), everything(names, **arguments)
        assert found[:3] == expected[:3]
        assert os.getpid() not in found[3]
    assert Split(nested)([[1, 2], [3], [4, 5]]) == [3, 3, 9]
    assert Split(closure(7))(3) == [0, 7, 14]
    assert Split(Thing.method)(Thing(), 3) == [0, 3, 6]
    again = pickle.loads(pickle.dumps(Split(squares)))
    assert again(3) == [0, 1, 4]


def test_what_was_done_before_an_error_is_done_and_nothing_behind_it() -> None:
    expected: list[int] = []
    log: list[int] = []
    items = [5, 2, 0, 1, 0]
    with pytest.raises(ZeroDivisionError):
        failing(items, expected)
    with pytest.raises(ZeroDivisionError):
        Split(failing)(items, log)
    assert log == expected == [5, 2, 0]


def carried(items):
    last, out = 0, []
    for item in items:
        out.append(item - last)
        last = item
    return out


def reads_others(items):
    out = [0] * 9
    for i in items:
        out[i] = out[i - 1] + 1
    return out


def used_later(items):
    out = []
    for item in items:
        out.append(item)
    return item, out


def breaks(items):
    out = []
    for item in items:
        if item:
            break
        out.append(item)
    return out


def returns(items):
    for item in items:
        if item:
            return item


def generator(items):
    for item in items:
        yield item


def attribute(thing, items):
    for item in items:
        thing.factor = item


def calls(thing, items):
    for item in items:
        thing.method(item)


def grows(items):
    for item in items:
        items.append(item)


def slices(items):
    out = list(items)
    for item in items:
        out[item:] = [item]
    return out


def maybe(items):
    out = []
    for item in items:
        if item:
            half = item / 2
        out.append(half)
    return out


def silent(items):
    for item in items:
        print(item)


def counts(n):
    while n:
        n -= 1


def straight(n):
    return n


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (carried, "last is carried from one turn to the next"),
        (reads_others, "reads out, which other turns change"),
        (used_later, "item is used outside"),
        (breaks, "it holds break"),
        (returns, "it holds return"),
        (generator, "it holds yield"),
        (attribute, "it changes thing.factor"),
        (calls, "it calls thing.method, which may change thing"),
        (grows, "reads items, which other turns change"),
        (slices, "a slice of out"),
        (maybe, "half is carried"),
        (silent, "leave nothing behind"),
        (counts, "each turn of a while loop"),
        (straight, "it has none"),
        (lambda n: n, "written with def"),
        (operator.add, "source"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_refused_with_the_reason(function: Any, reason: str) -> None:
    with pytest.raises(ParallelError, match=reason):
        Split(function)


def hidden(items):
    found, out = {}, []
    for item in items:
        keep(found, item)
        out.append(item)
    return found, out


def keep(where, item):
    where[item] = 1


def test_a_change_that_would_be_lost_is_an_error() -> None:
    with pytest.raises(ParallelError, match="changes found"):
        Split(hidden)([1, 2, 3])


def test_the_decorator(tmp_path, monkeypatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    config.load.cache_clear()
    assert cluster(parallel=True)(squares)(4) == [0, 1, 4, 9]
    assert cluster(parallel=False)(carried)([1, 3]) == [1, 2]
    with pytest.raises(ParallelError, match="carried"):
        cluster(parallel=True)(carried)([1])
    with pytest.raises(ConfigError, match="true or false"):
        cluster(parallel="yes")


def square(x):
    return x * x


def test_chunks_and_kinds() -> None:
    assert list(pool.run(square, range(5), chunk=2, workers=2)) == [0, 1, 4, 9, 16]
    assert list(pool.run(square, [])) == []
    lock = threading.Lock()
    assert pool.choose(square, [1]) == pool.PROCESSES
    assert pool.choose(square, [lock]) == pool.THREADS
    assert pool.choose(waiting, [1]) == pool.THREADS
    assert list(pool.run(lambda x: x is lock, [lock, 1])) == [True, False]


def waiting(x):
    time.sleep(0)
    return x


def lingering(path):
    import subprocess
    import sys

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(path, "a") as file:
        file.write(f"{os.getpid()} {child.pid} ")
    time.sleep(600)


def test_a_timeout_ends_the_work_and_all_it_started(tmp_path) -> None:
    path = tmp_path / "pids"
    for timeout in (3, 60):  # a machine that is busy may not have begun in three seconds
        with pytest.raises(TimeoutError, match="lingering"):
            list(pool.run(lingering, [str(path)] * 2, workers=2, timeout=timeout, kind=pool.PROCESSES))
        if path.exists():
            break
    for pid in map(int, path.read_text().split()):
        deadline = time.monotonic() + 30
        while alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    with pytest.raises(ConfigError, match="no timeout can end"):
        list(pool.run(square, [1], timeout=1, kind=pool.THREADS))


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def dies(path):
    with open(path, "a") as file:
        file.write("x")
    os._exit(3)


def test_a_process_that_dies_is_an_error_and_nothing_is_done_twice(tmp_path) -> None:
    path = tmp_path / "log"
    with pytest.raises(ParallelError, match="died"):
        list(pool.run(dies, [str(path)], kind=pool.PROCESSES))
    assert path.read_text() == "x"
