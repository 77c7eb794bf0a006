"""What every transport promises. A subclass has a fixture ``transport``, and ``there``: a directory of the host."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shlex
import threading
import time
from typing import TYPE_CHECKING

import pytest

from clustrix.errors import ConnectionLost, TransportError
from clustrix.transports.base import Pieces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clustrix.transports.base import Transport


class Transports:
    """Hold the suite."""

    def test_a_script_has_input_two_outputs_and_an_exit_status(self, transport: Transport) -> None:
        done = transport.run("cat; echo err >&2; exit 7", stdin=b"in\0\xff")
        assert (done.stdout, done.stderr.strip(), done.returncode) == (b"in\0\xff", b"err", 7)
        assert transport.run("echo 'é $HOME'").stdout.decode() == "é $HOME\n"

    def test_input_is_streamed_and_need_not_be_read(self, transport: Transport) -> None:
        def pieces() -> Iterator[bytes]:
            for _ in range(300):
                yield bytes(100_000)

        done = transport.run("wc -c", stdin=io.BufferedReader(Pieces(pieces())))
        assert int(done.stdout) == 30_000_000
        assert transport.run("exit 3", stdin=bytes(5_000_000)).returncode == 3

    def test_what_breaks_in_the_input_breaks_the_call(self, transport: Transport) -> None:
        def pieces() -> Iterator[bytes]:
            yield b"x"
            raise ValueError("the source is broken")

        with pytest.raises(ValueError, match="broken"):
            transport.run("cat", stdin=io.BufferedReader(Pieces(pieces())))

    def test_large_scripts_and_outputs(self, transport: Transport) -> None:
        done = transport.run(f"{'#' * 300_000}\nhead -c 5000000 /dev/zero; head -c 500000 /dev/zero >&2")
        assert (len(done.stdout), len(done.stderr)) == (5_000_000, 500_000)

    def test_a_script_that_takes_too_long(self, transport: Transport) -> None:
        with pytest.raises(ConnectionLost):
            transport.run("sleep 1000", timeout=0.5)

    def test_scripts_run_side_by_side(self, transport: Transport, there: str) -> None:
        # Each waits for the other.
        meet = f"mkdir -p {there}/meet; cd {there}/meet; : >$0; until [ -e one ] && [ -e two ]; do sleep 0.05; done"
        threads = [
            threading.Thread(target=transport.run, args=(f"set -- {name}; {meet.replace('$0', name)}",))
            for name in ("one", "two")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()

    def test_a_stream_comes_as_it_is_printed_and_ends_when_it_is_left(self, transport: Transport, there: str) -> None:
        flag = f"{there}/flag"
        script = f"echo first; until [ -e {flag} ]; do sleep 0.05; done; echo second; sleep 1000 & echo $!; wait"
        with transport.stream(script) as chunks:
            seen = b""
            while b"first\n" not in seen:
                seen += next(chunks)
            assert b"second" not in seen
            transport.run(f": >{flag}")
            while seen.count(b"\n") < 3:
                seen += next(chunks)
        process = int(seen.split()[-1])
        deadline = time.monotonic() + 60
        while transport.run(f"kill -0 {process} 2>/dev/null").returncode == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def test_a_stream_may_be_closed_by_another_thread(self, transport: Transport) -> None:
        context = transport.stream("echo first; sleep 1000")
        chunks = context.__enter__()
        seen = b""
        while b"first" not in seen:
            seen += next(chunks)
        timer = threading.Timer(0.2, context.__exit__, (None, None, None))
        timer.start()
        with contextlib.suppress(ConnectionLost):
            assert next(chunks, b"") == b""
        timer.join()

    @pytest.mark.parametrize("size", [0, 1, 3_000_000])
    def test_files_come_and_go(self, transport: Transport, there: str, tmp_path: Path, size: int) -> None:
        source, back = tmp_path / "source", tmp_path / "back"
        source.write_bytes(hashlib.shake_128(b"x").digest(size))
        destination = f"{there}/new/dir with 'quotes'/file"
        transport.put(source, destination)
        look = transport.run(f"ls -lR {there}/new").stdout.decode()
        assert "-rw-------" in look
        assert look.count("drwx------") == 1
        transport.put(source, destination, mode=0o644)
        assert "-rw-r--r--" in transport.run(f"ls -lR {there}/new").stdout.decode()
        transport.get(destination, back)
        assert back.read_bytes() == source.read_bytes()
        names = transport.run(f"ls -A {shlex.quote(destination.rpartition('/')[0])}").stdout.split()
        assert names == [b"file"]  # no temporary file stays behind

    def test_files_that_are_not_there(self, transport: Transport, there: str, tmp_path: Path) -> None:
        with pytest.raises(TransportError):
            transport.get(f"{there}/absent", tmp_path / "back")
        assert not (tmp_path / "back").exists()

    def test_it_is_there_again_after_it_was_closed(self, transport: Transport) -> None:
        transport.close()
        assert transport.run("echo back").stdout == b"back\n"
