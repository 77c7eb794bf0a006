# ruff: noqa: PTH100, PTH105, PTH110, PTH119, PTH120, PTH123
# pathlib would take a seventh of the time in which a worker starts.
"""The first process of a pod: ``python -I <worker zip> --pod <root> <ulid>``.

What `clustrix.backends.wrapper` is at other targets: it outlives user code and says how that ended. It lays the files
of the job (`clustrix.worker.supplies`) and forks a child, which does the ordinary worker's work. Should that die in
the middle of an item, the item gets an outcome of the kind of its end and the next child does what was not begun. In
the end the outcomes go into the termination message if they are small, else to the registry or to the courier.

The environment says ``JOB_COMPLETION_INDEX`` and ``CLUSTRIX_OFFSET`` (together the task's number),
``CLUSTRIX_TIME_SECONDS`` (its time limit),
``CLUSTRIX_SINK`` (``registry`` or ``courier``), ``CLUSTRIX_POD_UID``, ``CLUSTRIX_POD_NAME`` and ``CLUSTRIX_NODE_NAME``.
It ends with 0 when every item of the task has an outcome, with 143 when it was told to go before, else with 1.
"""

from __future__ import annotations

import os
import sys
import time

from clustrix.errors import ClustrixError, StoreError
from clustrix.model.slices import items_of
from clustrix.worker import delivery as deliveries
from clustrix.worker import message as messages
from clustrix.worker import supplies
from clustrix.worker import task as tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence

    from clustrix.model.job import End
    from clustrix.worker.artifacts import Repository
    from clustrix.worker.delivery import Delivery, Written
else:
    try:
        import _signal as signal  # without enumerations, which are slow to import
    except ImportError:
        import signal

_GRACE = 30.0  # seconds that Kubernetes leaves a pod that is told to go
_RESERVE = 10.0  # of these, for what had ended before
_NOTICE = 60.0  # seconds before the time limit in which user code may save its work; a tenth of short limits
_LAST_WORDS = 5.0  # seconds between the limit and the end by force
_PATIENCE = 300.0  # seconds for which a registry may be away
_TICK = 0.25
_HURRY, _TIMEOUT = 5.0, 60.0  # seconds that a registry may be silent: while the child runs, and at the end
_HANDLED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM})
_SIGNALLED, _HIGHEST_SIGNAL = 128, 64
_TOLD = _SIGNALLED + signal.SIGTERM


def main(argv: list[str]) -> int:
    """Do the work of a pod; in its children, the ordinary worker's."""
    worker, _, root, ulid = argv
    os.dup2(1, 2)  # a kubelet keeps no order between the two
    os.umask(0o077)
    os.environ["HOME"], os.environ["TMPDIR"] = supplies.home(root)
    os.environ["CLUSTRIX_NATIVE_ID"] = os.environ.get("CLUSTRIX_POD_NAME", "")
    _name_user()
    paths = supplies.lay(root, ulid)
    with open(paths.task, "rb") as file:
        task = tasks.read(file.read())
    number = supplies.number()
    bundle = f"{root}/bundles/{os.path.basename(os.path.dirname(os.path.abspath(worker)))}.zip"
    pod = _Pod(root, ulid, bundle, task, number)
    work = pod.run()
    if work is not None:
        from clustrix.worker.__main__ import main as ordinary

        sys.argv = work
        return ordinary(work)
    return pod.finish()


def _name_user() -> None:
    """Name a user whom the image does not know: what asks for a name raises else."""
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        for name in ("USER", "LOGNAME"):
            os.environ.setdefault(name, "clustrix")


class _Pod:
    def __init__(self, root: str, ulid: str, bundle: str, task: tasks.Task, number: int) -> None:
        self._root = root
        self._ulid = ulid
        self._bundle = bundle
        self._task = task
        self._number = number
        self._items = items_of(task.slices, task.workers, number)
        self._paths = supplies.directories(root, ulid)
        self._courier = os.environ.get("CLUSTRIX_SINK") == "courier"
        with open(self._paths.key, "rb") as file:
            self._key = file.read()
        self._kills = oom_kills()
        self._child = 0
        self._told = self._warned = self._over = False
        self._late: list[int] = []  # items that had not ended when the pod was told to go
        self._patience = _PATIENCE
        self._plan: list[tuple[float, Callable[[], None]]] = []
        self._delivery: Delivery | None = None
        self._pace = deliveries.Pace()

    def run(self) -> list[str] | None:
        """See the task through; in a child, give the arguments of the worker that it becomes."""
        self._guard()
        try:
            self._fetch()
        except ClustrixError as error:
            print(f"clustrix: {error}", flush=True)
            for index in self._items:
                self._write(index, deliveries.failed(self._task, self._number, index, error, self._key, refused=True))
        left = self._left(self._items)
        while left:
            kills = oom_kills()
            signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
            if self._told:  # looked at here, where nobody can say it before there is a child to be told
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
                break
            self._child = os.fork()
            if self._child == 0:
                return self._become_worker(left)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            status = self._wait()
            left = self._left(left)
            if left and not self._told:
                end = self._end(status, kills)
                self._fail(left[0], end)
                if self._over or self._warned:
                    for index in left[1:]:
                        self._fail(index, end, begun=False)
                left = self._left(left)
        return None

    def finish(self) -> int:
        """Bring the outcomes on their way."""
        self._plan = []
        signal.setitimer(signal.ITIMER_REAL, 0)
        outcomes = deliveries.written(self._paths, self._items)
        memory = oom_kills() > self._kills
        if self._told and not self._courier:
            self._save(outcomes)
        sent = self._delivery.manifest if self._delivery else None
        said = deliveries.short(outcomes, manifest=sent, derived=self._courier, memory=memory)
        whole = True
        inline = said is not None
        if said is None:
            try:
                said = self._hand_over(memory=memory) if self._courier else self._deliver(outcomes, memory=memory)
            except ClustrixError as error:
                print(f"clustrix: the outcomes cannot be sent: {error}", flush=True)
                said = deliveries.excuse(self._task, self._number, outcomes, error, self._key, derived=self._courier)
                whole = False
        elif self._courier:
            # It has nothing to send, unless the status of this pod may go with it.
            _touch(self._paths.handover if self._told else self._paths.receipt)
        said = self._add_late(said)
        with open(os.environ.get("CLUSTRIX_TERMINATION_LOG", "/dev/termination-log"), "w") as file:
            file.write(said)
        if whole and len(outcomes) == len(self._items):
            if not (memory or self._told) and (inline or not self._courier):
                # Who follows the output knows it now, and need not wait for the kubelet's look at its containers.
                os.write(1, f"{said if inline else messages.sign(said, self._key)}\n".encode())
            return 0
        return _TOLD if self._told else 1

    def _add_late(self, said: str) -> str:
        """Tell which outcomes may be there only because the pod was told to go."""
        late = set(self._late) - set(self._left(self._late))
        return messages.encode(messages.decode(said).but(told=tuple(sorted(late)))) if late else said

    # --- time and signals ---

    def _guard(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # see _wait
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._leave())
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, _: self._signal(number))
        signal.signal(signal.SIGALRM, lambda *_: self._act())
        limit = float(os.environ.get("CLUSTRIX_TIME_SECONDS") or 0)
        if limit:
            self._after(limit - min(_NOTICE, limit / 10), self._warn)
            self._after(limit, self._end_time)

    def _leave(self) -> None:
        """Let user code save its work, since the pod is told to go; what has ended goes on its way."""
        if not self._told:
            self._told = True
            self._late = self._left(self._items)
            self._patience = _RESERVE
            if self._delivery is not None:
                self._delivery.repository.patience = _RESERVE
            self._signal(signal.SIGTERM)
            self._after(_GRACE - _RESERVE, self._kill)

    def _warn(self) -> None:
        """Let who has something to save begin, since the time is nearly over; others may still come to their end."""
        _touch(self._paths.late(self._number))
        if os.path.exists(self._paths.hook(self._number)):
            self._warned = True
            self._signal(signal.SIGTERM)

    def _end_time(self) -> None:
        self._over = True
        self._signal(signal.SIGTERM)
        self._after(_LAST_WORDS, self._kill)

    def _kill(self) -> None:
        if self._child:
            _kill_group(self._child)

    def _signal(self, number: int) -> None:
        if self._child:
            os.kill(self._child, number)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._plan.append((time.monotonic() + seconds, act))
        self._set_alarm()

    def _act(self) -> None:
        now = time.monotonic()
        due = [act for at, act in self._plan if at <= now]
        self._plan = [row for row in self._plan if row[0] > now]
        for act in due:
            act()
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._plan:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, min(at for at, _ in self._plan) - time.monotonic()))

    # --- the child ---

    def _become_worker(self, items: Sequence[int]) -> list[str]:
        os.setsid()
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, *_HANDLED})
        ranges = [f"{start}:{stop}" for start, stop in messages.spans(items)]
        return [self._bundle, self._paths.directory, str(self._number), *ranges]

    def _wait(self) -> int:
        """Wait for the child, and for all whose parents have gone; send what has ended meanwhile."""
        pace = _TICK if len(self._items) > 1 and not self._courier else _PATIENCE
        while True:
            signal.sigtimedwait({signal.SIGCHLD}, pace)
            found = None
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                if pid == self._child:
                    found = status
            if found is not None:
                child, self._child = self._child, 0
                _kill_group(child)
                return found
            if len(self._items) > 1 and not self._courier:
                self._deliver_some()

    def _left(self, items: Sequence[int]) -> list[int]:
        return [index for index in items if not os.path.exists(self._paths.outcome(index))]

    def _end(self, status: int, kills: int) -> End:
        """Tell how the child ended, as the wrapper of other targets does."""
        from clustrix.model.job import End, EndKind

        node = os.environ.get("CLUSTRIX_NODE_NAME") or None
        code = os.waitstatus_to_exitcode(status)
        if self._over or self._warned:
            return End(kind=EndKind.TIME_LIMIT, node=node)
        number = -code if code < 0 else code - _SIGNALLED if 0 < code - _SIGNALLED <= _HIGHEST_SIGNAL else None
        if oom_kills() > kills and code != 0:
            return End(kind=EndKind.OUT_OF_MEMORY, signal=number, node=node)
        if number is not None:
            return End(kind=EndKind.SIGNALLED, signal=number, node=node)
        return End(kind=EndKind.EXITED, exit_code=code, node=node)

    def _fail(self, index: int, end: End, *, begun: bool = True) -> None:
        from clustrix.model import verdict
        from clustrix.model.job import JobId

        which = index if self._task.items > 1 else None
        error = verdict.error(end, JobId.parse(self._task.job_id), index=which, shared=not begun)
        self._write(index, deliveries.failed(self._task, self._number, index, error, self._key))

    def _write(self, index: int, text: bytes) -> None:
        place = self._paths.outcome(index)
        with open(f"{place}.part", "wb") as file:
            file.write(text)
        os.replace(f"{place}.part", place)

    # --- payload and outcomes ---

    def _fetch(self) -> None:
        if not supplies.missing(self._root, self._paths):
            return
        if not self._courier:
            supplies.fetch(self._root, self._paths, self._repository(), self._items)
            return
        until = time.monotonic() + self._patience
        while supplies.missing(self._root, self._paths):
            if os.path.exists(self._paths.unfetched):
                with open(self._paths.unfetched) as file:
                    raise StoreError(file.read())
            if time.monotonic() > until or self._told:
                raise StoreError("the courier did not bring the payload", remedy="See its log: kubectl logs -c courier")
            time.sleep(0.02)

    def _repository(self) -> Repository:
        from clustrix.worker.artifacts import Login, Repository

        try:
            with open(supplies.secret(self._root, "registry.json"), "rb") as file:
                return Repository(Login.read(file.read()), patience=self._patience)
        except OSError as error:
            raise StoreError(f"nothing says where the registry is: {error}") from error

    def _to_registry(self) -> Delivery:
        if self._delivery is None:
            tag = deliveries.tag(self._ulid, self._number, os.environ.get("CLUSTRIX_POD_UID", "pod"))
            self._delivery = deliveries.Delivery(self._repository(), tag)
        return self._delivery

    def _deliver_some(self) -> None:
        """Send what has ended, so that little is lost with the container; no matter if that fails."""
        if not self._pace.due():
            return
        try:
            delivery = self._to_registry()
            delivery.repository.patience, delivery.repository.timeout = 0, _HURRY
            delivery.push_new(deliveries.written(self._paths, delivery.unsent(self._items)))
        except (ClustrixError, OSError) as error:
            self._pace.complain(error)

    def _save(self, outcomes: Sequence[Written]) -> None:
        """Send what the status of this pod may hold, too: it can go with a pod that was told to go."""
        try:
            self._deliver(outcomes, memory=False)
        except (ClustrixError, OSError) as error:
            self._pace.complain(error)

    def _deliver(self, outcomes: Sequence[Written], *, memory: bool) -> str:
        delivery = self._to_registry()
        delivery.repository.patience, delivery.repository.timeout = self._patience, _TIMEOUT
        delivery.push_new(outcomes)
        return deliveries.pointing(outcomes, delivery, memory=memory)

    def _hand_over(self, *, memory: bool) -> str:
        """Let the courier send the outcomes, and say what it says."""
        _touch(self._paths.handover)
        until = time.monotonic() + self._patience + _GRACE
        while not os.path.exists(self._paths.receipt):
            if time.monotonic() > until:
                raise StoreError("the courier did not answer", remedy="See its log: kubectl logs -c courier")
            time.sleep(0.01)
        with open(self._paths.receipt) as file:
            return messages.encode(messages.decode(file.read()).but(memory=memory))


def oom_kills() -> int:
    """Count the processes of this container that were killed for their memory.

    From ``memory.events`` (cgroup v2, https://docs.kernel.org/admin-guide/cgroup-v2.html) or ``memory.oom_control``
    (v1) of the container's own cgroup, which is all that it sees mounted.
    """
    second, first = "/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"
    try:
        with open(second if os.path.exists(second) else first) as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def _kill_group(leader: int) -> None:
    try:  # noqa: SIM105 - contextlib is slow to import
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _touch(path: str) -> None:
    open(path, "w").close()
