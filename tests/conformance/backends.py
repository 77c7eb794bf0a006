"""What every backend promises. A subclass has a fixture ``desk``; process over local is the first, SLURM the next."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import hashlib
import io
import os
import time
from typing import TYPE_CHECKING

import pytest

from clustrix import errors, handle
from clustrix.model.job import State

if TYPE_CHECKING:
    from pathlib import Path

    from .desk import Desk

LONG = 120.0  # seconds; nobody waits as long unless something is broken


class Backends:
    """Hold the suite."""

    @pytest.mark.proves("success")
    @pytest.mark.proves("what was used")
    def test_value(self, desk: Desk) -> None:
        job = desk.call("def double(x): return 2 * x", 21)
        assert job.result(LONG) == 42
        assert job.done()
        assert not job.cancelled()
        status = job.status()
        assert (status.state, status.finished, status.failed) == (State.SUCCEEDED, 1, 0)
        used = job.usage()
        assert (used.measured, used.open, used.next.cores) == (1, 0, 1)
        assert used.cpu_seconds
        assert used.longest_seconds
        assert used.peak_memory_bytes
        assert used.peak_memory_bytes > 2**20

    @pytest.mark.proves("typed failure")
    def test_exception_has_its_own_type_and_says_where_it_was_raised(self, desk: Desk) -> None:
        job = desk.call("def divide(x):\n    print('before the fall')\n    return x / 0", 1)
        with pytest.raises(ZeroDivisionError) as caught:
            job.result(LONG)
        said = str(caught.value.__cause__)
        assert "return x / 0" in said
        assert "before the fall" in said
        assert job.status().state is State.FAILED

    @pytest.mark.proves("sys.exit")
    @pytest.mark.proves("segfault")
    @pytest.mark.proves("kill -9")
    @pytest.mark.parametrize(
        ("source", "kind", "words"),
        [
            ("import sys\ndef leave(): sys.exit(3)", errors.UserExit, "sys.exit(3)"),
            ("import ctypes\ndef fall(): ctypes.string_at(0)", errors.Crashed, "SIGSEGV"),
            ("import os\ndef die(): os.kill(os.getpid(), 9)", errors.Crashed, "SIGKILL"),
            ("import os\ndef vanish(): print('bye', flush=True); os._exit(0)", errors.Crashed, "bye"),
        ],
    )
    def test_other_ends(self, desk: Desk, source: str, kind: type[errors.JobError], words: str) -> None:
        job = desk.call(source)
        with pytest.raises(kind) as caught:
            job.result(LONG)
        assert words in str(caught.value)
        assert caught.value.job_id == str(job.id)

    @pytest.mark.proves("live log line")
    def test_output_shows_while_the_job_runs(self, desk: Desk) -> None:
        source = """
            import time
            def talk(flag):
                import os
                print('first é', flush=True)
                while not os.path.exists(flag):
                    time.sleep(0.05)
                print('last')
        """
        flag = f"{desk.root}/go-on"

        class Screen(io.StringIO):
            def write(self, text: str) -> int:
                written = super().write(text)
                if "first é\n" in self.getvalue():  # it is still running: nobody else lets it go on
                    desk.transport.run(f"touch '{flag}'")
                return written

        screen = Screen()
        job = desk.call(source, flag)
        assert job.result(LONG, stream_to=screen) is None
        assert screen.getvalue() == "first é\nlast\n"
        assert job.logs() == "first é\nlast\n"
        assert "".join(job.logs(follow=True)) == "first é\nlast\n"

    @pytest.mark.proves("cancel running")
    def test_cancel_ends_every_process(self, desk: Desk) -> None:
        source = """
            import subprocess, sys, time
            def breed(mark):
                idle = "import time; time.sleep(1000)"
                deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + idle
                orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{idle}', '{mark}'])"
                subprocess.Popen([sys.executable, "-c", idle, mark])
                subprocess.Popen([sys.executable, "-c", deaf, mark], start_new_session=True)
                subprocess.Popen([sys.executable, "-c", idle, mark], env={})
                subprocess.run([sys.executable, "-c", orphan], start_new_session=True, check=True)
                time.sleep(0.5)
                print("ready", flush=True)
                time.sleep(1000)
        """
        mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
        job = desk.call(source, mark)
        assert next(job.logs(follow=True)) == "ready\n"
        assert job.running()
        look = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\000' '\\n' | grep -cx '[m]{mark[1:]}'; exit 0"
        assert int(desk.transport.run(look).stdout) >= 4  # they are seen while they run
        assert job.cancel()
        assert int(desk.transport.run(look).stdout) == 0
        with pytest.raises(errors.JobCancelled):
            job.result(LONG)
        assert job.cancelled()
        assert not job.cancel()
        assert job.status().state is State.CANCELLED

    @pytest.mark.proves("array with failed items")
    def test_map(self, desk: Desk) -> None:
        source = """
            import os
            def invert(x):
                if x == 3:
                    os.abort()
                return 12 // x
        """
        array = desk.submit(source, [(x,) for x in range(5)])
        found = list(array.results(timeout=LONG, return_exceptions=True))
        assert found[1:3] == [12, 6]
        assert found[4] == 3
        assert isinstance(found[0], ZeroDivisionError)
        assert isinstance(found[3], errors.Crashed)
        assert found[3].index == 3
        assert "item 3" in str(found[3])
        assert {index: type(error) for index, error in array.failed.items()} == {
            0: ZeroDivisionError,
            3: errors.Crashed,
        }
        assert sorted(job.index for job in array.as_completed(timeout=LONG)) == [0, 1, 2, 3, 4]
        with pytest.raises(ZeroDivisionError):
            list(array)

    @pytest.mark.proves("fewer tasks than items")
    def test_fewer_workers_than_items(self, desk: Desk) -> None:
        source = "import os\ndef pid(x): return x, os.getpid()"
        array = desk.submit(source, [(x,) for x in range(9)], workers=2)
        found = list(array.results(timeout=LONG))
        assert [x for x, _ in found] == list(range(9))
        assert len({pid for _, pid in found}) <= 2

    @pytest.mark.proves("a worker dies during a map")
    @pytest.mark.proves("failed items run again alone")
    def test_what_a_dead_worker_has_not_begun_is_done_by_the_others(self, desk: Desk) -> None:
        source = """
            import os
            def work(trace, x):
                with open(trace, "a") as file:
                    file.write(f"{x} ")
                if x == 1:
                    os.kill(os.getpid(), 9)
                return x
        """
        trace = f"{desk.root}/trace-{time.monotonic_ns()}"
        items = [(trace, x) for x in range(9)]
        array = desk.submit(source, items, workers=2, slices=((0, 5), (5, 8), (8, 9)))
        found = list(array.results(timeout=LONG, return_exceptions=True))
        assert [value for value in found if isinstance(value, int)] == [0, *range(2, 9)]
        assert isinstance(found[1], errors.Crashed)
        assert list(array.failed) == [1]
        ran = desk.transport.run(f"cat '{trace}'").stdout.split()
        assert sorted(map(int, ran)) == list(range(9))  # each once, the dead one's too
        again = array.retry_failed()
        assert len(again) == 1
        assert isinstance(again[0].exception(LONG), errors.Crashed)
        ran = desk.transport.run(f"cat '{trace}'").stdout.split()
        assert sorted(map(int, ran)) == sorted([*range(9), 1])

    @pytest.mark.proves("max_parallel")
    def test_max_parallel(self, desk: Desk) -> None:
        source = """
            import os, time
            def meet(directory, x):
                os.makedirs(directory, exist_ok=True)
                mark = f"{directory}/{x}"
                open(mark, "w").close()
                time.sleep(0.3)
                present = len(os.listdir(directory))
                os.remove(mark)
                return present
        """
        array = desk.submit(source, [(f"{desk.root}/meeting", x) for x in range(5)], max_parallel=2)
        assert max(array.results(timeout=LONG)) <= 2

    @pytest.mark.proves("hostile quoting")
    def test_hostile_names(self, desk: Desk) -> None:
        hostile = "gpu; touch pwned '\" $(touch pwned) `touch pwned`\n#é"
        job = desk.call("def same(x): return x", hostile, name=hostile)
        assert job.result(LONG) == hostile
        assert desk.transport.run(f"find '{desk.root}' -name 'pwned*'").stdout == b""

    @pytest.mark.proves("environment variables")
    @pytest.mark.proves("working directory")
    def test_variables_and_the_working_directory(self, desk: Desk) -> None:
        variables = {"MODE": "fast", "HOSTILE": "$(touch pwned) '\"\\é\nline", "OMP_NUM_THREADS": "3"}
        source = """
            import os
            def look(names):
                open("may be written", "w").close()
                return {name: os.environ.get(name) for name in names}, os.getcwd()
        """
        job = desk.call(source, list(variables), variables=variables)
        found, directory = job.result(LONG)
        assert found == variables
        assert directory == desk.path(job, "work")

    @pytest.mark.proves("big result")
    def test_a_big_result(self, desk: Desk) -> None:
        source = """
            import hashlib, os
            def much(size):
                data = os.urandom(size)
                return hashlib.sha256(data).hexdigest(), data
        """
        digest, data = desk.call(source, 30_000_000).result(LONG)
        assert len(data) == 30_000_000
        assert hashlib.sha256(data).hexdigest() == digest

    @pytest.mark.proves("many small results")
    def test_many_small_results(self, desk: Desk) -> None:
        array = desk.submit("def square(x): return x * x", [(x,) for x in range(300)], workers=2)
        assert list(array.results(timeout=LONG)) == [x * x for x in range(300)]

    @pytest.mark.proves("two clients at once")
    def test_two_clients_at_once(self, desk: Desk, tmp_path: Path) -> None:
        other = dataclasses.replace(desk, cache=tmp_path)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            submitted = [pool.submit(client.call, "def same(x): return x", x) for x, client in enumerate([desk, other])]
            assert [each.result(LONG).result(LONG) for each in submitted] == [0, 1]

    @pytest.mark.proves("cleanup")
    def test_what_is_removed_is_gone(self, desk: Desk) -> None:
        job = desk.call("def one(): return 1")
        assert job.result(LONG) == 1
        assert desk.remains(job)
        desk.site.store.remove(job.record)
        assert desk.remains(job) == ""
        desk.sent.pop()

    @pytest.mark.proves("reattach without the journal")
    def test_reattached_from_its_record_alone(self, desk: Desk) -> None:
        job = desk.call("def one(): return 1")
        found = desk.site.store.record(job.id.ulid)
        assert found.native_id is None  # what was written before the submission
        again = handle.attach(found, desk.site).job()
        assert again.result(LONG) == 1
        with pytest.raises(errors.UnknownJob):
            desk.site.store.record("0" * 26)

    def test_futures_of_the_standard_library(self, desk: Desk) -> None:
        jobs = [desk.call("def one(x): return x", x) for x in range(2)]
        done, waiting = concurrent.futures.wait(jobs, timeout=LONG)
        assert not waiting
        assert {job.result() for job in done} == {0, 1}

        async def gather() -> list[object]:
            return await asyncio.gather(desk.call("def two(): return 2"), desk.call("def three(): return 3"))

        assert asyncio.run(asyncio.wait_for(gather(), LONG)) == [2, 3]
        slow = desk.call("import time\ndef sleep(): time.sleep(1000)")
        with pytest.raises(concurrent.futures.TimeoutError):
            slow.result(0.2)
        assert not slow.done()
