"""``clustrix env``: what is installed, its lock, and how environments differ."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clustrix.cli import output
from clustrix.model.lock import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clustrix.model.lock import LockResult

_SOURCE = click.option(
    "--environment",
    default="interpreter",
    show_default=True,
    help="interpreter, auto, or a uv.lock, pylock.toml, requirements file, script or project directory.",
)


_FILES = {".toml", ".lock", ".txt", ".in", ".py"}
"""What ends so is meant as a file, also if it does not exist."""


@click.group("env")
def command() -> None:
    """Show, lock or compare an environment.

    \b
    Examples:
      clustrix env show
      clustrix env lock --output pylock.toml
      clustrix env diff hpc/01J9ZK2M
    """


@command.command("show")
@output.as_json
def show(*, as_json: bool) -> None:
    """Show what is installed beside this Python, as `pip list` does, and where each package came from.

    \b
    Examples:
      clustrix env show
      clustrix env show --json
    """
    from clustrix.capture import packages
    from clustrix.worker import installed

    found = packages.capture()
    if as_json:
        output.emit(
            {
                "python": found.interpreter.version,
                "implementation": found.interpreter.implementation,
                "platform": str(found.platform) if found.platform else None,
                "fingerprint": installed.of_environment(),
                "packages": [
                    {"name": row.name, "version": row.version, "origin": row.origin.value, "url": row.url}
                    for row in found.distributions
                ],
            }
        )
        return
    rows = [(row.name, row.version, row.origin.value, row.url or "") for row in found.distributions]
    output.table(("package", "version", "origin", "from"), rows)


@command.command("lock")
@_SOURCE
@click.option("--platform", help="linux/amd64 or linux/arm64, with the glibc of --glibc. Default: this machine's.")
@click.option("--glibc", default="2.36", show_default=True, help="The oldest glibc that the lock is for.")
@click.option("--with", "requirements", multiple=True, help="A requirement to add (PEP 508).")
@click.option("--refresh", is_flag=True, help="Ask the indexes again.")
@click.option("--output", "path", type=click.Path(path_type=Path), help="Write it there, not to standard output.")
@output.as_json
def lock(
    environment: str,
    platform: str | None,
    glibc: str,
    requirements: tuple[str, ...],
    path: Path | None,
    *,
    refresh: bool,
    as_json: bool,
) -> None:
    """Lock an environment: pylock.toml (PEP 751), every package with the hash of one file.

    \b
    Examples:
      clustrix env lock --output pylock.toml
      clustrix env lock --environment uv.lock --platform linux/arm64 --glibc 2.34
      clustrix env lock --json
    """
    from clustrix import locking
    from clustrix.publish.base import check_file

    if path is not None:
        check_file(path)
    result = _locked(environment, platform, glibc, requirements, refresh=refresh)
    text = locking.write(result.lock)
    if path is not None:
        path.write_text(text)
    if as_json:
        output.emit({"digest": result.lock.digest, "platform": str(result.lock.platform), **result.report.as_json()})
    elif path is None:
        click.echo(text, nl=False)
    output.note(f"{result.report.text()}\n{result.lock.digest}")


@command.command("diff")
@click.argument("other", required=False, shell_complete=output.complete_jobs)
@click.option("--deep", is_flag=True, help="Also hash every installed file, and name those that were altered.")
@click.option("--insecure-registry", is_flag=True, help="Speak plain HTTP to the registry of the image.")
@output.as_json
def diff(other: str | None, *, deep: bool, insecure_registry: bool, as_json: bool) -> None:
    """Compare what is installed here with its lock, a lock file, an image or a job. Ends with 1 if they differ.

    Images are those that clustrix built, wherever they are now.

    \b
    Examples:
      clustrix env diff                     with the lock that a call would use
      clustrix env diff pylock.toml
      clustrix env diff hpc/01J9ZK2M
      clustrix env diff sha256:20cdbfa7     an image that was built here
      clustrix env diff registry.example.org/me/fit:1
      clustrix env diff oci:image           also oci-archive:FILE
      clustrix env diff --deep              also finds single altered files
    """
    from clustrix.worker import installed

    name, expected = _expected(other, insecure=insecure_registry)
    live = _locked("interpreter", None, "", ())
    apart = {row.name for row in live.report.having(Status.LEFT_OUT, Status.TRAVELS)}
    here = {key: mark for key, mark in installed.fingerprints().items() if key not in apart}
    rows = [
        {"package": key, "difference": _how(key, here, expected)}
        for key in sorted({*here, *expected})
        if here.get(key) != expected.get(key)
    ]
    if deep:
        rows += [{"package": row.distribution, "difference": f"{row.how}: {row.path}"} for row in installed.altered()]
    if as_json:
        output.emit({"compared_with": name, "packages": len(expected), "differences": rows})
    elif rows:
        output.table(("package", "difference"), [(row["package"], row["difference"]) for row in rows])
    else:
        click.echo(f"no difference: {len(expected)} packages are those of {name}")
    if rows:
        click.get_current_context().exit(1)


def _how(key: str, here: Mapping[str, str], expected: Mapping[str, str]) -> str:
    if key not in here:
        return "not installed here"
    return "another build" if key in expected else "only installed here"


def _expected(other: str | None, *, insecure: bool) -> tuple[str, Mapping[str, str]]:
    """Give what is compared with: its name, and the fingerprint of each package by name."""
    from clustrix import artifacts
    from clustrix.publish import registry_of

    # No id of a job holds any of these.
    image = other is not None and not Path(other).exists() and re.search(r"[:@]|/.*/|\.sif$", other)
    if insecure and not (other and image and registry_of(other)):
        raise click.UsageError("--insecure-registry is for an image of a registry")
    if other is None or (not image and (Path(other).exists() or Path(other).suffix in _FILES)):
        result = _locked(other or "interpreter", None, "", ())
        artifacts.fetch(result.lock)
        return f"lock {result.lock.digest}", artifacts.fingerprints(result.lock) or {}
    if other.startswith("sha256:"):
        return _built_here(other)
    return _of_image(other, insecure=insecure) if image else _of_job(other)


def _of_image(text: str, *, insecure: bool) -> tuple[str, Mapping[str, str]]:
    """Read what is installed in an image."""
    from clustrix import artifacts, config
    from clustrix.build import contents
    from clustrix.errors import BadReference
    from clustrix.publish import registry_of, split_scheme
    from clustrix.worker import installed

    if split_scheme(text)[0] not in {"", "oci", "oci-archive"}:
        raise BadReference(
            f"{text} cannot be looked into", remedy="Name a registry's, oci:DIR, oci-archive:FILE or sha256:..."
        )
    host = registry_of(text)
    speaker = partial(artifacts.client, insecure=(host,) if insecure and host else ())
    found = contents.fingerprints(text, installed.machine(), client=speaker, cache=config.cache_directory())
    return f"image {text}", found


def _built_here(digest: str) -> tuple[str, Mapping[str, str]]:
    """Look up what went into an image that was built here, by the beginning of its digest."""
    from clustrix import artifacts
    from clustrix.cli.images import built
    from clustrix.errors import ImageUnavailable

    locks = {str(row["lock"]) for row in built() if str(row["config_digest"]).startswith(digest)}
    known = artifacts.fingerprints_by_digest(locks.pop()) if len(locks) == 1 else None
    if known is None:
        raise ImageUnavailable(f"no image {digest} was built here", remedy="See: clustrix images")
    return f"image {digest}", known


def _of_job(name: str) -> tuple[str, Mapping[str, str]]:
    """Read what a job was told to find installed."""
    from clustrix import catalogue, target
    from clustrix.errors import ConfigError, UnknownJob
    from clustrix.worker import task

    record = catalogue.find(name)
    text = target.of_record(record).task_of(record)
    if text is None:
        raise UnknownJob(f"{record.id} has no directory any more", remedy="Compare with a lock: clustrix env diff FILE")
    expected = task.read(text).distributions
    if not expected:
        raise ConfigError(
            f"{record.id} ran in an image whose packages are not known one by one",
            remedy="Compare with the lock that the image was made from: clustrix env diff pylock.toml",
        )
    return f"job {record.id}", expected


def _locked(
    environment: str, platform: str | None, glibc: str, requirements: tuple[str, ...], *, refresh: bool = False
) -> LockResult:
    from clustrix import artifacts, config, target
    from clustrix.model.environment import Platform
    from clustrix.model.image import Image
    from clustrix.model.machine import machine_of
    from clustrix.worker import installed

    image = Image.from_environment() if environment == "interpreter" else Image.from_lock(environment)
    here = installed.interpreter()
    if platform is None:
        where, python = target.of(config.load().resolve(config.LOCAL)).platform, here.version
    else:
        major, _, minor = glibc.partition(".")
        if not (major.isdigit() and minor.isdigit()):
            raise click.UsageError(f"--glibc {glibc}: write it as 2.36")
        where, python = Platform(machine_of(platform), (int(major), int(minor))), here.minor
    return artifacts.lock(
        artifacts.source(image, Path.cwd()), where, python, requirements=requirements, refresh=refresh
    )
