"""Where images, payloads and outcomes go, by a target's settings and the chart's defaults."""

import pytest

from clustrix.kubernetes import defaults
from clustrix.kubernetes.place import Place
from clustrix.model.settings import ClusterConfig

CHART = """
registry: clustrix-registry.team.svc:5000/clustrix
pod_registry: clustrix-registry.team.svc:5000/clustrix
insecure_registry: true
"""


class Cluster:
    space = "team"

    def path(self, kind, name):
        return f"{kind}/{name}"

    def get(self, path):
        return {"data": {defaults.KEY: CHART}}


@pytest.mark.parametrize(
    ("settings", "insecure"),
    [
        ({}, True),
        ({"registry": "127.0.0.1:5000/clustrix", "pod_registry": "clustrix-registry.team.svc:5000/clustrix"}, True),
        ({"registry": "registry.example.org/me"}, False),
        ({"registry": "registry.example.org/me", "insecure_registry": True}, True),
    ],
)
def test_plain_http_of_the_charts_registry_is_of_no_other(settings, insecure):
    """A login for a registry of one's own would go over the network for everybody to read."""
    assert Place(Cluster(), ClusterConfig(target="k8s", **settings)).insecure is insecure
