"""The objects of a job, as JSON of the API. Pure; no secret is in any of them but in Secrets.

The API: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/. Pods keep to
https://kubernetes.io/docs/concepts/security/pod-security-standards/ (restricted).
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from clustrix.errors import ConfigError, UnsupportedResource
from clustrix.kubernetes import names, template
from clustrix.kubernetes.defaults import Defaults
from clustrix.oci.reference import DOCKER_HUB, Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clustrix.kubernetes.options import Options
    from clustrix.model.job import JobSpec
    from clustrix.model.resources import Mount
    from clustrix.oci.auth import Credentials

    Document = dict[str, Any]

PARALLELISM: Final = 32
"""Pods of a map that run at a time where nobody says how many."""
TASKS: Final = 100_000
"""Tasks of one Job at most: with more it would have to fail for good with its 10,000th failed one
(``maxFailedIndexes`` in https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/#JobSpec).
"""
_USER = 65532
_STARTING = 600
"""Seconds beyond its time that a pod may take to begin: the worker keeps the time, and this one counts pulling, too."""
_GRACE = 30
_SHARED_MEMORY = 1 << 30
_DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Hold everything that decides on the objects of one job, or on one of the Jobs that it is divided among.

    ``image`` is the reference as nodes pull it; ``sink`` is where outcomes go (``registry`` or ``podlog``);
    ``bundles`` are the digests that come as ConfigMaps, ``files`` what the Secret holds for the worker; ``offset`` is
    the number of the first task.
    """

    spec: JobSpec
    options: Options
    image: str
    defaults: Defaults = field(default_factory=Defaults)
    sink: str = "registry"
    courier: bool = False
    bundles: tuple[str, ...] = ()
    files: tuple[str, ...] = ("task.json", "payload")
    pull_secret: bool = False
    record: str | None = None
    offset: int = 0

    @property
    def name(self) -> str:
        """Name the Job."""
        return names.job_name(self.spec.id.ulid, self.offset)

    @property
    def secret_name(self) -> str:
        """Name the Secret, which the Jobs of one job share."""
        return names.job_name(self.spec.id.ulid)

    @property
    def sidecar(self) -> bool:
        """Tell whether a container of its own sends the outcomes."""
        return self.courier or self.sink == "podlog"

    @property
    def parallelism(self) -> int:
        """Say how many pods run at a time: as asked, else as many as usual and allowed."""
        usual = min(PARALLELISM, self.defaults.policy.max.get("max_parallel", PARALLELISM))
        return min(self.spec.workers, self.spec.max_parallel or usual)


def parts(order: Order) -> list[Order]:
    """Divide a job among as many Jobs as its tasks need; UnsupportedResource where fewer may run at a time."""
    workers = order.spec.workers
    offsets = range(0, workers, TASKS)
    if len(offsets) == 1:
        return [order]
    if order.parallelism < len(offsets):
        raise UnsupportedResource(
            f"max_parallel={order.parallelism}: {workers} tasks make {len(offsets)} Jobs, and each runs at least one",
            remedy=f"Set a larger chunksize, or max_parallel={len(offsets)}.",
        )
    each = order.parallelism // len(offsets)
    return [
        replace(
            order,
            offset=offset,
            spec=replace(order.spec, workers=min(TASKS, workers - offset), max_parallel=each),
        )
        for offset in offsets
    ]


def job(order: Order) -> Document:
    """Write the Job: suspended, until its Secret is there."""
    spec = order.spec
    several = spec.workers > 1
    failed = {"containerName": names.MAIN, "operator": "NotIn", "values": [0]}
    policy = [_DISRUPTED, {"action": "FailIndex" if several else "FailJob", "onExitCodes": failed}]
    queue = spec.resources.queue or order.defaults.queue
    notes = {names.BUNDLES: ",".join(map(names.bundle_key, order.bundles)), "clustrix.dev/function": spec.name}
    if order.record:
        notes[names.RECORD] = order.record
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": order.name,
            "labels": {
                **order.options.labels,
                **names.labels(spec.id.ulid, order.offset),
                **({names.QUEUE: queue} if queue else {}),
            },
            "annotations": {**order.options.annotations, **notes},
        },
        "spec": {
            "suspend": True,
            "completionMode": "Indexed",
            "completions": spec.workers,
            "parallelism": order.parallelism,
            **({"backoffLimitPerIndex": 0} if several else {"backoffLimit": 0}),
            "podFailurePolicy": {"rules": policy},
            "template": _template(order),
        },
    }


def _template(order: Order) -> Document:
    """Merge, weakest first; `clustrix.kubernetes.template` says in which order."""
    options = order.options
    for where, part in (
        ("the chart's pod_template", order.defaults.pod_template),
        ("pod_template", options.pod_template),
    ):
        template.check(part, where)
    own = {"runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER, "fsGroupChangePolicy": "OnRootMismatch"}
    own["seccompProfile"] = {"type": "RuntimeDefault"}
    merged: Document = {"spec": {"securityContext": own}}
    if order.sidecar:
        # It waits, mostly. Where cores are dealt out whole, a request of its own would cost one.
        resources = {"requests": {"cpu": "0", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
        merged["spec"]["initContainers"] = [{"name": names.COURIER, "resources": resources}]
    for part in (order.defaults.pod_template, options.pod_template, _request(order), _security()):
        merged = template.merge(merged, part)
    spec = merged["spec"]
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        if not container.get("image"):
            raise ConfigError(f"pod_template: container {container['name']} has no image", remedy="Name one.")
        context = container.setdefault("securityContext", {})
        context |= {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        if container["name"] in {names.MAIN, names.COURIER}:
            context["readOnlyRootFilesystem"] = True
    # The order of containers is the templates'; logs and people look at the first.
    spec["containers"].sort(key=lambda container: container["name"] != names.MAIN)
    return merged


def _security() -> Document:
    return {"spec": {"securityContext": {"runAsNonRoot": True}}}


def _request(order: Order) -> Document:
    """Write what the job asks for."""
    spec, options = order.spec, order.options
    identity = {"runAsUser": options.run_as_user, "runAsGroup": options.run_as_group, "fsGroup": options.fs_group}
    selector = dict(options.node_selector)
    if spec.resources.gpu_type:
        selector["nvidia.com/gpu.product"] = spec.resources.gpu_type
    pull = [{"name": name} for name in options.image_pull_secrets]
    if order.pull_secret:
        pull.append({"name": f"{order.secret_name}-pull"})
    time = spec.resources.time or order.defaults.time
    chosen = {
        "nodeSelector": selector,
        "tolerations": [dict(row) for row in options.tolerations],
        "affinity": dict(options.affinity),
        "priorityClassName": options.priority_class,
        "runtimeClassName": options.runtime_class,
        "serviceAccountName": options.service_account,
        "imagePullSecrets": pull,
        "activeDeadlineSeconds": math.ceil(time.total_seconds()) + _STARTING if time else None,
        "initContainers": [_courier(order)] if order.sidecar else [],
    }
    return {
        "metadata": {
            "labels": {**options.labels, **names.labels(spec.id.ulid, order.offset)},
            **_given({"annotations": dict(options.annotations)}),
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": options.automount_token,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _GRACE,
            "securityContext": _given(identity),
            "containers": [_main(order)],
            "volumes": _volumes(order),
            **_given(chosen),
        },
    }


def _main(order: Order) -> Document:
    resources, options = order.spec.resources, order.options
    # The one core of whoever asked for no number is weaker than what a template says.
    said = resources.cores == 1 and any(map(_says_cpu, (order.defaults.pod_template, options.pod_template)))
    amounts = _given(
        {
            "cpu": "" if said else str(resources.cores),
            "memory": resources.memory_bytes and str(resources.memory_bytes),
            "ephemeral-storage": options.ephemeral_storage and str(options.ephemeral_storage),
            options.gpu_resource: resources.gpus and str(resources.gpus),
        }
    )
    mounts = [
        *_common_mounts(order),
        {"name": "job", "mountPath": names.SECRET_DIRECTORY, "readOnly": True},
        {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - inside the container
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        *({"name": f"empty-{n}", "mountPath": path} for n, path in enumerate(options.empty_dirs)),
    ]
    claims = _claims(order.spec.mounts)
    for mount in order.spec.mounts:
        claim, _, below = mount.source.partition("/")
        mounts.append(
            {
                "name": f"claim-{claims.index(claim)}",
                "mountPath": mount.target,
                **_given({"subPath": below, "readOnly": mount.read_only}),
            }
        )
    time = order.spec.resources.time or order.defaults.time
    variables = {"CLUSTRIX_TIME_SECONDS": str(time.total_seconds())} if time else {}
    return {
        "name": names.MAIN,
        **_container(order, order.spec.argv, "courier" if order.sidecar else order.sink, variables),
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "volumeMounts": mounts,
    }


def _says_cpu(part: Mapping[str, Any]) -> bool:
    main = (one for one in (part.get("spec") or {}).get("containers") or () if one["name"] == names.MAIN)
    return any("cpu" in amounts for one in main for amounts in (one.get("resources") or {}).values())


def _courier(order: Order) -> Document:
    """Write the native sidecar (since Kubernetes 1.29): it starts before the main container and ends after it."""
    argv = ["--courier" if word == "--pod" else word for word in order.spec.argv]
    return {
        "name": names.COURIER,
        **_container(order, argv, order.sink, {}),
        "restartPolicy": "Always",
        "volumeMounts": [
            *_common_mounts(order),
            {"name": "courier", "mountPath": names.SECRET_DIRECTORY, "readOnly": True},
        ],
    }


def _container(order: Order, argv: Sequence[str], sink: str, variables: Mapping[str, str]) -> Document:
    fields = {
        "CLUSTRIX_POD_UID": "metadata.uid",
        "CLUSTRIX_POD_NAME": "metadata.name",
        "CLUSTRIX_NODE_NAME": "spec.nodeName",
    }
    home, scratch = f"{names.ROOT}/home", f"{names.ROOT}/tmp"  # noqa: S108 - inside the container
    plain = {"HOME": home, "TMPDIR": scratch, "CLUSTRIX_SINK": sink, **variables}
    if order.offset:
        plain["CLUSTRIX_OFFSET"] = str(order.offset)
    return {
        "image": order.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(argv),
        "workingDir": names.ROOT,
        "env": [
            *({"name": name, "value": value} for name, value in plain.items()),
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        ],
        "terminationMessagePolicy": "File",
    }


def _common_mounts(order: Order) -> list[Document]:
    return [
        {"name": "work", "mountPath": names.ROOT},
        *(
            {
                "name": f"bundle-{n}",
                "mountPath": names.bundle_path(digest).rpartition("/")[0],
                "readOnly": True,
            }
            for n, digest in enumerate(order.bundles)
        ),
    ]


def _volumes(order: Order) -> list[Document]:
    secret = {"secretName": order.secret_name, "defaultMode": 0o440}
    memory = order.spec.resources.memory_bytes
    volumes: list[Document] = [
        {"name": "work", "emptyDir": {}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(memory // 2 if memory else _SHARED_MEMORY)}},
        *(
            {"name": f"bundle-{n}", "configMap": {"name": names.bundle_name(digest)}}
            for n, digest in enumerate(order.bundles)
        ),
        *(
            {"name": f"empty-{n}", "emptyDir": {"sizeLimit": str(size)}}
            for n, size in enumerate(order.options.empty_dirs.values())
        ),
        *(
            {"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": claim}}
            for n, claim in enumerate(_claims(order.spec.mounts))
        ),
    ]
    if not order.sidecar:
        return [*volumes, {"name": "job", "secret": secret}]
    # User code finds neither the registry's login nor the key that the courier signs with.
    items = [*({"key": name, "path": name} for name in order.files), {"key": "own-key", "path": "key"}]
    return [*volumes, {"name": "job", "secret": {**secret, "items": items}}, {"name": "courier", "secret": secret}]


def _claims(mounts: Sequence[Mount]) -> list[str]:
    return sorted({mount.source.partition("/")[0] for mount in mounts})


def _given(table: Mapping[str, Any]) -> Document:
    """Leave out what nobody asked for."""
    return {name: value for name, value in table.items() if value}


def secret(order: Order, owners: Mapping[str, str], files: Mapping[str, bytes]) -> Document:
    """Write the Secret of a job, which goes with the last of its Jobs; ``owners`` are their names and uids."""
    return {**_owned(order, owners, order.secret_name), "type": "Opaque", "data": _encoded(files)}


def pull_secret(order: Order, owners: Mapping[str, str], login: Credentials) -> Document:
    """Write the Secret that nodes pull the image with; docker's format."""
    host = Reference.parse(order.image).registry
    key = "https://index.docker.io/v1/" if host == DOCKER_HUB else host
    pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    entry = {"identitytoken": login.identity_token} if login.identity_token else {"auth": pair}
    text = json.dumps({"auths": {key: entry}}).encode()
    data = _encoded({".dockerconfigjson": text})
    kind = "kubernetes.io/dockerconfigjson"
    return {**_owned(order, owners, f"{order.secret_name}-pull"), "type": kind, "data": data}


def _owned(order: Order, owners: Mapping[str, str], name: str) -> Document:
    references = [{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid} for job, uid in owners.items()]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": names.labels(order.spec.id.ulid), "ownerReferences": references},
        "immutable": True,
    }


def bundle(digest: str, data: bytes) -> Document:
    """Write the ConfigMap of a bundle, which the jobs of a namespace share."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.bundle_name(digest),
            "labels": {names.MANAGED_BY: names.OURS, names.BUNDLE: names.bundle_key(digest)},
        },
        "immutable": True,
        "binaryData": _encoded({"bundle.zip": data}),
    }


def _encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in files.items()}
