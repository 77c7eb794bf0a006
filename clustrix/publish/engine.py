"""Images in a Docker or Podman engine, loaded through the docker SDK without a file in between."""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from clustrix.errors import BadReference, DiskFull, ImageError, MissingExtra, RuntimeUnavailable
from clustrix.model.progress import SILENT
from clustrix.oci.archive import docker_archive
from clustrix.oci.reference import Reference
from clustrix.publish.base import Published

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.model.image import BuiltImage
    from clustrix.model.progress import Progress
    from clustrix.oci.layout import Layout

_SECONDS = 600  # unpacking a big layer takes an engine a while, in which it says nothing


class Engine:
    """Load as ``NAME[:tag]`` into the engine of DOCKER_HOST, which may be elsewhere; what it has it only names."""

    def __init__(self, location: str) -> None:
        if find_spec("docker") is None:
            raise MissingExtra("docker", "docker", needed_for="the destination docker:")
        reference = Reference.parse(location)
        if reference.digest:
            raise BadReference(f"an engine cannot load under a digest: {location!r}", remedy="Name a tag.")
        path, colon, tag = location.rpartition(":")
        # As written: an engine does not say docker.io/library, and shows what it was given.
        self.repository, self.tag = (path, tag) if colon and "/" not in tag else (location, "latest")

    def publish(self, image: BuiltImage, layout: Layout, *, progress: Progress = SILENT) -> Published:
        """Load an image.

        Raises `RuntimeUnavailable` without an engine, `ImageError` in the engine's words, `DiskFull`.
        """
        import docker
        from docker.errors import DockerException, ImageNotFound
        from requests import RequestException

        name = f"{self.repository}:{self.tag}"
        try:
            with closing(docker.from_env(timeout=_SECONDS)) as client:
                try:
                    client.images.get(image.config_digest).tag(self.repository, self.tag)
                    return Published(reference=f"docker:{name}", uploaded_bytes=0, unchanged=True)
                except ImageNotFound:
                    return self._load(client, image, layout, name, progress)
        except (DockerException, RequestException) as error:
            if "no space left" in str(error):
                raise DiskFull(
                    f"the engine has no space for {name}", remedy="Free some: docker system prune"
                ) from error
            if _answered(error):
                raise ImageError(f"the engine cannot load {name}: {error}") from error
            raise RuntimeUnavailable(
                f"no Docker or Podman engine answers: {error}",
                remedy="Start one, or name it in DOCKER_HOST; oci:DIR and a registry need none.",
            ) from error

    def _load(self, client: Any, image: BuiltImage, layout: Layout, name: str, progress: Progress) -> Published:  # noqa: ANN401
        manifest = layout.describe(image.manifest_digest)
        bar = progress.start(f"load {name}", sum(blob.size for blob in layout.manifest(manifest.digest).blobs))
        sent = 0

        def pieces() -> Iterator[bytes]:
            nonlocal sent
            for piece in docker_archive(layout, manifest, name):
                yield piece
                sent += len(piece)
                bar.advance(len(piece))

        try:
            client.images.load(pieces())
        finally:
            bar.close()
        client.images.get(name)
        return Published(reference=f"docker:{name}", uploaded_bytes=sent)


def _answered(error: Exception) -> bool:
    """Tell an engine that refuses from one that is not there."""
    from docker.errors import APIError, ImageLoadError

    return isinstance(error, (APIError, ImageLoadError))
