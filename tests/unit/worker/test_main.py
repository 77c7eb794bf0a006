"""The worker as a process: who does what, what is refused, what user code finds around it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import actions
import pytest
from geometry import Point, mover

from clustrix import errors
from clustrix.model.outcome import OutcomeStatus
from clustrix.worker import installed

OTHER_PYTHONS = [
    path
    for minor in ("3.10", "3.12", "3.13")
    for path in sorted(Path.home().glob(f".pyenv/versions/{minor}.*/bin/python{minor}"))
    if not path.name.endswith(f"{sys.version_info.major}.{sys.version_info.minor}")
]


def traces(directory: Path) -> list[int]:
    return sorted(int(path.name.partition("-")[0]) for path in directory.iterdir())


@pytest.fixture
def traced(tmp_path):
    directory = tmp_path / "traces"
    directory.mkdir()
    return directory


def test_every_item_runs_exactly_once_however_many_workers_share_them(site, traced):
    items = [(str(traced), number) for number in range(20)]
    slices = tuple((start, start + 2) for start in range(0, 20, 2))
    paths = site.submit(actions.touch, items, slices=slices, workers=3)
    running = [subprocess.Popen(site.argv(paths, number)) for number in range(3)]
    assert [worker.wait(60) for worker in running] == [0, 0, 0]
    assert traces(traced) == list(range(20))
    assert [site.read(paths, index) for index in range(20)] == list(range(20))
    claimants = [path.name for path in Path(paths.claims).glob("*/*") if not path.name.startswith("item-")]
    assert len(claimants) == 10
    assert set(claimants) <= {"0", "1", "2"}


def test_with_a_slice_for_every_task_each_does_its_own(site, traced):
    paths = site.submit(actions.touch, [(str(traced), n) for n in range(3)], slices=((0, 1), (1, 2), (2, 3)), workers=3)
    site.run(paths, 1)
    assert traces(traced) == [1]


def test_a_second_start_runs_no_user_code(site, traced):
    paths = site.submit(actions.touch, [(str(traced), 0)])
    assert site.run(paths).returncode == 0
    before = Path(paths.outcome(0)).read_bytes()
    assert site.run(paths).returncode == 0
    assert traces(traced) == [0]
    assert Path(paths.outcome(0)).read_bytes() == before


def refusal(site, paths):
    done = site.run(paths)
    assert done.returncode == 0, done.stderr
    assert site.verified(paths).status is OutcomeStatus.REFUSED
    with pytest.raises(errors.ClustrixError) as caught:
        site.read(paths)
    assert done.stderr.count(str(caught.value)) == 1  # whoever reads the log sees it, too
    return caught.value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"python": "3.9"}, "Python is {minor}, not 3.9"),
        ({"implementation": "pypy"}, "implementation is cpython, not pypy"),
        ({"abi": "cp311d"}, "ABI is {abi}, not cp311d"),
    ],
)
def test_another_python_is_refused_before_user_code(site, traced, fields, words):
    error = refusal(site, site.submit(actions.touch, [(str(traced), 0)], **fields))
    python = installed.interpreter()
    assert type(error) is errors.EnvironmentMismatch
    assert words.format(minor=python.minor, abi=python.abi) in str(error)
    assert traces(traced) == []


@pytest.mark.parametrize("python", OTHER_PYTHONS, ids=lambda path: path.name)
def test_a_real_other_python_refuses(site, traced, python):
    paths = site.submit(actions.touch, [(str(traced), 0)])
    done = site.run(paths, python=str(python))
    assert done.returncode == 0, done.stderr
    with pytest.raises(errors.EnvironmentMismatch, match=f"Python is {python.name.removeprefix('python')}, not"):
        site.read(paths)
    assert traces(traced) == []


def test_another_environment_is_refused_and_the_difference_named(site, traced):
    expected = dict(installed.fingerprints())
    del expected["click"]
    expected |= {"packaging": "0" * 64, "numpy": "1" * 64}
    paths = site.submit(actions.touch, [(str(traced), 0)], fingerprint="sha256:other", distributions=expected)
    error = refusal(site, paths)
    assert type(error) is errors.EnvironmentMismatch
    assert "click was not locked, numpy is missing, packaging is another build" in str(error)
    assert traces(traced) == []


def test_no_more_than_ten_differences_are_named(site):
    expected = {f"package-{number:02}": "0" for number in range(30)}
    error = refusal(site, site.submit(actions.value, [()], fingerprint="sha256:other", distributions=expected))
    assert str(error).count(" is ") == 1 + str(error).count("is missing") + str(error).count("is another build")
    assert " more" in str(error)


def test_the_same_environment_is_accepted(site):
    fingerprint = installed.of_environment()
    paths = site.submit(actions.value, [()], fingerprint=fingerprint, distributions=installed.fingerprints())
    site.run(paths)
    assert site.read(paths) == actions.value()
    assert site.verified(paths).metadata["fingerprint"] == fingerprint


def spoil(path: str, at: int) -> None:
    content = bytearray(Path(path).read_bytes())
    content[at] ^= 0xFF
    Path(path).write_bytes(content)


@pytest.mark.parametrize("at", [25, -1], ids=["function", "end"])
def test_a_damaged_payload_is_refused(site, traced, at):
    paths = site.submit(actions.touch, [(str(traced), 0), (str(traced), 1)])
    spoil(paths.payload, at)
    assert "damaged" in str(refusal(site, paths))
    assert site.verified(paths, 1).status is OutcomeStatus.REFUSED
    assert traces(traced) == []


def test_a_damaged_item_is_refused_and_the_others_run(site):
    paths = site.submit(actions.Base(1).method, [(1,), (2,), (3,)])
    content = Path(paths.payload).read_bytes()
    spoil(paths.payload, content.index(b"K\x02\x85"))  # the arguments (2,)
    site.run(paths)
    assert (site.read(paths, 0), site.read(paths, 2)) == (2, 4)
    with pytest.raises(errors.StoreError, match="damaged"):
        site.read(paths, 1)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_code_bundle_that_is_not_what_it_was_is_refused(site, how):
    paths = site.submit(mover(1), [(Point(1, 2),)])
    (bundle,) = set(Path(site.paths.bundles).glob("*.zip")) - {site.worker}
    if how == "missing":
        bundle.unlink()
    else:
        spoil(str(bundle), 100)
    error = refusal(site, paths)
    assert type(error) is errors.StoreError
    assert "code bundle" in str(error)
    assert sorted(Path(site.paths.bundles).glob("*.part")) == []


def test_code_is_unpacked_once_by_whoever_is_first(site):
    paths = [site.submit(mover(1), [(Point(1, 2),)]) for _ in range(4)]
    running = [subprocess.Popen(site.argv(job)) for job in paths]
    assert [worker.wait(60) for worker in running] == [0] * 4
    assert [site.read(job) for job in paths] == [Point(2, 2)] * 4
    assert len([path for path in Path(site.paths.bundles).iterdir() if path.is_dir()]) == 1
    assert sorted(Path(site.paths.bundles).glob("*.part")) == []


def test_a_directory_that_does_not_exist_is_refused(site):
    assert "/no/such" in str(refusal(site, site.submit(actions.value, [()], workdir="/no/such")))


def test_it_starts_where_it_was_told(site, tmp_path):
    assert site.call(actions.interpreter_state, workdir=str(tmp_path))["directory"] == str(tmp_path)


@pytest.mark.parametrize("start", ["plain", "again"])
def test_variables_are_set_before_user_code_and_cores_fill_in_the_rest(site, start):
    environment = {"OMP_NUM_THREADS": "7", "MY_SECRET": "pa ss'\"$(x)"}
    if start == "again":
        environment["LD_DEBUG_OUTPUT"] = "/dev/null"
    found = site.call(actions.surroundings, *environment, "MKL_NUM_THREADS", environment=environment, cores=3)
    assert found == {**environment, "MKL_NUM_THREADS": "3"}


def test_variables_of_the_interpreter_hold_and_those_of_the_host_do_not(site, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('the host leaks in')")
    paths = site.submit(actions.interpreter_state, [()], environment={"PYTHONHASHSEED": "0"})
    done = site.run(paths, env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": "x"})
    assert done.returncode == 0, done.stderr
    state = site.read(paths)
    assert state["hash"] == 0
    assert str(tmp_path) not in state["path"]


def test_secrets_are_not_in_argv(site):
    state = site.call(actions.interpreter_state, environment={"PYTHONHASHSEED": "0", "TOKEN": "s3cr3t"})
    assert "s3cr3t" not in str(state["argv"])


def nested(x):
    from clustrix import cluster

    @cluster(target="nowhere")
    def inner(y):
        return y + 1, os.environ["CLUSTRIX_IN_JOB"]

    return inner(x)


def test_a_cluster_call_inside_a_job_runs_in_place(site):
    assert site.call(nested, 1) == (2, "local/TEST")


def test_an_interrupt_is_written_down_and_ends_the_task(site, tmp_path):
    paths = site.submit(actions.slow_lines, [(str(tmp_path / "never"),), (str(tmp_path / "never"),)])
    with subprocess.Popen(site.argv(paths), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        worker.stdout.readline()
        worker.send_signal(signal.SIGINT)
        worker.communicate(timeout=60)
    assert worker.returncode != 0
    with pytest.raises(errors.JobFailed, match="KeyboardInterrupt"):
        site.read(paths, 0)
    assert not Path(paths.outcome(1)).exists()


def with_processes(numbers):
    from multiprocessing import get_context

    with get_context("fork").Pool(2) as pool:
        return pool.map(actions.Base(1).method, numbers)


def test_user_code_may_start_processes(site):
    assert site.call(with_processes, [1, 2, 3]) == [2, 3, 4]


def test_a_full_disk_is_told(site, tmp_path):
    """The directory of outcomes takes no value: the item fails with the reason instead of vanishing."""
    paths = site.submit(actions.value, [()])
    Path(paths.value(0)).mkdir()  # stands in the way of the rename
    site.run(paths)
    deadline = time.monotonic() + 30
    while not Path(paths.outcome(0)).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    outcome = site.verified(paths)
    assert outcome.status is OutcomeStatus.ERROR
    assert "the result of value cannot be written" in outcome.failure.message


def saving(directory, how):
    import clustrix

    @clustrix.on_preempt
    def save():
        with Path(directory, "saved").open("a") as file:
            file.write("7")
        if how == "broken":
            raise OSError("the disk is full")
        return threading.Lock() if how == "unpicklable" else {"step": 7}

    # A process of user code's own is not asked to save. It says that it is ready, since Python forgets the signals that
    # reach a process while it is being forked.
    if how != "forks" or os.fork() == 0:
        Path(directory, "ready").touch()
    time.sleep(1000)


@pytest.mark.parametrize("how", ["late", "early", "unpicklable", "broken", "forks"])
def test_user_code_that_is_told_to_leave_saves_its_work(site, tmp_path, how):
    paths = site.submit(saving, [(str(tmp_path), how), (str(tmp_path), how)])
    Path(paths.ends).mkdir()
    worker = started(site, paths, tmp_path)
    assert Path(paths.hook(0)).exists()
    if how != "early":
        Path(paths.late(0)).touch()
    told(worker, group=how == "forks")
    assert Path(tmp_path, "saved").read_text() == "7"
    kind = errors.Preempted if how == "early" else errors.TimeLimit
    with pytest.raises(kind) as caught:
        site.read(paths)
    assert caught.value.checkpoint == (None if how in {"unpicklable", "broken"} else {"step": 7})
    assert (caught.value.job_id, caught.value.index) == ("local/TEST", 0)
    assert ("OSError: the disk is full" in str(caught.value)) == (how == "broken")
    assert ('raise OSError("the disk is full")' in str(caught.value)) == (how == "broken")
    assert not Path(paths.outcome(1)).exists()


@pytest.mark.parametrize("how", ["cancelled", "requeue", "requeue-late"])
def test_who_is_cancelled_saves_nothing_and_who_is_queued_again_has_not_ended(site, tmp_path, how):
    paths = site.submit(saving, [(str(tmp_path), how)], requeue=how != "cancelled")
    Path(paths.ends).mkdir()
    worker = started(site, paths, tmp_path)
    if how != "requeue":
        Path(paths.late(0) if how == "requeue-late" else paths.cancelled).touch()
    told(worker)
    assert Path(tmp_path, "saved").exists() == (how != "cancelled")
    assert Path(paths.outcome(0)).exists() == (how == "requeue-late")


def hooked(value):
    import clustrix

    clustrix.on_preempt(lambda: value)
    return value


def test_a_hook_is_for_one_call(site, tmp_path):
    paths = site.submit(hooked, [(1,), (2,)])
    Path(paths.ends).mkdir()
    assert site.run(paths).returncode == 0
    assert (site.read(paths, 0), site.read(paths, 1)) == (1, 2)
    assert not Path(paths.hook(0)).exists()
    assert hooked(3) == 3  # outside of a job nothing is kept
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def hooked_elsewhere():
    import clustrix

    found = []

    def hook():
        try:
            clustrix.on_preempt(print)
        except clustrix.ConfigError as error:
            found.append(error.message)

    thread = threading.Thread(target=hook)
    thread.start()
    thread.join()
    return found


def test_hooks_are_taken_in_the_main_thread(site):
    assert site.call(hooked_elsewhere) == ["on_preempt works in the main thread only"]


def started(site, paths, directory):
    worker = subprocess.Popen(site.argv(paths), stdout=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not Path(directory, "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return worker


def told(worker, *, group=False):
    """Send it the signal twice, as it comes from several sides; it ends as by the signal, and what it started, too."""
    for _ in range(2):
        (os.killpg if group else os.kill)(worker.pid, signal.SIGTERM)
    try:
        worker.communicate(timeout=60)  # until nobody is left who could write
    except subprocess.TimeoutExpired:
        os.killpg(worker.pid, signal.SIGKILL)
        raise
    assert worker.returncode == 128 + signal.SIGTERM
