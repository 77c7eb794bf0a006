"""Output of a made-up site."""

from __future__ import annotations

import io
import threading
import time

from clustrix.stores.base import Output

from .sites import FakeSite, attach


def test_output_of_several_tasks_comes_in_whole_lines(site: FakeSite) -> None:
    array = attach(site, items=2, workers=2)
    screen = io.StringIO()

    def talk() -> None:
        time.sleep(0.2)
        ulid = array.id.ulid
        for task, data in [(0, b"a"), (1, b"one\nt\xc3"), (0, b"b\n"), (1, b"\xa9wo"), (0, b"\xff\n")]:
            site.news.append(Output(ulid, task, data))
        site.finish(0, 1, array.record)

    threading.Thread(target=talk).start()
    results = array.results(timeout=60, stream_to=screen)
    assert next(results) == 1  # the second is waited for separately, and nothing is shown twice
    site.finish(1, 2, array.record)
    assert list(results) == [2]
    assert screen.getvalue() == "[1] one\n[0] ab\n[0] \ufffd\n[1] t\u00e9wo\n"
