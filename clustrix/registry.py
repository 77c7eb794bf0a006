"""Every plug-in: name -> where its class is, and which pip extra it needs.

Adding one is a line here. Other packages add theirs as entry points of the groups ``clustrix.backends``,
``clustrix.schedulers``, ``clustrix.runtimes`` and ``clustrix.transports``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from clustrix.errors import MissingExtra, UnknownOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.metadata import EntryPoint


@dataclass(frozen=True, slots=True)
class PlugIn:
    """Say where a plug-in's class is (``module:Class``) and what must be installed for it."""

    path: str
    extra: str | None = None
    package: str | None = None


PLUG_INS: Mapping[str, Mapping[str, PlugIn]] = {
    "backends": {
        "kubernetes": PlugIn("clustrix.backends.kubernetes:Kubernetes", extra="kubernetes", package="kubernetes"),
    },
    "schedulers": {
        "htcondor": PlugIn("clustrix.schedulers.htcondor:Htcondor"),
        "pbs": PlugIn("clustrix.schedulers.pbs:Pbs"),
        "process": PlugIn("clustrix.schedulers.process:Process"),
        "sge": PlugIn("clustrix.schedulers.sge:Sge"),
        "slurm": PlugIn("clustrix.schedulers.slurm:Slurm"),
        "torque": PlugIn("clustrix.schedulers.torque:Torque"),
    },
    "runtimes": {
        "apptainer": PlugIn("clustrix.runtimes.apptainer:Apptainer"),
        "docker": PlugIn("clustrix.runtimes.docker:Docker"),
        "podman": PlugIn("clustrix.runtimes.docker:Podman"),
        "pod": PlugIn("clustrix.runtimes.pod:Pod"),
        "venv": PlugIn("clustrix.runtimes.venv:Venv"),
    },
    "stores": {
        "podlog": PlugIn("clustrix.stores.podlog:PodLog"),
        "registry": PlugIn("clustrix.stores.registry:RegistryStore"),
    },
    "transports": {
        "local": PlugIn("clustrix.transports.local:Local"),
        "ssh": PlugIn("clustrix.transports.ssh:SSH"),
        "openssh": PlugIn("clustrix.transports.openssh:OpenSSH"),
    },
    "publish": {
        "archive": PlugIn("clustrix.publish.archive:Archive"),
        "engine": PlugIn("clustrix.publish.engine:Engine", extra="docker", package="docker"),
        "layout": PlugIn("clustrix.publish.layout:LayoutDirectory"),
        "registry": PlugIn("clustrix.publish.registry:Registry"),
        "sif": PlugIn("clustrix.publish.sif:Sif"),
    },
}


@cache
def names(kind: str) -> tuple[str, ...]:
    """List the plug-ins of one kind, built in and installed."""
    found = _entry_points(kind)
    return tuple(sorted({*PLUG_INS[kind], *(entry.name for entry in found)}))


def check(kind: str, name: str) -> None:
    """Refuse a name that no plug-in has, without importing any; UnknownOption."""
    if name not in PLUG_INS[kind] and name not in names(kind):
        raise UnknownOption(kind.removesuffix("s"), name, names(kind))


def _entry_points(kind: str) -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # a slow import, for what few have

    return entry_points(group=f"clustrix.{kind}")


@cache
def load(kind: str, name: str) -> type:
    """Import the class of a plug-in.

    Raises:
        UnknownOption: there is none of that name.
        MissingExtra: its package is not installed; names the pip command.

    """
    plug_in = PLUG_INS[kind].get(name)
    if plug_in is None:
        for entry in _entry_points(kind):
            if entry.name == name:
                installed: type = entry.load()
                return installed
        raise UnknownOption(kind.rstrip("s"), name, names(kind))
    if plug_in.package and plug_in.extra:
        from importlib.util import find_spec

        if find_spec(plug_in.package) is None:
            raise MissingExtra(plug_in.package, plug_in.extra, needed_for=f"{kind.rstrip('s')} {name!r}")
    module, _, attribute = plug_in.path.partition(":")
    built_in: type = getattr(importlib.import_module(module), attribute)
    return built_in
