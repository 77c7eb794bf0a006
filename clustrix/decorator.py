"""``@cluster``: a function that runs somewhere else when it is called."""

from __future__ import annotations

import functools
import os
import sys

from clustrix.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Generic, TypeVar, overload

    # Python 3.10 has neither; nothing of this runs.
    from typing_extensions import ParamSpec

    from clustrix.handle import Job, JobArray
    from clustrix.inplace import InPlaceArray, InPlaceJob
    from clustrix.model.image import BuiltImage

    P = ParamSpec("P")
    R = TypeVar("R")
else:
    # typing costs more than this whole module, which every process and every job that has a @cluster function imports.
    P = R = None

    class Generic:
        """Take parameters, as annotations of users may give them."""

        def __class_getitem__(cls, _):  # noqa: ANN001, ANN204
            return cls


_ASYNCHRONOUS = 0x80 | 0x200
"""``inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR``, whose module costs more than this one."""


class RemoteFunction(Generic[P, R]):
    """Run a function at a target; made by `cluster`."""

    def __init__(self, function: Callable[P, R], options: dict[str, object], bound: tuple[object, ...] = ()) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        self._bound = bound  # the object whose method it is

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it there, stream its output, and return its value or raise its exception.

        Ctrl-C cancels the job; a second one leaves it running and prints its id. Without any configured target, and
        inside a job, it runs in this process.
        """
        if self._in_place():
            if self._asynchronous():
                return self.submit(*args, **kwargs)  # type: ignore[return-value]  # what that option is for
            return self.local(*args, **kwargs)
        from clustrix import pipeline

        return pipeline.call(self._runs, (*self._bound, *args), kwargs, self._options)  # type: ignore[no-any-return]

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job | InPlaceJob:
        """Start it there and return at once. The Job survives this process."""
        if self._in_place():
            from clustrix.inplace import InPlaceJob

            return InPlaceJob(self.local, args, kwargs)
        from clustrix import pipeline

        return pipeline.submit(self._runs, (*self._bound, *args), kwargs, self._options)

    def map(
        self, *iterables: Iterable[Any], chunksize: int | None = None, max_parallel: int | None = None
    ) -> JobArray | InPlaceArray:
        """Call it once per item (of several iterables: per tuple, as ``map`` does) in ONE submission.

        Items are shared out in ranges that shrink towards the end; ``chunksize`` fixes the range, one task each.
        """
        return self.starmap(zip(*iterables, strict=False), chunksize=chunksize, max_parallel=max_parallel)

    def starmap(
        self, arguments: Iterable[Iterable[Any]], *, chunksize: int | None = None, max_parallel: int | None = None
    ) -> JobArray | InPlaceArray:
        """Call it once per tuple of arguments in ONE submission; see `map`."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((*self._bound, *args), {}) for args in arguments]
        if self._in_place():
            from clustrix.inplace import InPlaceArray

            return InPlaceArray(self._runs, calls)
        from clustrix import pipeline

        options = self._options if max_parallel is None else {**self._options, "max_parallel": max_parallel}
        return pipeline.submit_many(self._runs, calls, options, chunksize=chunksize)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here, in this process."""
        return self._runs(*self._bound, *args, **kwargs)  # type: ignore[no-any-return]

    def build(self) -> BuiltImage | None:
        """Make what its calls would run in, so that the first one need not; None where no image is needed."""
        from clustrix import pipeline, placement

        return placement.prepare(pipeline.resolve(self._options)).image

    def options(self, **options: object) -> RemoteFunction[P, R]:
        """Give the same function with other options."""
        return RemoteFunction(self._function, {**self._options, **checked(options)}, self._bound)

    def __get__(self, instance: object, owner: type | None = None) -> Any:  # noqa: ANN401 - the descriptor protocol
        return self if instance is None else RemoteFunction(self._function, self._options, (instance,))

    def __repr__(self) -> str:
        return f"<cluster function {self.__module__}.{self.__qualname__}>"  # type: ignore[attr-defined]

    def __reduce__(self) -> str | tuple[object, ...]:
        # By reference, where a module has it under its name; its options and its object apart; else what it is made of.
        found: object = sys.modules.get(self.__module__) if self.__module__ != "__main__" else None
        for name in self.__qualname__.split("."):  # type: ignore[attr-defined]
            found = getattr(found, name, None)
        if found is self:
            return str(self.__qualname__)  # type: ignore[attr-defined]
        if isinstance(found, RemoteFunction) and found._function is self._function:
            return _varied, (found, self._options, self._bound)
        return RemoteFunction, (self._function, self._options, self._bound)

    @functools.cached_property
    def _runs(self) -> Callable[..., Any]:
        if not self._options.get("parallel"):
            return self._function
        from clustrix.local.loops import Split

        return Split(self._function)

    def _in_place(self) -> bool:
        from clustrix.inplace import inside_a_job

        if inside_a_job():
            return True
        if self._options.get("target"):
            return False
        from clustrix import config

        if config.load().default_target() is not None:
            return False
        _say_once()
        return True

    def _asynchronous(self) -> bool:
        """Tell whether a plain call in this process gives a Job, as it would at a target."""
        from clustrix.inplace import inside_a_job

        given = self._options.get("async_submit")
        if given is None and inside_a_job():
            return False
        from clustrix import config
        from clustrix.model.settings import settings

        if given is None:
            return config.load().resolve(config.LOCAL).async_submit
        return bool(settings()["async_submit"].parse(given))


def _varied(named: RemoteFunction[P, R], options: dict[str, object], bound: tuple[object, ...]) -> RemoteFunction[P, R]:
    return RemoteFunction(named._function, options, bound)


if TYPE_CHECKING:

    @overload
    def cluster(function: Callable[P, R], /) -> RemoteFunction[P, R]: ...
    @overload
    def cluster(**options: object) -> Callable[[Callable[P, R]], RemoteFunction[P, R]]: ...


def cluster(function: Any = None, /, **options: object) -> Any:
    """Make a function run at a target: ``@cluster`` or ``@cluster(target="hpc", cores=8, memory="16GB")``.

    The options are ``target`` and every setting of the configuration reference that a call may give: image,
    environment, cores, memory, time, gpus, nodes, partition, queue, account, qos, constraint, modules,
    environment_variables, mounts, retries, max_parallel, async_submit, backend_options.

    With ``parallel=True`` its loops are shared out over the cores of the job, where their turns do not need each other;
    `ParallelError` says at the first call why they do.

    Raises:
        UnknownOption: an option that does not exist, with the nearest that does.
        ConfigError: a value that cannot be read.

    """
    if function is None:
        return functools.partial(_decorate, checked(options))
    return _decorate({}, function)


def _decorate(options: dict[str, object], function: Any) -> RemoteFunction[Any, Any]:  # noqa: ANN401 - what was decorated
    if isinstance(function, (classmethod, staticmethod)):
        raise ConfigError(
            f"@cluster stands above @{type(function).__name__}", remedy="Put @cluster directly above the function."
        )
    if not callable(function):
        raise ConfigError(f"@cluster needs a function, not {function!r}")
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & _ASYNCHRONOUS:
        raise ConfigError(
            f"@cluster needs a plain function, and {function.__qualname__} is asynchronous",
            remedy="Write it with def, around asyncio.run(...); the caller may await its .submit(...).",
        )
    return RemoteFunction(function, options)


def checked(options: dict[str, object]) -> dict[str, object]:
    """Refuse what does not exist, before anything runs."""
    if not options or os.environ.get("CLUSTRIX_IN_JOB"):  # there they were checked before they travelled
        return options
    from clustrix import config

    if options.get("parallel") not in {None, True, False}:
        raise ConfigError(f"parallel is true or false, not {options['parallel']!r}")
    config.check_call({name: value for name, value in options.items() if name != "parallel" and value is not None})
    return options


_said = False


def _say_once() -> None:
    global _said  # noqa: PLW0603 - once a process
    if not _said:
        _said = True
        print(
            "clustrix: no target is configured, so calls run in this process (target='local' isolates them; "
            "clustrix.yml names others)",
            file=sys.stderr,
        )
