"""``clustrix config``: every setting of a target, and where it comes from."""

from __future__ import annotations

import click

from clustrix import config
from clustrix.cli import output
from clustrix.model.settings import settings


@click.command("config")
@output.target_option
@click.option("--all", "everything", is_flag=True, help="Also what is left at its default.")
@output.as_json
def command(target: str | None, *, everything: bool, as_json: bool) -> None:
    """Show every setting and where it comes from.

    \b
    Examples:
      clustrix config                  what is set, and by which file and line
      clustrix config --target hpc --all
      clustrix config --json
    """
    current = config.load()
    name = target or current.default_target() or config.LOCAL
    found = current.resolve(name)
    rows = {}
    for row in settings().values():
        value = config.as_data(getattr(found, row.name))
        source = found.provenance.get(row.name, "default")
        if everything or source != "default":
            rows[row.name] = {"value": _hidden(row.name, value), "source": source}
    files = [str(path) for path in config.discover()]
    if as_json:
        output.emit({"target": name, "targets": current.target_names, "files": files, "settings": rows})
        return
    click.echo(f"target   {name}\ntargets  {', '.join(current.target_names)}\nfiles    {', '.join(files) or 'none'}\n")
    shown_rows = [(name, _text(row["value"]), row["source"]) for name, row in rows.items()]
    output.table(("setting", "value", "from"), shown_rows)


def _hidden(name: str, value: object) -> object:
    if isinstance(value, dict):
        return {key: _hidden(key, item) for key, item in value.items()}
    return "(hidden)" if value and config.is_secret(name) else value


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "-"
    return "-" if value is None else str(value)
