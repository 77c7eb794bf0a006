"""By reference what the other end can import; by value what only this process has: scripts, notebooks, the REPL."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import actions

from clustrix.worker import pickling

HERE = Path(__file__).parent

DEFINITIONS = """
import math
import enum
from dataclasses import dataclass

import actions
from clustrix import cluster

SCALE = 10

class OwnError(Exception):
    def __init__(self, number):
        super().__init__(number)
        self.number = number

class Colour(enum.Enum):
    RED = 1

@dataclass
class Pair:
    left: int
    right: int
    def total(self):
        return helper(self.left + self.right)

def helper(x):
    return x * SCALE

def main_function(pair):
    if not isinstance(pair, Pair):
        raise TypeError(type(pair))
    return Pair(math.floor(pair.left), pair.total()), Colour.RED, helper

def failing(number):
    raise OwnError(number)

@cluster
def remote(x):
    return other(x) if x else helper(1)

@cluster(target="nowhere")
def other(x):
    return remote(0) + x

def with_processes(numbers):
    from multiprocessing import get_context
    with get_context("fork").Pool(2) as pool:
        return pool.map(helper, numbers)
"""

CALLS = """
def check(site):
    result, colour, function = site.call(main_function, Pair(1, 2))
    assert type(result) is Pair and result == Pair(1, 30), result
    assert colour is Colour.RED
    assert function(2) == 20
    try:
        site.call(failing, 4)
    except OwnError as error:
        assert error.number == 4
        text = str(error.__cause__)
        assert "failing" in text
        assert "raise OwnError(number)" in text or not SOURCE_IS_KNOWN, text
    else:
        raise AssertionError("it did not fail")
    assert site.call(lambda: (SCALE, remote(5), with_processes([1, 2]))) == (10, 15, [10, 20])
    print("all is well")
"""

START = """
import sys
sys.path.insert(0, {caller!r})
from worker_site import Site
check(Site({root!r}, {cache!r}))
"""


def text(tmp_path, cache, *, source_is_known=True):
    start = START.format(caller=str(HERE / "caller"), root=str(tmp_path / "site"), cache=str(cache))
    path = f"import sys\nsys.path.insert(0, {str(HERE / 'caller')!r})\n"
    return f"{path}{DEFINITIONS}\nSOURCE_IS_KNOWN = {source_is_known}\n{CALLS}\n{start}"


def run(argv, **options):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script(tmp_path, bundle_cache):
    script = tmp_path / "script.py"
    script.write_text(text(tmp_path, bundle_cache))
    assert "all is well" in run([sys.executable, str(script)])


def test_a_module_run_with_m(tmp_path, bundle_cache):
    package = tmp_path / "project"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "near.py").write_text("VALUE = 'near'\n")
    more = "\n\ndef relative():\n    from .near import VALUE\n    return VALUE\n"
    more += "\nassert __package__ == 'project'\nassert Site(sys.argv[1], sys.argv[2]).call(relative) == 'near'\n"
    (package / "run.py").write_text(text(tmp_path, bundle_cache) + more)
    argv = [sys.executable, "-m", "project.run", str(tmp_path / "other-site"), str(bundle_cache)]
    assert "all is well" in run(argv, cwd=tmp_path)


def test_the_repl(tmp_path, bundle_cache):
    """Read from standard input: no file, no source."""
    assert "all is well" in run([sys.executable, "-"], input=text(tmp_path, bundle_cache, source_is_known=False))


def test_a_notebook(tmp_path, bundle_cache):
    """As ipykernel does: cells compiled under names of their own, their lines in linecache, run in __main__."""
    kernel = tmp_path / "kernel.py"
    kernel.write_text(
        "import linecache, sys, types\n"
        "main = types.ModuleType('__main__')\n"
        "sys.modules['__main__'] = main\n"
        "cells = open(sys.argv[1]).read().split('# %%')\n"
        "for number, cell in enumerate(cells):\n"
        "    name = f'/tmp/ipykernel_1/{number}.py'\n"
        "    linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)\n"
        "    exec(compile(cell, name, 'exec'), vars(main))\n"
    )
    cells = tmp_path / "cells"
    cells.write_text(text(tmp_path, bundle_cache).replace("\ndef check", "\n# %%\ndef check"))
    assert "all is well" in run([sys.executable, str(kernel), str(cells)])


def test_local_classes_are_the_same_when_a_new_process_reads_the_result(site, tmp_path):
    paths = site.submit(actions.Base, [(5,)])
    site.run(paths)
    code = (
        f"import sys; sys.path.insert(0, {str(HERE / 'caller')!r})\n"
        "from pathlib import Path\n"
        "from clustrix.worker import outcome\n"
        f"metadata, value = Path({paths.outcome(0)!r}).read_bytes(), Path({paths.value(0)!r}).read_bytes()\n"
        f"base = outcome.read(metadata, value, {b'k' * 32!r}, index=0)\n"
        "from actions import Base\n"
        "print(isinstance(base, Base), base.start)\n"
    )
    assert run([sys.executable, "-c", code], cwd=tmp_path).split() == ["True", "5"]


def test_registering_a_module_by_value_elsewhere_changes_nothing(site):
    import cloudpickle

    cloudpickle.register_pickle_by_value(actions)
    try:
        assert isinstance(site.call(actions.Base, 1), actions.Base)
    finally:
        cloudpickle.unregister_pickle_by_value(actions)


def test_the_cloudpickle_of_the_image_is_not_used(site, tmp_path):
    (tmp_path / "cloudpickle.py").write_text("raise SystemExit('another cloudpickle')")

    def closure():
        return lambda: 1

    paths = site.submit(closure(), [()], environment={"PYTHONPATH": str(tmp_path)})
    done = site.run(paths)
    assert done.returncode == 0, done.stderr
    assert site.read(paths) == 1


def test_source_of_code_by_value_can_be_inspected_there(site):
    def looks_at_itself():
        import inspect

        return inspect.getsource(marker)

    def marker():
        return "a line to find"

    assert '"a line to find"' in site.call(looks_at_itself)


def test_a_function_below_its_decorators_is_found_by_name():
    """What @cluster wraps must be the module's own function there, not a copy with globals of its own."""
    file = io.BytesIO()
    pickling.Pickler(file).dump([actions.decorated.__wrapped__, actions.decorated, actions.Base.method])
    assert b"clustrix_cloudpickle" not in file.getvalue()
    below, above, method = pickling.loads(file.getvalue())
    assert below is actions.decorated.__wrapped__
    assert above is actions.decorated
    assert method is actions.Base.method


def test_closures_that_share_a_variable_with_a_module_see_that_module(site, tmp_path, monkeypatch):
    """A nested function of an importable module works with that module's globals, not with a copy of them."""
    (tmp_path / "counting.py").write_text(
        "COUNT = [0]\n"
        "def make():\n"
        "    def count():\n"
        "        COUNT[0] += 1\n"
        "        import counting\n"
        "        return COUNT is counting.COUNT, COUNT[0]\n"
        "    return count\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import counting

    counting.COUNT[0] = 41
    assert site.call(counting.make()) == (True, 1)
    del sys.modules["counting"]
