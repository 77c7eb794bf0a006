"""The objects of a job: the golden Job, and what no request and no template can change."""

import base64
import json
from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from clustrix.errors import ConfigError
from clustrix.kubernetes import manifest, names, options
from clustrix.kubernetes.defaults import Defaults, Policy
from clustrix.model.resources import Mount, Resources
from clustrix.oci.auth import Credentials
from tests.golden.kubernetes import job as golden

WORKER = f"sha256:{'ab' * 32}"


def order(**changes):
    resources = changes.pop("resources", golden.ORDER.spec.resources)
    mounts = changes.pop("mounts", golden.ORDER.spec.mounts)
    workers = changes.pop("workers", 50)
    spec = replace(
        golden.ORDER.spec,
        resources=resources,
        mounts=mounts,
        workers=workers,
        items=workers,
        slices=tuple((n, n + 1) for n in range(workers)),
    )
    return replace(golden.ORDER, spec=spec, **changes)


def pod(made):
    return manifest.job(made)["spec"]["template"]["spec"]


def containers(made):
    spec = pod(made)
    return [*spec["containers"], *spec.get("initContainers", [])]


def test_golden():
    assert golden.text() == golden.PATH.read_text()


def everything():
    """Orders that ask for all there is."""
    hostile = {"spec": {"securityContext": {"runAsUser": 1000}, "automountServiceAccountToken": False}}
    yield order()
    yield order(courier=True)
    yield order(sink="podlog")
    yield order(defaults=Defaults(pod_template=hostile))
    yield order(options=options.read({"pod_template": {"spec": {"containers": [{"name": "proxy", "image": "p"}]}}}))


@pytest.mark.parametrize("made", list(everything()))
def test_no_root_no_host_no_token(made):
    spec = pod(made)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "nodeName"} & spec.keys()
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    for container in containers(made):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context.get("readOnlyRootFilesystem") is True or container["name"] == "proxy"


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ({"spec": {"hostNetwork": True}}, "spec.hostNetwork"),
        ({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}, r"volumes\[v\].hostPath"),
        ({"spec": {"securityContext": {"runAsUser": 0}}}, "securityContext.runAsUser"),
        ({"spec": {"securityContext": {"runAsNonRoot": False}}}, "runAsNonRoot"),
        ({"spec": {"containers": [{"name": "x", "securityContext": {"privileged": True}}]}}, "privileged"),
        (
            {"spec": {"containers": [{"name": "x", "securityContext": {"capabilities": {"add": ["X"]}}}]}},
            "capabilities",
        ),
        ({"spec": {"containers": [{"name": "main", "command": ["sh"]}]}}, "command is clustrix's"),
        ({"spce": {}}, "spce"),
        ({"spec": {"containers": [{"name": "x", "image": "x", "ports": [{"hostPort": 80}]}]}}, "hostPort"),
        ({"spec": {"containers": [{"image": "nameless"}]}}, "has no name"),
        ({"spec": {"containers": [{"name": "main", "env": [{"value": "x"}]}]}}, "env: .* has no name"),
        ({"spec": {"containers": [{"name": "main", "env": [{"name": "HOME", "value": "/"}]}]}}, "HOME. is clustrix's"),
        ({"spec": {"containers": [{"name": "extra"}]}}, "extra has no image"),
        ({"spec": {"containers": "main"}}, "no part of a PodTemplateSpec"),
        ({"spec": {"automountServiceAccountToken": True}}, "automountServiceAccountToken is clustrix's"),
        ({"spec": {"terminationGracePeriodSeconds": 300}}, "terminationGracePeriodSeconds is clustrix's"),
    ],
)
@pytest.mark.parametrize("whose", ["chart", "target"])
def test_templates_that_give_too_much_are_refused_by_the_field(template, named, whose):
    if whose == "chart":
        made = order(defaults=Defaults(pod_template=template))
    else:
        made = order(options=options.read({"pod_template": template}))
    with pytest.raises(ConfigError, match=named):
        manifest.job(made)


def test_precedence():
    """The chart's defaults, below the target's template, below the request."""
    chart = {
        "metadata": {"labels": {"team": "chart", "cost": "1"}},
        "spec": {
            "nodeSelector": {"disk": "hdd", "zone": "a"},
            "tolerations": [{"key": "a"}],
            "securityContext": {"runAsUser": 1000},
            "containers": [{"name": "main", "resources": {"requests": {"memory": "1"}, "limits": {"x/y": "1"}}}],
        },
    }
    target = {"metadata": {"labels": {"team": "target"}}, "spec": {"nodeSelector": {"disk": "ssd"}}}
    asked = options.read({"pod_template": target, "node_selector": {"zone": "b"}, "tolerations": [{"key": "b"}]})
    template = manifest.job(order(defaults=Defaults(pod_template=chart), options=asked))["spec"]["template"]
    assert template["metadata"]["labels"] | {} == {
        "team": "target",
        "cost": "1",
        **names.labels(golden.ORDER.spec.id.ulid),
    }
    assert template["spec"]["nodeSelector"] == {"disk": "ssd", "zone": "b", "nvidia.com/gpu.product": "A100"}
    assert template["spec"]["tolerations"] == [{"key": "a"}, {"key": "b"}]
    assert template["spec"]["securityContext"]["runAsUser"] == 1000
    resources = template["spec"]["containers"][0]["resources"]
    assert resources["requests"]["memory"] == "1500000000"  # the request wins
    assert resources["limits"]["x/y"] == "1"


@pytest.mark.parametrize(("cores", "requests", "limits"), [(1, "100m", None), (2, "2", "2")])
def test_a_template_says_what_a_pod_gets_where_nobody_asked_for_a_number_of_cores(cores, requests, limits):
    chart = {"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "100m"}}}]}}
    cases = (
        (order(defaults=Defaults(pod_template=chart), resources=Resources(cores=cores)), (requests, limits)),
        (order(resources=Resources(cores=cores)), (str(cores), str(cores))),
    )
    for made, expected in cases:
        found = pod(made)["containers"][0]["resources"]
        assert (found["requests"].get("cpu"), found["limits"].get("cpu")) == expected


def test_nobody_gets_what_the_courier_has():
    spec = pod(order(courier=True))
    (main,) = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounted = [volumes[mount["name"]] for mount in main["volumeMounts"]]
    secrets = [volume["secret"] for volume in mounted if "secret" in volume]
    assert [sorted(item["path"] for item in secret["items"]) for secret in secrets] == [["key", "payload", "task.json"]]
    assert {item["key"] for item in secrets[0]["items"]} == {"task.json", "payload", "own-key"}
    (courier,) = spec["initContainers"]
    assert courier["restartPolicy"] == "Always"
    assert courier["command"][3] == "--courier"


def test_a_call_fails_as_a_whole_and_a_map_by_item():
    one, many = manifest.job(order(workers=1))["spec"], manifest.job(order())["spec"]
    assert (one["backoffLimit"], one["podFailurePolicy"]["rules"][1]["action"]) == (0, "FailJob")
    assert (many["backoffLimitPerIndex"], many["podFailurePolicy"]["rules"][1]["action"]) == (0, "FailIndex")
    assert one["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    assert one["completionMode"] == many["completionMode"] == "Indexed"
    assert many["parallelism"] == 8


def test_who_does_not_say_how_many_gets_what_is_allowed():
    asked = replace(order().spec, max_parallel=None)
    few = Defaults(policy=Policy(max={"max_parallel": 5}))
    assert replace(order(), spec=asked).parallelism == 32
    assert replace(order(defaults=few), spec=asked).parallelism == 5


def test_time_is_the_worker_s_and_the_pod_has_some_more():
    spec = pod(order(resources=Resources(time=timedelta(minutes=2))))
    assert spec["activeDeadlineSeconds"] == 720
    assert {"name": "CLUSTRIX_TIME_SECONDS", "value": "120.0"} in spec["containers"][0]["env"]
    assert "activeDeadlineSeconds" not in pod(order(resources=Resources()))


def test_claims_and_directories():
    made = order(
        mounts=(Mount("data/in", "/in", read_only=True), Mount("data", "/all")),
        options=options.read({"empty_dirs": {"/scratch": "10Gi"}}),
    )
    spec = pod(made)
    claims = [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"name": "claim-0", "persistentVolumeClaim": {"claimName": "data"}}]
    mounts = spec["containers"][0]["volumeMounts"]
    assert {"name": "claim-0", "mountPath": "/in", "subPath": "in", "readOnly": True} in mounts
    assert {"name": "claim-0", "mountPath": "/all"} in mounts
    assert {"name": "empty-0", "emptyDir": {"sizeLimit": str(10 << 30)}} in spec["volumes"]
    assert {"name": "empty-0", "mountPath": "/scratch"} in mounts


def test_secrets_belong_to_the_job():
    made = order()
    secret = manifest.secret(made, {made.name: "uid-1"}, {"key": b"\0\1", "task.json": b"{}"})
    (owner,) = secret["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "batch/v1", "kind": "Job", "name": made.name, "uid": "uid-1"}
    assert base64.b64decode(secret["data"]["key"]) == b"\0\1"
    pull = manifest.pull_secret(made, {made.name: "uid-1"}, Credentials("me", "pw"))
    login = json.loads(base64.b64decode(pull["data"][".dockerconfigjson"]))["auths"]["registry.example.org"]
    assert base64.b64decode(login["auth"]) == b"me:pw"
    assert pod(order(pull_secret=True))["imagePullSecrets"] == [{"name": f"{made.name}-pull"}]


def test_bundles_are_shared_by_their_digest():
    thing = manifest.bundle(WORKER, b"zip")
    assert thing["metadata"]["name"] == f"clustrix-bundle-{'ab' * 20}"
    assert thing["immutable"] is True


def test_no_secret_is_in_the_job():
    text = yaml.safe_dump(manifest.job(order(courier=True, pull_secret=True)))
    assert "password" not in text
