"""The durable record of every job of this user on this machine: one JSON file a job.

Each is written under a temporary name, flushed to the disk and renamed, so that readers beside a writer see the old or
the new one, also where home directories are on NFS.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.errors import StoreError, UnknownJob
from clustrix.model import record as records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.model.job import JobId, JobRecord


def state_directory() -> Path:
    """Place what is kept between processes: ``$CLUSTRIX_STATE_DIR``, else clustrix below XDG_STATE_HOME.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    own = os.environ.get("CLUSTRIX_STATE_DIR")
    if own:
        return Path(own)
    base = os.environ.get("XDG_STATE_HOME")
    # The specification ignores relative paths.
    if base and Path(base).is_absolute():
        return Path(base, "clustrix")
    return Path.home() / ".local" / "state" / "clustrix"


class Journal:
    """Keep records below ``directory``, by default ``jobs`` in the state directory. Safe for several processes."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or state_directory() / "jobs"

    def write(self, record: JobRecord) -> None:
        """Keep a record, in place of an earlier one of the same job.

        Raises:
            StoreError: the directory cannot be written to.

        """
        temporary = None
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix=".", suffix=".new")  # mode 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(records.dump(record))
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path(record.id.ulid))
            temporary = None
            self._sync()
        except OSError as error:
            raise StoreError(
                f"the journal {self._directory} cannot be written: {error}",
                remedy="Set CLUSTRIX_STATE_DIR to a directory that you may write to.",
            ) from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    def update(self, job: JobId, **changes: Any) -> JobRecord:  # noqa: ANN401 - the types of JobRecord's fields
        """Change fields of a record; UnknownJob. A job that has ended stays so, whatever a slower process writes."""
        known = self._load(self._path(job.ulid))
        if known is None:
            raise self._unknown(str(job))
        if "state" in changes and known.state.ended and not changes["state"].ended:
            del changes["state"]
        record = replace(known, **changes)
        if record != known:
            self.write(record)
        return record

    def find(self, name: str) -> JobRecord:
        """Find a job by its id, its ulid, or the beginning of either.

        Raises:
            UnknownJob: there is none, or more than one.

        """
        target, _, ulid = name.rpartition("/")
        if len(ulid) == 26 and (exact := self._load(self._path(ulid))) is not None and target in {"", exact.id.target}:  # noqa: PLR2004 - a whole ulid
            return exact
        found = []
        for path in self._paths():
            if ulid and path.stem.startswith(ulid.upper()):
                record = self._load(path)
                if record is not None and target in {"", record.id.target}:
                    found.append(record)
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownJob(
                f"{name!r} is the beginning of {len(found)} jobs", remedy="Give more of it; see: clustrix jobs"
            )
        raise self._unknown(name)

    def list(self) -> list[JobRecord]:
        """List all records, the newest first. A file that is none is passed over: another version may have left it."""
        found = []
        for path in sorted(self._paths(), reverse=True):
            with contextlib.suppress(StoreError):
                record = self._load(path)
                if record is not None:
                    found.append(record)
        return found

    def remove(self, job: JobId) -> None:
        """Forget a job."""
        self._path(job.ulid).unlink(missing_ok=True)

    def _path(self, ulid: str) -> Path:
        return self._directory / f"{ulid}.json"

    def _paths(self) -> Iterator[Path]:
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 - 10,000 names, quickly
        except FileNotFoundError:
            return
        for name in names:
            if name.endswith(".json") and not name.startswith("."):
                yield self._directory / name

    def _load(self, path: Path) -> JobRecord | None:
        try:
            return records.load(path.read_bytes())
        except FileNotFoundError:
            return None

    def _unknown(self, name: str) -> UnknownJob:
        return UnknownJob(
            f"no job {name!r} in the journal {self._directory}",
            remedy="See: clustrix jobs. One that another machine submitted is found by its whole id, TARGET/ULID.",
        )

    def _sync(self) -> None:
        """Flush the directory, where the system can (not on Windows)."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
