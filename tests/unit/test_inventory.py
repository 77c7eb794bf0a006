"""What gc finds below a root, with a real shell: what has ended and is old goes, and what nobody else needs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from clustrix import cli, config, inventory, target
from clustrix.errors import BackendError
from clustrix.journal import Journal
from clustrix.model import record as records
from clustrix.model.job import JobId, JobRecord, State, TaskStatus, new_ulid

if TYPE_CHECKING:
    from pathlib import Path

YOUNG, OLD = 0, 40 * 86400
SHARED = {name: (digit * 64) for name, digit in (("mine", "a"), ("yours", "b"), ("nobody's", "c"))}


class Site:
    """The root of the target `local`, filled by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ulids: list[str] = []

    def job(self, *, age: float, ends: int, needs: str, workers: int = 1) -> str:
        ulid = new_ulid()
        place = self.root / "jobs" / ulid
        (place / "ends").mkdir(parents=True)
        record = JobRecord(
            id=JobId("local", ulid),
            name="n",
            function="f",
            created=1.0,
            items=workers,
            workers=workers,
            root=str(self.root),
            target={},
        )
        (place / "job.json").write_bytes(records.dump(record))
        (place / "task.sh").write_text(f"run {self.root}/bundles/{needs}.zip {self.root}/sifs/{needs}.sif\n")
        (place / "payload").write_bytes(bytes(100_000))
        for task in range(ends):
            (place / f"ends/{task}.json").write_text('{"kind": "exited", "exit_code": 0}\n')
        self.shift(place, age)
        Journal().write(record)
        return ulid

    def share(self, path: str, *, age: float) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bytes(50_000))
        self.shift(place, age)

    def shift(self, place: Path, age: float) -> None:
        for path in [*place.rglob("*"), place]:
            then = path.stat().st_mtime - age
            os.utime(path, (then, then))

    def left(self) -> set[str]:
        return {path.relative_to(self.root).as_posix() for path in self.root.glob("*/*")}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    config.load.cache_clear()
    root = tmp_path / "a root"
    root.mkdir()
    (tmp_path / "clustrix.yml").write_text(f"targets:\n  local:\n    root: {root}\n    runtime: venv\n")
    return Site(root)


def gc(*argv: str, status: int = 0) -> dict:
    done = CliRunner().invoke(cli.main, ["gc", "--json", *argv])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def test_what_is_old_and_needed_by_nobody_goes(site: Site) -> None:
    mine, yours, nobodys = SHARED.values()
    old = site.job(age=OLD, ends=1, needs=nobodys)
    young = site.job(age=YOUNG, ends=1, needs=yours)
    for digest in (yours, nobodys):
        for path in (f"bundles/{digest}.zip", f"sifs/{digest}.sif", f"sifs/{digest}.sif.digest"):
            site.share(path, age=OLD)
    site.share(f"bundles/{mine}.zip", age=YOUNG)  # just uploaded, its job is on the way
    site.share("sifs/.making-x", age=OLD)
    going = {f"bundles/{nobodys}.zip", f"sifs/{nobodys}.sif", f"sifs/{nobodys}.sif.digest", "sifs/.making-x"}
    before = site.left()
    said = gc("--dry-run")["targets"][0]
    assert site.left() == before
    for told in (said, gc()["targets"][0]):
        assert told["jobs"] == [f"local/{old}"]
        assert set(told["shared"]) == going
        assert told["freed_bytes"] > 300_000
        assert told["sizes"]["jobs"] > 200_000
    assert site.left() == before - going - {f"jobs/{old}"}
    assert [record.id.ulid for record in Journal().list()] == [young]
    assert gc()["targets"][0]["jobs"] == []


@pytest.mark.parametrize("says", ["running", "unknown", "nothing"])
def test_a_job_that_may_run_stays(site: Site, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    ulid = site.job(age=OLD, ends=1, workers=2, needs=SHARED["mine"])
    site.share(f"bundles/{SHARED['mine']}.zip", age=OLD)

    def status(self, jobs):
        if says == "nothing":
            raise BackendError("slurmctld is down")
        return {job.id: {1: TaskStatus(state=State.RUNNING)} for job in jobs} if says == "running" else {}

    backend = target.of(config.load().resolve("local")).backend
    monkeypatch.setattr(type(backend), "status", status)
    before = site.left()
    told = gc()["targets"][0]
    if says == "unknown":
        assert (told["jobs"], site.left()) == ([f"local/{ulid}"], set())
    else:
        why = {"running": "it has not ended", "nothing": "slurmctld is down"}[says]
        assert told["kept"] == {f"local/{ulid}": why}
        assert (told["jobs"], told["shared"], site.left()) == ([], [], before)


def test_what_is_needed_since_the_look_stays(site: Site) -> None:
    site.share(f"bundles/{SHARED['mine']}.zip", age=OLD)
    place = target.of(config.load().resolve("local"))
    found = inventory.look(place, config.load().resolve("local", {"time": "30d"}).time)
    assert [old.path for old in found.shared] == [f"bundles/{SHARED['mine']}.zip"]
    site.job(age=YOUNG, ends=0, needs=SHARED["mine"])
    assert inventory.remove(place, [old.path for old in found.shared]) == frozenset()
    assert f"bundles/{SHARED['mine']}.zip" in site.left()


def test_a_directory_that_is_write_protected_goes_too(site: Site) -> None:
    ulid = site.job(age=OLD, ends=1, needs=SHARED["mine"])
    inner = site.root / "jobs" / ulid / "inner"
    inner.mkdir()
    (inner / "file").touch()
    inner.chmod(0o500)
    site.shift(site.root / "jobs" / ulid, OLD)
    gc()
    assert site.left() == set()


def test_who_does_not_answer_is_told_and_the_others_are_swept(site: Site, tmp_path: Path) -> None:
    ulid = site.job(age=OLD, ends=1, needs=SHARED["mine"])
    with (tmp_path / "clustrix.yml").open("a") as file:
        file.write("  far: {backend: ssh, host: nowhere.invalid}\n")
    config.load.cache_clear()
    told = {row["target"]: row for row in gc(status=4)["targets"]}
    assert "nowhere.invalid" in told["far"]["error"]
    assert told["local"]["jobs"] == [f"local/{ulid}"]
