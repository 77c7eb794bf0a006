"""What doctor says of a namespace."""

import pytest

from clustrix.kubernetes import defaults
from clustrix.kubernetes.examination import examine
from clustrix.kubernetes.place import Place
from clustrix.model.settings import ClusterConfig


class Cluster:
    space, server = "team", "https://server"

    def __init__(self, chart):
        self._chart = chart

    def path(self, kind, name):
        return f"{kind}/{name}"

    def get(self, path, **_):
        if path == "/version":
            return {"major": "1", "minor": "35", "gitVersion": "v1.35.4"}
        return {"data": {defaults.KEY: self._chart}}

    def create(self, path, body):
        return {"status": {"allowed": True}}


@pytest.mark.parametrize(
    ("chart", "status", "said"),
    [
        ("store: podlog", "ok", "clustrix-defaults is there"),
        ("pod_template: {spec: {hostNetwork: true}}", "fail", "the chart's pod_template.spec.hostNetwork"),
        ("backend_options: {run_as_user: 0}", "fail", "run_as_user=0"),
    ],
)
def test_a_chart_that_no_job_could_follow(chart, status, said):
    place = Place(Cluster(chart), ClusterConfig(target="k8s", store="podlog"))
    rows = {row[0]: row for row in examine(place)}
    assert rows["chart"][1] == status
    assert said in rows["chart"][2]
