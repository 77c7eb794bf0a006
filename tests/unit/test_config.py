"""Where settings come from, which of them wins, and what is refused."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from clustrix import config
from clustrix.errors import ConfigError, UnknownOption
from clustrix.model.resources import Mount
from clustrix.model.settings import settings
from clustrix.pipeline import prepare, resolve


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for row in settings().values():
        monkeypatch.delenv(row.variable, raising=False)
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "project" / "deep")
    config.load.cache_clear()
    return tmp_path / "project"


def user_file(text: str) -> Path:
    config.home().mkdir(parents=True, exist_ok=True)
    path = config.home() / "clustrix.yml"
    path.write_text(text)
    return path


def test_nothing_configured_leaves_the_built_in_target_alone() -> None:
    assert config.load().default_target() is None
    local = config.load().resolve("local")
    assert (local.backend, local.host, local.cores, local.provenance) == ("local", None, 1, {})


def test_runtime_beats_file_beats_environment_beats_default(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setenv("CLUSTRIX_CLUSTER_HOST", "env.example.org")
    monkeypatch.setenv("CLUSTRIX_CORES", "2")
    seen.append(config.load().resolve("default"))
    (project / "clustrix.yml").write_text("cluster_type: slurm\ncores: 3\n")
    config.load.cache_clear()
    seen.append(config.load().resolve("default"))
    config.configure(cores=4)
    seen.append(config.load().resolve("default"))
    seen.append(config.load().resolve("default", {"cores": 5}))
    config.configure(cores=None)
    seen.append(config.load().resolve("default"))
    assert [found.cores for found in seen] == [2, 3, 4, 5, 3]
    assert [found.provenance["cores"] for found in seen] == [
        "$CLUSTRIX_CORES",
        f"{project}/clustrix.yml:2",
        "configure()",
        "the call",
        f"{project}/clustrix.yml:2",
    ]
    assert seen[-1].host == "env.example.org"
    assert "partition" not in seen[-1].provenance


def test_targets_inherit_and_the_nearer_file_wins(project: Path) -> None:
    user_file("username: alice\ntargets: {base: {backend: slurm, time: 1h, host: a}, old: {backend: ssh, host: o}}\n")
    (project / "clustrix.yml").write_text(
        "memory: 4GB\ntargets:\n  gpu:\n    extends: base\n    host: b\n    gpus: 2\n    mounts: ['/data:/in:ro']\n"
    )
    found = config.load().resolve("gpu")
    assert (found.backend, found.host, found.username, found.gpus) == ("slurm", "b", "alice", 2)
    assert (found.time, found.memory) == (timedelta(hours=1), 4 * 2**30)
    assert found.mounts == (Mount("/data", "/in", read_only=True),)
    assert found.provenance["host"] == f"{project}/clustrix.yml:5 (target gpu)"
    assert config.load().target_names == ("base", "gpu", "local", "old")
    # What is said for clusters does not turn the built-in target into one.
    assert config.load().resolve("local").username is None
    assert config.load().resolve("local").memory == 4 * 2**30


def test_the_built_in_target_takes_what_makes_sense_here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTRIX_RUNTIME", "venv")
    assert config.load().resolve("local").runtime == "venv"
    assert config.load().default_target() is None
    config.configure(cluster_type="slurm", host="h")
    assert config.load().resolve("local").runtime is None
    assert config.load().resolve("default").runtime == "venv"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clustrix.yaml", "target: hpc\ntargets: {hpc: {backend: slurm, cores: 8}}"),
        ("clustrix.json", '{"target": "hpc", "targets": {"hpc": {"backend": "slurm", "cores": 8}}}'),
        ("pyproject.toml", '[tool.clustrix]\ntarget = "hpc"\ntargets.hpc = {backend = "slurm", cores = 8}\n'),
    ],
)
def test_every_format_says_the_same(project: Path, name: str, text: str) -> None:
    (project / name).write_text(text)
    assert config.load().default_target() == "hpc"
    assert config.load().resolve("hpc").cores == 8


REFUSED = {
    "misspelt key": ("backend: slurm\nmemroy: 4GB\n", r"clustrix\.yml:2: unknown setting 'memroy'\n.*'memory'"),
    "misspelt key of a target": (
        "targets:\n  a: {\n  hots: x}\n",
        r"l:3: unknown setting \(target a\) 'hots'\n.*'host",
    ),
    "client setting in a target": (
        "targets:\n  a:\n    target: x\n",
        r"l:3 \(target a\): target is a setting of a whole file, not of a target",
    ),
    "bad value": ("cores: many\n", r"clustrix\.yml:1: cores must be a whole number of at least 1, not 'many'"),
    "none at a time": ("max_parallel: 0\n", "max_parallel must be a whole number of at least 1, not 0"),
    "bad memory": ("memory: lots\n", "not an amount of memory"),
    "a key twice": ("targets:\n  a: {}\n  b: {}\n  a: {}\n", r"clustrix\.yml:4 is no YAML: a is there twice"),
    "one thing twice": ("host: a\ncluster_host: b\n", "host is set twice"),
    "not a mapping": ("- a\n- b\n", "must be names and values"),
    "broken yaml": ("a: [1\n", r"clustrix\.yml:2 is no YAML"),
    "bad target name": ("targets: {'a b': {}}\n", "not a name for a target"),
    "relative mount": ("mounts: [data]\n", "not a mount"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_is_refused_with_its_place(project: Path, case: str) -> None:
    text, pattern = REFUSED[case]
    (project / "clustrix.yml").write_text(text)
    with pytest.raises(ConfigError, match=pattern):
        config.load()


def test_a_directory_that_is_gone_or_cannot_be_used_is_named(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="cannot look for"):
        config.load(project / ("long" * 100))
    gone = tmp_path_factory.mktemp("gone")
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="does not exist any more"):
        config.load()
    monkeypatch.chdir(project)
    (project / "file").write_text("")
    monkeypatch.setenv("CLUSTRIX_STATE_DIR", str(project / "file"))
    # An environment that no index has to be asked for.
    (project / "pylock.toml").write_text('lock-version = "1.0"\ncreated-by = "a test"\npackages = []\n')
    with pytest.raises(ConfigError, match=r"cannot use .*/file.*\n  Set CLUSTRIX_STATE_DIR"):
        prepare(resolve({"target": "local", "environment": "pylock.toml"}))


def test_circles_absent_parents_and_unknown_targets_are_refused(project: Path) -> None:
    (project / "clustrix.yml").write_text("targets: {a: {extends: b}, b: {extends: a}, c: {extends: hpx}, hpc: {}}\n")
    current = config.load()
    with pytest.raises(ConfigError, match="a -> b -> a"):
        current.resolve("a")
    with pytest.raises(UnknownOption, match=r"'hpx'\n.*'hpc'"):
        current.resolve("c")
    with pytest.raises(UnknownOption, match=r"target 'hcp'\n.*'hpc'"):
        current.resolve("hcp")
    with pytest.raises(ConfigError, match="there are several: a, b, c, hpc"):
        current.default_target()


@pytest.mark.parametrize(
    "text",
    [
        "host: h\npassword: x\n",
        "targets: {a: {password: x}}\n",
        "environment_variables: {HF_TOKEN: x}\n",
    ],
)
def test_a_readable_file_with_secrets_is_refused(project: Path, text: str) -> None:
    path = project / "clustrix.yml"
    path.write_text(text)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        config.load()
    path.chmod(0o600)
    assert config.load().sources


def test_secrets_and_variables_are_in_no_record() -> None:
    config.configure(host="h", password="hush", environment_variables={"A": "hush"}, memory="1GB", time="1h")
    data = config.public(config.load().resolve("default"))
    assert "hush" not in json.dumps(data)
    assert data == {"target": "default", "host": "h", "memory": 2**30, "time": 3600.0}


def test_configure_refuses_and_then_nothing_has_changed() -> None:
    for wrong in ({"corse": 2}, {"cores": "x"}, {"targets": {"a": {"nope": 1}}}, {"nope": None}):
        with pytest.raises(ConfigError):
            config.configure(**wrong)  # type: ignore[arg-type]
    assert config.load().default_target() is None


def test_a_key_of_json_that_is_there_twice_is_refused(project: Path) -> None:
    (project / "clustrix.json").write_text('{"cores": 1, "cores": 2}')
    with pytest.raises(ConfigError, match=r"clustrix\.json cannot be read: cores is there twice"):
        config.load()


def test_two_files_in_one_directory_are_refused(project: Path) -> None:
    (project / "clustrix.yml").write_text("cores: 1\n")
    (project / "pyproject.toml").write_text("[tool.clustrix]\ncores = 2\n")
    with pytest.raises(ConfigError, match=r"clustrix\.yml, pyproject\.toml"):
        config.load()


def test_variables_read_lists_tables_and_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTRIX_MODULES", "gcc/12, cuda")
    monkeypatch.setenv("CLUSTRIX_BACKEND_OPTIONS", '{"exclusive": true}')
    monkeypatch.setenv("CLUSTRIX_ASYNC_SUBMIT", "yes")
    found = config.load().resolve("local")
    assert (found.modules, found.backend_options, found.async_submit) == (("gcc/12", "cuda"), {"exclusive": True}, True)
    config.load.cache_clear()
    monkeypatch.setenv("CLUSTRIX_ASYNC_SUBMIT", "perhaps")
    with pytest.raises(ConfigError, match=r"\$CLUSTRIX_ASYNC_SUBMIT: async_submit must be true or false"):
        config.load()
