"""Which file, if any, describes the environment: uv.lock, pylock.toml, requirements.txt or a script's own metadata."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix.capture.packages import capture, capture_cached
from clustrix.errors import CaptureError, ConfigError
from clustrix.model.source import ProjectSource, PylockSource, RequirementsSource, ScriptSource

if TYPE_CHECKING:
    from clustrix.model.environment import Environment
    from clustrix.model.source import Source

INTERPRETER = "interpreter"
AUTO = "auto"

# The reference pattern of PEP 723, for the one block type that matters here.
_BLOCK = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_PYLOCK = re.compile(r"pylock(\.[^.]+)?\.toml")


def choose(
    choice: str,
    directory: Path,
    *,
    script: Path | None = None,
    extras: tuple[str, ...] = (),
    groups: tuple[str, ...] = (),
    cache: Path | None = None,
) -> Source:
    """Give the source that ``choice`` names: ``interpreter``, ``auto``, or a file or directory (from ``directory``).

    ``auto`` takes the first of: the inline metadata of ``script``, ``uv.lock``, ``pylock.toml`` and
    ``requirements.txt`` of ``directory`` or the nearest parent that has any of them, the running interpreter.
    ``cache`` is where captures of the interpreter are kept.

    Raises:
        CaptureError: the file does not exist or is of no known kind.
        ConfigError: extras or groups were asked of a source that has none.

    """
    if choice == INTERPRETER:
        return _without_choices(_live(cache), "the running interpreter", extras, groups)
    if choice != AUTO:
        return from_path(directory / Path(choice).expanduser(), extras=extras, groups=groups)
    if script is not None and has_inline_metadata(script):
        return from_path(script, extras=extras, groups=groups)
    for place in (directory, *directory.absolute().parents):
        for name in ("uv.lock", "pylock.toml", "requirements.txt"):
            if (place / name).is_file():
                return from_path(place / name, extras=extras, groups=groups)
    return _without_choices(_live(cache), "the running interpreter", extras, groups)


def from_path(path: Path, *, extras: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> Source:
    """Give the source that a file is, by its name; a directory stands for the ``uv.lock`` in it.

    Raises:
        CaptureError: it does not exist or is of no known kind.
        ConfigError: extras or groups were asked of a source that has none.

    """
    if path.is_dir():
        path /= "uv.lock"
    if not path.is_file():
        raise CaptureError(
            f"there is no {path}",
            remedy="Make one with `uv lock`."
            if path.name == "uv.lock"
            else "Check the path given as environment or lock.",
        )
    path = path.absolute()
    if path.name == "uv.lock":
        return ProjectSource(str(path.parent), extras, groups)
    if _PYLOCK.fullmatch(path.name):
        return PylockSource(str(path), extras, groups)
    if path.suffix == ".py":
        if not has_inline_metadata(path):
            raise CaptureError(
                f"{path} has no inline metadata (PEP 723)",
                remedy=f"Add some with: uv add --script {path.name} PACKAGE",
            )
        return _without_choices(ScriptSource(str(path)), str(path), extras, groups)
    if path.suffix in {".txt", ".in"}:
        return _without_choices(RequirementsSource(str(path)), str(path), extras, groups)
    raise CaptureError(
        f"{path} is no description of an environment",
        remedy="Known: uv.lock, pylock.toml, pylock.NAME.toml, *.txt and *.in requirements, *.py with PEP 723 data.",
    )


def has_inline_metadata(script: Path) -> bool:
    """Tell whether a script carries a PEP 723 block.

    Raises:
        CaptureError: it carries two, which the PEP forbids, or cannot be read.

    """
    try:
        text = script.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CaptureError(f"cannot read {script}: {error}") from error
    blocks = sum(1 for _ in _BLOCK.finditer(text))
    if blocks > 1:
        raise CaptureError(f"{script} has {blocks} `# /// script` blocks", remedy="Keep one (PEP 723).")
    return blocks == 1


def _live(cache: Path | None) -> Environment:
    return capture() if cache is None else capture_cached(cache)


def _without_choices(source: Source, what: str, extras: tuple[str, ...], groups: tuple[str, ...]) -> Source:
    if extras or groups:
        raise ConfigError(
            f"{what} has no extras or groups to choose ({', '.join([*extras, *groups])})",
            remedy="Extras and groups are chosen from a uv.lock or pylock.toml.",
        )
    return source
