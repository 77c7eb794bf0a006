import pytest

from clustrix.errors import BadReference
from clustrix.oci.reference import Reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ubuntu", ("docker.io", "library/ubuntu", "latest", None)),
        ("me/tool:2", ("docker.io", "me/tool", "2", None)),
        ("docker.io/ubuntu", ("docker.io", "library/ubuntu", "latest", None)),
        ("index.docker.io/me/tool", ("docker.io", "me/tool", "latest", None)),
        ("localhost/a", ("localhost", "a", "latest", None)),
        ("localhost:5000/a/b/c:v1", ("localhost:5000", "a/b/c", "v1", None)),
        ("127.0.0.1:5000/a", ("127.0.0.1:5000", "a", "latest", None)),
        ("[::1]:5000/a", ("[::1]:5000", "a", "latest", None)),
        ("Registry/a", ("Registry", "a", "latest", None)),
        (f"ghcr.io/a/b@{DIGEST}", ("ghcr.io", "a/b", None, DIGEST)),
        (f"ghcr.io/a/b:1@{DIGEST}", ("ghcr.io", "a/b", "1", DIGEST)),
        ("ghcr.io/a__b/c-d.e_f", ("ghcr.io", "a__b/c-d.e_f", "latest", None)),
    ],
)
def test_parse_fills_in_and_str_gives_it_back(text, parts):
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == parts
    assert Reference.parse(str(reference)) == reference
    assert reference.selector == (parts[3] or parts[2])


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "a:",
        "a@",
        "A/b:c/d",
        "ghcr.io/Upper/case",
        "a//b",
        "a/",
        "-a",
        "a b",
        "a\nb",
        "a:b:c",
        "ghcr.io/a@sha256:12",
        "ghcr.io/a@md5:" + "a" * 32,
        "ghcr.io/a@sha256:" + "A" * 64,
        "a:" + "t" * 129,
        "a:.dot",
        "https://ghcr.io/a",
        "host.io:port/a",
        "ghcr.io/" + "a" * 256,
        "ghcr.io/../../etc",
        "ubuntu\n",
        "ubuntu:latest\n",
    ],
)
def test_garbage_is_refused_by_name(text):
    with pytest.raises(BadReference) as caught:
        Reference.parse(text)
    assert repr(text) in str(caught.value)
    assert caught.value.remedy


def test_pinning_drops_the_tag():
    assert str(Reference.parse("ghcr.io/a/b:1").with_digest(DIGEST)) == f"ghcr.io/a/b@{DIGEST}"
