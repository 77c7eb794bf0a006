"""How long an image takes from a requirements file to the registry: cold, after a change, unchanged, for a sibling."""

from __future__ import annotations

import json
import os
import statistics
from typing import TYPE_CHECKING, Any

import contenders
import ground as grounds
from measure import Bar, Measure, Table, alternate, middle, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ground import Ground

OURS, DOCKER = "clustrix build", "docker build, uv"
BYTECODE = {True: "with bytecode", False: "without bytecode"}
COLD = "cold"
CHANGED = "one package changed"
UNCHANGED = "nothing changed"
INSIDE = "nothing changed, in process"
SIBLING = "a second project, 80 % of its wheels the same"
TIMES = 6


def measure(ground: Ground, rounds: int) -> Measure:
    """Build and push with both contenders in turn, with and without bytecode."""
    base = contenders.base_with_uv(ground.base, f"{ground.registry.host}/base-uv:bookworm", ground.fresh("uv-base"))
    times: dict[str, dict[str, list[float]]] = {}
    facts: list[dict[str, Any]] = []
    ground.at_the_end(lambda: contenders.forget([base, ground.base]))
    for bytecode, said in BYTECODE.items():
        builder = contenders.DockerWithUv(base, ground.index, ground.fresh("context"), bytecode)
        cases = {
            OURS: lambda bytecode=bytecode: _ours(ground, bytecode, facts),
            DOCKER: lambda builder=builder: _docker(ground, builder),
        }
        for step, samples in _by_step(cases, rounds).items():
            times[f"{step}, {said}"] = samples
    versions = {
        **ground.versions(ground.scientific, "uv", "isal"),
        "Docker engine": grounds.run(contenders.ENGINE_CLI, "version", "--format", "{{.Server.Version}}").strip(),
    }
    return found(times, facts, versions)


def _by_step(cases: Mapping[str, Any], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Alternate whole contenders, each of which gives a figure for every step."""
    steps: dict[str, dict[str, list[float]]] = {}

    def case(name: str) -> float:
        for step, figure in cases[name]().items():
            steps.setdefault(step, {}).setdefault(name, []).append(figure)
            print(f"    {name}, {step}: {figure:.3f}", flush=True)
        return steps[COLD][name][-1]

    alternate({name: lambda name=name: case(name) for name in cases}, rounds)
    order = list(cases)
    return {step: dict(sorted(found.items(), key=lambda row: order.index(row[0]))) for step, found in steps.items()}


def _ours(ground: Ground, bytecode: bool, facts: list[dict[str, Any]]) -> dict[str, float]:
    state = ground.fresh("state")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))},
        "CLUSTRIX_STATE_DIR": str(state),
        "UV_CACHE_DIR": str(ground.fresh("uv-cache")),
        "UV_DEFAULT_INDEX": ground.index,
        "PIP_CONFIG_FILE": os.devnull,
    }
    options = [] if bytecode else ["--no-bytecode"]
    clustrix = ground.scientific.parent / "clustrix"

    def build(requirements: str, repository: str) -> tuple[float, dict[str, Any]]:
        path = ground.write("requirements.txt", ground.requirements[requirements])
        argv = (clustrix, "build", "--requirements", path, "--base", ground.base, "--output", f"{repository}:latest")
        said = ""

        def once() -> None:
            nonlocal said
            said = grounds.run(*argv, "--insecure-registry", "--json", *options, env=environment)

        return seconds(once), json.loads(said)

    repository = f"{ground.registry.host}/ours-{state.name}"
    cold, made = build("first", repository)
    unchanged, _ = build("first", repository)
    path = ground.write("requirements.txt", ground.requirements["first"])
    argv = (ground.scientific, grounds.HERE / "build_again.py", path, ground.base, f"{repository}:latest", str(TIMES))
    again = json.loads(grounds.run(*argv, *options, env=environment))
    changed, differing = build("changed", repository)
    sibling, second = build("second", f"{repository}-second")
    facts.append(
        {
            "bytecode": bytecode,
            "layers": len(made["layers"]),
            "uploaded_bytes": made["outputs"][0]["uploaded_bytes"],
            "changed_uploaded_bytes": differing["outputs"][0]["uploaded_bytes"],
            "second_uploaded_bytes": second["outputs"][0]["uploaded_bytes"],
            "unchanged": again[-1],
        }
    )
    inside = statistics.median(row["seconds"] for row in again[1:])
    return {COLD: cold, CHANGED: changed, UNCHANGED: unchanged, INSIDE: inside, SIBLING: sibling}


def _docker(ground: Ground, builder: contenders.DockerWithUv) -> dict[str, float]:
    mark = ground.fresh("docker").name
    repository = f"{ground.registry.host}/docker-{mark}"

    def build(requirements: str, *, cold: bool = False) -> float:
        text = ground.requirements[requirements]
        return seconds(lambda: builder.build_and_push(text, f"{repository}:latest", cache=mark, cold=cold))

    try:
        return {COLD: build("first", cold=True), UNCHANGED: build("first"), CHANGED: build("changed")}
    finally:
        contenders.forget([f"{repository}:latest"])


def found(times: dict[str, dict[str, list[float]]], facts: list[dict[str, Any]], versions: dict[str, str]) -> Measure:
    """Say what was found."""

    def times_faster(step: str, said: str, limit: float) -> Bar:
        samples = times[f"{step}, {said}"]
        ratio = middle(samples, DOCKER) / middle(samples, OURS)
        return Bar(f"build, {step}, {said}: times faster than docker build", ratio, limit, "x", least=True)

    with_, without = BYTECODE[True], BYTECODE[False]
    still = [fact["unchanged"] for fact in facts]
    bars = [
        times_faster(COLD, without, 5),
        times_faster(COLD, with_, 3),
        times_faster(CHANGED, without, 40),
        times_faster(CHANGED, with_, 40),
        Bar(f"build, {CHANGED}: uploaded", max(fact["changed_uploaded_bytes"] for fact in facts) / 1e6, 2, "MB"),
        Bar(f"build, {INSIDE}", middle(times[f"{INSIDE}, {with_}"], OURS), 0.1, "s"),
        Bar(f"build, {UNCHANGED}: requests", max(sum(row["requests"].values()) for row in still), 1, ""),
        Bar(f"build, {UNCHANGED}: bytes moved", max(row["moved_bytes"] for row in still), 0, ""),
        Bar(f"build, {SIBLING}", middle(times[f"{SIBLING}, {with_}"], OURS), 2, "s"),
    ]
    text = (
        "From a requirements file of 88 pinned packages (no hashes) to an image in the registry: whole processes that"
        " resolve, download, build and push. Docker builds with BuildKit from a Dockerfile as in uv's guide, with uv's"
        " cache in a cache mount. uv is in its base image, and the base image in the engine and in the registry, before"
        " the clock starts; clustrix fetches the base from the registry. Cold is without any cache and into a new"
        f" repository. The changed package is {grounds.CHANGE[0].partition('=')[0]}, a small pure one. In process means"
        " a further build in a process that has built before, as a second call of an `@cluster` function is. clustrix"
        " names its base by digest; a tag would cost one request more. Its image has"
        f" {facts[0]['layers']} layers besides the base's; cold, it uploads"
        f" {_megabytes(facts, 'uploaded_bytes', bytecode=True)} with bytecode and"
        f" {_megabytes(facts, 'uploaded_bytes', bytecode=False)} without, the base included or mounted; for the second"
        f" project {_megabytes(facts, 'second_uploaded_bytes', bytecode=True)} with bytecode."
    )
    return Measure("Build and push", text, [Table(step, samples) for step, samples in times.items()], bars, versions)


def _megabytes(facts: list[dict[str, Any]], name: str, *, bytecode: bool) -> str:
    return f"{statistics.median(fact[name] for fact in facts if fact['bytecode'] is bytecode) / 1e6:.0f} MB"
