"""One project, one function, three places: a virtual environment, Docker, and SLURM over SSH in Apptainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest

if TYPE_CHECKING:
    from .beds import Bed
    from .cluster import Kubernetes
    from .servers import Registry

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

CLUSTRIX = [sys.executable, "-m", "clustrix"]
SCRIPT = """
import os, sys, time
import six
from clustrix import cluster
from beside import FACTOR

@cluster(cores=1)
def f(number):
    if number < 0:
        raise LookupError(f"no {number}", six.__version__)
    print("computing", number, flush=True)
    time.sleep(float(os.environ.get("NAP", 0)))
    return number * FACTOR

if __name__ == "__main__":
    far = f.options(target=sys.argv[1])
    print("value", far(4))
    print("values", list(far.map([1, 2, 3])))
    try:
        far(-1)
    except LookupError as error:
        print("error", error.args, "raise LookupError" in str(error.__cause__))
"""


@pytest.fixture(scope="module")
def project(
    slurm_cluster: Bed, base_layout: Path, docker_engine: object, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    place = tmp_path_factory.mktemp("project")
    (place / ".git").mkdir()
    (place / "fit.py").write_text(SCRIPT)
    (place / "beside.py").write_text("FACTOR = 10\n")
    (place / "requirements.txt").write_text("six==1.17.0\n")
    bed = slurm_cluster
    (place / "ssh_config").write_text(
        f"Host bed\n  HostName {bed.host}\n  Port {bed.port}\n  User {bed.user}\n  IdentityFile {bed.key}\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {bed.known_hosts}\n"
    )
    (place / "clustrix.yml").write_text(
        "environment: requirements.txt\n"
        "targets:\n"
        "  here: {backend: local, runtime: venv}\n"
        f"  box: {{backend: local, runtime: docker, base: 'oci:{base_layout}'}}\n"
        "  hpc:\n"
        "    backend: slurm\n"
        "    host: bed\n"
        f"    ssh_config: {place}/ssh_config\n"
        f"    base: oci:{base_layout}\n"
        "    time: 00:10:00\n"
    )
    return place


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**os.environ, "CLUSTRIX_STATE_DIR": str(tmp_path_factory.mktemp("state"))}


def run(project: Path, shell: dict[str, str], *argv: str, status: int = 0) -> str:
    done = subprocess.run(argv, cwd=project, env=shell, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == status, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.proves("same environment, measured there", "local venv", "docker", "slurm")
def test_the_same_function_in_the_same_environment_everywhere(project: Path, shell: dict[str, str]) -> None:
    found = {}
    for target in ("here", "box", "hpc"):
        said = run(project, shell, *CLUSTRIX, "run", "fit.py", target).splitlines()
        assert said == [
            "computing 4",
            "value 40",
            "values [10, 20, 30]",
            "error ('no -1', '1.17.0') True",
        ]
        jobs = json.loads(run(project, shell, *CLUSTRIX, "jobs", "--json", "--target", target))
        assert [job["items"] for job in jobs] == [1, 3, 1]
        assert [job["state"] for job in jobs] == ["failed", "succeeded", "succeeded"]
        status = json.loads(run(project, shell, *CLUSTRIX, "status", jobs[1]["id"], "--json"))
        found[target] = status["fingerprint"]
        assert run(project, shell, *CLUSTRIX, "logs", jobs[2]["id"]) == "computing 4\n"
    # Not compared by us alone: the worker measured it and would have refused another.
    assert len(set(found.values())) == 1


@pytest.mark.proves("same environment, measured there", "kubernetes")
@pytest.mark.proves("whole script as one job", "kubernetes")
def test_pods_have_the_same_environment(
    project: Path, shell: dict[str, str], kubernetes: Kubernetes, kubernetes_namespace: str, base_layout: Path
) -> None:
    """The image is built here, and nodes pull it from the cluster's registry."""
    target = {
        "backend": "kubernetes",
        "kubeconfig": str(kubernetes.kubeconfig),
        "context": kubernetes.context,
        "namespace": kubernetes_namespace,
        "registry": f"{kubernetes.registry}/pipeline",
        "insecure_registry": kubernetes.plain_http,
        "base": f"oci:{base_layout}",
    }
    with (project / "clustrix.yml").open("a") as file:
        file.write(f"  pods: {json.dumps(target)}\n")
    found = {}
    for name in ("here", "pods"):
        said = run(project, shell, *CLUSTRIX, "run", "fit.py", name).splitlines()
        assert said == ["computing 4", "value 40", "values [10, 20, 30]", "error ('no -1', '1.17.0') True"]
        jobs = json.loads(run(project, shell, *CLUSTRIX, "jobs", "--json", "--target", name))
        status = json.loads(run(project, shell, *CLUSTRIX, "status", jobs[1]["id"], "--json"))
        found[name] = status["fingerprint"]
    assert found["pods"] == found["here"] is not None
    (project / "pods.py").write_text("import sys\nfrom fit import f\nprint(sys.argv[1], f(2))\n")
    done = run(project, shell, *CLUSTRIX, "submit", "--target", "pods", "--wait", "pods.py", "quick")
    assert done.splitlines()[1:] == ["computing 2", "quick 20"]


@pytest.mark.proves("reattach from another home", "slurm")
def test_a_job_outlives_its_client_and_is_found_from_another_home(
    project: Path, shell: dict[str, str], tmp_path: Path
) -> None:
    code = "from fit import f; import time; print(f.options(target='hpc').submit(7).id, flush=True); time.sleep(600)"
    slow = {**shell, "CLUSTRIX_ENVIRONMENT_VARIABLES": '{"NAP": "5"}'}
    client = subprocess.Popen(
        [sys.executable, "-c", f"import sys, types; sys.modules['six'] = types.ModuleType('six'); {code}"],
        cwd=project,
        env=slow,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert client.stdout is not None
        job = client.stdout.readline().strip()
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
        client.stdout.close() if client.stdout else None
    assert job.startswith("hpc/")
    elsewhere = {**os.environ, "CLUSTRIX_STATE_DIR": str(tmp_path / "state"), "CLUSTRIX_HOME": str(tmp_path / "home")}
    assert run(project, elsewhere, *CLUSTRIX, "result", job) == "70\n"
    assert run(project, elsewhere, *CLUSTRIX, "logs", job) == "computing 7\n"


@pytest.mark.proves("whole script as one job", "slurm")
def test_a_whole_script_is_one_job_and_can_be_cancelled(project: Path, shell: dict[str, str]) -> None:
    (project / "whole.py").write_text(
        "import sys, time\nfrom fit import f\nprint(sys.argv[1], f(2), flush=True)\ntime.sleep(float(sys.argv[2]))\n"
    )
    done = run(project, shell, *CLUSTRIX, "submit", "--target", "hpc", "--wait", "whole.py", "quick", "0")
    assert done.splitlines()[1:] == ["computing 2", "quick 20"]
    job = run(project, shell, *CLUSTRIX, "submit", "--target", "hpc", "whole.py", "slow", "600").strip()
    end = time.monotonic() + 120
    while "slow" not in run(project, shell, *CLUSTRIX, "logs", job):
        assert time.monotonic() < end
        time.sleep(0.5)
    assert json.loads(run(project, shell, *CLUSTRIX, "status", job, "--json"))["state"] == "running"
    run(project, shell, *CLUSTRIX, "result", "--no-wait", job, status=6)
    run(project, shell, *CLUSTRIX, "cancel", job)
    assert json.loads(run(project, shell, *CLUSTRIX, "status", job, "--json"))["state"] == "cancelled"
    run(project, shell, *CLUSTRIX, "result", job, status=1)


def test_doctor_finds_everything_it_needs(project: Path, shell: dict[str, str]) -> None:
    found = json.loads(run(project, shell, *CLUSTRIX, "doctor", "--json", "--target", "hpc"))
    assert {row["status"] for row in found} <= {"ok", "note"}
    assert any(row["check"] == "target hpc: slurm" for row in found)


def test_what_is_refused_is_refused_in_the_words_of_slurm(project: Path, shell: dict[str, str]) -> None:
    argv = [*CLUSTRIX, "submit", "--target", "hpc", "--partition", "no; such $(partition)", "whole.py"]
    done = subprocess.run(argv, cwd=project, env=shell, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 4
    assert "invalid partition" in done.stderr


def test_an_image_of_a_registry_is_used_by_digest(
    project: Path, shell: dict[str, str], registry: Registry, base_layout: Path
) -> None:
    with (project / "clustrix.yml").open("a") as file:
        file.write(f"  shop: {{extends: box, registry: '{registry.host}/jobs', insecure_registry: true}}\n")
    name = f"{registry.host}/fit:1"
    argv = ["--requirements", "requirements.txt", "--base", f"oci:{base_layout}", "--output", name]
    built = json.loads(run(project, shell, *CLUSTRIX, "build", *argv, "--insecure-registry", "--json"))
    (project / "named.py").write_text(
        "from fit import f\n"
        f"print(f.options(target='shop', image={name!r}).submit(3).result())\n"
        "print(f.options(target='shop').submit(4).result())\n"
    )
    assert run(project, shell, *CLUSTRIX, "run", "named.py") == "30\n40\n"
    jobs = json.loads(run(project, shell, *CLUSTRIX, "jobs", "--json", "--target", "shop"))
    for job in jobs:
        status = json.loads(run(project, shell, *CLUSTRIX, "status", job["id"], "--json"))
        assert (status["image"], status["fingerprint"]) == (built["config_digest"], built["fingerprint"])
    # In this Python six is not installed, and much else is.
    differing = run(project, shell, *CLUSTRIX, "env", "diff", built["config_digest"][:19], "--json", status=1)
    assert {"package": "six", "difference": "not installed here"} in json.loads(differing)["differences"]
    # The second was pushed to the repository of the target.
    assert built["config_digest"] in registry_manifest(registry, "jobs", str(built["lock"]))
    (project / "absent.py").write_text(f"from fit import f\nf.options(target='shop', image='{name}0')(3)\n")
    absent = [*CLUSTRIX, "run", "absent.py"]
    done = subprocess.run(absent, cwd=project, env=shell, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 3
    assert "does not exist" in done.stderr


def test_a_strangers_image_is_measured_once_and_compared_from_then_on(
    project: Path, shell: dict[str, str], registry: Registry, base_reference: str
) -> None:
    with (project / "clustrix.yml").open("a") as file:
        file.write(f"  mall: {{extends: box, registry: '{registry.host}/jobs', insecure_registry: true}}\n")
    (project / "bare.py").write_text(
        "import sys\nfrom clustrix import cluster\n\n"
        "@cluster(target='mall')\ndef g():\n    return sys.version_info[:2]\n\n"
        f"print(g.options(image={base_reference!r})())\n"
    )
    seen = []
    for _ in range(2):
        assert run(project, shell, *CLUSTRIX, "run", "bare.py").startswith("(3, ")
        jobs = json.loads(run(project, shell, *CLUSTRIX, "jobs", "--json", "--target", "mall"))
        seen.append(json.loads(run(project, shell, *CLUSTRIX, "status", jobs[0]["id"], "--json"))["fingerprint"])
    assert seen[0] is None
    assert str(seen[1]).startswith("sha256:")


def registry_manifest(registry: Registry, repository: str, lock: str) -> str:
    place = f"http://{registry.host}/v2/{repository}/manifests/{lock.partition(':')[2][:32]}"
    with urlopen(Request(place, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})) as answer:
        return str(answer.read().decode())
