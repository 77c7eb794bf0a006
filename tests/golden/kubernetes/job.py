"""The one job of all schedulers as a Job of Kubernetes: ``python -m tests.golden.kubernetes.job`` writes it anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import yaml

from clustrix.kubernetes import manifest, names, options
from clustrix.model.resources import Mount
from tests.golden.job import JOB

PATH: Final = Path(__file__).with_name("job.yaml")
_WORKER: Final = f"sha256:{'ab' * 32}"
ORDER: Final = manifest.Order(
    spec=replace(
        JOB,
        argv=("/opt/clustrix/venv/bin/python", "-I", names.bundle_path(_WORKER), "--pod", names.ROOT, JOB.id.ulid),
        resources=replace(JOB.resources, account=None, modules=(), gpu_type="A100"),
        mounts=(Mount("data", "/data", read_only=True),),
    ),
    options=options.read(
        {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "priority_class": "low",
            "empty_dirs": {"/scratch": "10Gi"},
        }
    ),
    image=f"registry.example.org/me/jobs@sha256:{'cd' * 32}",
    bundles=(_WORKER,),
    record="{}",
)


def text() -> str:
    """Write the Job."""
    return str(yaml.safe_dump(manifest.job(ORDER), sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    PATH.write_text(text())
