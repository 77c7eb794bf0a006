"""Call and map on Kubernetes in turn with raw Jobs: what each took in seconds, as JSON.

Usage: kubernetes_often.py ROUNDS, in a directory whose configuration names the target.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix import pipeline
from clustrix.kubernetes.connection import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable

MODULE = """
import os
from clustrix import cluster

@cluster
def same(number):
    return number

@cluster
def make(size):
    return os.urandom(size)
"""
CALLS, ITEMS, PARALLEL, MANY = 4, 50, 10, 1000
SHARE = {"requests": {"cpu": "100m"}}
"""What each of many pods asks for, so that as many run at a time as are asked for."""
BIG = 10_000_000


def main() -> None:
    rounds = int(sys.argv[1])
    Path("caller.py").write_text(MODULE)
    sys.path.insert(0, str(Path.cwd()))
    start = time.perf_counter()
    from caller import make, same

    assert same(0) == 0
    samples: dict[str, list[Any]] = {"first": [time.perf_counter() - start]}
    assert len(make(BIG)) == BIG
    ready = pipeline.prepare(pipeline.resolve({}))
    cluster = ready.target.place.cluster
    image = ready.target.place.seen_by_nodes(ready.placed.location)

    template = {"spec": {"containers": [{"name": "main", "resources": SHARE}]}}
    share = {"pod_template": template, "ttl_seconds": 0}  # as the raw Jobs: pods that lie about cost the kubelet

    def mapped(items: int, **options: Any) -> None:
        found = same.options(max_parallel=PARALLEL, backend_options=share).map(range(items), **options)
        assert list(found.results()) == list(range(items))

    for _ in range(rounds):
        for _ in range(CALLS):
            _add(samples, "call", lambda: same(1))
            _add(samples, "floor", lambda: _raw(cluster, image, 1))
            _add(samples, "big", lambda: make(BIG))
        _add(samples, "packed", lambda: mapped(ITEMS))
    for _ in range(min(rounds, 3)):  # each takes half a minute
        _add(samples, "pods", lambda: mapped(ITEMS, chunksize=1))
        _add(samples, "array", lambda: _raw(cluster, image, ITEMS))
    asked = _Requests()
    with asked:
        array = same.options(max_parallel=PARALLEL, backend_options=share).map(range(MANY))
        _add(samples, "thousand", array.wait)
        _add(samples, "read", lambda: list(array.results()))
    samples["requests"] = [asked.count]
    print(json.dumps(samples))


def _raw(cluster: Cluster, image: str, count: int) -> None:
    """Run the least that starts Python: until a container is seen terminated or, of many, until all is Complete."""
    name = f"floor-{secrets.token_hex(4)}"
    one = {"cpu": "1"}  # as a call that asks for nothing
    main = {"name": "main", "image": image, "command": ["python3", "-c", "pass"]}
    main["resources"] = {"requests": one, "limits": one} if count == 1 else SHARE
    many = {"completionMode": "Indexed", "completions": count, "parallelism": PARALLEL} if count > 1 else {}
    template = {"metadata": {"labels": {"floor": name}}, "spec": {"restartPolicy": "Never", "containers": [main]}}
    spec = {**many, "backoffLimit": 0, "template": template}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
    version = (cluster.create(cluster.path("jobs"), job) or {})["metadata"]["resourceVersion"]
    kind, query = (
        ("jobs", {"fieldSelector": f"metadata.name={name}"}) if many else ("pods", {"labelSelector": f"floor={name}"})
    )
    stream = cluster.stream(cluster.path(kind), {"watch": "true", "resourceVersion": version, **query})
    assert stream is not None
    for line in stream.lines():
        status = json.loads(line)["object"]["status"]
        rows = status.get("conditions" if many else "containerStatuses") or ()
        if any(row["type"] == "Complete" if many else "terminated" in row["state"] for row in rows):
            break
    stream.close()
    cluster.delete(f"{cluster.path('jobs')}/{name}", {"propagationPolicy": "Background"})


class _Requests:
    """Count what the API server is asked within a block."""

    def __enter__(self) -> None:
        self.count = 0
        self._send = send = Cluster._send

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return send(*args, **kwargs)

        Cluster._send = counted  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        Cluster._send = self._send  # type: ignore[method-assign]


def _add(samples: dict[str, list[Any]], name: str, action: Callable[[], object]) -> None:
    start = time.perf_counter()
    action()
    samples.setdefault(name, []).append(time.perf_counter() - start)
    print(f"  {name} {samples[name][-1]:.3f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
