"""``clustrix run``: the driver runs here, in the environment of the script's lock; its calls go to the target."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clustrix.cli import output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clustrix.model.lock import LockResult

SCRIPT = click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
ARGUMENTS = click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
ENVIRONMENT = click.option(
    "--environment",
    default="auto",
    show_default=True,
    help="auto, interpreter, or a uv.lock, pylock.toml, requirements file or project directory. "
    "auto: the script's inline metadata, else the nearest of these files, else what is installed.",
)
PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@dataclass(frozen=True, slots=True)
class Plan:
    """Say what a script runs in: ``environment`` is what its calls are told, ``lock`` what the driver gets."""

    environment: str
    lock: LockResult | None


@click.command("run", context_settings=PASS_ON)
@output.target_option
@ENVIRONMENT
@output.dry_run
@output.as_json
@SCRIPT
@ARGUMENTS
def command(
    script: Path, arguments: tuple[str, ...], target: str | None, environment: str, *, dry_run: bool, as_json: bool
) -> None:
    """Run a script here, its @cluster calls at the target, both in the environment that it asks for.

    Without --target and without configuration the target is `local`: containers where an engine answers, virtual
    environments otherwise. Ends with the script's own exit status.

    \b
    Examples:
      clustrix run docs/tutorials/first_job.py
      clustrix run --target hpc fit.py --folds 5
      clustrix run --dry-run fit.py
      clustrix run --dry-run --target k8s fit.py | kubectl apply --dry-run=server -f -
    """
    from clustrix import config, pipeline
    from clustrix.target import CLUSTER

    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run: the output of a run is that of the script")
    current = config.load()
    # With several targets the script names them itself.
    name = target or (None if current.undecided else current.default_target() or config.LOCAL)
    if name is not None:
        current.resolve(name)  # an unknown one is refused before anything is locked
    plan = planned(script, environment)
    if dry_run:
        settings = None if name is None or as_json else current.resolve(name)
        manifest = settings is not None and settings.backend == CLUSTER
        tell(script, name, plan, as_json=as_json, err=manifest)
        if settings is not None and manifest:
            click.echo(pipeline.preview(settings), nl=False)
        return
    options = {"environment": plan.environment, **({"target": name} if name else {})}
    sys.exit(_drive(script, arguments, plan, options))


def planned(script: Path, environment: str) -> Plan:
    """Lock what a script asks for, for this machine; no lock where it is what is installed here."""
    from clustrix import artifacts, config, placement
    from clustrix.capture import sources
    from clustrix.cli.progress import shown
    from clustrix.model.environment import Environment
    from clustrix.worker import installed

    found = sources.choose(
        environment,
        script.parent.absolute() if environment == sources.AUTO else Path.cwd(),
        script=script,
        cache=config.cache_directory() / "captures",
    )
    if isinstance(found, Environment):
        return Plan(sources.INTERPRETER, None)
    place = Path(found.directory, "uv.lock") if hasattr(found, "directory") else Path(found.path)
    here = installed.platform()
    if here is None:
        output.note(
            "clustrix: locks are for Linux with glibc, and this is none: the script itself runs among the packages "
            f"of {sys.executable}, its calls in the environment of {place}"
        )
        return Plan(str(place), None)
    with shown():
        return Plan(
            str(place), artifacts.lock(found, here, installed.interpreter().version, progress=placement.progress)
        )


def tell(script: Path, target: str | None, plan: Plan, *, as_json: bool, err: bool = False) -> None:
    """Say what would run where; on standard error where something else is the result."""
    lock = plan.lock.lock if plan.lock else None
    data: dict[str, object] = {
        "script": str(script),
        "target": target or "what each call names",
        "environment": plan.environment,
        "lock": lock.digest if lock else None,
        "packages": len(lock.packages) if lock else None,
    }
    if as_json:
        output.emit(data)
    else:
        output.facts(data, err=err)


def _drive(script: Path, arguments: tuple[str, ...], plan: Plan, options: Mapping[str, str]) -> int:
    from clustrix import artifacts, config, placement
    from clustrix.cli import driver
    from clustrix.cli.progress import shown
    from clustrix.locking import uv
    from clustrix.registry import load
    from clustrix.runtimes.base import Artifact, Runtime
    from clustrix.target import Target

    interpreter = sys.executable
    if plan.lock is not None:
        lock = plan.lock.lock
        local = Target(config.load().resolve(config.LOCAL))
        runtime: Runtime = load("runtimes", "venv")()
        with shown():
            artifact = Artifact(lock=lock, wheels=artifacts.Wheels(lock, placement.progress))
            interpreter = runtime.ensure(artifact, local.transport, local.site, progress=placement.progress).interpreter
    beside = driver.beside(config.cache_directory() / "driver")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(uv.find()).parent)])
    argv = driver.argv(interpreter, beside, options, script.absolute(), list(arguments))
    return _status(argv, {**os.environ, "PATH": path})


def _status(argv: list[str], variables: Mapping[str, str]) -> int:
    """Become a command, which so gets every signal that is meant for us, and whoever started us its end.

    Where processes cannot do that it shares this console: Ctrl-C is for it, and we wait for what it makes of that.
    """
    if os.name == "posix":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(argv[0], argv, variables)  # noqa: S606 - no shell is wanted
    with subprocess.Popen(argv, env=variables) as process:
        while True:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                continue
            return code if code >= 0 else 128 - code
