"""Write the reference pages that are made from the code: ``python docs/reference/generate.py [--check]``."""

from __future__ import annotations

import sys
from pathlib import Path

import chart
import click
import matrix
import surface

from clustrix.cli import main
from clustrix.config import as_data
from clustrix.model.settings import settings

HERE = Path(__file__).parent
MADE = "<!-- Made by docs/reference/generate.py: change the code, not this page. -->"


def command_line() -> str:
    """Describe every command as its ``--help`` does."""
    context = _context(main, "clustrix", None)
    parts = ["# Command line", MADE, _help(main, context)]
    for name in main.list_commands(context):
        parts += _command(main.get_command(context, name), name, context, "##")
    return "\n\n".join(parts) + "\n"


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    return click.Context(command, info_name=name, parent=parent, **settings)


def _command(command: click.Command | None, name: str, parent: click.Context, depth: str) -> list[str]:
    if command is None:
        raise LookupError(name)
    context = _context(command, name, parent)
    parts = [f"{depth} {context.command_path}", _help(command, context)]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            parts += _command(command.get_command(context, inner), inner, context, depth + "#")
    return parts


def _help(command: click.Command, context: click.Context) -> str:
    return f"```text\n{command.get_help(context).rstrip()}\n```"


_USUAL = "target, top"
SCOPES = {"call": "call, target, top", "client": "top"}


def configuration() -> str:
    """Describe every setting."""
    head = f"""# Configuration

{MADE}

A setting is given in a call (`@cluster(cores=8)`, `configure(cores=8)`), in a file, or in an environment variable.
The first of these that has it wins: the call, `configure()`, the files, the environment, the default.

Files are `clustrix.yml`, `clustrix.yaml`, `clustrix.json`, or `[tool.clustrix]` in `pyproject.toml`, looked for in the
working directory and above it up to the top of the project (where `.git` is), or named by `CLUSTRIX_CONFIG`; then in
`~/.clustrix/` (or `CLUSTRIX_HOME`) and `/etc/clustrix/`. The nearer file wins, setting by setting. A file that holds a
password or token is refused if others can read it. An unknown setting is refused, with its line and the nearest that
exists.

Flat settings at the top of a file describe one target, called `default`:

```yaml
cluster_type: slurm
cluster_host: login.example.org
username: alice
```

`targets:` names many. `extends:` takes over another's settings, and settings at the top hold for all of them:

```yaml
target: cpu
username: alice
targets:
  site:
    backend: slurm
    host: login.example.org
    account: physics
  cpu:
    extends: site
    partition: long
  gpu:
    extends: site
    partition: gpu
    gpus: 1
```

The target `local` is always there. Where no target is configured, calls run in the calling process and say so once.
`clustrix config` shows every value and the file and line it comes from.

"Where" says who may give a setting: a `call` (also `configure()`), a `target`, or the `top` of a file.
"""
    rows = ["| setting | also called | value | default | where | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    for row in settings().values():
        aliases = ", ".join(f"`{alias}`" for alias in row.aliases)
        default = "" if row.default in (None, (), {}) else f"`{as_data(row.default)}`"
        meaning = row.doc.replace("|", "\\|")
        rows.append(
            f"| `{row.name}` | {aliases} | {row.kind} | {default} | {SCOPES.get(row.scope, _USUAL)} | {meaning} |"
        )
    tail = """
Environment variables are called `CLUSTRIX_` and the name in capitals: `CLUSTRIX_CORES=8`. Lists are written with
commas, tables as JSON. Further variables:

| variable | meaning |
| --- | --- |
| `CLUSTRIX_CONFIG` | a configuration file, instead of the project's |
| `CLUSTRIX_HOME` | instead of `~/.clustrix` |
| `CLUSTRIX_STATE_DIR` | instead of `~/.local/state/clustrix` (jobs) and `~/.cache/clustrix` (locks, images) |
| `CLUSTRIX_DEBUG` | set: the command line shows tracebacks |
| `CLUSTRIX_IN_JOB` | set inside a job: `@cluster` calls run in place |
"""
    return head + "\n" + "\n".join(rows) + "\n" + tail


PAGES = {
    "cli.md": command_line,
    "configuration.md": configuration,
    "python.md": lambda: surface.python(MADE),
    "errors.md": lambda: surface.error_pages(MADE),
    "support-matrix.md": lambda: matrix.page(MADE),
    "../../charts/clustrix/README.md": chart.page,
}


def stale() -> list[str]:
    """Name the pages that differ from what the code says."""
    return [name for name, make in PAGES.items() if not (HERE / name).is_file() or (HERE / name).read_text() != make()]


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(found)}" if (found := stale()) else 0)
    for page, make_page in PAGES.items():
        (HERE / page).write_text(make_page())
