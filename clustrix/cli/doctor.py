"""``clustrix doctor``: one list of checks, each with its remedy."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from clustrix import config
from clustrix.cli import output
from clustrix.errors import ClustrixError, ConfigError
from clustrix.model.settings import spellings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clustrix.model.settings import ClusterConfig
    from clustrix.schedulers.base import Dialect, Namesake
    from clustrix.target import Target

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "fail": ("FAIL", "red")}
_OLDEST = (3, 10)
_LITTLE = 2 << 30  # bytes
_OWN_VARIABLES = ("CLUSTRIX_CONFIG", "CLUSTRIX_HOME", "CLUSTRIX_STATE_DIR", "CLUSTRIX_DEBUG", "CLUSTRIX_IN_JOB")


@dataclass(frozen=True, slots=True)
class Finding:
    """Say what a check found: ``ok``, ``note`` (works, but look) or ``fail``."""

    check: str
    status: str
    found: str
    remedy: str | None = None


@click.command("doctor")
@output.target_option
@click.option("--deep", is_flag=True, help="Submit a tiny job, and follow it to its end. Needs --target.")
@click.option("--patience", default=600.0, show_default=True, help="Seconds that it may wait and run.")
@output.as_json
def command(target: str | None, *, deep: bool, patience: float, as_json: bool) -> None:
    """Check what is needed, and say how to mend it. Ends with 1 if a check failed.

    \b
    Examples:
      clustrix doctor                  this machine, and every configured target
      clustrix doctor --target hpc     this machine and that target
      clustrix doctor --target hpc --deep
    """
    if deep and not target:
        raise click.UsageError("--deep submits a job: say where with --target")
    findings: list[Finding] = []
    for finding in _every(target, deep=deep, patience=patience):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        output.emit([asdict(finding) for finding in findings])
    if any(finding.status == "fail" for finding in findings):
        click.get_current_context().exit(1)


def _every(target: str | None, *, deep: bool, patience: float) -> Iterator[Finding]:
    """Check; a job is tried only where nothing else has failed."""
    failed = False
    for finding in _all(target):
        failed = failed or finding.status == "fail"
        yield finding
    if target and deep and not failed:
        yield from _guarded(f"target {target}: submission", lambda: _deep(target, patience))


def _deep(name: str, patience: float) -> Iterator[Finding]:
    from clustrix import trial

    yield from (Finding(*row) for row in trial.run(config.load().resolve(name), patience=patience))


def _show(finding: Finding) -> None:
    word, colour = _MARKS[finding.status]
    click.echo(f"{click.style(word.ljust(4), fg=colour)}  {finding.check}: {finding.found}")
    if finding.remedy and finding.status != "ok":
        click.echo(f"      {finding.remedy}")


def _all(target: str | None) -> Iterator[Finding]:
    for check in (_python, _uv, _configuration, _state, _engine):
        yield from _guarded(check.__name__.strip("_"), check)
    try:
        current = config.load()
        configured = [name for name in current.target_names if name != config.LOCAL]
        for name in [target] if target else configured or [config.LOCAL]:
            settings_of = current.resolve(name)
            yield from _guarded(f"target {name}", partial(_target, settings_of))
    except ClustrixError as error:
        if target:
            yield Finding(f"target {target}", "fail", error.message, error.remedy)


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except ClustrixError as error:
        yield Finding(name, "fail", error.message, error.remedy)


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= _OLDEST and sys.implementation.name == "cpython"
    yield Finding(
        "python",
        "ok" if good else "fail",
        f"{sys.implementation.name} {version}, {sys.executable}",
        "Use CPython 3.10 or newer.",
    )


def _uv() -> Iterator[Finding]:
    from clustrix.locking import uv

    program = uv.find()
    yield Finding("uv", "ok", f"{uv.check_version(program)}, {program}")


def _configuration() -> Iterator[Finding]:
    current = config.load()
    files = ", ".join(str(path) for path in config.discover()) or "no file"
    yield Finding("configuration", "ok", f"{files}; targets: {', '.join(current.target_names)}")
    known = {*_OWN_VARIABLES, *(f"CLUSTRIX_{word.upper()}" for word in spellings())}
    for name in sorted(set(os.environ) - known):
        if name.startswith("CLUSTRIX_"):
            yield Finding("environment", "note", f"${name} is not read by anything", "Unset it, or mend its spelling.")


def _state() -> Iterator[Finding]:
    from clustrix.journal import state_directory

    directory = state_directory()
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        yield Finding(
            "state", "fail", f"{directory} cannot be written", "Set CLUSTRIX_STATE_DIR to a directory of yours."
        )
        return
    free = shutil.disk_usage(directory).free
    yield Finding(
        "state",
        "ok" if free > _LITTLE else "note",
        f"{directory}, {free / 2**30:.1f} GB free",
        "Images and environments need room: set CLUSTRIX_STATE_DIR to a larger disk.",
    )


def _engine() -> Iterator[Finding]:
    from clustrix import engines

    name, why = engines.answering()
    if name:
        yield Finding("engine", "ok", f"{name} answers: {why}")
    else:
        yield Finding(
            "engine",
            "note",
            f"none answers: {why}",
            "Local jobs use virtual environments. For containers start Docker, or configure runtime: podman.",
        )


def _target(config: ClusterConfig) -> Iterator[Finding]:
    """Check one target from here to its scheduler."""
    from clustrix.target import Target

    target = Target(config)
    name = f"target {target.name}"
    if target.on_cluster:
        from clustrix.kubernetes import examination

        yield Finding(name, "ok", f"pods in namespace {target.namespace.space}", None)
        yield from (Finding(f"{name}: {row[0]}", *row[1:]) for row in examination.examine(target.place))
        return
    runtime = target.runtime_name
    why = f" ({target.why})" if target.chosen_by_itself else ""
    yield Finding(name, "ok", f"{config.backend} over {target.transport_name}, runtime {runtime}{why}", None)
    try:
        done = target.transport.run('printf "%s" "$(uname -n)"', timeout=60)
        yield Finding(f"{name}: host", "ok", done.stdout_text or target.transport.address, None)
    except ClustrixError as error:
        yield Finding(f"{name}: host", "fail", error.message, error.remedy)
        return
    yield from _examine_root(target, name)
    yield from _examine_commands(target, name)


def _examine_root(target: Target, name: str) -> Iterator[Finding]:
    from shlex import quote

    root = quote(target.site.root)
    done = target.transport.run(f"mkdir -p {root} && [ -w {root} ] && df -Pk {root} | tail -n 1")
    if done.returncode != 0:
        said = done.stderr_text
        yield Finding(
            f"{name}: root", "fail", f"{target.site.root}: {said}", "Set `root` to a directory that you may write to."
        )
        return
    words = done.stdout.decode(errors="replace").split()
    free = f", {int(words[3]) / 2**20:.1f} GB free" if len(words) > 3 and words[3].isdigit() else ""  # noqa: PLR2004
    yield Finding(f"{name}: root", "ok", f"{target.site.root}{free}", None)


def _examine_commands(target: Target, name: str) -> Iterator[Finding]:
    """Look for every command of the scheduler, and for one of the runtime's."""
    from clustrix import registry
    from clustrix.schedulers.base import Namesake
    from clustrix.target import PLAIN

    dialect: Dialect = registry.load("schedulers", PLAIN if target.plain else target.config.backend)()
    needs = [(target.config.backend, dialect.commands, len(dialect.commands))]
    if target.config.sif_build == "login":  # else compute nodes alone need it, and `--deep` asks one
        needs.append((target.runtime_name, target.runtime.commands, 1))
    for what, commands, least in needs:
        if not commands:
            continue
        asked = " ".join(f"command -v {command} || echo no {command};" for command in commands)
        said = target.transport.run(asked).stdout.decode(errors="replace").split("\n")
        found = [line for line in said if line.startswith("/")]
        enough = len(found) >= least
        yield Finding(
            f"{name}: {what}",
            "ok" if enough else "fail",
            ", ".join(found if enough else [line for line in said if line]),
            f"Ask your site for {what}, or which module holds it.",
        )
    if isinstance(dialect, Namesake):
        yield from _examine_version(target, dialect, f"{name}: version")


def _examine_version(target: Target, dialect: Namesake, row: str) -> Iterator[Finding]:
    from shlex import join

    try:
        version = dialect.parse_version(target.transport.run(join(dialect.version_argv())))
    except ConfigError as error:
        yield Finding(row, "fail", error.message, error.remedy)
    else:
        yield Finding(row, "ok" if version else "note", version or "it does not say", None)
