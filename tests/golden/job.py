"""One job for all schedulers: ``tests/golden/NAME/job.sh`` is its script, so that a diff of two tells them apart."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from clustrix.model.job import JobId, JobSpec
from clustrix.model.paths import JobPaths
from clustrix.model.resources import Resources

JOB: Final = JobSpec(
    id=JobId("hpc", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    name="fit; rm -rf ~\n#é",
    items=50,
    slices=tuple((n, n + 1) for n in range(50)),
    workers=50,
    max_parallel=8,
    argv=("true",),
    resources=Resources(
        cores=4,
        memory_bytes=1_500_000_000,
        time=timedelta(days=1, hours=2, seconds=3.5),
        gpus=2,
        account="proj",
        modules=("apptainer/1.4", "cuda"),
    ),
)
PATHS: Final = JobPaths(f"/scratch/it's mine/jobs/{JOB.id.ulid}")


def script(name: str) -> str:
    """Write the script of the job for one scheduler."""
    from clustrix import registry

    text: str = registry.load("schedulers", name)().script(JOB, PATHS, tasks=JOB.workers)
    return text
