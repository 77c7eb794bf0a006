"""``backend_options``, and what batch schedulers have and Kubernetes does not."""

import pytest

from clustrix.errors import ConfigError, UnknownOption, UnsupportedResource
from clustrix.kubernetes import options
from clustrix.model.resources import Mount, Resources


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UnknownOption, match="'node_selecter'") as caught:
        options.read({"node_selecter": {}})
    assert "'node_selector'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("node_selector", "gpu", "labels that nodes must have"),
        ("run_as_user", 0, "no pod runs as root"),
        ("automount_token", "yes", "true or false"),
        ("labels", {"clustrix.dev/job": "x"}, "not yours to set"),
        ("empty_dirs", {"scratch": "1Gi"}, "absolute paths"),
        ("empty_dirs", {"/scratch": "much"}, "not an amount of memory"),
        ("pending_seconds", -1, "a number of seconds"),
    ],
)
def test_values_that_cannot_be_read(name, value, said):
    with pytest.raises(ConfigError, match=said) as caught:
        options.read({name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        {"partition": "long"},
        {"account": "me"},
        {"qos": "high"},
        {"constraint": "a100"},
        {"modules": ("cuda",)},
        {"nodes": 2},
    ],
)
def test_what_kubernetes_does_not_have_is_refused_by_name(asked):
    (name,) = asked
    with pytest.raises(UnsupportedResource, match=name) as caught:
        options.refuse(Resources(**asked), ())
    assert caught.value.remedy


def test_directories_of_nodes_are_refused_by_name():
    with pytest.raises(UnsupportedResource, match="/data"):
        options.refuse(Resources(), (Mount("/data", "/data"),))
    options.refuse(Resources(), (Mount("data", "/data"),))
