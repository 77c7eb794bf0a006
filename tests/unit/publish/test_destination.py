import pytest

from clustrix.errors import BadReference
from clustrix.publish import destination
from clustrix.publish.archive import Archive
from clustrix.publish.engine import Engine
from clustrix.publish.layout import LayoutDirectory
from clustrix.publish.registry import Registry
from clustrix.publish.sif import Sif


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("ghcr.io/me/app:1", Registry, "ghcr.io/me/app:1"),
        ("localhost:5000/app", Registry, "localhost:5000/app:latest"),
        ("docker://ghcr.io/me/app", Registry, "ghcr.io/me/app:latest"),  # skopeo's way
        ("me/app", Registry, "docker.io/me/app:latest"),
        ("oci:out", LayoutDirectory, "out latest"),
        ("oci:/a/b:v1", LayoutDirectory, "/a/b v1"),
        ("oci:C:\\out", LayoutDirectory, "C:\\out latest"),
        ("oci:a.b/c:d/e", LayoutDirectory, "a.b/c:d/e latest"),
        ("oci-archive:/a/out.tar", Archive, "/a/out.tar latest"),
        ("oci-archive:out.tar:v1", Archive, "out.tar v1"),
        ("out.sif", Sif, "out.sif"),
        ("a.io/b/out.sif", Sif, "a.io/b/out.sif"),
        ("sif:C:\\out:1", Sif, "C:\\out:1"),
        ("docker://a.io/out.sif", Registry, "a.io/out.sif:latest"),
        ("oci:out.sif", LayoutDirectory, "out.sif latest"),
        ("docker:app", Engine, "app latest"),
        ("docker-daemon:localhost:5000/app", Engine, "localhost:5000/app latest"),
        ("docker:me/app:1", Engine, "me/app 1"),
    ],
)
def test_what_it_reads(text, kind, said):
    found = destination(text)
    assert type(found) is kind
    if kind is Registry:
        assert str(found.reference) == said
    elif kind is Sif:
        assert str(found.path) == said
    else:
        assert f"{found.repository if kind is Engine else found.path} {found.tag}" == said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app",
        "podman:app",
        "oci:",
        "sif:",
        "docker:",
        "docker:UPPER",
        "oci-dir:x",
        "ghcr.io/Me/app",
        "https://ghcr.io/me/app",
        "ghcr.io/me/app@sha256:" + "1" * 64,
        "docker:app@sha256:" + "1" * 64,
    ],
)
def test_what_it_refuses(text):
    with pytest.raises(BadReference) as caught:
        destination(text)
    assert text.removeprefix("docker:") in str(caught.value)
    assert caught.value.remedy or text.endswith(":")
