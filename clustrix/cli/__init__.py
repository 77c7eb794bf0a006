"""The command line: one command a file, each imported when it is called for."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from clustrix.errors import ClustrixError

_COMMANDS = {
    "build": "Make an image of an environment.",
    "run": "Run a script here, its @cluster calls at the target.",
    "submit": "Run a whole script at the target.",
    "jobs": "List jobs.",
    "status": "Say where a job stands.",
    "logs": "Show what a job printed.",
    "result": "Show what a job returned.",
    "usage": "Compare what a job asked for with what it used.",
    "cancel": "Cancel jobs.",
    "env": "Show, lock or compare an environment.",
    "images": "List the images and environments that were built here.",
    "ls": "List files at a target or here.",
    "gc": "Remove what ended jobs left.",
    "config": "Show every setting and where it comes from.",
    "doctor": "Check what is needed, and say how to mend it.",
    "completion": "Print the completion script of a shell.",
}

_EPILOG = """\b
Exit status:
  0    it worked
  1    the job failed, a check did, or a file cannot be seen
  2    the command line or the configuration is wrong
  3    no lock or image could be made
  4    the target cannot be reached, or refused
  5    no such job
  6    the job has not ended
  130  interrupted

\b
CLUSTRIX_DEBUG=1 shows tracebacks.
"""


INTERRUPTED = 130
"""The exit status after Ctrl-C."""


class LazyGroup(click.Group):
    """Import a command's file when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """List the commands in the order of the work, without importing them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command; None where there is none."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"clustrix.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or suggest the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(_COMMANDS)}."
            raise click.UsageError(f"{error.message} {remedy}", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run a command; that nobody reads its output any more is no error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            from clustrix.cli.output import unread

            if not unread():
                raise
            return ctx.exit(0)

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - click's signature
        """Run the command line; errors are a sentence, a remedy and an exit status, as the end of ``--help`` says."""
        try:
            sys.exit(super().main(*args, **{"prog_name": "clustrix", **options, "standalone_mode": False}))
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        except ClustrixError as error:
            if os.environ.get("CLUSTRIX_DEBUG"):
                raise
            from clustrix.cli.output import complain

            sys.exit(complain(error))
        except OSError as error:
            if os.environ.get("CLUSTRIX_DEBUG") or error.filename is None:
                raise
            from clustrix.cli.output import complain
            from clustrix.config_files import unusable

            sys.exit(complain(unusable(error)))


@click.group(cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="clustrix")
def main() -> None:
    """Run Python somewhere else, inside an image of exactly the environment it was written in."""
