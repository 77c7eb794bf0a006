"""What suites of other folders need to run on a test bed: a login, and an image that jobs run in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clustrix.model.image import BuiltImage
from clustrix.oci.layout import Layout
from clustrix.runtimes.base import Artifact
from clustrix.transports.ssh import SSH

if TYPE_CHECKING:
    from pathlib import Path

    from .beds import Bed


def ssh(bed: Bed, directory: Path, *, port: int | None = None) -> SSH:
    """Reach a bed with its key, through ``port`` of a proxy where one is given."""
    config = directory / "ssh_config"
    known = directory / "known_hosts"
    host_key = bed.known_hosts.read_text().split(maxsplit=1)[1]
    known.write_text("".join(f"[{bed.host}]:{number} {host_key}\n" for number in {bed.port, port or bed.port}))
    config.write_text(
        f"Host *\n  User {bed.user}\n  IdentityFile {bed.key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {known}\n"
        "  GlobalKnownHostsFile none\n"
    )
    return SSH(bed.host, port=port or bed.port, config_file=str(config))


def artifact(layout: Path) -> Artifact:
    """Describe the only image of a layout."""
    opened = Layout(layout)
    found = opened.resolve()
    image = BuiltImage(
        config_digest=opened.manifest(found.digest).config.digest,
        manifest_digest=found.digest,
        platform="linux/amd64",
    )
    return Artifact(image=image, layout=layout)
