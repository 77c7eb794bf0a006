"""What an administrator says for a namespace: read as the chart writes it, and held to."""

import dataclasses
from datetime import timedelta

import pytest

from clustrix.errors import ConfigError, UnsupportedResource
from clustrix.kubernetes import defaults, template
from clustrix.model.resources import Mount, Resources

TEXT = """
version: 1
registry: registry.example.org/team
courier: true
backend_options: {service_account: runner}
policy:
  courier: true
  max: {cores: 4, memory: 8Gi, gpus: 1, time: "01:00:00", max_parallel: 10}
  service_accounts: [runner]
  images: [registry.example.org/team/, "registry.example.org/team@"]
  forbidden_options: [tolerations, mounts]
"""


def read(text):
    return defaults.read({"data": {defaults.KEY: text}}, "ns")


def check(found, *, resources=None, asked=None, image="registry.example.org/team@sha256:1", mounts=(), parallelism=1):
    spec = (asked or {}).get("pod_template", {}).get("spec", {})
    account = (asked or {}).get("service_account", spec.get("serviceAccountName", "runner"))
    merged = template.merge(
        {"containers": [{"name": "main", "image": image}]}, {"containers": spec.get("containers", [])}
    )
    containers = merged["containers"]
    pod = {"serviceAccountName": account, "containers": containers}
    defaults.check(found, resources or Resources(), asked or {}, pod, mounts=mounts, parallelism=parallelism)


def test_a_namespace_without_a_chart():
    found = defaults.read(None, "ns")
    assert (found.registry, found.store, found.courier, found.time) == (None, "registry", False, None)
    check(found, resources=Resources(cores=999))


def test_what_the_chart_says():
    found = read(TEXT)
    assert (found.registry, found.courier, found.policy.courier) == ("registry.example.org/team", True, True)
    assert found.time == timedelta(hours=1)
    check(found, resources=Resources(cores=4, memory_bytes=8 << 30, gpus=1, time=timedelta(hours=1)), parallelism=10)


def test_a_template_of_the_user_wins_over_an_option_of_the_chart():
    own = {"pod_template": {"spec": {"serviceAccountName": "mine"}}}
    assert defaults.options(read(TEXT), {}) == {"service_account": "runner"}
    assert defaults.options(read(TEXT), own) == own


def test_what_the_administrator_adds_is_no_business_of_the_policy_but_what_a_user_makes_of_it_is():
    proxy = {"name": "proxy", "image": "docker.io/proxy", "resources": {"limits": {"cpu": "16"}}}
    found = dataclasses.replace(read(TEXT), pod_template={"spec": {"containers": [proxy]}})
    check(found, asked={"pod_template": {"spec": {"containers": [proxy]}}})
    for change in ({"image": "docker.io/mine"}, {"resources": {"limits": {"cpu": "17"}}}):
        with pytest.raises(UnsupportedResource, match="policy of namespace ns"):
            check(found, asked={"pod_template": {"spec": {"containers": [proxy | change]}}})


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        ("cores=5", {"resources": Resources(cores=5)}),
        ("gpus=2", {"resources": Resources(gpus=2)}),
        ("memory=9663676416", {"resources": Resources(memory_bytes=9 << 30)}),
        ("time=2:00:00", {"resources": Resources(time=timedelta(hours=2))}),
        ("max_parallel=11", {"parallelism": 11}),
        ("service_account=admin", {"asked": {"service_account": "admin"}}),
        ("image=docker.io/x", {"image": "docker.io/x"}),
        ("tolerations=", {"asked": {"tolerations": []}}),
        ("mounts=", {"mounts": (Mount("data", "/data"),)}),
        ("tolerations=", {"asked": {"pod_template": {"spec": {"tolerations": []}}}}),
        ("service_account=admin", {"asked": {"pod_template": {"spec": {"serviceAccountName": "admin"}}}}),
        *(
            (named, {"asked": {"pod_template": {"spec": {"containers": [{"name": "main", "resources": amounts}]}}}})
            for named, amounts in (
                ("cores=16", {"requests": {"cpu": "500m"}, "limits": {"cpu": "16"}}),
                ("memory=9663676416", {"requests": {"memory": "9Gi"}}),
                ("gpus=2", {"limits": {"nvidia.com/gpu": 2}}),
            )
        ),
        ("mounts=", {"asked": {"pod_template": {"spec": {"volumes": [{"persistentVolumeClaim": {}}]}}}}),
        (
            "image=docker.io/y",
            {"asked": {"pod_template": {"spec": {"containers": [{"name": "y", "image": "docker.io/y"}]}}}},
        ),
    ],
)
def test_policy_refuses_by_name(named, asked):
    with pytest.raises(UnsupportedResource, match=f"{named}.*policy of namespace ns") as caught:
        check(read(TEXT), **asked)
    assert "clustrix-defaults" in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 2", "newer than this clustrix: version 2"),
        ("speed: 9", "the key speed"),
        ("policy: {lunch: 12}", "the policy lunch"),
        ("[1]", "cannot be read"),
        ("a: [", "cannot be read"),
    ],
)
def test_charts_that_are_not_understood(text, said):
    with pytest.raises(ConfigError, match=said):
        read(text)
