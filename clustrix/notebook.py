"""Notebooks, after ``%load_ext clustrix.notebook``: cells that run elsewhere, jobs that show how they stand, progress.

https://ipython.readthedocs.io/en/stable/config/custommagics.html
"""

from __future__ import annotations

import ast
import html
import shlex
import symtable
import threading
import time
from typing import TYPE_CHECKING, Any

from clustrix import placement
from clustrix.decorator import RemoteFunction, cluster
from clustrix.errors import ClustrixError, ConfigError, MissingExtra
from clustrix.model.job import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clustrix.handle import Job, JobArray
    from clustrix.model.progress import Bar

_MAGIC = "cluster"
_VALUE = "_clustrix_value"
_REDRAW_SECONDS = 0.2
# Defined in the user's own module, so that it travels by value: there is no clustrix.notebook where it runs.
_RUN = f"""
def cell(source, variables, kept):
    namespace = {{"__name__": "__main__", **variables}}
    exec(compile(source, "<%%{_MAGIC}>", "exec"), namespace)
    return {{name: namespace[name] for name in kept if name in namespace}}
"""


def load_ipython_extension(shell: Any) -> None:  # noqa: ANN401 - IPython has no types
    """Do what ``%load_ext`` asks for."""
    shell.register_magic_function(lambda line, cell: run_cell(shell, line, cell), "cell", _MAGIC)
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type_by_name("clustrix.handle", "Job", show_job)
    formatter.for_type_by_name("clustrix.handle", "JobArray", show_array)
    placement.progress = Bars()


def run_cell(shell: Any, line: str, source: str) -> Any:  # noqa: ANN401 - whatever the cell gives
    """Run a cell as one job: ``%%cluster [option=value ...]``, with the options of `@cluster`.

    The variables that it reads travel there, those that it assigns come back, the value of a last expression is shown.
    """
    options = _options(line)
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ConfigError(
            f"%%{_MAGIC}: {error.msg} in line {error.lineno}",
            remedy="Write plain Python: lines with %, ! or await are for the notebook's own process.",
        ) from None
    if tree.body and isinstance(last := tree.body[-1], ast.Expr):
        name = ast.Name(_VALUE, ast.Store())
        tree.body[-1] = ast.copy_location(ast.Assign([name], last.value), last)
        ast.fix_missing_locations(tree)
    text, known = ast.unparse(tree), shell.user_ns
    table = symtable.symtable(text, f"%%{_MAGIC}", "exec")
    taken = _read(tree, table) & known.keys() - shell.user_ns_hidden.keys()
    made = _call(options)(text, {name: known[name] for name in sorted(taken)}, _assigned(table))
    value = made.pop(_VALUE, None)
    known.update(made)
    return value


def _call(options: dict[str, object]) -> RemoteFunction[Any, dict[str, Any]]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(_RUN, namespace)  # noqa: S102 - the text above
    made: RemoteFunction[Any, dict[str, Any]] = cluster(**options)(namespace["cell"])
    return made


def _options(line: str) -> dict[str, object]:
    """Read ``cores=4 memory=8GB``: values are Python's literals, or else texts."""
    options: dict[str, object] = {}
    for word in shlex.split(line):
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"%%{_MAGIC}: {word!r} is no option", remedy="Write name=value: target=hpc cores=4.")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    return options


def _read(tree: ast.Module, table: symtable.SymbolTable) -> set[str]:
    """Name what a cell may take from outside: at its top, in its functions, and what it changes in place."""
    names = {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }
    tables = [table]
    while tables:
        one = tables.pop()
        tables += one.get_children()
        top = one is table
        names |= {row.get_name() for row in one.get_symbols() if row.is_referenced() and (top or row.is_global())}
    return names


def _assigned(table: symtable.SymbolTable) -> list[str]:
    """Name the variables, functions and classes of a cell, but not what it imports."""
    return sorted(row.get_name() for row in table.get_symbols() if row.is_assigned() and not row.is_imported())


def show_job(job: Job) -> str:
    """Draw a job for ``text/html``: one question to its target."""
    return _table({"job": str(job.id), **_standing(job)})


def show_array(array: JobArray) -> str:
    """Draw a map with how far it is."""
    return _table({"map": str(array.id), **_standing(array)})


def _standing(job: Job | JobArray) -> dict[str, str]:
    try:
        status = job.status()
    except ClustrixError as error:
        return {"state": "not known", "because": error.message}
    rows = {"state": status.state.value, "because": status.reason}
    if status.state is State.WAITING and status.expected_start is not None:
        rows["expected start"] = status.expected_start.isoformat(" ", "minutes")
    if status.items > 1:
        rows["finished"] = f"{status.finished} of {status.items}"
        rows["failed"] = str(status.failed or "")
    rows["on"] = ", ".join(status.nodes)
    return rows


def _table(rows: Mapping[str, str]) -> str:
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
        for name, text in rows.items()
        if text
    )
    return f"<table class='clustrix'>{cells}</table>"


class Bars:
    """Draw one line a running stage below the cell (`clustrix.model.progress.Progress`)."""

    def start(self, stage: str, total: int | None) -> Bar:
        """Begin a stage."""
        return _Line(stage, total)


class _Line:
    def __init__(self, stage: str, total: int | None) -> None:
        try:
            from IPython.display import display
        except ImportError:
            raise MissingExtra("ipython", "notebook", needed_for="progress in notebooks") from None
        self._stage, self._total = stage, total
        self._done, self._drawn = 0, time.monotonic()
        self._lock = threading.Lock()
        self._handle = display(self._text(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
                self._draw(self._text())

    def close(self) -> None:
        with self._lock:
            self._draw({"text/html": "", "text/plain": ""})

    def _draw(self, content: Mapping[str, str]) -> None:
        self._drawn = time.monotonic()
        if self._handle is not None:
            self._handle.update(content, raw=True)

    def _text(self) -> dict[str, str]:
        stage = html.escape(self._stage)
        limits = f" value='{self._done}' max='{self._total}'" if self._total else ""
        return {"text/html": f"{stage} <progress{limits}></progress>", "text/plain": self._stage}
