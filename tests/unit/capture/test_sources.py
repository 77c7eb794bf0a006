"""Which file describes an environment is decided by name and order, and never guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clustrix.capture import sources
from clustrix.errors import CaptureError, ClustrixError, ConfigError
from clustrix.model.environment import Environment
from clustrix.model.source import ProjectSource, PylockSource, RequirementsSource, ScriptSource, Source

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = '# /// script\n# requires-python = ">=3.10"\n# dependencies = ["six"]\n# ///\nimport six\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("uv.lock", "pylock.toml", "pylock.gpu.toml", "requirements.txt", "dev.in", "deep/er/x", "data.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "fit.py").write_text(SCRIPT)
    (tmp_path / "plain.py").write_text("import six\n")
    return tmp_path


@pytest.mark.parametrize(
    ("choice", "kind", "attribute", "name"),
    [
        ("uv.lock", ProjectSource, "directory", ""),
        (".", ProjectSource, "directory", ""),
        ("pylock.toml", PylockSource, "path", "pylock.toml"),
        ("pylock.gpu.toml", PylockSource, "path", "pylock.gpu.toml"),
        ("requirements.txt", RequirementsSource, "path", "requirements.txt"),
        ("dev.in", RequirementsSource, "path", "dev.in"),
        ("fit.py", ScriptSource, "path", "fit.py"),
    ],
)
def test_by_name(tree: Path, choice: str, kind: type[Source], attribute: str, name: str) -> None:
    found = sources.choose(choice, tree)
    assert type(found) is kind
    assert getattr(found, attribute) == str(tree / name).rstrip("/")
    assert sources.choose(str(tree / choice), tree / "deep") == found


def test_extras_and_groups_are_never_implied(tree: Path) -> None:
    assert sources.choose("uv.lock", tree) == ProjectSource(str(tree))
    chosen = sources.choose("uv.lock", tree, extras=("gpu",), groups=("docs",))
    assert chosen == ProjectSource(str(tree), ("gpu",), ("docs",))


def test_auto_takes_the_first_of_a_documented_order(tree: Path) -> None:
    deep = tree / "deep" / "er"
    assert sources.choose("auto", deep, script=tree / "fit.py") == ScriptSource(str(tree / "fit.py"))
    assert sources.choose("auto", deep, script=tree / "plain.py") == ProjectSource(str(tree))
    (tree / "uv.lock").unlink()
    assert sources.choose("auto", deep) == PylockSource(str(tree / "pylock.toml"))
    (tree / "pylock.toml").unlink()
    assert sources.choose("auto", deep) == RequirementsSource(str(tree / "requirements.txt"))
    (deep / "requirements.txt").write_text("")
    assert sources.choose("auto", deep) == RequirementsSource(str(deep / "requirements.txt"))


def test_the_interpreter(tree: Path) -> None:
    live = sources.choose("interpreter", tree, cache=tree / "cache")
    assert isinstance(live, Environment)
    assert "pytest" in {row.key for row in live.distributions}
    assert sources.choose("interpreter", tree) == live


@pytest.mark.parametrize(
    ("choice", "options", "error", "words"),
    [
        ("absent.txt", {}, CaptureError, "there is no .*absent.txt"),
        ("deep", {}, CaptureError, "there is no .*uv.lock"),
        ("data.csv", {}, CaptureError, "is no description of an environment"),
        ("plain.py", {}, CaptureError, "no inline metadata"),
        ("requirements.txt", {"extras": ("gpu",)}, ConfigError, "no extras or groups to choose \\(gpu\\)"),
        ("fit.py", {"groups": ("dev",)}, ConfigError, "no extras or groups"),
        ("interpreter", {"groups": ("dev",)}, ConfigError, "the running interpreter has no extras"),
    ],
)
def test_refusals_name_the_thing_and_the_remedy(
    tree: Path, choice: str, options: dict[str, tuple[str, ...]], error: type[ClustrixError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        sources.choose(choice, tree, **options)  # type: ignore[arg-type]
    assert raised.value.remedy


def test_two_script_blocks_are_refused(tree: Path) -> None:
    (tree / "twice.py").write_text(SCRIPT * 2)
    with pytest.raises(CaptureError, match="2 `# /// script` blocks"):
        sources.choose("twice.py", tree)
