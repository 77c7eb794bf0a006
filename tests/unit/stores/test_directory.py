"""What jobs leave in their directories, read back through a shell."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clustrix import errors
from clustrix.model import record as records
from clustrix.model.job import EndKind, JobId, JobRecord, new_ulid
from clustrix.stores.base import Ended, Output, RawOutcome
from clustrix.stores.directory import DirectoryStore
from clustrix.transports.local import Local
from clustrix.worker import task as tasks

if TYPE_CHECKING:
    from collections.abc import Iterator


class Noisy(Local):
    """A host whose start-up files talk."""

    @contextlib.contextmanager
    def stream(self, script: str) -> Iterator[Iterator[bytes]]:
        with super().stream(f"echo Welcome; printf 'no end of line'\n{script}") as chunks:
            yield chunks


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(Noisy(), str(tmp_path / "a root"))


def job(tmp_path: Path, items: int = 1, workers: int = 1) -> tuple[JobRecord, Path]:
    name = JobId("t", new_ulid())
    root = tmp_path / "a root"
    directory = root / "jobs" / name.ulid
    for part in ("outcomes", "ends", "logs", "claims"):
        (directory / part).mkdir(parents=True)
    record = JobRecord(
        id=name, name="n", function="f", created=1.0, items=items, workers=workers, root=str(root), target={}
    )
    (directory / "job.json").write_bytes(records.dump(record))
    return record, directory


def place(path: Path, text: str | bytes) -> None:
    """Write as a worker does: another name, then a rename."""
    new = path.with_name(f"{path.name}.part")
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    new.replace(path)


def end(directory: Path, task: int, **fields: Any) -> None:
    place(directory / f"ends/{task}.json", json.dumps({"kind": "exited", "exit_code": 0, "node": "n1", **fields}))


def until_quiet(events: Iterator[object]) -> list[object]:
    """Take what has been told up to the next beat."""
    found: list[object] = []
    for event in events:
        if event is None:
            return found
        found.append(event)
    return found


def test_what_had_ended_comes_first_and_everything_once(store: DirectoryStore, tmp_path: Path) -> None:
    (first, one), (second, two) = job(tmp_path, items=12), job(tmp_path)
    for index in (3, 11):
        place(one / f"outcomes/{index}.json", "{}")
    (one / "outcomes/4.json.part").write_text("half")
    (one / "outcomes/x.json").write_text("a stranger's")
    end(two, 0, kind="signalled", exit_code=None, signal=9)
    watch = store.watch([first, second])
    events = iter(watch)
    told = until_quiet(events)
    assert {(e.ulid, e.index) for e in told if isinstance(e, Ended) and e.index is not None} == {
        (first.id.ulid, 3),
        (first.id.ulid, 11),
    }
    (over,) = [e for e in told if isinstance(e, Ended) and e.end]
    assert (over.ulid, over.task, over.end.kind, over.end.signal, over.end.node) == (
        second.id.ulid,
        0,
        EndKind.SIGNALLED,
        9,
        "n1",
    )
    place(one / "outcomes/4.json", "{}")
    assert next(event for event in events if event) == Ended(first.id.ulid, index=4)
    # A task that was started again ends again.
    (two / "ends/0.json").unlink()
    end(two, 0, exit_code=5)
    assert next(event for event in events if event).end.exit_code == 5
    assert until_quiet(events) == []
    watch.close()
    with pytest.raises(errors.ConnectionLost):
        next(events)


class Elsewhere(Noisy):
    address = "elsewhere"


def test_a_job_whose_directory_was_removed_does_not_end_the_watch_over_others(tmp_path: Path) -> None:
    (gone, removed), (record, directory) = job(tmp_path), job(tmp_path)
    shutil.rmtree(removed)
    watch = DirectoryStore(Elsewhere(), str(tmp_path / "a root")).watch([gone, record])
    with contextlib.closing(watch):
        events = iter(watch)
        assert until_quiet(events) == until_quiet(events) == []
        place(directory / "outcomes/0.json", "{}")
        assert next(event for event in events if event) == Ended(directory.name, index=0)


def test_output_comes_whole_and_before_the_end(store: DirectoryStore, tmp_path: Path) -> None:
    record, directory = job(tmp_path, workers=2)
    log = directory / "logs/1.out"
    content = os.urandom(300_000) + b"\nclustrix-0123 beat\n"
    log.write_bytes(content[:100])
    watch = store.watch([record], output={record.id.ulid: {1: 40}})
    events = iter(watch)
    assert until_quiet(events) == [Output(record.id.ulid, 1, content[40:100])]

    def write() -> None:
        with log.open("ab") as file:
            for start in range(100, len(content), 1000):
                file.write(content[start : start + 1000])
                file.flush()
        place(directory / "outcomes/0.json", "{}")
        end(directory, 1)

    writer = threading.Thread(target=write)
    writer.start()
    seen = content[:100]
    told: list[Ended] = []
    for event in events:
        if isinstance(event, Output):
            assert not told
            seen += event.data
        elif event is not None:
            told.append(event)
            if len(told) == 2:
                break
    writer.join()
    watch.close()
    assert seen == content


def test_many_outcomes_come_in_one_stream(store: DirectoryStore, tmp_path: Path) -> None:
    record, directory = job(tmp_path, items=1200)
    large = os.urandom(3_000_000)
    for index in range(0, 1200, 2):
        place(directory / f"outcomes/{index}.json", f"meta {index}")
        if index != 10:
            place(directory / f"outcomes/{index}.pkl", large if index == 4 else b"%d" % index)
    found = {outcome.index: outcome for outcome in store.read(record, range(1200))}
    assert sorted(found) == list(range(0, 1200, 2))  # what does not exist is left out
    assert found[6] == RawOutcome(6, b"meta 6", b"6")
    assert found[4].value == large
    assert found[10] == RawOutcome(10, b"meta 10", b"")
    texts = dict(store.metadata(record, range(1200)))
    assert texts == {index: b"meta %d" % index for index in range(0, 1200, 2)}
    gone, _ = job(tmp_path)
    store.remove(gone)
    assert list(store.read(gone, [0])) == []
    assert list(store.metadata(gone, [0])) == []


class Cut(Local):
    """A connection that breaks after some bytes."""

    at = 0

    @contextlib.contextmanager
    def stream(self, script: str) -> Iterator[Iterator[bytes]]:
        with super().stream(script) as chunks:
            yield iter([b"".join(chunks)[: self.at]])


def test_a_value_that_no_outcome_speaks_of_is_none(store: DirectoryStore, tmp_path: Path) -> None:
    record, directory = job(tmp_path, items=2)
    place(directory / "outcomes/0.pkl", "half")
    place(directory / "outcomes/1.pkl", "value")
    place(directory / "outcomes/1.json", "{}")
    assert list(store.read(record, [0, 1])) == [RawOutcome(1, b"{}", b"value")]


@pytest.mark.parametrize("missing", [1, 40, 12_000])
def test_a_cut_in_the_middle_of_outcomes_is_noticed(tmp_path: Path, missing: int) -> None:
    record, directory = job(tmp_path, items=3)
    for index in range(3):
        place(directory / f"outcomes/{index}.json", "{}")
        place(directory / f"outcomes/{index}.pkl", b"x" * 5000)
    transport = Cut()
    transport.at = 1 << 30  # beyond the end
    store = DirectoryStore(transport, record.root)
    assert len(list(store.read(record, range(3)))) == 3
    transport.at = -missing
    with pytest.raises(errors.ConnectionLost):
        list(store.read(record, range(3)))


def test_the_smaller_questions(store: DirectoryStore, tmp_path: Path) -> None:
    record, directory = job(tmp_path, items=4, workers=3)
    (directory / "key").write_bytes(b"\0key\n")
    assert store.key(record) == b"\0key\n"
    assert store.record(record.id.ulid) == record
    for task in (0, 2):
        end(directory, task, exit_code=task)
    assert {task: found.exit_code for task, found in store.ends(record).items()} == {0: 0, 2: 2}
    (directory / "logs/0.out").write_bytes(b"0123456789")
    assert store.log(record, 0) == b"0123456789"
    assert store.log(record, 0, last_bytes=3) == b"789"
    assert store.log(record, 7) == b""
    place(directory / "outcomes/1.json", '{\n "status": "error"\n}')
    place(directory / "outcomes/2.json", '{\n "status": "success",\n "x": "error"\n}')
    other, _ = job(tmp_path)
    assert store.failures([other, record]) == {other.id.ulid: frozenset(), record.id.ulid: frozenset({1})}
    assert not store.cancelled(record)
    (directory / "cancelled").touch()
    assert store.cancelled(record)


@pytest.mark.parametrize(
    ("slices", "claims", "owners"),
    [
        # A slice for every task: nobody else will ever do it.
        (((0, 1), (1, 3)), {}, {0: 0, 1: 1, 2: 1}),
        (((0, 1), (1, 3)), {"1/1": None, "1/item-1": "1"}, {0: 0, 1: 1, 2: 1}),
        # More slices than tasks: what was not begun may be taken over.
        (((0, 1), (1, 3), (3, 4)), {}, {}),
        (((0, 1), (1, 3), (3, 4)), {"0/1": None, "1/0": None, "1/item-2": "1", "start-0-1/": None}, {0: 1, 2: 1}),
        (((0, 1), (1, 3), (3, 4)), {"0/": None, "2/0": None}, {3: 0}),  # it died before it said whose the first is
    ],
)
def test_who_has_which_item(
    store: DirectoryStore,
    tmp_path: Path,
    slices: tuple[tuple[int, int], ...],
    claims: dict[str, str | None],
    owners: dict[int, int],
) -> None:
    items = slices[-1][1]
    record, directory = job(tmp_path, items=items, workers=2)
    task = tasks.Task(
        job_id=str(record.id),
        function_name="f",
        items=items,
        slices=slices,
        workers=2,
        python="3.11",
        implementation="cpython",
        abi="cp311",
    )
    (directory / "task.json").write_bytes(tasks.write(task))
    for claim, target in claims.items():
        path = directory / "claims" / claim
        if claim.endswith("/"):
            path.mkdir()
            continue
        path.parent.mkdir(exist_ok=True)
        path.touch() if target is None else path.symlink_to(target)
    assert store.owners(record) == owners


def test_what_was_removed_is_unknown(store: DirectoryStore, tmp_path: Path) -> None:
    record, directory = job(tmp_path)
    with pytest.raises(errors.StoreError, match="cannot be read"):
        store.key(record)  # the directory is there, the key is not
    store.remove(record)
    assert not directory.exists()
    for ask in (store.key, store.owners):
        with pytest.raises(errors.UnknownJob):
            ask(record)
    with pytest.raises(errors.UnknownJob):
        store.record(record.id.ulid)
    assert store.ends(record) == {}
