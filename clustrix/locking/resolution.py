"""Ask uv (or pip-tools) which files there are, and remember what it answered."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix.errors import LockError, UnsupportedPackage
from clustrix.locking import graph, indexes, inputs, piptools, pylock, requirements, uv
from clustrix.locking.pylock import Entry
from clustrix.locking.target import PIP_TOOLS, UV
from clustrix.model.lock import LockedFile
from clustrix.records import Records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from clustrix.locking.target import Target
    from clustrix.model.source import ProjectSource, PylockSource, RequirementsSource, ScriptSource

_FORMAT = "1"
"""Part of the name of a remembered answer: raise it whenever an `Entry` changes its meaning."""
_FORMATS = ("--format", "pylock.toml", "--quiet", "--no-header")
# Whoever requires clustrix must not get the stranger of that name on the index: this is never true.
_NO_CLUSTRIX = f"{graph.CLUSTRIX} ; python_version < '0'\n"


@dataclass(frozen=True, slots=True)
class Locker:
    """Say for which target, with which tool, and where answers are kept; ``refresh`` asks again."""

    target: Target
    cache: Path
    tool: str = UV
    refresh: bool = False
    used: set[str] = field(default_factory=set, compare=False)
    """The tools that answered, with their versions: other versions may answer otherwise."""

    def pins(self, lines: Sequence[str]) -> tuple[list[Entry], list[str]]:
        """Find the files of exact requirements, without what these require; the second list cannot be had."""
        try:
            return (self._pins(lines) if lines else []), []
        except UnsupportedPackage:
            refused = self._refused(lines)
            if not refused:
                raise
        kept = [line for line in lines if line not in refused]
        return (self._pins(kept) if kept else []), refused

    def resolve(self, lines: Sequence[str], constraints: Sequence[str]) -> list[Entry]:
        """Find versions and files for requirements and all that they require, within constraints.

        Raises:
            UnsupportedPackage: there is no solution, in the words of the tool.

        """
        if self.tool == PIP_TOOLS:
            return self._remember(
                ["pip-tools", "resolve", *lines, "--", *constraints],
                lambda: self._without_clustrix(piptools.resolve(lines, constraints, self.target)),
            )

        def ask() -> list[Entry]:
            with _files(constraints="\n".join(constraints), overrides=_NO_CLUSTRIX) as more:
                arguments = [*self._compile(), *more, "-"]
                return self._read(uv.run(arguments, stdin="\n".join(lines), environment=indexes.uv_environment()))

        return self._remember(["resolve", *lines, "--", *constraints], ask)

    def requirements(self, source: RequirementsSource) -> list[Entry]:
        """Read a requirements file: as it is where it has hashes, resolved where it has none."""
        path = Path(source.path)
        found = requirements.read(path)
        exact = ["--no-deps"] if found.hashes else []
        prerelease = ["--prerelease", "allow"] if found.prereleases else []

        def ask() -> list[Entry]:
            if self.tool == PIP_TOOLS:
                entries = piptools.requirements(path, self.target, exact=bool(exact), prereleases=found.prereleases)
                return entries if exact else self._without_clustrix(entries)
            with _files(overrides=_NO_CLUSTRIX) as more:
                arguments = [*self._compile(), *exact, *prerelease, *([] if exact else more), str(path)]
                text = uv.run(arguments, cwd=path.parent, environment=indexes.uv_environment())
            return self._read(text, base=path.parent, hashes=found.hashes or None)

        return self._remember(["requirements", source.path, *inputs.texts(source)], ask)

    def script(self, source: ScriptSource) -> list[Entry]:
        """Read a script's inline metadata, or the ``.lock`` beside it where there is one."""
        path = Path(source.path)
        texts = inputs.texts(source)
        wanted = pylock.load(texts[0], f"the inline metadata of {path}").get("requires-python")
        pylock.check_python(wanted, str(path), self.target)

        def ask() -> list[Entry]:
            self._uv_only("a script's metadata")
            locked = ["--locked"] if inputs.lock_of_script(path).is_file() else []
            arguments = [*self._export(), *locked, "--script", str(path)]
            return self._read(
                uv.run(arguments, cwd=path.parent, environment=indexes.uv_environment()), base=path.parent
            )

        return self._remember(["script", source.path, *texts], ask)

    def project(self, source: ProjectSource) -> list[Entry]:
        """Read the uv.lock of a project, which must be up to date."""
        directory = Path(source.directory)

        def ask() -> list[Entry]:
            self._uv_only("uv.lock")
            arguments = [*self._export(), "--locked", "--no-default-groups"]
            for extra in source.extras:
                arguments += ["--extra", extra]
            for group in source.groups:
                arguments += ["--group", group]
            return self._read(uv.run(arguments, cwd=directory), base=directory)

        choices = [*source.extras, "--", *source.groups]
        return self._remember(["project", source.directory, *choices, *inputs.texts(source)], ask)

    def pylock(self, source: PylockSource) -> list[Entry]:
        """Read a pylock.toml that somebody else wrote."""
        base = Path(source.path).parent
        (text,) = inputs.texts(source)
        choices: dict[str, Any] = {"extras": source.extras, "groups": source.groups}
        return self._remember(
            ["pylock", str(base), *source.extras, "--", *source.groups, text],
            lambda: pylock.entries(text, source.path, base, self.target, **choices),
        )

    def _pins(self, lines: Sequence[str]) -> list[Entry]:
        if self.tool == PIP_TOOLS:
            return self._remember(["pip-tools", *lines], lambda: piptools.pins(lines, self.target))
        # What is installed here is locked even where the base's patch level is below its Requires-Python.
        newest = replace(self.target, python=self.target.minor)
        arguments = [*self._compile(newest), "--no-deps", "-"]
        return self._remember(
            ["pins", *lines],
            lambda: pylock.entries(
                uv.run(arguments, stdin="\n".join(lines), environment=indexes.uv_environment()),
                "uv's answer",
                Path.cwd(),
                newest,
            ),
        )

    def _refused(self, lines: Sequence[str]) -> list[str]:
        """Ask for each line alone; the tools name only the first that they stumble over."""
        from concurrent.futures import ThreadPoolExecutor

        def refused(line: str) -> bool:
            try:
                self._pins([line])
            except UnsupportedPackage:
                return True
            return False

        with ThreadPoolExecutor(4) as pool:
            return [line for line, wrong in zip(lines, pool.map(refused, lines), strict=True) if wrong]

    def _compile(self, target: Target | None = None) -> list[str]:
        wanted = target or self.target
        platform = ["--python-platform", wanted.uv_platform, "--python-version", wanted.full]
        return ["pip", "compile", *_FORMATS, *self._again(), "--generate-hashes", "--python", sys.executable, *platform]

    def _export(self) -> list[str]:
        return ["export", *_FORMATS, *self._again(), "--prune", graph.CLUSTRIX]

    def _again(self) -> list[str]:
        return ["--refresh"] if self.refresh else []

    def _read(
        self, text: str, base: Path | None = None, hashes: Mapping[str, frozenset[str]] | None = None
    ) -> list[Entry]:
        return pylock.entries(text, "uv's answer", base or Path.cwd(), self.target, hashes=hashes)

    def _without_clustrix(self, entries: list[Entry]) -> list[Entry]:
        if any(entry.name == graph.CLUSTRIX for entry in entries):
            raise LockError(
                f"something here requires {graph.CLUSTRIX}, and {self.tool} cannot leave it out",
                remedy=f"Lock with uv: the {graph.CLUSTRIX} of the index is another project.",
            )
        return entries

    def _uv_only(self, what: str) -> None:
        if self.tool != UV:
            raise LockError(f"{self.tool} cannot read {what}", remedy="Lock it with uv, or give a requirements file.")

    def _remember(self, question: Sequence[str], ask: Callable[[], list[Entry]]) -> list[Entry]:
        """Give the answer to the same question as before, unless told to refresh."""
        variables = {name: value for name, value in os.environ.items() if name.startswith("UV_")}
        settings = sorted({**variables, **indexes.uv_environment()}.items())
        whole = [_FORMAT, self.tool, self.target.python, str(self.target.platform), settings, list(question)]
        key = hashlib.sha256(json.dumps(whole).encode("utf-8", "surrogateescape")).hexdigest()
        records = Records(self.cache)
        known = None if self.refresh else records.get("answers", key)
        if known is not None:
            try:
                answer = [_entry(row) for row in known["entries"]]
            except (TypeError, KeyError):
                pass  # written by another version
            else:
                self.used.add(known["by"])
                return answer
        answer = ask()
        by = f"{UV} {uv.version()}" if self.tool == UV else f"{PIP_TOOLS} {piptools.version()}"
        self.used.add(by)
        records.put("answers", key, {"by": by, "entries": [asdict(entry) for entry in answer]})
        return answer


@contextmanager
def _files(**texts: str) -> Iterator[list[str]]:
    """Write texts to files that options of uv name, and give the options."""
    with tempfile.TemporaryDirectory(prefix="clustrix-") as work:
        options = []
        for name, text in texts.items():
            path = Path(work, f"{name}.txt")
            path.write_text(text, encoding="utf-8")
            options += [f"--{name}", str(path)]
        yield options


def _entry(row: dict[str, Any]) -> Entry:
    files = {key: LockedFile(**row[key]) if row[key] else None for key in ("wheel", "sdist")}
    places = {key: tuple(row[key]) if row[key] else None for key in ("directory", "vcs")}
    return Entry(**{**row, **files, **places})
