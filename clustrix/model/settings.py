"""The table of all settings: configuration files, environment variables, decorator options and the reference read it.

A field of `ClusterConfig` is a setting; its metadata says how it is read, who may give it and what it does.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from clustrix.errors import ConfigError
from clustrix.model.resources import Mount, parse_memory, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

Scope = Literal["call", "target", "host", "client"]
"""Who may give a setting: ``call`` anybody, ``target`` and ``host`` (how it is reached) a target or the top of a file,
``client`` the top alone."""
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^/].*)?")
"""The name of a PersistentVolumeClaim, and perhaps a directory in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Describe one row of the table; ``parse`` takes what a file or a call holds, or the text of a variable."""

    name: str
    kind: str
    parse: Callable[[object], Any]
    default: object
    doc: str
    scope: Scope
    aliases: tuple[str, ...]
    secret: bool

    @property
    def variable(self) -> str:
        """Name the environment variable."""
        return f"CLUSTRIX_{self.name.upper()}"


def _text(value: object) -> str:
    if isinstance(value, (str, Path)) and str(value):
        return str(value)
    raise TypeError


def _path(value: object) -> str:
    return str(Path(_text(value)).expanduser())


def _count(value: object, least: int = 0) -> int:
    if isinstance(value, str):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise TypeError


def _positive(value: object) -> int:
    return _count(value, 1)


def _switch(value: object) -> bool:
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(value, bool):
        return value
    return known[_text(value).lower()]


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",") if word.strip()]
    if isinstance(value, (list, tuple)):
        return tuple(_text(word) for word in value)
    raise TypeError


def _table(value: object) -> dict[str, object]:
    if isinstance(value, str):
        value = json.loads(value)
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise TypeError


def _variables(value: object) -> dict[str, str]:
    return {name: _scalar(text) for name, text in _table(value).items()}


def _scalar(value: object) -> str:
    # YAML turns 8 and true into other types; what a job sees is what was written, as far as that is unambiguous.
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise TypeError


def _mounts(value: object) -> tuple[Mount, ...]:
    if isinstance(value, dict):
        value = [f"{source}:{target}" for source, target in value.items()]
    if isinstance(value, (list, tuple)) and all(isinstance(item, Mount) for item in value):
        return tuple(value)
    return tuple(_mount(word) for word in _words(value))


def _mount(text: str) -> Mount:
    source, *rest = text.split(":")
    target = rest[0] if rest and rest[0] else source
    mode = rest[1:]
    # What does not begin with a slash is the name of a claim.
    named = _CLAIM.fullmatch(source) and rest
    if mode not in ([], ["ro"], ["rw"]) or not (source.startswith("/") or named) or not target.startswith("/"):
        raise ConfigError(
            f"not a mount: {text!r}",
            remedy='Write it as "/data", "/data:/input" or "/data:/input:ro"; on Kubernetes as "claim:/data" or '
            '"claim/directory:/data:ro".',
        )
    return Mount(source, target, read_only=mode == ["ro"])


def _image(value: object) -> object:
    from clustrix.model.image import Image

    return value if isinstance(value, Image) else _text(value)


_KINDS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "text": (_text, "a text"),
    "path": (_path, "a path"),
    "number": (_positive, "a whole number of at least 1"),
    "count": (_count, "a whole number of at least 0"),
    "switch": (_switch, "true or false"),
    "memory": (parse_memory, "an amount of memory"),
    "time": (parse_time, "a length of time"),
    "list": (_words, "a list of texts"),
    "mounts": (_mounts, 'a list of mounts, "/data:/input:ro"'),
    "variables": (_variables, "names and their texts"),
    "table": (_table, "names and their values"),
    "image": (_image, "a reference, a .sif path or an Image"),
}


def _setting(
    kind: str,
    doc: str,
    default: object = None,
    *,
    scope: Scope = "call",
    aliases: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:  # noqa: ANN401 - what dataclasses.field gives, too
    metadata = {"kind": kind, "doc": doc, "scope": scope, "aliases": aliases, "secret": secret}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Hold every setting of one target, and under ``provenance`` where each value came from."""

    # Where
    target: str | None = _setting("text", "The target that calls go to when they do not name one.", scope="client")
    backend: str = _setting(
        "text",
        "What runs jobs: `local` (this machine), `ssh` (processes of another machine), or a scheduler or cluster by "
        "its name, `slurm` for one. A name that does not exist is answered with those that do.",
        "local",
        scope="host",
        aliases=("cluster_type",),
    )
    transport: str | None = _setting(
        "text",
        "How the target is reached: `local`, `ssh`, or `openssh` (the system's own client, for two-factor logins). "
        "Where there is a `host` it is `ssh`, otherwise `local`.",
        scope="host",
    )
    runtime: str | None = _setting(
        "text",
        "What starts the environment: `venv`, `docker`, `podman` or `apptainer`. On this machine it is `docker` where "
        "an engine answers and `venv` otherwise, elsewhere `apptainer`.",
        scope="target",
    )
    host: str | None = _setting(
        "text", "The login node, by name or by its alias in `~/.ssh/config`.", scope="host", aliases=("cluster_host",)
    )
    port: int | None = _setting("number", "The port of its SSH server.", scope="host", aliases=("cluster_port",))
    username: str | None = _setting("text", "The account there.", scope="host")
    password: str | None = _setting("text", "Its password, where keys are not accepted.", scope="host", secret=True)
    key_file: str | None = _setting("path", "The private key, beside those of the agent.", scope="host")
    ssh_config: str | None = _setting(
        "path", "The OpenSSH configuration to read, instead of `~/.ssh/config`.", scope="host"
    )
    root: str | None = _setting(
        "text",
        "The directory of the target where everything of clustrix lies; compute nodes must see it. "
        "Where it is not set: `~/.clustrix` there; on this machine below the state directory.",
        scope="host",
        aliases=("remote_work_dir",),
    )

    # A cluster of Kubernetes
    context: str | None = _setting(
        "text", "The context of the kubeconfig. Unset: the current one; inside a pod its service account.", scope="host"
    )
    namespace: str | None = _setting("text", "The namespace of the jobs. Unset: that of the context.", scope="host")
    kubeconfig: str | None = _setting(
        "path", "The kubeconfig. Unset: `$KUBECONFIG`, else `~/.kube/config`.", scope="host"
    )
    store: str | None = _setting(
        "text",
        "How outcomes come back that are too large for a pod's status: `registry`, as artifacts in `registry`, or "
        "`podlog`, in the log of a container of its own, 6 MiB a pod. Unset: what the chart says, else `registry`.",
        scope="target",
    )
    courier: bool | None = _setting(
        "switch",
        "Keep credentials and keys from user code: a container of its own in each pod sends the outcomes. "
        "Unset: what the chart says, else no.",
        scope="target",
    )

    # The environment
    image: object = _setting(
        "image", "What a call runs in: an image reference, a `.sif` path or an `Image`. Unset: what `environment` says."
    )
    environment: str = _setting(
        "text",
        "What is locked and baked: `interpreter`, what is installed beside it; a `uv.lock`, `pylock.toml`, "
        "`requirements.txt` or a script with inline metadata (PEP 723); or `auto`, the first of these files in the "
        "working directory or above it, else the interpreter.",
        "interpreter",
    )
    base: str | None = _setting(
        "text", "The base image: a reference, or `oci:DIRECTORY`.", scope="target", aliases=("base_image",)
    )
    registry: str | None = _setting(
        "text", "The repository that built images are pushed to, `registry.example.org/me/jobs`.", scope="target"
    )
    insecure_registry: bool = _setting(
        "switch",
        "Speak plain HTTP to the target's own registry: that of `registry`, else of `image`, else of `base`; "
        "to no other, not even of this machine.",
        default=False,
        scope="target",
    )
    sif_build: str = _setting(
        "text",
        "Where SIFs are made: `login`, on the login node; `job`, on a compute node, by a batch job of its own, where "
        "login nodes forbid or lack Apptainer; or `auto`, by a job only if the login node cannot.",
        "login",
        scope="target",
    )
    pod_registry: str | None = _setting(
        "text", "The repository of `registry` as pods and nodes reach it, where that is another name.", scope="target"
    )
    platform: str | None = _setting(
        "text", "The platform of the images, `linux/amd64` or `linux/arm64`. Unset: this machine's.", scope="target"
    )

    # One task
    cores: int = _setting("number", "Cores of one task; numerical libraries get as many threads.", 1)
    memory: int | None = _setting("memory", 'Memory of one task, `"16GB"`; units are binary.')
    time: timedelta | None = _setting("time", 'The time limit, `"02:00:00"`, `"90m"`.')  # noqa: RUF009 - a field
    gpus: int = _setting("count", "Accelerators of one task.", 0)
    gpu_type: str | None = _setting("text", "Their type, as the site names it.")
    nodes: int = _setting("number", "Nodes of one task.", 1)
    partition: str | None = _setting("text", "The partition (SLURM).")
    queue: str | None = _setting(
        "text", "The queue, where the scheduler calls it so; on SLURM the partition, on Kubernetes that of Kueue."
    )
    account: str | None = _setting("text", "Who pays.")
    qos: str | None = _setting("text", "The quality of service.")
    constraint: str | None = _setting("text", "Features that nodes must have.")
    modules: tuple[str, ...] = _setting("list", "Environment modules loaded before the runtime starts.", ())
    environment_variables: Mapping[str, str] = _setting(
        "variables", "Variables that the function sees. They travel with the arguments and appear in no script.", {}
    )
    mounts: tuple[Mount, ...] = _setting(
        "mounts", "Directories of the target that the job sees; on Kubernetes PersistentVolumeClaims.", ()
    )
    backend_options: Mapping[str, object] = _setting("table", "Extras of the scheduler, by its own names.", {})

    # How it runs
    max_parallel: int | None = _setting(
        "number",
        "The most tasks of one map that run at a time. Unset: 32 on a scheduler or cluster, elsewhere what the cores "
        "allow.",
    )
    retries: int = _setting(
        "count", "Start a call again so often when the machine failed under it, it was preempted, or it was lost.", 0
    )
    async_submit: bool = _setting("switch", "A plain call gives a Job at once, as `.submit` does.", default=False)

    provenance: Mapping[str, str] = field(default_factory=dict, compare=False)


@cache
def settings() -> Mapping[str, Setting]:
    """Give the table, by name and in its order."""
    rows = {}
    for row in fields(ClusterConfig):
        if row.name == "provenance":
            continue
        default = {} if row.default is MISSING else row.default
        about = cast("dict[str, Any]", dict(row.metadata))
        kind = about["kind"]
        rows[row.name] = Setting(name=row.name, default=default, parse=_reader(row.name, kind), **about)
    return rows


def _reader(name: str, kind: str) -> Callable[[object], Any]:
    parse, meaning = _KINDS[kind]

    def read(value: object) -> Any:  # noqa: ANN401 - the type is the row's
        try:
            return parse(value)
        except (TypeError, ValueError, KeyError):
            raise ConfigError(f"{name} must be {meaning}, not {value!r}") from None

    return read


@cache
def spellings() -> Mapping[str, str]:
    """Give every accepted name of every setting: the name itself and its aliases -> the name."""
    return {word: row.name for row in settings().values() for word in (row.name, *row.aliases)}
