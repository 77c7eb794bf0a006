"""``clustrix completion``: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from clustrix.errors import ConfigError


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell: commands, options, job ids and targets.

    \b
    Examples:
      eval "$(clustrix completion bash)"                 in ~/.bashrc
      eval "$(clustrix completion zsh)"                  in ~/.zshrc
      clustrix completion fish > ~/.config/fish/completions/clustrix.fish
    """
    from clustrix.cli import main

    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"no completion for {shell!r}", remedy="Use bash, zsh or fish.")
    click.echo(kind(main, {}, "clustrix", "_CLUSTRIX_COMPLETE").source())
