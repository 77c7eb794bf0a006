"""capture -> lock -> build -> place: an environment that stands at a target, ready for jobs."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clustrix import artifacts, bases, buildjob, engines, mpi
from clustrix import target as targets
from clustrix.config_files import unusable
from clustrix.errors import (
    BadReference,
    ConfigError,
    EnvironmentMismatch,
    ImageUnavailable,
    RegistryError,
    RuntimeUnavailable,
    UnsupportedResource,
)
from clustrix.model.image import BuiltImage, Image, ImageSource
from clustrix.model.progress import SILENT
from clustrix.model.resources import Resources
from clustrix.oci.reference import Reference
from clustrix.publish import registry_of
from clustrix.runtimes.base import Artifact, Need
from clustrix.worker import installed, podlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clustrix.model.job import Placed
    from clustrix.model.lock import LockResult
    from clustrix.model.progress import Progress
    from clustrix.model.settings import ClusterConfig
    from clustrix.target import Target
    from clustrix.transports.base import Completed

_TRUSTED_SECONDS = 10.0
"""For so long after an environment was seen nobody asks again whether it stands: calls in a row ask once."""

progress: Progress = SILENT
"""What draws the progress of this process; the command line sets it."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Hold a target with an environment in place; jobs may be submitted to it at once and often.

    ``prints`` are the fingerprints of the locked packages by name, as far as they are known here; ``mpi`` is by what
    the ranks of a task find each other, where a task is several processes; ``unenforced`` are the settings that
    nothing there holds a job to.
    """

    target: Target
    settings: ClusterConfig
    placed: Placed
    image: BuiltImage | None = None
    lock: LockResult | None = None
    prints: Mapping[str, str] | None = None
    mpi: str | None = None
    unenforced: tuple[str, ...] = ()


def _weigh(target: Target, settings: ClusterConfig) -> None:
    """Refuse what a host without a scheduler does not have; say what it has and nobody enforces (decision 5)."""
    claim = next((mount.source for mount in settings.mounts if not mount.source.startswith("/")), None)
    if claim and not target.on_cluster:
        raise UnsupportedResource(
            f"mounts: {claim} is no directory, and target {target.name} knows no PersistentVolumeClaims",
            remedy='Write an absolute path: mounts=["/data"].',
        )
    if target.on_cluster:
        _ = target.namespace  # says what is not installed, before the chart is asked
        if target.place.sink == "podlog":
            most = f"at most {podlog.LIMIT >> 20} MiB of text for each pod"
            say(f"results of target {target.name} come back through the logs of pods, {most}")
    if not target.plain:
        return
    absent = next((row.source for row in settings.mounts if target.here and not Path(row.source).exists()), None)
    if absent:
        raise ConfigError(f"mounts: {absent} does not exist on this machine", remedy="Make it, or mend its name.")
    if settings.cores > target.cores:
        raise UnsupportedResource(
            f"cores={settings.cores}: {target.transport.address} has {target.cores}",
            remedy=f"Ask for at most cores={target.cores}.",
        )
    where = f"by runtime {target.runtime_name} on target {target.name}"
    said = {
        "memory": f"memory={settings.memory} bytes is not enforced {where}",
        "gpus": f"gpus={settings.gpus} is neither checked nor reserved {where}",
    }
    for name in _unenforced(target, settings):
        say(said[name])


def _unenforced(target: Target, settings: ClusterConfig) -> tuple[str, ...]:
    """Name what is asked for and nothing at the target holds a job to."""
    if not target.plain or target.runtime.enforces_memory:
        return ()
    memory = ("memory",) if settings.memory is not None else ()
    return (*memory, "gpus") if settings.gpus and target.runtime.needs is Need.LOCK else memory


def prepare(settings: ClusterConfig) -> Prepared:
    """Capture, lock, build and place what calls with these settings run in; unchanged, it costs milliseconds.

    Raises:
        ClustrixError: every stage has its own kinds; see `clustrix.errors`.

    """
    try:
        return _prepared(settings)
    except OSError as error:
        if error.filename is None:
            raise
        raise unusable(error) from error


def _prepared(settings: ClusterConfig) -> Prepared:
    target = targets.of(settings)
    if target.chosen_by_itself:
        say(f"target {target.name} uses {target.runtime_name}: {target.why}")
    _weigh(target, settings)
    try:
        return _placed(target, settings)
    except (ImageUnavailable, RegistryError) as error:
        # Only where the choice was ours: what somebody configured is never swapped.
        if not (target.chosen_by_itself and target.runtime.needs is Need.OCI) or settings.base or settings.image:
            raise
        engines.avoid(f"no base image can be had ({error.message})")
        return _prepared(settings)


def _placed(target: Target, settings: ClusterConfig) -> Prepared:
    image = artifacts.described(settings)
    if isinstance(image, str):
        artifact, result = Artifact(sif=image), None
        if target.runtime.needs is not Need.SIF:
            raise ConfigError(f"runtime {target.runtime_name!r} does not start {image}", remedy="Use apptainer.")
    elif target.runtime.needs is Need.LOCK:
        result = _lock_of_host(target, image)
        artifact = Artifact(lock=result.lock, wheels=artifacts.Wheels(result.lock, progress))
    else:
        result, built = _image(target, image, settings)
        _refuse_other_python(built)
        artifact = Artifact(image=built, layout=artifacts.layout().path, lock=result.lock if result else None)
    standing = _ensured(target, artifact, settings)
    return Prepared(
        target=target,
        settings=settings,
        placed=standing,
        image=artifact.image,
        lock=result,
        prints=artifacts.fingerprints(result.lock) if result else None,
        mpi=_interface(target, standing, artifact.image, settings),
        unenforced=_unenforced(target, settings),
    )


def _interface(target: Target, placed: Placed, image: BuiltImage | None, settings: ClusterConfig) -> str | None:
    asked = Resources(nodes=settings.nodes, backend_options=settings.backend_options)
    if asked.ranks == 1:
        return None
    on_login = settings.sif_build == "login"
    run = target.transport.run if on_login else _run_by_job(target, settings, "looks for the image's MPI")
    return mpi.choose(target, placed, image, asked.mpi, run)


def _ensured(target: Target, artifact: Artifact, settings: ClusterConfig) -> Placed:
    """Put what cannot change under its name in place, unless it was seen there a moment ago; a SIF's path can."""
    name = artifact.image.config_digest if artifact.image else artifact.lock.digest if artifact.lock else None
    known = target.standing.get(name) if name else None
    if known is not None and time.monotonic() - known[0] < _TRUSTED_SECONDS:
        return known[1]
    placed = _ensured_now(target, artifact, settings)
    if name:
        target.standing[name] = time.monotonic(), placed
    return placed


def _ensured_now(target: Target, artifact: Artifact, settings: ClusterConfig) -> Placed:
    try:
        if settings.sif_build == "job":
            return _ensured_by_job(target, artifact, settings)
        return target.runtime.ensure(artifact, target.transport, target.site, progress=progress)
    except RuntimeUnavailable as error:
        if settings.sif_build != "auto":
            raise
        say(f"{error.message}; sif_build is auto, so a compute node is asked")
        return _ensured_by_job(target, artifact, settings)
    except ImageUnavailable:
        built_here = artifact.image is not None and artifact.layout is not None and artifact.image.reference is None
        if target.runtime.needs is not Need.OCI or not built_here or artifact.image is None:
            raise
    artifacts.load_into_engine(artifact.image, target.runtime_name, target.transport, progress=progress)
    return target.runtime.ensure(artifact, target.transport, target.site, progress=progress)


def _ensured_by_job(target: Target, artifact: Artifact, settings: ClusterConfig) -> Placed:
    """Put a SIF in place where login nodes do not start Apptainer."""
    runtime = target.runtime_on_nodes(_run_by_job(target, settings, "sees to the SIF"))
    return runtime.ensure(artifact, target.transport, target.site, progress=progress)


def _run_by_job(target: Target, settings: ClusterConfig, what: str) -> Callable[[str], Completed]:
    return lambda script: buildjob.run(target, settings, script, what=what, say=say)


def _lock_of_host(target: Target, image: Image) -> LockResult:
    baked = image.base or image.files or image.variables or image.apt or image.dockerfile
    if image.source is ImageSource.REGISTRY or baked:
        raise ConfigError(
            f"target {target.name}: runtime {target.runtime_name!r} makes and starts no images",
            remedy="Use runtime: docker, podman or apptainer; variables may go into environment_variables.",
        )
    found = artifacts.source(image, Path.cwd())
    here = installed.interpreter()
    python = here.version if target.here else here.minor
    result = artifacts.lock(found, target.platform, python, requirements=image.requirements, progress=progress)
    if artifacts.fingerprints(result.lock) is None:
        _say_size("environment", result)
        artifacts.fetch(result.lock, progress)
    return result


def _image(target: Target, image: Image, settings: ClusterConfig) -> tuple[LockResult | None, BuiltImage]:
    registry = target.registry
    own = registry or (image.location if image.source is ImageSource.REGISTRY else image.base or settings.base)
    host = registry_of(own) if own and target.insecure_registry else None
    insecure = (host,) if host else ()
    minor = installed.interpreter().minor
    if image.source is ImageSource.REGISTRY:
        found = artifacts.existing(image.location or "", minor=minor, machine=target.machine, insecure=insecure)
        return None, found
    if target.on_cluster:
        registry = target.place.repository  # before anything is built
    if registry:
        _check_repository(registry, target.name)
    base = bases.of(image, settings.base, minor=minor, machine=target.machine, insecure=insecure, progress=progress)
    source = artifacts.source(image, Path.cwd())
    python = base.python(minor)[1].version
    result = artifacts.lock(source, base.platform, python, requirements=image.requirements, progress=progress)
    order = artifacts.recipe(image, result.lock, base)
    built = artifacts.build(order, progress=progress, before=lambda: _say_size("image", result)).image
    if registry:
        built = artifacts.pushed(built, registry, insecure=insecure, progress=progress)
    return result, built


def _check_repository(registry: str, target: str) -> None:
    """Refuse a setting that no image can be pushed to before one is made."""
    with contextlib.suppress(BadReference):
        if Reference.parse(f"{registry}:tag").tag and "/" in registry:
            return
    raise BadReference(
        f"target {target}: registry {registry!r} is no repository", remedy="Write registry.example.org/me/jobs, no tag."
    )


def _refuse_other_python(image: BuiltImage) -> None:
    """Refuse before anything is queued what the worker would refuse."""
    here = installed.interpreter().minor
    if image.python is not None and image.python != here:
        raise EnvironmentMismatch(
            f"the image {image.reference or image.config_digest} has Python {image.python}, and this is {here}",
            remedy="Call from the same minor version, or let clustrix build the image.",
        )


def _say_size(what: str, result: LockResult) -> None:
    """Tell that something is made that takes a while."""
    number = len(result.lock.packages)
    say(f"making the {what} of {number} package{'s' if number != 1 else ''}, once")


_said: set[str] = set()


def say(text: str) -> None:
    """Tell whoever watches, once."""
    if text not in _said:
        _said.add(text)
        print(f"clustrix: {text}", file=sys.stderr, flush=True)
