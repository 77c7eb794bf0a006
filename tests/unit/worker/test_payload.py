"""What is packed, what is refused by name, and that a task reads its own items only."""

from __future__ import annotations

import io
import pickle
import socket
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from geometry import Point, mover

from clustrix import errors
from clustrix.worker import payload


def function(x, *rest, scale=1, **more):
    return x * scale


def closure_over(value):
    return lambda: value


class Holder:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def method(self):
        return self


def pack(function, *items, environment=None):
    file = io.BytesIO()
    packed = payload.pack(file, function, items, environment)
    assert packed.size == len(file.getvalue())
    return packed, file.getvalue()


def opened(tmp_path, content):
    path = tmp_path / "payload"
    path.write_bytes(content)
    return payload.Payload(str(path))


def test_it_holds_function_items_and_variables(tmp_path):
    packed, content = pack(function, ((1,), {"scale": 2}), ((3, 4), {}), environment={"A": "b=c\n"})
    read = opened(tmp_path, content)
    assert packed.items == read.items == 2
    assert read.function() is function
    assert [read.item(index) for index in (1, 0)] == [((3, 4), {}), ((1,), {"scale": 2})]
    assert read.environment() == {"A": "b=c\n"}
    with pytest.raises(errors.StoreError, match="no item 2"):
        read.item(2)
    read.close()


def test_modules_are_those_that_unpickling_needs_and_those_that_by_value_code_imports():
    def local(point):
        from json.decoder import JSONDecoder

        import geometry.nowhere  # noqa: F401 - never run

        return JSONDecoder

    packed, _ = pack(local, ((Point(1, 2), Fraction(1)), {}))
    assert {"geometry", "geometry.nowhere", "json.decoder", "fractions"} <= packed.modules
    assert "threading" not in packed.modules


def test_code_by_value_brings_its_source(tmp_path):
    _, content = pack(closure_over(1))
    read = opened(tmp_path, content)
    lines = read.sources()[__file__]
    read.close()
    assert lines == Path(__file__).read_text().splitlines(keepends=True)


def test_a_closure_of_a_module_does_not_take_the_modules_globals_along():
    """Else geometry.LOCK would have to be pickled."""
    packed, _ = pack(mover(3))
    assert "geometry" in packed.modules


@pytest.mark.parametrize(
    ("call", "item", "words"),
    [
        (function, ((threading.Lock(),), {}), "argument 'x' of item 1: cannot pickle '_thread.lock' object"),
        (function, ((1,), {"scale": threading.Lock()}), "argument 'scale' of item 1: "),
        (function, ((1, 2, socket.socket), {"y": threading.Lock()}), "(more['y'])"),
        (function, ((1, 2, threading.Lock()), {}), "argument 'rest' of item 1: cannot pickle"),
        (function, (([{"deep": Holder(lock=threading.Lock())}],), {}), "(x[0]['deep'].lock)"),
        (function, ((i for i in ()), {}), None),
        (function, (((i for i in ()),), {}), "argument 'x' of item 1: cannot pickle 'generator' object"),
        (len, ((threading.Lock(),), {}), "argument 'obj' of item 1"),
        (print, ((threading.Lock(),), {}), "of item 1: cannot pickle"),
    ],
)
def test_an_argument_that_cannot_travel_is_named(call, item, words):
    if words is None:  # any iterable of arguments will do
        assert pack(call, item)[0].items == 1
        return
    with pytest.raises(errors.Unpicklable) as caught:
        pack(call, ((1,), {}), item)
    assert words in str(caught.value)


def test_a_function_that_cannot_travel_names_the_part():
    with pytest.raises(errors.Unpicklable, match=r"the variable 'value' that closure_over.* closes over"):
        pack(closure_over(threading.Lock()))
    with pytest.raises(errors.Unpicklable, match=r"function Holder.method: .*the object of the method"):
        pack(Holder(lock=threading.Lock()).method)


@pytest.mark.parametrize("environment", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0"}])
def test_variables_that_no_process_can_have_are_refused(environment):
    with pytest.raises(errors.ConfigError):
        pack(function, environment=environment)


def test_items_are_taken_one_by_one_and_large_buffers_pass_unchanged():
    """Constant memory: an item is written before the next is made, in pieces no larger than its own buffers."""
    order = []

    class Log(io.RawIOBase):
        def write(self, data):
            order.append(len(data))
            return len(data)

    def items():
        for number in range(3):
            order.append(f"item {number}")
            yield (bytes(100_000 + number),), {}

    payload.pack(Log(), function, items())
    places = [order.index(f"item {number}") for number in range(3)]
    assert places == sorted(places)
    for number in range(2):
        assert 100_000 + number in order[places[number] : places[number + 1]]


def test_a_disk_that_fills_up_is_no_pickling_error():
    class Full(io.RawIOBase):
        def write(self, data):
            if len(data) > 50:
                raise OSError(28, "No space left on device")
            return len(data)

    with pytest.raises(OSError, match="No space left"):
        payload.pack(Full(), function, [((b"x" * 1000,), {})])


def test_every_damaged_byte_is_noticed(tmp_path):
    """Flip a bit here and there: whatever is then read is right or refused."""
    _, content = pack(function, ((1,), {}), environment={"A": "b"})

    def everything(read):
        try:
            return read.function(), read.item(0), read.environment()
        finally:
            read.close()

    whole = everything(opened(tmp_path, content))
    unharmed = 0
    for place in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= 0x01
        try:
            assert everything(opened(tmp_path, damaged)) == whole
            unharmed += 1
        except errors.StoreError:
            continue
    sources = len(pickle.dumps(__file__)) + len(Path(__file__).read_bytes()) * 2
    assert 5 * unharmed <= len(payload.MAGIC) + 48 + sources  # the first line, and the sources that were not asked for
