# ruff: noqa: PTH105, PTH108, PTH123
# pathlib would take a seventh of the time in which a worker starts.
"""Run the function on one item and write down how it ended."""

from __future__ import annotations

import os
import sys
import time
from types import GeneratorType, ModuleType

from clustrix.errors import ClustrixError, Preempted, StoreError, TimeLimit, Unpicklable, UserExit
from clustrix.model import stdlib
from clustrix.worker import code, environment, meter, preemption
from clustrix.worker.payload import Payload, Sink
from clustrix.worker.sealing import seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import BinaryIO, Literal, NoReturn

    from clustrix.model.outcome import Failure
    from clustrix.model.paths import JobPaths
    from clustrix.worker.task import Task

_SHORTEST_SECRET = 6
"""Values of environment variables that are shorter than this are not hidden from what is shown of a failure."""


class Runner:
    """Run the items that one task claimed."""

    def __init__(self, task: Task, paths: JobPaths, bundles: str, number: int) -> None:
        self._task = task
        self._paths = paths
        self._bundles = bundles
        self._number = number
        with open(paths.key, "rb") as file:
            self._key = file.read()
        self._function: Callable[..., object] | None = None
        self._broken: BaseException | None = None  # the function cannot be imported
        self._refusal: ClustrixError | None = None
        self._told: ClustrixError | None = None
        self._before: tuple[float, float] | None = None  # processor time, when the item began
        self.variables: Mapping[str, str] = {}
        try:
            self._payload = Payload(paths.payload)
            self.variables = self._payload.environment()
        except StoreError as error:
            self._refusal = error
        self._metadata: dict[str, object] = {
            "hostname": os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME"),
            "native_job_id": os.environ.get("CLUSTRIX_NATIVE_ID"),
            "task": number,
            "python_version": sys.version.split()[0],
            "image_digest": task.image_digest,
            "lock_digest": task.lock_digest,
        }

    def run(self, index: int) -> None:
        """Compute one item and write its outcome. `KeyboardInterrupt` is written down and goes on."""
        started = time.time()
        self._before = meter.processor_seconds()
        if self._function is None and self._broken is None and self._refusal is None:
            self._prepare()
        if self._refusal is not None:
            self._refuse(index, started, self._refusal)
            return
        try:
            value = self._compute(index, started)
        except StoreError as error:
            self._refuse(index, started, error)
        except SystemExit as error:
            self._fail(index, started, self._exit(error), error)
        except Exception as error:  # noqa: BLE001 - whatever user code raises travels to its caller
            self._fail(index, started, error, error)
        except BaseException as error:
            # In the caller's process KeyboardInterrupt and its like would mean something else: they arrive as text.
            self._fail(index, started, None, error)
            if isinstance(error, KeyboardInterrupt):  # somebody interrupts this whole task
                raise
        else:
            self._succeed(index, started, value)

    def _prepare(self) -> None:
        """Check the environment, then make user code importable and load the function."""
        os.environ["CLUSTRIX_IN_JOB"] = self._task.job_id
        try:
            self._metadata["fingerprint"] = environment.check(self._task)
            self._enter_directory()
            code.attach(self._task.code, self._bundles)
            _show_sources(self._payload.sources())
        except ClustrixError as error:
            self._refusal = error
            return
        # By-value functions are from the caller's __main__; ours must not answer in its place.
        main = sys.modules["__main__"] = ModuleType("__main__")
        try:
            self._function = self._payload.function()
        except StoreError as error:
            self._refusal = error
        except BaseException as error:  # noqa: BLE001 - importing its module runs user code
            self._broken = error
        else:
            names = getattr(getattr(self._function, "__func__", self._function), "__globals__", {})
            if names.get("__name__") == "__main__":  # what multiprocessing, for one, looks up by name
                vars(main).update(names)

    def _enter_directory(self) -> None:
        if self._task.workdir is not None:
            try:
                os.chdir(self._task.workdir)
            except OSError as error:
                raise StoreError(f"the working directory cannot be entered: {error}", remedy="Mount it.") from error

    def _compute(self, index: int, started: float) -> object:
        if self._broken is not None:
            raise self._broken
        args, kwargs = self._payload.item(index)
        assert self._function is not None  # noqa: S101 - _prepare has set it
        preemption.begin(self._paths, self._number, lambda hook, late: self._leave(index, started, hook, late=late))
        try:
            value = self._function(*args, **kwargs)
            # A generator cannot travel, what it yields can.
            return iter(list(value)) if isinstance(value, GeneratorType) else value
        finally:
            preemption.end()

    def _leave(self, index: int, started: float, hook: Callable[[], object], *, late: bool) -> None:
        """Let user code save its work; write down that this was its end, unless it is to be started again."""
        from reprlib import repr as shortened

        kind, why = (TimeLimit, "its time was nearly over") if late else (Preempted, "its place was taken away")
        cause: BaseException | None = None
        checkpoint: object = None
        try:
            checkpoint = hook()
            said = f"returned {shortened(checkpoint)}"
        except BaseException as error:  # noqa: BLE001 - whatever user code raises
            cause = error
            said = f"raised {type(error).__name__}: {error}"
        remedy = "Start it again from there, or ask for more with time=." if late else "`retries=` starts it again."
        end = kind(f"{self._task.function_name} ended because {why}; its on_preempt hook {said}", remedy=remedy)
        end.checkpoint = checkpoint
        os.write(2, f"clustrix: {end.message}\n".encode(errors="backslashreplace"))
        if late or not self._task.requeue:
            self._fail(index, started, end, cause or end)

    def _exit(self, error: SystemExit) -> UserExit:
        code: object = error.code
        code = code if code is None or isinstance(code, (int, str)) else str(code)
        if isinstance(code, str):
            print(code, file=sys.stderr)  # as Python itself does
        failure = UserExit(f"{self._task.function_name} called sys.exit({'' if code is None else repr(code)})")
        failure.code = code
        return failure

    def _succeed(self, index: int, started: float, value: object) -> None:
        try:
            kept = self._keep(index, value)
        except OSError as error:
            unwritten = StoreError(f"the result of {self._task.function_name} cannot be written: {error}")
            self._fail(index, started, unwritten, unwritten)
        except Exception as error:  # noqa: BLE001 - reducers of user classes may raise anything
            unpicklable = _unpicklable(self._task.function_name, value, error)
            self._fail(index, started, unpicklable, unpicklable)
        else:
            self._end(index, started, "success", kept)

    def _fail(self, index: int, started: float, travelling: Exception | None, raised: BaseException) -> None:
        from clustrix.worker.failure import describe

        kept = None
        if travelling is not None:
            try:  # noqa: SIM105 - contextlib is slow to import
                kept = self._keep(index, travelling)
            except Exception:  # noqa: BLE001, S110 - one that cannot be pickled travels as text
                pass
        secrets = [value for value in self.variables.values() if len(value) >= _SHORTEST_SECRET]
        self._end(index, started, "error", kept, describe(raised, secrets))

    def _refuse(self, index: int, started: float, error: ClustrixError) -> None:
        from clustrix.model.outcome import Failure

        failure = Failure(type=f"{type(error).__module__}.{type(error).__name__}", message=str(error), traceback="")
        if error is not self._told:  # whoever reads the log sees it once, not for every item
            print(f"clustrix: {error}", file=sys.stderr)
        self._told = error
        self._end(index, started, "refused", None, failure)

    def _keep(self, index: int, value: object) -> tuple[str, int]:
        """Pickle a value to its file; give its sha256 and size."""
        with _Replacement(self._paths.value(index)) as file:
            sink = Sink(file)
            try:
                _PlainPickler(sink, protocol=5).dump(value)
            except _NotPlainError:
                from clustrix.worker.pickling import Pickler

                file.seek(0)
                file.truncate()
                sink = Sink(file)
                Pickler(sink).dump(value)
        return sink.digest.hexdigest(), sink.size

    def _end(
        self,
        index: int,
        started: float,
        status: Literal["success", "error", "refused"],  # a value of `OutcomeStatus`
        kept: tuple[str, int] | None,
        failure: Failure | None = None,
    ) -> None:
        used = {"started": started, "ended": time.time(), **self._used()}
        for stream in (sys.stdout, sys.stderr):  # the log is whole before the outcome says that it is
            if stream is not None and not stream.closed:
                try:  # noqa: SIM105
                    stream.flush()
                except RuntimeError:  # on the way out by a signal, which may have come in the middle of a print
                    pass
        outcome = seal(
            index=index,
            function_name=self._task.function_name,
            status=status,
            value=kept,
            failure=failure,
            metadata={**self._metadata, **used},
            key=self._key,
        )
        with _Replacement(self._paths.outcome(index)) as file:
            file.write(outcome)

    def _used(self) -> dict[str, object]:
        """Say what the item has used; the fields are those of `clustrix.model.outcome.Outcome`."""
        now = meter.processor_seconds()
        seconds: dict[str, object] = {}
        if now is not None and self._before is not None:
            own, children = (max(0.0, after - before) for after, before in zip(now, self._before, strict=True))
            seconds = {"cpu_seconds": round(own + children, 6), "child_cpu_seconds": round(children, 6)}
        return {**seconds, "peak_memory_bytes": meter.peak_memory()}


class _NotPlainError(Exception):
    pass


class _PlainPickler(stdlib.Pickler):
    """Pickle numbers, text and collections of them, and give up at anything else: cloudpickle is slow to import."""

    def reducer_override(self, obj: object) -> NoReturn:  # noqa: ARG002 - it is the same for all
        raise _NotPlainError


class _Replacement:
    """Write a file under another name and rename it, so that it is there whole or not at all."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = f"{path}.{os.urandom(6).hex()}.part"

    def __enter__(self) -> BinaryIO:
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            if kind is None:
                os.replace(self._temporary, self._path)
        finally:
            if os.path.lexists(self._temporary):
                os.unlink(self._temporary)


def _unpicklable(function_name: str, value: object, error: Exception) -> Unpicklable:
    from clustrix.worker.culprit import find

    part = find(value, "result")
    return Unpicklable(
        f"the result of {function_name}: {error}" + (f" ({part})" if part not in {"result", None} else ""),
        remedy="Return what can be pickled: arrays, tables, numbers, text, or the path of a file.",
    )


def _show_sources(sources: Mapping[str, list[str]]) -> None:
    """Let tracebacks and ``inspect.getsource`` show code that travelled by value."""
    if sources:
        import linecache

        for name, lines in sources.items():
            linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
