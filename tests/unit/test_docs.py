"""The documentation holds: links lead somewhere, commands and options exist, code runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clustrix import registry
from clustrix.model.paths import JobPaths

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(page for room in ("charts", "docs", "images") for page in sorted((ROOT / room).rglob("*.md"))),
]
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


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_sections_and_tests_that_are_linked_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target, section in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", text):
        there = (page.parent / target if target else page).read_text()
        headings = re.findall(r"^#+ (.*)$", FENCE.sub("", there), re.MULTILINE)
        assert section in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for test, file in re.findall(r"\[`(\w+)`\]\(([^)\s]+/test_\w+\.py|[^)\s]+/conformance/\w+\.py)\)", text):
        assert f"def {test}(" in (page.parent / file).read_text(), f"{test} is not in {file}"


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


def test_the_list_of_decisions_is_complete() -> None:
    """Every page of docs/adr is listed there, by its number and title."""
    pages = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    titles = [page.read_text().partition("\n")[0].removeprefix("# ") for page in pages]
    listed = re.findall(r"^- \[(.*?)\]\((.*?)\)$", (ROOT / "docs/adr/README.md").read_text(), re.MULTILINE)
    assert listed == [(title, page.name) for title, page in zip(titles, pages, strict=True)]
    assert [int(title.partition(".")[0]) for title in titles] == [int(page.name[:4]) for page in pages]


def test_the_architecture_is_that_of_the_house() -> None:
    """Every room is named where it stands, and every file that is named exists."""
    text = (ROOT / "docs/explanation/architecture.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.split(r" [|:] ", layer) for layer in contracts[0]["layers"]]
    rooms = re.findall(r"`(\w+)`", text.partition("## The rooms")[2].partition("## ")[0].partition("| --- |")[2])
    assert sorted(rooms) == sorted(room for layer in layers for room in layer)
    depth = {room: number for number, layer in enumerate(layers) for room in layer}
    assert [depth[room] for room in rooms] == sorted(depth[room] for room in rooms)
    files = re.findall(r"`([\w./]*(?:/|\.py))`", text)
    assert len(files) > 20
    assert not [file for file in files if not ((ROOT / file).exists() or (ROOT / "clustrix" / file).exists())]


def test_the_readme_says_of_every_scheduler_how_far_it_is() -> None:
    rows = re.findall(r"^\| (.*) \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    there = " ".join(what for what, state in rows if not state.startswith("not yet")).lower()
    missing = " ".join(what for what, state in rows if state.startswith("not yet")).lower()
    products = {"process": "bare hosts", "sge": "grid engine"}
    names = [products.get(key, key) for key in (*registry.PLUG_INS["schedulers"], *registry.PLUG_INS["runtimes"])]
    assert not [key for key in names if key.replace("venv", "virtual environment") not in there]
    assert not [key for key in names if re.search(rf"\b{key}\b", missing)]


def test_every_file_of_a_job_is_explained() -> None:
    page = (ROOT / "docs/explanation/life-of-a-job.md").read_text()
    files = {getattr(JobPaths("job"), key) for key, value in vars(JobPaths).items() if isinstance(value, property)}
    assert len(files) > 10
    assert not [file for file in files if not re.search(rf"`{re.escape(file.removeprefix('job/'))}[`/]", page)]


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
