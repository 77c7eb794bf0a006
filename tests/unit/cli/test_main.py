"""The surface of the command line: help, errors, exit statuses, completion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from clustrix import cli, config, errors
from clustrix.cli.output import exit_status


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    config.load.cache_clear()
    return tmp_path


def commands() -> list[tuple[str, click.Command]]:
    context = click.Context(cli.main, **cli.main.context_settings)
    found = []
    for name in cli.main.list_commands(context):
        command = cli.main.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {inner}", command.commands[inner]) for inner in command.commands]
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_every_command_helps_with_examples_and_is_listed_with_its_own_words(name: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=f"clustrix {name}", **cli.main.context_settings))
    assert "Examples:" in text
    assert f"clustrix {name}" in text.split("Examples:")[1]
    if name in cli._COMMANDS:
        assert command.get_short_help_str(200).startswith(cli._COMMANDS[name].rstrip("."))


def test_help_lists_all_commands_and_imports_none_of_them() -> None:
    code = (
        "import sys; sys.argv = ['clustrix', '--help']\n"
        "from clustrix.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(*sorted(m for m in sys.modules if m.startswith('clustrix')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["clustrix", "clustrix.cli", "clustrix.errors"]
    for name in cli._COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["confg"], 2, "Did you mean 'config'?"),
        (["frob"], 2, "Known: build, run"),
        (["config", "--nope"], 2, "No such option"),
        (["config", "--target", "hcp"], 2, "error[UnknownOption]: unknown target 'hcp'"),
        (["env", "lock", "--output", "absent/pylock.toml"], 3, "absent/pylock.toml is in a directory that does not"),
        (["build", "--output", "oci:x", "--tag", "a b"], 3, "error[BadReference]: 'a b' is no tag"),
        (["jobs", "--target", "lcoal"], 2, "Did you mean 'local'?"),
        (["env", "diff", "fit.sif"], 3, "error[BadReference]: fit.sif cannot be looked into"),
        (["env", "diff", "oci:absent"], 3, "error[ImageUnavailable]: absent is no OCI image layout"),
        (["env", "diff", "absent.toml"], 3, "error[CaptureError]: there is no "),
        (["env", "diff", "--insecure-registry", "oci:x"], 2, "for an image of a registry"),
        (["status", "nonsense"], 5, "no job 'nonsense'"),
        (["status", "nonsense"], 5, "is found by its whole id"),
        (["status", "local/01ARZ3NDEKTSV4RRFFQ69G5FAV"], 5, "there is no job 01ARZ3NDEKTSV4RRFFQ69G5FAV below"),
    ],
)
def test_errors_are_a_sentence_and_a_status(argv: list[str], status: int, words: str) -> None:
    done = CliRunner().invoke(cli.main, argv)
    assert done.exit_code == status
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_a_file_that_cannot_be_used_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustrix.journal.Journal.list", lambda _: Path("absent/file").read_text())
    done = CliRunner().invoke(cli.main, ["jobs"])
    assert (done.exit_code, "error[ConfigError]: cannot use absent/file: No such file" in done.stderr) == (2, True)


def test_an_image_of_a_file_that_fails_is_told_of_in_a_sentence(project: Path) -> None:
    (project / "bad.py").write_text("1 / 0\n")
    for text, words in {
        "bad.py:IMAGE": "bad.py cannot be run: ZeroDivisionError: division by zero",
        "bad.py": "it names no Image",
        "absent.py:IMAGE": "there is no absent.py",
    }.items():
        done = CliRunner().invoke(cli.main, ["build", "--image", text])
        assert (done.exit_code, words in done.stderr, "Traceback" in done.output) == (2, True, False)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTRIX_DEBUG", "1")
    assert isinstance(CliRunner().invoke(cli.main, ["config", "--target", "x"]).exception, errors.UnknownOption)


def test_every_error_has_the_status_that_help_documents() -> None:
    documented = {int(line.split()[0]) for line in cli._EPILOG.splitlines() if line.strip()[:1].isdigit()}
    for name in errors.__all__:
        kind = getattr(errors, name)
        error = kind.__new__(kind)
        assert exit_status(error) in documented - {0, 130}
    assert exit_status(errors.TimeLimit("x")) == 1
    assert exit_status(errors.HashMismatch("x")) == 3
    assert exit_status(errors.HostKeyError("x")) == 4


def test_config_says_where_each_value_comes_from_and_hides_secrets(project: Path) -> None:
    path = project / "clustrix.yml"
    path.write_text("host: h\npassword: hush\nenvironment_variables: {HF_TOKEN: hush, MODE: fast}\n")
    path.chmod(0o600)
    done = CliRunner().invoke(cli.main, ["config", "--json"])
    assert "hush" not in done.output
    found = json.loads(done.output)
    assert found["target"] == "default"
    assert found["settings"]["host"] == {"value": "h", "source": f"{path}:1"}
    assert found["settings"]["environment_variables"]["value"] == {"HF_TOKEN": "(hidden)", "MODE": "fast"}
    assert "hush" not in CliRunner().invoke(cli.main, ["config", "--all"]).output


def test_a_script_is_the_process_that_was_started(project: Path) -> None:
    """So a signal to it, or to what started it, leaves no driver behind."""
    (project / "script.py").write_text("import os, sys\nprint(os.getpid(), *sys.argv[1:])\nsys.exit(7)\n")
    argv = [sys.executable, "-m", "clustrix", "run", "--environment", "interpreter", "script.py", "a b"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read() == f"{process.pid} a b\n"
    assert process.returncode == 7


def test_targets_are_completed(project: Path) -> None:
    (project / "clustrix.yml").write_text("targets: {hpc: {backend: slurm, host: h}, gpu: {backend: slurm, host: h}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "clustrix"],
        env={"_CLUSTRIX_COMPLETE": "bash_complete", "COMP_WORDS": "clustrix config --target h", "COMP_CWORD": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["plain,hpc"]


def test_the_reference_is_up_to_date() -> None:
    sys.path.insert(0, str(Path(__file__).parents[3] / "docs/reference"))
    try:
        import generate
    finally:
        sys.path.pop(0)
    assert generate.stale() == [], "run: python docs/reference/generate.py"
