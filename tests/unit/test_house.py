"""The house keeps its own rules: layers, types, lint, names, and nothing unfinished."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from clustrix import registry

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "clustrix").rglob("*.py"))


def run(*argv: str) -> str:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_layers_and_independence_of_plug_ins() -> None:
    run(str(Path(sys.executable).parent / "lint-imports"))


def test_types() -> None:
    run(sys.executable, "-m", "mypy")


def test_lint() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_format() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_no_module_is_named_after_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "core", "manager", "misc"}
    assert not [str(path.relative_to(ROOT)) for path in MODULES if path.stem in empty]


def test_no_scheduler_knows_another() -> None:
    parts = {"srun": {"slurm"}, "directives": {"pbs", "torque"}}  # whose file they are a part of
    namesakes = {
        "pbs": {"torque"},
        "torque": {"pbs"},
    }  # the language bears the one's name; each says if it finds the other
    files = {path.stem for path in (ROOT / "clustrix/schedulers").glob("*.py")}
    schedulers = files - {"__init__", "base", *parts}
    for path in (ROOT / "clustrix/schedulers").glob("*.py"):
        others = schedulers - {path.stem, "process"} - parts.get(path.stem, set()) - namesakes.get(path.stem, set())
        words = set(re.findall(r"[a-z]+", path.read_text().lower()))
        assert not others & words, f"{path.name} speaks of {others & words}"


def test_a_scheduler_is_known_by_name_to_the_registry_alone() -> None:
    names = set(registry.PLUG_INS["schedulers"]) - {"process"}
    for path in MODULES:
        if path.stem not in {*names, "registry", "directives"}:
            text = path.read_text()
            values = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
            assert not names & values, f"{path.name} decides by {names & values}"
            # Explanations may compare with the one that most readers know.
            spoken = (names - {"slurm"}) & set(re.findall(r"[a-z]+", text.lower()))
            assert not spoken, f"{path.name} speaks of {spoken}"


def test_the_error_tree_is_drawn_as_it_is() -> None:
    """The docstring of errors.py shows every class below its base."""
    from clustrix import errors

    drawn: dict[str, str] = {}
    stack: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:[| ]   )*)(?:[|`]-- )?([A-Z]\w+)(?:  .*)?$", line)
        if match:
            depth = len(match[1]) // 4 + (1 if "-- " in line else 0)
            stack = [*stack[:depth], match[2]]
            drawn[match[2]] = stack[-2] if depth else "Exception"
    actual = {name: getattr(errors, name).__bases__[0].__name__ for name in errors.__all__}
    assert drawn == actual


def test_importing_the_decorator_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys; from clustrix import cluster; "
        "print(*sorted({m.partition('.')[0] for m in sys.modules} & {'asyncio', 'click', 'cloudpickle', 'docker',"
        " 'httpx', 'isal', 'packaging', 'paramiko', 'rich', 'tomllib', 'yaml', 'ssl'}))"
    )
    assert run(sys.executable, "-I", "-c", code).strip() == ""
