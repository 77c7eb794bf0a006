"""Apptainer on a login node: SIFs made there, once, and what a command sees inside."""

from __future__ import annotations

import concurrent.futures
import contextlib
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from clustrix.errors import DiskFull, ImageUnavailable, RuntimeUnavailable
from clustrix.model.paths import SitePaths
from clustrix.model.progress import SILENT
from clustrix.runtimes.apptainer import Apptainer
from clustrix.runtimes.base import Artifact
from tests.conformance.runtimes import Room, Runtimes

from . import sites
from .proxies import Proxy, proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clustrix.transports.ssh import SSH

    from .beds import Bed
    from .servers import Registry

pytestmark = pytest.mark.live


@pytest.fixture
def host(ssh_host: Bed, tmp_path: Path) -> Iterator[SSH]:
    with contextlib.closing(sites.ssh(ssh_host, tmp_path)) as transport:
        yield transport


@pytest.fixture
def room(host: SSH, base_layout: Path) -> Room:
    return Room(Apptainer(), host, SitePaths("/home/alice/a root"), sites.artifact(base_layout))


@pytest.mark.column("ssh host")
class TestApptainer(Runtimes):
    """The suite of every runtime."""


def count(host: SSH, place: str) -> int:
    return int(host.run(f"find {shlex.quote(place)} -maxdepth 1 -type f -name '*.sif' | wc -l").stdout)


INSIDE = """
import os
print(sorted(os.environ), os.listdir(os.path.expanduser('~')), os.listdir('/tmp'), os.path.exists('/opt/secret'))
print(os.environ['TMPDIR'])
open('/tmp/large', 'wb').write(bytes(100_000_000))
"""


def test_nothing_of_the_host_is_seen(room: Room, ssh_host: Bed) -> None:
    packages = "/home/alice/.local/lib/python3.11/site-packages"
    ssh_host.root(
        f"mkdir -p {packages} /opt/secret && echo 'raise SystemExit(9)' >{packages}/usercustomize.py;"
        "chown -R alice: /home/alice/.local"
    )
    argv = room.wrap(["-c", INSIDE])
    leaks = "SECRET=1 APPTAINER_BIND=/opt/secret APPTAINERENV_LEAK=1 PYTHONPATH=/home/alice"
    done = room.transport.run(
        f"{room.prelude()}env {leaks} {shlex.join(argv)}; ls -A ${{TMPDIR:-/tmp}} | grep clustrix-"
    )
    assert done.stderr == b""
    names, rest = done.stdout.decode().split("]", 1)
    assert not {"'SECRET'", "'APPTAINERENV_LEAK'", "'LEAK'", "'PYTHONPATH'"} & set(names.strip("[").split(", "))
    assert rest == " [] [] False\n/tmp\n"  # and no scratch is left behind


def test_a_sif_is_made_once(room: Room, host: SSH) -> None:
    site = SitePaths("/home/alice/once")
    clients = [Room(Apptainer(), host, site, room.artifact) for _ in range(3)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        places = {placed.location for placed in pool.map(lambda client: client.ensure(), clients)}
    (sif,) = places
    assert count(host, site.sifs) == 1
    left = host.run(f"ls -A {site.sifs}; sha256sum {sif}; cat {sif}.digest").stdout.decode().split()
    name = sif.rpartition("/")[2]
    assert left[:2] == [name, f"{name}.digest"]
    assert left[-1] == f"sha256:{left[2]}"
    first = host.run(f"stat -c %i {sif}").stdout
    assert clients[0].ensure().location == sif
    assert host.run(f"stat -c %i {sif}").stdout == first


def test_an_interrupted_maker_is_no_obstacle(room: Room, host: SSH) -> None:
    site = SitePaths("/home/alice/stale")
    digest = room.artifact.image.config_digest.removeprefix("sha256:")
    host.run(f"mkdir -p {site.sifs}/{digest}.sif.lock && touch -d '10 minutes ago' {site.sifs}/{digest}.sif.lock")
    assert Room(Apptainer(), host, site, room.artifact).ensure().location == f"{site.sifs}/{digest}.sif"


class Cutting:
    """Cut the line once, shortly after the script that makes the SIF has been sent."""

    def __init__(self, transport: SSH, line: Proxy) -> None:
        self.address = transport.address
        self.put = transport.put
        self.cuts = 0
        self._transport = transport
        self._line = line

    def run(self, script: str, **options: object) -> object:
        if "layout/index.json" not in script or self.cuts:
            return self._transport.run(script, **options)
        self.cuts += 1
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(self._transport.run, script, **options)
            concurrent.futures.wait([running], timeout=1.0)
            self._line.cut()
            return running.result()


def test_a_cut_while_it_is_made(room: Room, ssh_host: Bed, tmp_path: Path) -> None:
    site = SitePaths("/home/alice/cut")
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(proxy((ssh_host.host, ssh_host.port)))
        transport = stack.enter_context(contextlib.closing(sites.ssh(ssh_host, tmp_path, port=line.port)))
        cutting = Cutting(transport, line)
        placed = Room(Apptainer(), cutting, site, room.artifact).ensure()
        assert cutting.cuts == 1
        assert transport.run(f"[ -f {placed.location} ] && ls -A {site.sifs} | wc -l").stdout.strip() == b"2"


def test_an_image_file_is_used_as_it_is(room: Room, host: SSH, tmp_path: Path) -> None:
    made = room.ensure()
    there = Apptainer().ensure(Artifact(sif=made.location), host, room.site, progress=SILENT)
    assert (there.location, there.interpreter) == (made.location, "/usr/bin/python3")
    here = tmp_path / "mine.sif"
    host.get(made.location, here)
    travelled = Apptainer().ensure(Artifact(sif=str(here)), host, SitePaths("/home/alice/own"), progress=SILENT)
    assert travelled.location.startswith("/home/alice/own/sifs/")
    assert Room(Apptainer(), host, room.site, Artifact(sif=travelled.location)).python("print(6 * 7)").stdout == b"42\n"
    with pytest.raises(ImageUnavailable, match=r"there is no /nowhere/x\.sif"):
        Apptainer().ensure(Artifact(sif="/nowhere/x.sif"), host, room.site, progress=SILENT)


@pytest.mark.proves("image unavailable", "ssh host", refused="ImageUnavailable")
def test_an_image_that_is_only_in_a_registry(
    room: Room, host: SSH, bridge_registry: Registry, base_reference: str
) -> None:
    image = room.artifact.image
    reference = base_reference.replace(base_reference.partition("/")[0], bridge_registry.host)
    lonely = Artifact(image=replace(image, reference=reference))
    placed = Apptainer().ensure(lonely, host, SitePaths("/home/alice/pulled"), progress=SILENT)
    assert host.run(f"[ -f {placed.location} ]").returncode == 0
    absent = Artifact(image=replace(image, reference=reference.replace("base:", "nothing:")))
    with pytest.raises(ImageUnavailable, match="nothing@sha256"):
        Apptainer().ensure(absent, host, SitePaths("/home/alice/absent"), progress=SILENT)
    with pytest.raises(ImageUnavailable, match="neither here in full nor in a registry"):
        Apptainer().ensure(Artifact(image=image), host, SitePaths("/home/alice/none"), progress=SILENT)


def test_a_full_disk(room: Room, host: SSH, ssh_host: Bed) -> None:
    ssh_host.root(
        "mkdir -p /tiny && mount -t tmpfs -o size=45m,mode=777 tmpfs /tiny"
    )  # the blobs fit, the SIF does not
    site = SitePaths("/tiny/root")
    with pytest.raises(DiskFull, match="no space left"):
        Apptainer().ensure(room.artifact, host, site, progress=SILENT)
    assert host.run(f"ls -A {site.sifs}").stdout == b""


def test_no_user_namespaces_and_no_apptainer(room: Room, host: SSH, ssh_host: Bed) -> None:
    ssh_host.root(
        "mkdir -p /opt/odd && printf '#!/bin/sh\\necho unshare: Operation not permitted; exit 1\\n' >/opt/odd/unshare"
        "&& chmod 755 /opt/odd/unshare"
    )
    inner = Room(Apptainer(), _With(host, "PATH=/opt/odd:$PATH"), room.site, room.artifact)
    with pytest.raises(RuntimeUnavailable, match=r"installed without setuid.*Operation not permitted"):
        inner.ensure()
    ssh_host.root("mkdir -p /opt/few && for c in sed tail bash; do ln -sf /usr/bin/$c /opt/few/; done")
    without = Room(Apptainer(), _With(host, "PATH=/opt/few"), room.site, room.artifact)
    ssh_host.root("mv /usr/bin/apptainer /usr/bin/hidden")
    try:
        with pytest.raises(RuntimeUnavailable, match="neither apptainer nor singularity"):
            without.ensure()
    finally:
        ssh_host.root("mv /usr/bin/hidden /usr/bin/apptainer")


class _With:
    """Run every script behind a first line."""

    def __init__(self, transport: SSH, line: str) -> None:
        self._transport = transport
        self._line = line
        self.address = transport.address

    def run(self, script: str, **options: object) -> object:
        return self._transport.run(f"{self._line}\n{script}", **options)
