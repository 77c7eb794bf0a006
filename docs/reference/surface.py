"""Describe the public Python names, and every error with the remedies it gives, from the code itself."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from pathlib import Path
from types import FunctionType
from typing import Any

import clustrix
from clustrix import decorator, errors
from clustrix.cli.output import exit_status

PACKAGE = Path(clustrix.__file__).parent

# A class is shown as it is made where people make it; jobs, images and settings come out of calls.
MADE_BY_PEOPLE = {"ClusterExecutor"}


class _Verbatim:
    """Show an annotation as it is written, without quotes."""

    def __init__(self, text: object) -> None:
        self.text = text

    def __repr__(self) -> str:
        return str(self.text)


def python(made: str) -> str:
    """Describe every name of ``clustrix`` that is no error."""
    parts = [PYTHON.format(made=made)]
    for name in ("cluster", *sorted(clustrix._HOMES.keys() - {"cluster"}, key=lambda word: (word.lower(), word))):
        thing = getattr(clustrix, name)
        parts += _class(name, thing) if isinstance(thing, type) else [f"## {name}", _documented(name, thing)]
        if name == "cluster":
            parts += _class("RemoteFunction", decorator.RemoteFunction)
    return "\n\n".join(part for part in parts if part) + "\n"


def _class(name: str, thing: type) -> list[str]:
    shown = _signature(name, thing) if name in MADE_BY_PEOPLE else ""
    parts = [f"## {name}", shown, _text(thing)]
    ours = [kind for kind in reversed(thing.__mro__) if kind.__module__.startswith("clustrix.")]
    members = {member: value for kind in ours for member, value in vars(kind).items()}
    for member, value in members.items():
        if member.startswith("_") and member != "__call__":
            continue
        if isinstance(value, property):
            parts.append(f"### {name}.{member}\n\n{_text(value)}")
        elif isinstance(value, (FunctionType, classmethod)):
            parts.append(f"### {name}.{_escaped(member)}\n\n{_documented(member, getattr(thing, member))}")
    return parts


def _documented(name: str, thing: Any) -> str:
    return f"{_signature(name, thing)}\n\n{_text(thing)}"


def _signature(name: str, thing: Any) -> str:
    found = inspect.signature(thing)
    parameters = [
        each.replace(annotation=_Verbatim(each.annotation) if each.annotation is not each.empty else each.empty)
        for each in found.parameters.values()
        if each.name not in {"self", "cls"}
    ]
    returned = found.return_annotation
    plain = found.replace(
        parameters=parameters,
        return_annotation=returned if returned in (found.empty, None) else _Verbatim(returned),
    )
    return f"```text\n{name}{plain}\n```"


def _text(thing: object) -> str:
    """Give a docstring as Markdown."""
    text = inspect.cleandoc(getattr(thing, "__doc__", None) or "").replace("::\n", ":\n").replace("``", "`")
    head, _, raised = text.partition("\nRaises:\n")
    rows = re.findall(r"^ +(\w+): (.*(?:\n {8,}.*)*)", raised, re.MULTILINE)
    listed = "\n".join(f"- `{kind}`: {' '.join(why.split())}" for kind, why in rows)
    return head.rstrip() + (f"\n\nRaises:\n\n{listed}" if listed else "")


def error_pages(made: str) -> str:
    """Draw the tree, then every error with its exit status and remedies."""
    drawn = inspect.cleandoc(errors.__doc__ or "")
    tree = "\n".join(line[4:] for line in drawn.splitlines() if line.startswith("    "))
    parts = [ERRORS.format(made=made, tree=tree)]
    given = remedies()
    for name in errors.__all__:
        kind = getattr(errors, name)
        status = exit_status(kind.__new__(kind))
        rows = "\n".join(f"- {said}\n  **{remedy}**" for said, remedy in sorted(given[name]))
        parts.append(f"## {name}\n\n{_text(kind)} On the command line: exit status {status}.\n\n{rows}".rstrip())
    return "\n\n".join(parts) + "\n"


def remedies() -> dict[str, set[tuple[str, str]]]:
    """Read from the source what each error says and the remedy beside it; ``...`` stands for what is filled in."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and _called(node.func) in errors.__all__:
                said = _literal(node.args[0])
                remedy = next((_literal(word.value) for word in node.keywords if word.arg == "remedy"), "")
                if said.strip(". ") and remedy.strip(". "):
                    found[_called(node.func)].add((said, remedy))
    return found


def _called(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _literal(node: ast.expr) -> str:
    """Give a string of the source, on one line, as Markdown takes it."""
    pieces = node.values if isinstance(node, ast.JoinedStr) else [node]
    text = "".join(
        str(piece.value) if isinstance(piece, ast.Constant) and isinstance(piece.value, str) else "..."
        for piece in pieces
    )
    text = re.sub(r"\.{4,}", "...", " ".join(text.split()))  # two things beside each other
    plain, *rest = re.split(r"(`[^`]*`)", text)
    return _escaped(plain) + "".join(code + _escaped(after) for code, after in zip(rest[::2], rest[1::2], strict=True))


def _escaped(text: str) -> str:
    return re.sub(r"([*_<>\[\]\\])", r"\\\1", text)


PYTHON = """# Python

{made}

Everything is imported from `clustrix` itself, when it is first asked for: `from clustrix import cluster`. The errors
have [a page of their own](errors.md); the options of `cluster`, `configure` and `ClusterExecutor` are the settings of
the [configuration](configuration.md).

Where no target is configured, and inside a job, calls run in place: `submit` then gives an `InPlaceJob` and `map` an
`InPlaceArray`, which have ended and give their results in the same way."""

ERRORS = """# Errors

{made}

Every error is a `ClustrixError` and can be imported from `clustrix`. Its text names the thing and, where there is one,
the remedy. The command line prints `error[Name]:` before it.

```text
{tree}
```

`JobError` and what is below it is raised by reading a result. An exception of your function is raised as itself, with
the remote traceback in its `__cause__`.

Below each error is what it says and, in bold, the remedy it gives; `...` stands for what is filled in."""
