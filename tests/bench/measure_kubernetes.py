"""How much a call and a map cost beyond what Kubernetes needs itself."""

from __future__ import annotations

import json
import os
import statistics
from typing import TYPE_CHECKING, Any

import ground as grounds
from live import cluster as clusters
from measure import Bar, Measure, Table

if TYPE_CHECKING:
    from ground import Ground

CALL, BIG, FLOOR = "clustrix, a call", "clustrix, a call with a result of 10 MB", "raw Job of python3 -c pass"
PODS, PACKED, RAW = "clustrix, 50 pods", "clustrix, packed", "raw Indexed Job of 50, to Complete"


def measure(ground: Ground, rounds: int) -> Measure:
    """Call and map on the node of the live tests, in turn with raw Jobs over the same connection."""
    with clusters.kubernetes(ground.fresh("kubernetes")) as bed, bed.namespace() as namespace:
        target = {
            "backend": "kubernetes",
            "kubeconfig": str(bed.kubeconfig),
            "context": bed.context,
            "namespace": namespace,
            "registry": f"{bed.registry}/bench",
            "insecure_registry": bed.plain_http,
            "image": bed.load(grounds.servers.bases()["debian"].layout, "base:bookworm"),
        }
        directory = ground.fresh("kubernetes-client")
        (directory / "clustrix.json").write_text(json.dumps({"targets": {"k8s": target}, "target": "k8s"}))
        environment = {**os.environ, "CLUSTRIX_STATE_DIR": str(directory / "state")}
        argv = (ground.scientific, grounds.HERE / "kubernetes_often.py", str(rounds))
        samples = json.loads(grounds.run(*argv, cwd=directory, env=environment).splitlines()[-1])
        said = json.loads(bed.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"]
    for name, values in samples.items():
        print(f"  {name}: {statistics.median(values):.3f}", flush=True)
    return found(samples, {"Kubernetes": said.removeprefix("v")})


def found(samples: dict[str, Any], versions: dict[str, str]) -> Measure:
    """Say what was found."""
    middle = {name: statistics.median(values) for name, values in samples.items()}
    over = {
        name: statistics.median(ours - floor for ours, floor in zip(samples[name], samples["floor"], strict=True))
        for name in ("call", "big")
    }
    text = (
        "On the node of the live tests: one kubelet with containerd on this machine, whose cores it shares with the"
        " API server. The floor is a Job of `python3 -c pass` in the same image and with the same request for one"
        " core, over the same warm connection, until its container is seen terminated by a watch; it returns no value."
        " The image is on the node. The map computes 50 items, 10 at a time, in pods that request a tenth of a core: as"
        " 50 pods (`chunksize=1`), and packed, as `.map` does by itself; its raw counterpart is an Indexed Job of 50"
        " with the same request, until it is Complete. The first call of a process, which imports and connects, took"
        f" {middle['first']:.1f} s."
    )
    tables = [
        Table(
            "a call, from submission to value", {CALL: samples["call"], BIG: samples["big"], FLOOR: samples["floor"]}
        ),
        Table("a map of 50", {PODS: samples["pods"], PACKED: samples["packed"], RAW: samples["array"]}),
        Table(
            "clustrix, a map of 1,000, packed", {"until it ends": samples["thousand"], "its results": samples["read"]}
        ),
    ]
    bars = [
        Bar("Kubernetes, a call: over the raw Job", over["call"], 0.25, "s"),
        Bar("Kubernetes, a call with a result of 10 MB: over the raw Job", over["big"], 0.5, "s"),
        Bar("Kubernetes, a map of 50 as 50 pods: times the raw Job", middle["pods"] / middle["array"], 1, "x"),
        Bar("Kubernetes, a map of 50, packed: times the raw Job", middle["packed"] / middle["array"], 1 / 4, "x"),
        Bar("Kubernetes, a map of 1,000: reading the results", middle["read"], 10, "s"),
        Bar("Kubernetes, a map of 1,000: requests to the API server", max(samples["requests"]), 40, ""),
    ]
    return Measure("Kubernetes", text, tables, bars, versions)
