"""What must be so for jobs to run in a namespace, checked one by one: rows as `clustrix doctor` shows them."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from clustrix.errors import AccessDenied, ClustrixError
from clustrix.kubernetes import names, options, template
from clustrix.kubernetes.connection import RIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clustrix.kubernetes.place import Place

    Row = tuple[str, str, str, str | None]

_OLDEST = (1, 29)
"""Since when containers beside the main one may begin before it and end after it."""
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def examine(place: Place) -> Iterator[Row]:
    """Check the server, the namespace, every right, the chart, and the registry; ConnectionLost without a server."""
    cluster = place.cluster
    yield from _version(place)
    yield from _namespace(place)
    missing = _missing(place)
    count = sum(len(verbs) for verbs in RIGHTS.values())
    yield (
        "rights",
        "fail" if missing else "ok",
        f"not allowed in {cluster.space}: {', '.join(missing)}" if missing else f"all {count} that are needed",
        f"Ask whoever runs namespace {cluster.space} for them; the chart has a Role that holds them all.",
    )
    if not any("configmaps" in right for right in missing):
        yield _chart(place)
    yield from _registry(place)


def _chart(place: Place) -> Row:
    """See whether what the chart says for all jobs can be said of any."""
    cluster, given = place.cluster, place.defaults
    if cluster.get(cluster.path("configmaps", names.DEFAULTS), only_metadata=True) is None:
        return "chart", "ok", f"{names.DEFAULTS} is not there: no defaults, no policy", None
    try:
        template.check(given.pod_template, "the chart's pod_template")
        options.read(given.backend_options)
    except ClustrixError as error:
        return "chart", "fail", error.message, f"Ask whoever runs namespace {cluster.space} to mend its values."
    return "chart", "ok", f"{names.DEFAULTS} is there", None


def _version(place: Place) -> Iterator[Row]:
    cluster = place.cluster
    found = cluster.get("/version") or {}
    numbers = re.findall(r"\d+", f"{found.get('major')}.{found.get('minor')}")
    old = tuple(map(int, numbers[:2])) < _OLDEST
    wanted = place.courier or place.sink == "podlog"
    yield (
        "server",
        ("fail" if wanted else "note") if old else "ok",
        f"Kubernetes {found.get('gitVersion')} at {cluster.server}" + (", too old for couriers" if old else ""),
        "Kubernetes 1.29 or newer is needed for `courier` and `store: podlog`.",
    )


def _namespace(place: Place) -> Iterator[Row]:
    space = place.cluster.space
    try:
        there = place.cluster.get(f"/api/v1/namespaces/{space}", only_metadata=True) is not None
    except AccessDenied:  # an account of a namespace need not see it from outside
        yield "namespace", "ok", f"{space} (it may not be looked at)", None
        return
    yield (
        "namespace",
        "ok" if there else "fail",
        space if there else f"{space} does not exist",
        "Set `namespace` to one that exists and that you may use.",
    )


def _missing(place: Place) -> list[str]:
    """Ask about every right, several at a time."""

    def ask(right: tuple[str, str, str]) -> bool:
        group, resource, verb = right
        kind, _, part = resource.partition("/")
        attributes = {"namespace": place.cluster.space, "verb": verb, "group": group, "resource": kind}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**attributes, **({"subresource": part} if part else {})}},
        }
        answer = place.cluster.create(_REVIEWS, body) or {}
        return bool(answer["status"]["allowed"])

    wanted = [(group, resource, verb) for (group, resource), verbs in RIGHTS.items() for verb in verbs]
    with ThreadPoolExecutor(8, "review") as pool:
        return [
            f"{verb} {resource}"
            for (_, resource, verb), yes in zip(wanted, pool.map(ask, wanted), strict=True)
            if not yes
        ]


def _registry(place: Place) -> Iterator[Row]:
    """See whether we may push to the registry; what pods may is seen with ``--deep``."""
    from clustrix.oci.client import Client
    from clustrix.oci.reference import Reference

    if place.sink != "registry" and place.registry is None:
        yield "registry", "note", "none: images must be given by reference", "Set `registry` to build them here."
        return
    try:
        reference = Reference.parse(f"{place.repository}:clustrix")
        client = Client(insecure=(reference.registry,) if place.insecure else ())
        client.head(reference, writing=True)
    except ClustrixError as error:
        yield "registry", "fail", error.message, error.remedy
        return
    other = f", pods know it as {place.pod_registry}" if place.pod_registry != place.registry else ""
    yield "registry", "ok", f"{place.registry}{other}", None
