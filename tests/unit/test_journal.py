"""Records of jobs on this machine: private, whole at every moment, found by what people type."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clustrix import errors
from clustrix.journal import Journal, state_directory
from clustrix.model.job import JobId, JobRecord, State, new_ulid


def record(target: str = "hpc", ulid: str | None = None, **fields: object) -> JobRecord:
    given = {"name": "fit", "function": "m.fit", "created": 1.5, "items": 3, "workers": 2, "root": "/r", **fields}
    return JobRecord(id=JobId(target, ulid or new_ulid()), target={"host": "é", "mounts": ["/a:/b"]}, **given)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state" / "jobs")


def test_a_record_comes_back_as_it_was_and_belongs_to_its_owner(journal: Journal, tmp_path: Path) -> None:
    kept = record(native_id="4711 4712@1001", state=State.RUNNING, image="sha256:1")
    journal.write(kept)
    assert journal.find(str(kept.id)) == kept
    (path,) = (tmp_path / "state" / "jobs").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    # What a later version writes can be read by this one.
    path.write_text(json.dumps({**json.loads(path.read_text()), "invented": 1}))
    assert journal.find(kept.id.ulid) == kept


def test_jobs_are_found_by_what_people_type(journal: Journal) -> None:
    first, second = record(ulid="01J" + "0" * 23), record("lab/big", ulid="01J" + "0" * 22 + "1")
    for one in (first, second):
        journal.write(one)
    assert journal.find(f"lab/big/{second.id.ulid[:5]}") == second
    assert journal.find(first.id.ulid) == first
    assert journal.find(f"hpc/{first.id.ulid.lower()[:10]}") == first
    for name, words in {"01J": "2 jobs", "02": "no job", f"lab/big/{first.id.ulid}": "no job", "": "no job"}.items():
        with pytest.raises(errors.UnknownJob, match=words):
            journal.find(name)
    assert journal.list() == [second, first]  # the newest first
    journal.remove(first.id)
    assert journal.list() == [second]


def test_what_has_ended_stays_so(journal: Journal) -> None:
    kept = record()
    journal.write(kept)
    assert journal.update(kept.id, native_id="1").native_id == "1"
    assert journal.update(kept.id, state=State.FAILED).state is State.FAILED
    assert journal.update(kept.id, state=State.RUNNING, native_id="2") == replace(
        kept, state=State.FAILED, native_id="2"
    )
    with pytest.raises(errors.UnknownJob):
        journal.update(JobId("hpc", new_ulid()), native_id="1")


def test_an_empty_journal_and_foreign_files(journal: Journal, tmp_path: Path) -> None:
    assert journal.list() == []
    kept = record()
    journal.write(kept)
    for name, text in {"x.json": "not json", ".half.new": "{", "y.json": "[]", "notes.txt": ""}.items():
        (tmp_path / "state" / "jobs" / name).write_text(text)
    assert journal.list() == [kept]


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.StoreError, match="CLUSTRIX_STATE_DIR"):
        Journal(tmp_path / "file" / "jobs").write(record())


def _write_often(directory: Path, ulid: str) -> None:
    kept = Journal(directory).find(ulid)
    for number in range(200):
        Journal(directory).write(replace(kept, native_id=str(number) * 1000))


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    kept = record()
    journal = Journal(tmp_path)
    journal.write(kept)
    writers = [subprocess.Popen([sys.executable, __file__, str(tmp_path), kept.id.ulid]) for _ in range(2)]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        assert journal.find(kept.id.ulid).name == "fit"  # never half a record
        reads += 1
    assert reads > 0
    assert [writer.wait() for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [f"{kept.id.ulid}.json"]


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"CLUSTRIX_STATE_DIR": "/a"}, "/a"),
        ({"XDG_STATE_HOME": "/b"}, "/b/clustrix"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/c"}, "/c/.local/state/clustrix"),
        ({"HOME": "/c"}, "/c/.local/state/clustrix"),
    ],
)
def test_where_it_is(variables: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLUSTRIX_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert state_directory() == Path(place)


if __name__ == "__main__":
    _write_often(Path(sys.argv[1]), sys.argv[2])
