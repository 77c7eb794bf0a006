"""The documentation holds: links lead somewhere, commands and options exist, code runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "images").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Give (info string, text) of a page's code blocks in one language."""
    found = ((match["info"].strip(), match["text"]) for match in FENCE.finditer(page.read_text()))
    return [(info, text) for info, text in found if info.split(" ")[0] == language]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert not [target for target in targets if target and not (page.parent / target).exists()]


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    todo = [ROOT / "README.md", ROOT / "docs/index.md"]
    while todo:
        page = todo.pop()
        if page in reached or not page.exists():
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text())
        todo += [(page.parent / link).resolve() for link in links if "://" not in link]
    fragments = set((ROOT / "docs/changelog").glob("*.md"))
    assert not {name(page) for page in PAGES if page not in reached | fragments and page.is_relative_to(ROOT / "docs")}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_runs(page: Path, tmp_path: Path) -> None:
    """A page's blocks run in order in one process; a block marked ``sketch`` must at least compile."""
    runnable = []
    for info, text in blocks(page, "python"):
        compile(text, name(page), "exec")
        if info == "python":
            runnable.append(text)
    if runnable:
        script = tmp_path / "page.py"
        script.write_text("\n".join(runnable))
        argv = [sys.executable, str(script)]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    """Every ``clustrix ...`` line of a console block names a command and options that exist."""
    import click

    from clustrix.cli import main

    for _, text in blocks(page, "console"):
        for line in re.findall(r"^\$ (.*?)(?:\s+#.*)?$", text.replace("\\\n", " "), re.MULTILINE):
            for call in re.findall(r"(?:^|&& )clustrix ([^&|>]*)", line):
                words = call.split()
                command: click.Command = main
                context = click.Context(main)
                while isinstance(command, click.Group) and words and not words[0].startswith("-"):
                    found = command.get_command(context, words[0])
                    assert found, f"no command {words[0]!r} in: {line}"
                    command = found
                    words = words[1:]
                options = {opt for parameter in command.params for opt in (*parameter.opts, *parameter.secondary_opts)}
                used = {word.partition("=")[0] for word in words if word.startswith("-") and word != "--"}
                assert used <= options | {"--help"}, f"unknown options {used - options} in: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_configurations_are_accepted(page: Path, tmp_path: Path) -> None:
    from clustrix.config import load

    for _, text in blocks(page, "yaml"):
        if "targets:" in text:
            yaml.safe_load(text)
            (tmp_path / "clustrix.yml").write_text(text)
            load(tmp_path)
