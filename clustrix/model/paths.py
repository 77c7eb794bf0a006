"""Where the files of a target and of a job are."""

from __future__ import annotations

# No dataclasses: a worker needs these names, and importing them would take a fifth of the time in which it starts.


class SitePaths:
    """Own every path below a target's root (absolute, POSIX; the same inside and outside a container)."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    @property
    def bundles(self) -> str:
        """Content-addressed worker and code bundles, ``<sha256>.zip``; workers unpack code beside them."""
        return f"{self.root}/bundles"

    @property
    def blobs(self) -> str:
        """OCI blobs that a SIF is built from."""
        return f"{self.root}/blobs/sha256"

    @property
    def sifs(self) -> str:
        """SIF files, ``<config digest>.sif``."""
        return f"{self.root}/sifs"

    @property
    def venvs(self) -> str:
        """Environments of the venv runtime, one directory a lock digest."""
        return f"{self.root}/venvs"

    def bundle(self, digest: str) -> str:
        """Place one bundle."""
        return f"{self.bundles}/{digest.removeprefix('sha256:')}.zip"

    def job(self, ulid: str) -> JobPaths:
        """Place one job."""
        return JobPaths(f"{self.root}/jobs/{ulid}")


class JobPaths:
    """Own every file name of a job's directory. Nobody else spells one.

    A call is a map of one item: ``outcomes/0.json`` is written last and by rename, so where it is, the item has
    ended and ``outcomes/0.pkl`` (value or exception) is whole.
    """

    __slots__ = ("directory",)

    def __init__(self, directory: str) -> None:
        self.directory = directory

    @property
    def record(self) -> str:
        """Hold the `JobRecord`, for whoever reattaches from another machine."""
        return f"{self.directory}/job.json"

    @property
    def task(self) -> str:
        """Hold what the worker needs to know (`clustrix.worker.task.Task`)."""
        return f"{self.directory}/task.json"

    @property
    def payload(self) -> str:
        """Hold the function and the items."""
        return f"{self.directory}/payload"

    @property
    def key(self) -> str:
        """Hold the key that signs outcomes, mode 0600."""
        return f"{self.directory}/key"

    @property
    def script(self) -> str:
        """Hold what the scheduler runs."""
        return f"{self.directory}/script.sh"

    def script_from(self, offset: int) -> str:
        """Place the script of the submission whose first task has that number; one job may need several."""
        return self.script if offset == 0 else f"{self.directory}/script-{offset}.sh"

    @property
    def wrapper(self) -> str:
        """Hold what runs one task outside of its container: ``task.sh NUMBER``."""
        return f"{self.directory}/task.sh"

    @property
    def native_id(self) -> str:
        """Hold what the scheduler printed when it accepted the job, written by the submission itself."""
        return f"{self.directory}/native-id"

    def native_id_from(self, offset: int) -> str:
        """Place what the scheduler printed for the submission whose first task has that number."""
        return self.native_id if offset == 0 else f"{self.directory}/native-id-{offset}"

    @property
    def cancelled(self) -> str:
        """Mark that somebody asked to cancel the job: an empty file."""
        return f"{self.directory}/cancelled"

    @property
    def work(self) -> str:
        """Be the working directory of the tasks."""
        return f"{self.directory}/work"

    @property
    def claims(self) -> str:
        """Hold one directory per claimed slice: mkdir is the claim."""
        return f"{self.directory}/claims"

    @property
    def outcomes(self) -> str:
        """Hold the outcomes of all items."""
        return f"{self.directory}/outcomes"

    @property
    def ends(self) -> str:
        """Hold how each task's process ended, ``<task>.json``, written outside the container."""
        return f"{self.directory}/ends"

    @property
    def logs(self) -> str:
        """Hold the output of each task, ``<task>.out``: standard output and error together."""
        return f"{self.directory}/logs"

    @property
    def unfetched(self) -> str:
        """Say why a courier could not fetch what is in the registry: a file with a sentence."""
        return f"{self.directory}/unfetched"

    @property
    def handover(self) -> str:
        """Tell a courier that all outcomes are there: an empty file."""
        return f"{self.directory}/handover"

    @property
    def receipt(self) -> str:
        """Hold what a courier says once it has them: a termination message (`clustrix.worker.message`)."""
        return f"{self.directory}/receipt"

    def outcome(self, index: int) -> str:
        """Place the metadata of one item's outcome."""
        return f"{self.outcomes}/{index}.json"

    def value(self, index: int) -> str:
        """Place the pickled value or exception of one item."""
        return f"{self.outcomes}/{index}.pkl"

    def claim(self, slice_index: int) -> str:
        """Place the claim on one slice of the items."""
        return f"{self.claims}/{slice_index}"

    def claimant(self, slice_index: int, task: int) -> str:
        """Place the mark in a claim that tells which task has it: an empty file named by the task's number."""
        return f"{self.claims}/{slice_index}/{task}"

    def mark(self, slice_index: int, index: int) -> str:
        """Place the claim on one item of a longer slice: a symbolic link whose target is the task's number."""
        return f"{self.claims}/{slice_index}/item-{index}"

    def start(self, task: int, attempt: int) -> str:
        """Place the mark of a task's start, where a scheduler may start it again: a directory."""
        return f"{self.claims}/start-{task}-{attempt}"

    def end(self, task: int | str) -> str:
        """Place the end of one task; scripts pass a shell variable."""
        return f"{self.ends}/{task}.json"

    def late(self, task: int | str) -> str:
        """Mark that the time of a task is nearly over: an empty file, written outside the container."""
        return f"{self.ends}/{task}.late"

    def hook(self, task: int | str) -> str:
        """Mark that user code wants to be told when it is: an empty file, written inside."""
        return f"{self.ends}/{task}.hook"

    def of_ranks(self, task: int | str) -> str:
        """Hold what the ranks of one task leave until all have ended: a directory."""
        return f"{self.directory}/ranks/{task}"

    def log(self, task: int | str) -> str:
        """Place the output of one task; scripts pass a shell variable."""
        return f"{self.logs}/{task}.out"
