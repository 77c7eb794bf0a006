"""``clustrix build``: an image of an environment, without a daemon."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clustrix.build.compression import COMPRESSIONS
from clustrix.cli import output
from clustrix.errors import ConfigError
from clustrix.model.image import Image

if TYPE_CHECKING:
    from clustrix.build.base import BuildResult, Recipe
    from clustrix.model.lock import LockResult
    from clustrix.publish.base import Destination

FILE = click.Path(exists=True, path_type=Path)


@dataclass(frozen=True, slots=True)
class Order:
    """Hold what was asked for, resolved as far as it can be without building."""

    result: LockResult
    recipe: Recipe
    outputs: tuple[str, ...]
    destinations: tuple[Destination, ...]


@click.command("build")
@click.option("--lock", type=FILE, help="A uv.lock, pylock.toml, or a project's directory.")
@click.option("--requirements", type=FILE, help="A requirements file; without hashes it is locked first.")
@click.option("--script", type=FILE, help="A script with inline metadata (PEP 723).")
@click.option("--image", "described", metavar="FILE.py:NAME", help="An Image object of a Python file.")
@click.option("--extra", "extras", multiple=True, help="An extra of the project.")
@click.option("--group", "groups", multiple=True, help="A dependency group of the project.")
@click.option("--base", help="The base image: a reference, or oci:DIR. Default: that of the target, or the public one.")
@click.option("--apt", "apt", multiple=True, help="A package to add to the base, by Docker or Podman.")
@click.option("--dockerfile", type=FILE, help="What Docker or Podman makes of it is the base.")
@click.option(
    "--output",
    "-o",
    "outputs",
    multiple=True,
    help="registry/repository:tag, oci:DIR, oci-archive:FILE, FILE.sif or docker:NAME.",
)
@click.option("--tag", "tags", multiple=True, help="A tag for every output that names none.")
@click.option("--platform", help="linux/amd64 or linux/arm64. Default: this machine's.")
@click.option("--verify", is_flag=True, help="Build once more from nothing, and fail unless it is the same image.")
@click.option("--bytecode/--no-bytecode", default=True, help="Compile all modules, which makes imports twice as fast.")
@click.option(
    "--compression",
    type=click.Choice(COMPRESSIONS),
    default="gzip",
    show_default=True,
    help="Of layers: zstd is smaller, and Docker reads it from version 23 on.",
)
@click.option(
    "--insecure-registry", is_flag=True, help="Speak plain HTTP to the registries of --output, else to that of --base."
)
@output.target_option
@output.dry_run
@output.as_json
def command(*, dry_run: bool, as_json: bool, verify: bool, **options: Any) -> None:  # noqa: ANN401
    """Make an image of an environment: of a lock, requirements, a script, an Image, or of what is installed.

    No daemon is needed, but for --apt and --dockerfile; a SIF is made by the Apptainer of this machine. The same lock
    and base give the same image; what was packed before is not packed again.

    \b
    Examples:
      clustrix build --output registry.example.org/me/fit:1
      clustrix build --lock uv.lock --base oci:base --output oci:image --json
      clustrix build --script fit.py --output docker:fit --verify
      clustrix build --requirements requirements.txt --output oci-archive:fit.tar --dry-run
      clustrix build --lock uv.lock --output fit.sif
      clustrix build --apt gdal-bin --output oci:image
    """
    from clustrix import artifacts, placement
    from clustrix.cli.progress import shown

    with shown():
        order = _order(**options, dry_run=dry_run)
        if dry_run:
            _tell_plan(order, as_json=as_json)
            return
        if verify:
            wheels = artifacts.fetch(order.recipe.lock, placement.progress)
            built = artifacts.builder().verify(order.recipe, wheels, progress=placement.progress)
        else:
            built = artifacts.build(order.recipe, progress=placement.progress)
        published = [_publish(place, built) for place in order.destinations]
    _tell(order, built, published, as_json=as_json, verified=verify)


def _order(
    *,
    lock: Path | None,
    requirements: Path | None,
    script: Path | None,
    described: str | None,
    extras: tuple[str, ...],
    groups: tuple[str, ...],
    base: str | None,
    apt: tuple[str, ...],
    dockerfile: Path | None,
    outputs: tuple[str, ...],
    tags: tuple[str, ...],
    platform: str | None,
    target: str | None,
    bytecode: bool,
    compression: str,
    insecure_registry: bool,
    dry_run: bool,
) -> Order:
    from clustrix import artifacts, bases, config, placement
    from clustrix.model.machine import machine_of
    from clustrix.publish import destination, registry_of
    from clustrix.worker import installed

    given = [choice for choice in (lock, requirements, script, described) if choice is not None]
    if len(given) > 1:
        raise click.UsageError("give one of --lock, --requirements, --script and --image")
    path = lock or requirements or script
    image = _load(described) if described else Image.from_environment()
    if path is not None:
        image = Image.from_lock(str(path))
    image = replace(image, extras=(*image.extras, *extras), groups=(*image.groups, *groups))
    if apt:
        image = image.apt_install(*apt)
    if dockerfile is not None:
        image = replace(image, dockerfile=str(dockerfile))
    outputs = _tagged(outputs, tags)
    current = config.load()
    # Of a target only base, platform and insecure_registry matter here.
    settings = current.resolve(target or (None if base else current.default_target()) or config.LOCAL)
    image = replace(image, base=base or image.base)
    base = image.base or settings.base
    insecure: tuple[str, ...] = ()
    if insecure_registry or settings.insecure_registry:
        hosts = {registry_of(text) for text in outputs} - {None} or {registry_of(base) if base else None}
        insecure = tuple(sorted(host for host in hosts if host))
    minor = installed.interpreter().minor
    wanted = platform or settings.platform
    on = bases.of(
        image,
        settings.base,
        minor=minor,
        machine=machine_of(wanted) if wanted else installed.machine(),
        insecure=insecure,
        progress=placement.progress,
        make=not dry_run,
    )
    result = artifacts.lock(
        artifacts.source(image, Path.cwd()),
        on.platform,
        on.python(minor)[1].version,
        requirements=image.requirements,
        progress=placement.progress,
    )
    destinations = tuple(destination(text, client=artifacts.client(insecure=insecure)) for text in outputs)
    recipe = artifacts.recipe(image, result.lock, on, compression=compression, bytecode=bytecode)
    return Order(result, recipe, outputs, destinations)


def _load(text: str) -> Image:
    """Run a Python file and take an Image out of it by name."""
    import runpy

    place, _, name = text.rpartition(":")
    if not place or not Path(place).is_file():
        what = f"there is no {place}" if place else "it names no Image"
        raise ConfigError(f"--image {text}: {what}", remedy="Write it as FILE.py:NAME.")
    try:
        found = runpy.run_path(place).get(name)
    except Exception as error:
        raise ConfigError(
            f"{place} cannot be run: {type(error).__name__}: {error}", remedy="CLUSTRIX_DEBUG=1 shows where."
        ) from error
    if not isinstance(found, Image):
        raise ConfigError(f"{place} has no Image called {name!r}", remedy="Write it as FILE.py:NAME.")
    return found


def _tagged(outputs: tuple[str, ...], tags: tuple[str, ...]) -> tuple[str, ...]:
    from clustrix.oci.reference import check_tag
    from clustrix.publish import split_scheme

    if tags and not outputs:
        raise click.UsageError("--tag needs an --output")
    if not tags:
        return outputs
    for tag in tags:
        check_tag(tag)
    schemes = {split_scheme(text)[0] for text in outputs}
    if "sif" in schemes:
        raise click.UsageError("a SIF has no tag: leave out --tag, and write the tags of other outputs with them")
    if named := [text for text in outputs if ":" in split_scheme(text)[1].rpartition("/")[2]]:
        raise click.UsageError(f"--output {named[0]} has a tag already: leave out --tag")
    if len(tags) > 1 and "oci-archive" in schemes:
        raise click.UsageError("an oci-archive holds one image: give it one --tag")
    return tuple(f"{text}:{tag}" for text in outputs for tag in tags)


def _publish(place: Destination, built: BuildResult) -> dict[str, Any]:
    from clustrix import artifacts, placement

    sent = place.publish(built.image, artifacts.layout(), progress=placement.progress)
    return {"reference": sent.reference, "uploaded_bytes": sent.uploaded_bytes, "unchanged": sent.unchanged}


def _tell_plan(order: Order, *, as_json: bool) -> None:
    from clustrix import artifacts

    maker = artifacts.builder()
    found = maker.find(order.recipe)
    missing = [] if found else [f"{row.name} {row.version}" for row in maker.missing(order.recipe)]
    data = {
        "lock": order.result.lock.digest,
        "platform": str(order.result.lock.platform),
        "python": order.result.lock.python,
        "base": order.recipe.base.reference or order.recipe.base.digest,
        "image": found.image.config_digest if found else None,
        "packages": len(order.result.lock.packages),
        "to_pack": missing,
        "outputs": list(order.outputs),
    }
    if as_json:
        output.emit({**data, "report": order.result.report.as_json()})
        return
    click.echo(order.result.report.text() + "\n")
    to_pack = ", ".join(missing) or "nothing: all of it was packed before"
    output.facts({**data, "to_pack": to_pack, "outputs": ", ".join(order.outputs) or "the local cache"})


def _tell(order: Order, built: BuildResult, published: list[dict[str, Any]], *, as_json: bool, verified: bool) -> None:
    image = built.image
    data: dict[str, object] = {
        "config_digest": image.config_digest,
        "manifest_digest": image.manifest_digest,
        "platform": image.platform,
        "python": image.python,
        "fingerprint": image.fingerprint,
        "lock": image.lock_digest,
        "base": built.base_reference or order.recipe.base.digest,
        "bytecode": built.bytecode,
        "packed_bytes": built.packed_bytes,
        "reused_bytes": built.reused_bytes,
    }
    if as_json:
        layers = [
            {"title": row.title, "digest": row.digest, "size": row.size, "reused": row.reused} for row in built.layers
        ]
        output.emit({**data, "verified": verified, "layers": layers, "outputs": published})
        return
    output.facts({**data, "verified": "yes, built twice" if verified else None})
    if not published:
        click.echo("output  none: it is kept in the local cache (clustrix images); --output says where it goes")
    for row in published:
        sent = "was there" if row["unchanged"] else f"{output.size(row['uploaded_bytes'])} sent"
        click.echo(f"output  {row['reference']} ({sent})")
