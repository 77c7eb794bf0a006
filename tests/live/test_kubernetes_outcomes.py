# ruff: noqa: F811 - fixtures of another file
"""How items end on real pods, and how their outcomes come back: of every size, and whatever dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from clustrix import errors, placement
from clustrix.kubernetes import names
from clustrix.oci.client import Client
from clustrix.oci.reference import Reference

from .test_kubernetes import LONG, Place, k8s, until  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = [pytest.mark.live, pytest.mark.column("kubernetes"), pytest.mark.timeout(600)]

ENDS = """
    import os, subprocess, sys
    def end(how):
        if how == "leave": os._exit(7)
        if how == "kill": os.kill(os.getpid(), 9)
        if how == "fall":
            import ctypes
            ctypes.string_at(0)
        if how == "eat":
            held = []
            while True: held.append(bytearray(10 << 20))
        return how
"""


def pods_of(place: Place, handle: Any) -> list[dict[str, Any]]:
    return [pod for pod in place.get("pods") if names.ulid_of(pod) == handle.id.ulid]


@pytest.mark.proves("segfault")
@pytest.mark.proves("kill -9")
@pytest.mark.proves("memory limit")
@pytest.mark.proves("a worker dies during a map")
def test_one_pod_sees_all_its_items_through(k8s: Place) -> None:
    """Its worker dies four times; each item has the end of its own, and nothing else is lost."""
    order = ["first", "leave", "kill", "second", "fall", "eat", "last"]
    array = k8s.far(ENDS, memory="200MB").map(order, chunksize=len(order))
    found = list(array.results(timeout=LONG, return_exceptions=True))
    kinds = [value if isinstance(value, str) else type(value) for value in found]
    crashed = errors.Crashed
    assert kinds == ["first", crashed, crashed, "second", crashed, errors.OutOfMemory, "last"]
    assert "exit code 7" in str(found[1])
    assert "SIGKILL" in str(found[2])
    assert "SIGSEGV" in str(found[4])
    assert "Segmentation fault" in str(found[4])
    assert len(pods_of(k8s, array)) == 1


def test_memory_of_a_process_that_user_code_started(k8s: Place) -> None:
    source = """
        import subprocess, sys
        def start():
            eat = "held = []\\nwhile True: held.append(bytearray(10 << 20))"
            subprocess.run([sys.executable, "-c", eat], check=True)
    """
    with pytest.raises(errors.OutOfMemory) as caught:
        k8s.far(source, memory="200MB")()
    assert isinstance(caught.value.__cause__, subprocess.CalledProcessError)


WHOLE = """
    import time
    def eat(number):
        if number == 2:
            open("/proc/1/oom_score_adj", "w").write("1000")  # the kernel's choice is the first process
            time.sleep(3)
            held = []
            while True: held.append(bytearray(10 << 20))
        return number
"""


@pytest.mark.parametrize("way", [{}, {"courier": True}, {"store": "podlog"}], ids=["registry", "courier", "podlog"])
def test_a_container_that_is_killed_whole_leaves_what_had_ended(k8s: Place, way: dict[str, Any]) -> None:
    k8s.configure(**way)
    array = k8s.far(WHOLE, memory="150MB").map(range(4), chunksize=4)
    found = list(array.results(timeout=LONG, return_exceptions=True))
    assert found[:2] == [0, 1]
    assert type(found[2]) is errors.OutOfMemory


@pytest.mark.proves("big result")
def test_results_and_payloads_of_many_megabytes_and_their_removal(k8s: Place) -> None:
    data = os.urandom(5 << 20)
    job = k8s.far("def repeat(data):\n    print('got', len(data))\n    return data * 6").submit(data)
    assert job.result(LONG) == data * 6
    tags = Reference.parse(f"{k8s.settings['registry']}:{job.id.ulid.lower()}-payload")
    (pod,) = pods_of(k8s, job)
    outcomes = Reference.parse(f"{k8s.settings['registry']}:{job.id.ulid.lower()}-0-{pod['metadata']['uid']}")
    with Client(insecure=True) as client:
        assert client.head(tags)
        assert client.head(outcomes)
        job._course.site.store.remove(job.record)
        assert client.head(tags) is None
        assert client.head(outcomes) is None
    until(lambda: not pods_of(k8s, job))


@pytest.mark.proves("many small results")
def test_three_hundred_results_of_one_pod(k8s: Place) -> None:
    array = k8s.far("def square(x):\n    return x * x").map(range(300), chunksize=300)
    assert list(array.results(timeout=LONG)) == [x * x for x in range(300)]
    assert len(pods_of(k8s, array)) == 1


@pytest.mark.proves("time limit")
@pytest.mark.proves("work saved before the end")
def test_the_time_limit_and_what_is_saved_before(k8s: Place) -> None:
    source = "import time\ndef rest():\n    time.sleep(1000)"
    with pytest.raises(errors.TimeLimit, match="ran into its time limit"):
        k8s.far(source, time="00:00:03")()
    saving = """
        import time
        from clustrix import on_preempt
        def rest():
            on_preempt(lambda: "saved")
            time.sleep(1000)
    """
    with pytest.raises(errors.TimeLimit) as caught:
        k8s.far(saving, time="00:00:10")()
    assert caught.value.checkpoint == "saved"


RESTS = "import time\ndef rest(seconds):\n    print('ready', flush=True)\n    time.sleep(seconds)\n    return seconds"


@pytest.mark.proves("preemption")
def test_a_pod_that_somebody_deletes(k8s: Place) -> None:
    job = k8s.far(RESTS).submit(1000)
    until(lambda: "ready" in job.logs())
    (pod,) = pods_of(k8s, job)
    k8s.cluster.kubectl("--namespace", k8s.namespace, "delete", "pod", "--wait=false", pod["metadata"]["name"])
    with pytest.raises(errors.Preempted, match="its pod was deleted"):
        job.result(LONG)


@pytest.mark.proves("queued again")
def test_a_task_that_is_started_twice_has_one_result(k8s: Place) -> None:
    job = k8s.far(RESTS).submit(10)
    until(lambda: "ready" in job.logs())
    (pod,) = pods_of(k8s, job)
    k8s.cluster.evict(pod["metadata"]["name"], k8s.namespace)
    assert job.result(LONG) == 10
    (again,) = pods_of(k8s, job)
    assert again["metadata"]["uid"] != pod["metadata"]["uid"]


@pytest.mark.proves("reattach without the journal")
@pytest.mark.proves("reattach from another home")
def test_somebody_elses_home_finds_what_ended_while_nobody_looked(k8s: Place, tmp_path: Path) -> None:
    source = "import time, os\ndef later():\n    time.sleep(4)\n    print('done')\n    return len(os.urandom(1 << 20))"
    (tmp_path / "clustrix.yml").write_text(yaml.safe_dump({"targets": {"k8s": k8s.settings}}))
    (tmp_path / "first.py").write_text(
        f"from clustrix import cluster\n{source}\nprint(cluster(target='k8s')(later).submit().id)\n"
    )

    def run(home: str, *argv: str) -> str:
        (tmp_path / home).mkdir()
        environment = {**os.environ, "HOME": str(tmp_path / home)}
        done = subprocess.run(
            argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    job = run("one", sys.executable, "first.py").splitlines()[-1]
    time.sleep(8)
    assert "1048576" in run("two", sys.executable, "-m", "clustrix", "result", job)
    assert "done" in run("three", sys.executable, "-m", "clustrix", "logs", job)


SIGHT = """
    import os, pathlib
    def look(backwards):
        words = [word[::-1] for word in backwards]
        found = [name for name, value in os.environ.items() if any(word in value.encode() for word in words)]
        for top in ("/clustrix", "/clustrix-job", "/proc/1", "/proc/self", "/tmp", "/dev/shm"):
            for path in pathlib.Path(top).rglob("*"):
                try:
                    if path.is_file() and path.stat().st_size < 1 << 24 and "/map_files/" not in str(path):
                        data = path.read_bytes()
                        found += [str(path)] if any(word in data for word in words) else []
                except (OSError, ValueError):
                    pass
        processes = [p for p in os.listdir("/proc") if p.isdigit() and "courier" in open(f"/proc/{p}/cmdline").read()]
        return found, processes, sorted(os.listdir("/clustrix-job"))
"""


def test_user_code_beside_a_courier_finds_no_secret(k8s: Place) -> None:
    k8s.configure(courier=True)
    words = [b'"repository"', k8s.settings["registry"].encode()]
    look = k8s.far(SIGHT)
    job = look.submit([word[::-1] for word in words])
    found, processes, there = job.result(LONG)
    assert (found, processes) == ([], [])
    assert [name for name in there if not name.startswith("..")] == ["key", "payload", "task.json"]
    secret = k8s.cluster.get("secret", names.job_name(job.id.ulid), k8s.namespace)["data"]
    assert {"key", "own-key", "registry.json"} <= secret.keys()
    assert secret["key"] != secret["own-key"]
    k8s.configure()
    assert "/clustrix-job/registry.json" in look([word[::-1] for word in words])[0]  # where there is no courier
    k8s.configure(courier=True)
    large = k8s.far("import os\ndef make():\n    return os.urandom(3 << 20)")()
    assert len(large) == 3 << 20


def test_a_log_brings_back_what_fits(k8s: Place, capsys: pytest.CaptureFixture[str]) -> None:
    k8s.configure(store="podlog")
    placement._said.clear()
    make = k8s.far("import os\ndef make(size):\n    return os.urandom(size)")
    assert len(make(3 << 20)) == 3 << 20
    with pytest.raises(errors.ResultTooLarge, match="6 MiB"):
        make(8 << 20)
    assert capsys.readouterr().err.count("at most 6 MiB of text for each pod") == 1  # and that is said before
