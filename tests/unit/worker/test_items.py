"""Every way in which a function can end, through a real worker process."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import actions
import pytest
from geometry import Point, mover, unit

from clustrix import errors
from clustrix.model.outcome import OutcomeStatus
from clustrix.worker import failure, script
from clustrix.worker.outcome import RemoteTraceback


@pytest.fixture(scope="module")
def acted(tmp_path_factory, bundle_cache):
    """One job in which every item ends in another way; an end of one must not touch the next."""
    from worker_site import Site

    site = Site(tmp_path_factory.mktemp("site"), bundle_cache)
    names = list(actions.ACTIONS)
    paths = site.submit(
        actions.act,
        [(name,) for name in names],
        environment={"DATABASE_URL": "postgres://u:hunter2@db"},
        image_digest="sha256:image",
        lock_digest="sha256:lock",
    )
    done = site.run(paths, env={**os.environ, "CLUSTRIX_NATIVE_ID": "4711"})
    assert done.returncode == 0, done.stderr
    return site, paths, {name: number for number, name in enumerate(names)}, done


def error_of(acted, name, **options):
    site, paths, numbers, _ = acted
    with pytest.raises(Exception) as caught:
        site.read(paths, numbers[name], **options)
    return caught.value


def test_a_value_comes_back(acted):
    site, paths, numbers, _ = acted
    assert site.read(paths, numbers["value"]) == actions.value()


def test_a_generator_is_drained_and_comes_back_as_an_iterator(acted):
    site, paths, numbers, _ = acted
    value = site.read(paths, numbers["generator"])
    assert next(value) == 0
    assert list(value) == [1, 2]


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("failing_generator", actions.OwnError, "number 2"),
        ("builtin_error", IndexError, "list index out of range"),
        ("own_error", actions.OwnError, "number 7"),
        ("chained_error", ValueError, "outer"),
        ("noted_error", actions.OwnError, "number 1"),
        ("wrong_call", TypeError, "missing 1 required positional argument"),
        ("system_error_code", OSError, "No space left on device"),
        ("unpicklable_result", errors.Unpicklable, "result['model']['lock']"),
        ("refusing_result", errors.Unpicklable, "the result of act: never"),
        ("coroutine_result", errors.Unpicklable, "coroutine"),
        ("unbuildable_error", errors.JobFailed, "actions.NeedsTwo: one and two"),
        ("unpicklable_error", errors.JobFailed, "actions.HoldsLock: it holds a lock"),
        ("interrupt_like", errors.JobFailed, "GeneratorExit: closed"),
        ("exit_three", errors.UserExit, "sys.exit(3)"),
        ("exit_nothing", errors.UserExit, "sys.exit()"),
        ("exit_message", errors.UserExit, "sys.exit('gave up')"),
    ],
)
def test_an_exception_has_its_own_type_and_words(acted, name, kind, words):
    error = error_of(acted, name)
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(("name", "code"), [("exit_three", 3), ("exit_nothing", None), ("exit_message", "gave up")])
def test_sys_exit_keeps_its_code(acted, name, code):
    error = error_of(acted, name)
    assert error.code == code
    assert (error.job_id, error.index) == ("local/TEST", acted[2][name])


def test_the_cause_is_the_remote_traceback_with_host_and_log_and_without_our_frames(acted):
    error = error_of(acted, "chained_error", log_tail="last words")
    assert isinstance(error.__cause__, RemoteTraceback)
    text = str(error.__cause__)
    assert f"On {os.uname().nodename}, item {acted[2]['chained_error']} of job local/TEST" in text
    assert 'raise ValueError("outer") from error' in text
    assert "raise OwnError(7)" in text
    assert "last words" in text
    assert "clustrix/worker" not in text


def test_an_exception_that_cannot_be_rebuilt_brings_everything_in_text(acted):
    error = error_of(acted, "unbuildable_error", log_tail="last words")
    assert 'raise NeedsTwo("one", "two")' in error.remote_traceback
    assert "last words" in str(error)


def test_what_nobody_can_read_does_not_travel_twice(acted):
    """The exception is whole; its description, which every look at the job fetches, is not."""
    assert len(str(error_of(acted, "long_error"))) == 1_000_000
    assert Path(acted[1].outcome(acted[2]["long_error"])).stat().st_size < 250_000


def test_notes_arrive(acted):
    if hasattr(Exception, "add_note"):
        assert error_of(acted, "noted_error").__notes__ == ["a note from there"]


def test_local_variables_are_shown_and_secrets_are_not(acted):
    site, paths, numbers, _ = acted
    found = dict(site.verified(paths, numbers["builtin_error"]).failure.local_variables)
    assert found["numbers"] == "[1, 2, 3]"
    assert found["password"] == found["settings"] == found["variable"] == "<hidden>"
    everything = b"".join(path.read_bytes() for path in Path(paths.outcomes).iterdir())
    assert b"hunter2" not in everything
    assert b"abc123" not in everything.replace(b'"api_key": "abc123"', b"")  # the source line is in the traceback


def test_the_top_of_a_script_shows_its_own_variables_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # what it puts there is taken back
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(ZeroDivisionError) as caught:
        script.run("top.py", "import os\nnumber = 0\n1 / number\n", ())
    assert failure.describe(caught.value).local_variables == (("number", "0"),)


def test_metadata_say_where_and_how(acted):
    site, paths, numbers, _ = acted
    found = site.verified(paths, numbers["value"])
    assert found.status is OutcomeStatus.SUCCESS
    assert found.function_name == "act"
    assert found.metadata["native_job_id"] == "4711"
    assert found.metadata["image_digest"] == "sha256:image"
    assert found.metadata["lock_digest"] == "sha256:lock"
    assert str(found.metadata["fingerprint"]).startswith("sha256:")
    assert found.metadata["started"] <= found.metadata["ended"]
    assert found.metadata["peak_memory_bytes"] > 1_000_000
    assert found.metadata["cpu_seconds"] >= found.metadata["child_cpu_seconds"] >= 0


def test_outcomes_are_for_their_owner_only_and_nothing_is_left_half_written(acted):
    _, paths, _, _ = acted
    files = list(Path(paths.outcomes).iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert not [path for path in files if path.name.endswith(".part")]


def test_a_message_for_sys_exit_is_printed_as_python_prints_it(acted):
    assert "gave up" in acted[3].stderr


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("os._exit", 5),
        ("kill -9", -signal.SIGKILL),
        ("SIGTERM", -signal.SIGTERM),
        ("segmentation fault", -signal.SIGSEGV),
    ],
)
def test_a_process_that_dies_leaves_no_outcome(site, how, code):
    paths = site.submit(actions.leave, [(how,)])
    done = site.run(paths)
    assert done.returncode == code
    assert list(Path(paths.outcomes).iterdir()) == []
    if how == "segmentation fault":
        assert "in leave" in done.stderr  # faulthandler


def test_a_line_shows_while_the_job_runs(site, tmp_path):
    seen = tmp_path / "seen"
    paths = site.submit(actions.slow_lines, [(str(seen),)])
    with subprocess.Popen(site.argv(paths), stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == b"started\n"
        assert worker.stdout.readline() == "caf\xe9 \\udcff\n".encode()
        seen.touch()
    assert site.read(paths) == "seen"


def test_a_function_whose_module_cannot_be_imported_fails_every_item(site, tmp_path, monkeypatch):
    """The module is there when it is packed, and gone when the job starts."""
    (tmp_path / "fleeting.py").write_text("def f(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import fleeting

    paths = site.submit(fleeting.f, [(1,), (2,)], code=())
    assert site.run(paths).returncode == 0
    for index in range(2):
        with pytest.raises(ModuleNotFoundError, match="fleeting"):
            site.read(paths, index)


def test_a_result_whose_class_is_unknown_here_is_named(site, tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("class Thing:\n    pass\n\ndef make():\n    return Thing()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import elsewhere

    paths = site.submit(elsewhere.make, [()])
    site.run(paths)
    del sys.modules["elsewhere"]
    (tmp_path / "elsewhere.py").unlink()
    with pytest.raises(errors.StoreError, match=r"make cannot be rebuilt here: ModuleNotFoundError.*elsewhere"):
        site.read(paths)


CALLABLES = {
    "function": (actions.value, ()),
    "lambda": (lambda x: x + 1, (1,)),
    "closure of a package": (mover(5), (Point(1, 2),)),
    "method": (actions.Base(10).method, (1,)),
    "class method": (actions.Base.of_class, (1,)),
    "static method": (actions.Base.static, (1,)),
    "object": (actions.Base(10), (3,)),
    "class": (Point, (1, 2)),
    "decorated": (actions.decorated, (1,)),
    "below its decorator": (actions.decorated.__wrapped__, (1,)),
    "partial": (functools.partial(actions.Base, 4), ()),
    "builtin": (len, ([1, 2],)),
    "reads a data file": (unit, ()),
}


@pytest.fixture(scope="module")
def applied(tmp_path_factory, bundle_cache):
    from worker_site import Site

    site = Site(tmp_path_factory.mktemp("site"), bundle_cache)
    paths = site.submit(actions.apply, CALLABLES.values())
    site.run(paths)
    return site, paths


@pytest.mark.parametrize("name", CALLABLES)
def test_every_kind_of_callable_runs(applied, name):
    site, paths = applied
    function, args = CALLABLES[name]
    assert site.read(paths, list(CALLABLES).index(name)) == function(*args)


def test_recursive_closures_and_shared_state(site):
    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    assert site.call(factorial, 5) == 120


def test_classes_are_the_callers_own_on_both_sides(site):
    def check(point):
        from geometry import Point as There

        return isinstance(point, There), point

    inside, point = site.call(check, Point(1, 2))
    assert inside
    assert isinstance(point, Point)
