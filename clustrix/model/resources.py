"""What a job asks for: cores, memory, time, accelerators, and where it may run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from clustrix.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEMORY = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGTP]?)(?:i?B|(?<=[KMGTP])i)?", re.IGNORECASE)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d{1,2})(?::(?P<seconds>\d{1,2}))?")
_WORDS = re.compile(r"(?:(\d+)\s*d)?\s*(?:(\d+)\s*h)?\s*(?:(\d+)\s*m(?:in)?)?\s*(?:(\d+)\s*s)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Hold one task's request; every task of an array gets the same.

    ``memory_bytes`` is per task. ``backend_options`` are the target's own extras, verbatim: a backend
    that does not know one refuses it by name.
    """

    cores: int = 1
    memory_bytes: int | None = None
    time: timedelta | None = None
    gpus: int = 0
    gpu_type: str | None = None
    nodes: int = 1
    partition: str | None = None
    queue: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    modules: tuple[str, ...] = ()
    backend_options: Mapping[str, object] = field(default_factory=dict)

    @property
    def requeue(self) -> bool:
        """Tell whether the scheduler was asked to start interrupted tasks again, as SLURM or as others spell it."""
        options = self.backend_options
        return bool(options.get("requeue")) or options.get("r") in (True, "y", "yes")

    @property
    def ranks_per_node(self) -> int:
        """Count the processes that a task is on each of its nodes, as SLURM's ``ntasks_per_node`` says."""
        value = self._option("ntasks_per_node", 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"ntasks_per_node must be a whole number of at least 1, not {value!r}")
        return value

    @property
    def ranks(self) -> int:
        """Count the processes that a task is; more than one are its ranks, and ``cores`` and memory are of each."""
        return self.nodes * self.ranks_per_node

    @property
    def mpi(self) -> str | None:
        """Name the process-management interface, where it was said."""
        value = self._option("mpi", None)
        return None if value is None else str(value)

    def _option(self, name: str, default: object) -> object:
        """Give a backend option, however it is spelled."""
        spelled = {given.lstrip("-").replace("-", "_"): value for given, value in self.backend_options.items()}
        return spelled.get(name, default)

    def __post_init__(self) -> None:
        for name, least in (("cores", 1), ("gpus", 0), ("nodes", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Mount:
    """Name a directory of the target and where a job sees it."""

    source: str
    target: str
    read_only: bool = False


def parse_memory(value: str | float) -> int:
    """Turn ``"16GB"``, ``"1.5 GiB"``, ``"16Gi"`` or a number of bytes into bytes.

    Units are binary whatever their spelling (``"1GB"`` is 2**30 bytes, as schedulers count), rounded up.

    Raises:
        ConfigError: it is not an amount of memory, or is not positive.

    """
    if isinstance(value, str):
        match = _MEMORY.fullmatch(value.strip())
        amount = math.ceil(float(match["number"]) * 1024 ** _POWER[match["unit"].upper()]) if match else 0
    else:
        amount = 0 if isinstance(value, bool) else math.ceil(value)
    if amount <= 0:
        raise ConfigError(f"not an amount of memory: {value!r}", remedy='Write it as "16GB", "512MB" or in bytes.')
    return amount


def parse_time(value: str | float | timedelta) -> timedelta:
    """Turn ``"02:00:00"``, ``"1-12:00:00"``, ``"90m"``, ``"1h30m"``, seconds or a timedelta into a timedelta.

    ``"HH:MM"`` is hours and minutes, as people write it; SLURM alone would read minutes and seconds.

    Raises:
        ConfigError: it is not a length of time, or is not positive.

    """
    length: timedelta | None = None
    if isinstance(value, timedelta):
        length = value
    elif isinstance(value, str):
        text = value.strip()
        if match := _CLOCK.fullmatch(text):
            parts = {unit: int(number or 0) for unit, number in match.groupdict().items()}
            length = timedelta(**parts)
        elif text and (words := _WORDS.fullmatch(text)):
            days, hours, minutes, seconds = (int(number or 0) for number in words.groups())
            length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    elif not isinstance(value, bool):
        length = timedelta(seconds=value)
    if length is None or length <= timedelta(0):
        raise ConfigError(
            f"not a length of time: {value!r}", remedy='Write it as "02:00:00", "1-12:00:00", "90m" or "5400s".'
        )
    return length
