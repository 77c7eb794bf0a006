"""The table of the chart's values, read from values.yaml with its comments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART = Path(__file__).parents[2] / "charts" / "clustrix"
START, END = "<!-- values -->\n", "<!-- end of values -->\n"


class Value(NamedTuple):
    """One value: its path, its default as JSON, and the comment above it."""

    path: str
    default: str
    meaning: str


def values() -> list[Value]:
    """Read every value; ValueError for one without a comment."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    return list(_values(yaml.compose("\n".join(lines)), "", lines))


def _values(node: yaml.MappingNode, path: str, lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        here = f"{path}{key.value}"
        meaning = _comment(lines, key.start_mark.line)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _values(value, f"{here}.", lines)
            continue
        if not meaning:
            raise ValueError(f"values.yaml: {here} has no comment")
        yield Value(here, json.dumps(yaml.safe_load(yaml.serialize(value))), meaning)


def _comment(lines: list[str], line: int) -> str:
    """Join the comment lines right above a line."""
    first = line
    while first and lines[first - 1].lstrip().startswith("# "):
        first -= 1
    return " ".join(text.lstrip().removeprefix("# ") for text in lines[first:line])


def page() -> str:
    """Give the chart's README with the table made anew."""
    text = (CHART / "README.md").read_text()
    before, after = text[: text.index(START)], text[text.index(END) + len(END) :]
    rows = [f"| `{path}` | `{default}` | {meaning} |" for path, default, meaning in values()]
    return before + START + "\n".join(["| value | default | meaning |", "| --- | --- | --- |", *rows, ""]) + END + after
