"""Functions that a job runs, each with another end."""

import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path


class OwnError(Exception):
    def __init__(self, number):
        super().__init__(f"number {number}")
        self.number = number


class NeedsTwo(Exception):
    """Pickles, and cannot be unpickled: its arguments are not those of __init__."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class HoldsLock(Exception):
    def __init__(self):
        super().__init__("it holds a lock")
        self.lock = threading.Lock()


class RefusesPickling:
    def __reduce__(self):
        raise RuntimeError("never")


def value():
    return {"a": [1, 2.5, "text"], "none": None}


def generator():
    yield from range(3)


def failing_generator():
    yield 1
    raise OwnError(2)


def builtin_error():
    password = "swordfish"  # noqa: F841
    settings = {"api_key": "abc123", "size": 3}  # noqa: F841
    variable = os.environ.get("DATABASE_URL")  # noqa: F841
    numbers = [1, 2, 3]
    return numbers[10]


def own_error():
    raise OwnError(7)


def chained_error():
    try:
        own_error()
    except OwnError as error:
        raise ValueError("outer") from error


def unbuildable_error():
    raise NeedsTwo("one", "two")


def unpicklable_error():
    raise HoldsLock


def interrupt_like():
    raise GeneratorExit("closed")


def exit_three():
    sys.exit(3)


def exit_nothing():
    sys.exit()


def exit_message():
    sys.exit("gave up")


def unpicklable_result():
    return {"model": {"lock": threading.Lock()}}


def refusing_result():
    return RefusesPickling()


def coroutine_result():
    async def later():
        return 1

    later_on = later()
    later_on.close()
    return later_on


def system_error_code():
    raise OSError(28, "No space left on device")


def noted_error():
    error = OwnError(1)
    if hasattr(error, "add_note"):
        error.add_note("a note from there")
    raise error


def long_error():
    raise ValueError("x" * 1_000_000)


def wrong_call(missing):
    return missing


ACTIONS = {
    function.__name__: function
    for function in (
        value,
        generator,
        failing_generator,
        builtin_error,
        own_error,
        chained_error,
        unbuildable_error,
        unpicklable_error,
        interrupt_like,
        exit_three,
        exit_nothing,
        exit_message,
        unpicklable_result,
        refusing_result,
        coroutine_result,
        system_error_code,
        noted_error,
        long_error,
        wrong_call,
    )
}


def act(name):
    return ACTIONS[name]()


def apply(function, args):
    return function(*args)


def leave(how):
    """End this process without an outcome."""
    print("leaving", how)
    if how == "os._exit":
        os._exit(5)
    if how == "kill -9":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "segmentation fault":
        import ctypes

        ctypes.string_at(0)
    time.sleep(60)


def slow_lines(path):
    """Print a line, then wait until somebody who read it makes a file."""
    print("started")
    sys.stdout.write("caf\xe9 \udcff\n")
    while not Path(path).exists():
        time.sleep(0.01)
    return "seen"


def touch(directory, item):
    """Leave a trace of every run."""
    Path(directory, f"{item}-{os.getpid()}-{time.time_ns()}").touch()
    return item


def surroundings(*names):
    return {name: os.environ.get(name) for name in names}


def interpreter_state():
    return {"hash": sys.flags.hash_randomization, "directory": str(Path.cwd()), "argv": sys.argv, "path": sys.path}


def doubled(function):
    @functools.wraps(function)
    def wrapper(*args):
        return 2 * function(*args)

    return wrapper


@doubled
def decorated(x):
    return x + 1


class Base:
    def __init__(self, start):
        self.start = start

    __hash__ = None

    def __eq__(self, other):
        return type(self) is type(other) and self.start == other.start

    def method(self, x):
        return self.start + x

    @classmethod
    def of_class(cls, x):
        return cls.__name__, x

    @staticmethod
    def static(x):
        return -x

    def __call__(self, x):
        return self.start * x
