"""The chart agrees with the code: rights, names, defaults; and what it makes is hardened. Helm itself: tests/live."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from clustrix.errors import ConfigError
from clustrix.kubernetes import defaults, names, options, template
from clustrix.kubernetes.connection import RIGHTS
from clustrix.model.resources import parse_memory, parse_time
from clustrix.model.settings import settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/clustrix"
GOLDEN = ROOT / "tests/golden/chart"
SETS = sorted(path.name for path in GOLDEN.iterdir())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
NAMESPACED = {
    *("ConfigMap", "Secret", "PersistentVolumeClaim", "Service", "ServiceAccount", "Role", "RoleBinding"),
    *("Deployment", "DaemonSet", "Job", "ResourceQuota", "LimitRange", "NetworkPolicy", "LocalQueue"),
}


def manifests(name: str) -> list[dict[str, Any]]:
    text = (GOLDEN / name / "manifests.yaml").read_text()
    return [document for document in yaml.safe_load_all(text) if document]


def every(kind: str, name: str) -> list[dict[str, Any]]:
    return [one for which in SETS for one in manifests(which) if (one["kind"], one["metadata"]["name"]) == (kind, name)]


def pods(which: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in manifests(which):
        if "template" in one.get("spec", {}):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every object that names its properties, with its path."""
    if "properties" in schema:
        yield path, schema
        for key, inner in schema["properties"].items():
            yield from objects(inner, f"{path}.{key}")
    if "items" in schema:
        yield from objects(schema["items"], f"{path}[]")


def test_users_have_the_rights_that_clustrix_uses_and_no_others() -> None:
    found = every("Role", "clustrix-user")
    assert len(found) == len(SETS)
    for role in found:
        given = [
            ((group, resource), sorted(rule["verbs"]))
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        ]
        assert dict(given) == {key: sorted(verbs) for key, verbs in RIGHTS.items()}
        assert len(given) == len(RIGHTS)
        assert not [rule for rule in role["rules"] if set(rule) != {"apiGroups", "resources", "verbs"}]


def test_jobs_have_no_rights_unless_they_are_given_some() -> None:
    bound = {one["metadata"]["name"] for one in manifests("plain") if one["kind"] == "RoleBinding"}
    assert bound == {"clustrix-user"}
    for account in every("ServiceAccount", "clustrix-runner"):
        assert account["automountServiceAccountToken"] is False
    (binding,) = every("RoleBinding", "clustrix-runner")
    assert [subject["name"] for subject in binding["subjects"]] == ["clustrix-runner"]


@pytest.mark.parametrize("which", SETS)
def test_all_is_in_the_namespace_labelled_and_of_the_release(which: str) -> None:
    for one in manifests(which):
        assert one["kind"] in NAMESPACED
        assert one["metadata"]["namespace"] == "team"
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "clustrix"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"  # gc removes what clustrix itself has labelled
        assert {"app.kubernetes.io/instance", "app.kubernetes.io/component", "helm.sh/chart"} <= set(labels)


@pytest.mark.parametrize("which", SETS)
def test_pods_are_restricted(which: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a read-only root."""
    found = list(pods(which))
    assert found
    for name, pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
        assert pod["automountServiceAccountToken"] is (name == "clustrix-test")
        for container in pod["containers"] + pod.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= set(container["resources"])  # a quota refuses pods without


def test_no_image_moves() -> None:
    images = [
        container["image"]
        for which in SETS
        for _, pod in pods(which)
        for container in pod["containers"] + pod.get("initContainers", [])
    ]
    assert not [image for image in images if image.endswith(":latest") or ":" not in image.rpartition("/")[2]]
    pattern = SCHEMA["properties"]["registry"]["properties"]["image"]
    assert any(option.get("not") == {"pattern": ":latest$"} for option in pattern["anyOf"])


def test_the_schema_is_strict_and_knows_every_value() -> None:
    found = dict(objects(SCHEMA))
    del found[".defaults.pod_template.spec"]  # the API's: what clustrix refuses in it is named, and no more
    assert not [path for path, schema in found.items() if schema.get("additionalProperties") is not False]
    for path, schema in found.items():
        at: Any = VALUES
        for key in filter(None, path.split(".")):
            at = at.get(key) if isinstance(at, dict) else None
        if isinstance(at, dict) and at:
            assert set(schema["properties"]) - {"global"} == set(at), path


def test_clustrix_reads_what_the_chart_writes() -> None:
    found = {which: read(which) for which in SETS}
    assert found["plain"] == defaults.Defaults(namespace="team", backend_options={"service_account": "clustrix-runner"})
    team = found["team"]
    assert team.courier
    assert team.policy.courier
    assert team.registry != team.pod_registry
    assert team.queue
    assert team.time is not None
    for one in found.values():
        options.read(one.backend_options)
        template.check(one.pod_template, "pod_template")


def read(which: str) -> defaults.Defaults:
    (document,) = [one for one in manifests(which) if one["metadata"]["name"] == names.DEFAULTS]
    return defaults.read(document, "team")


def test_defaults_and_policies_have_the_names_that_clustrix_knows() -> None:
    """So that none is refused by the schema, and none passes it that clustrix does not know."""
    given, policy = (SCHEMA["properties"][name]["properties"] for name in ("defaults", "policy"))
    known = {row.name for row in fields(options.Options)}
    assert set(given) == {row.name for row in fields(defaults.Defaults)} - {"namespace", "policy"}
    assert set(given["backend_options"]["properties"]) == known - {"pod_template"}
    assert set(given) - {"pod_template"} <= set(settings())
    assert set(policy) == {row.name for row in fields(defaults.Policy)}
    assert set(policy["max"]["properties"]) <= set(settings())
    assert set(policy["forbidden_options"]["items"]["enum"]) == known | {"mounts"}


@pytest.mark.parametrize(
    ("name", "parse", "good", "bad"),
    [
        ("memory", parse_memory, ("64Gi", "64GB", "1.5T", "1024"), ("64Gix", "much", "-1G")),
        ("time", parse_time, ("24:00:00", "2-00:00:00", "90m", "3600s"), ("1 day or so", "-1", "m")),
    ],
)
def test_amounts_in_policies_are_those_that_clustrix_reads(
    name: str, parse: Callable[[str], object], good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    pattern = SCHEMA["properties"]["policy"]["properties"]["max"]["properties"][name]["pattern"]
    for text in good:
        assert re.search(pattern, text)
        assert parse(text)
    for text in bad:
        assert not re.search(pattern, text)
        with pytest.raises(ConfigError):
            parse(text)


def test_network_rules_select_what_clustrix_labels() -> None:
    for policy in every("NetworkPolicy", "clustrix-jobs"):
        assert policy["spec"]["podSelector"]["matchLabels"] == {names.MANAGED_BY: names.OURS}
        assert "Ingress" in policy["spec"]["policyTypes"]
        assert "ingress" not in policy["spec"]


def test_no_password_is_readable_and_none_is_in_the_chart() -> None:
    (secret,) = [one for which in SETS for one in manifests(which) if one["kind"] == "Secret"]
    assert set(secret["data"]) == {"htpasswd"}
    assert not VALUES["registry"]["htpasswd"]
    pattern = SCHEMA["properties"]["registry"]["properties"]["htpasswd"]["pattern"]
    assert not re.search(pattern, "alice:password\n")  # bcrypt alone


def test_notes_tell_users_their_three_lines() -> None:
    notes = (CHART / "templates/NOTES.txt").read_text()
    configuration = notes.partition("targets:")[2].partition("\n\n")[0]
    lines = [line.strip().partition(":")[0] for line in configuration.splitlines() if line.strip()]
    assert lines == ["k8s", "backend", "context", "namespace"]
    assert set(lines[1:]) <= set(settings())


def test_the_chart_has_the_version_of_the_package() -> None:
    from clustrix import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


def test_rights_are_explained() -> None:
    page = (ROOT / "docs/explanation/security.md").read_text().partition("## On Kubernetes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w/]+)`(?: \((\w+)\))? \| ([\w, ]+) \| \w.* \|$", page, re.MULTILINE)
    told = {(group, resource): verbs.split(", ") for resource, group, verbs in rows}
    assert told == {key: sorted(verbs) for key, verbs in RIGHTS.items()}


def test_every_option_is_explained() -> None:
    page = (ROOT / "docs/how-to/use-kubernetes.md").read_text()
    table = page.partition("| option | is |")[2].partition("\n\n")[0]
    told = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])]
    assert sorted(told) == sorted(row.name for row in fields(options.Options))
