"""Lines of options, ``#PBS -l walltime=1:00:00``, as the descendants of the Portable Batch System read them.

Within quotes of either kind nothing is special to them (``make_argv`` of qsub, the same in all); there are no escapes.
"""

from __future__ import annotations

import re
from datetime import timedelta

from clustrix.errors import ConfigError
from clustrix.schedulers.base import one_line

_NAME = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_VALUE = re.compile(r"[\w.,:/@=+*~%^-]+", re.ASCII)


def directive(name: str, value: object) -> str:
    """Write one option."""
    text = str(value)
    if not text:
        return f"#PBS -{name}"
    if re.fullmatch(r"[\w.,:/@=+*~%^\[\]-]+", text, re.ASCII):
        return f"#PBS -{name} {text}"
    quote = "'" if "'" not in text else '"'
    return f"#PBS -{name} {quote}{text}{quote}"


def sayable(name: str, value: object) -> str:
    """Give the text of a user's value; ConfigError, naming it, if it cannot be said in a line of options."""
    text = one_line(name, value)
    if "'" in text and '"' in text:
        raise ConfigError(f"{name}={text!r} cannot be said to qsub", remedy="It may hold one kind of quotes, not both.")
    return text


def add(option: str, to: dict[str, object], extras: object, *, reserved: str = "") -> None:
    """Add a user's table of resources to ours; ConfigError for what is in both, or holds a ``reserved`` letter."""
    if not isinstance(extras, dict):
        raise ConfigError(f"the backend option {option!r} must be a table of resources and values, not {extras!r}")
    for name, value in extras.items():
        text = one_line(name, value)
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(text) or set(text) & set(reserved):
            raise ConfigError(f"the resource {name!r}={text!r} cannot be said to qsub")
        if name in to:
            raise ConfigError(f"the resource {name!r} is asked for twice", remedy="Use cores, memory, time and gpus.")
        to[name] = text


def clock(length: timedelta) -> str:
    """Write hours:minutes:seconds, seconds rounded up; there are no days."""
    seconds = -(-length // timedelta(seconds=1))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
