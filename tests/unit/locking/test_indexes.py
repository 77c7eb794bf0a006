"""Indexes and credentials are those that the user configured for pip or uv."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from clustrix.locking import indexes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def variables(own_settings: Path, tmp_path: Path) -> dict[str, str]:
    """Give the variables of a user with a pip.conf of their own and one of the system's."""
    for path, text in {
        tmp_path / "etc/pip/pip.conf": "[global]\nindex-url = https://site/simple\nfind-links = /nowhere\n",
        own_settings / ".config/pip/pip.conf": (
            "[global]\nindex-url = https://me:p%40ss@mine/simple\nextra-index-url =\n  https://b/simple\n  https://c/simple\n"
        ),
    }.items():
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return {"XDG_CONFIG_DIRS": str(tmp_path / "etc")}


def test_pip_conf(variables: dict[str, str], tmp_path: Path) -> None:
    """The user's file beats the system's; what is not there is no find-links directory; all indexes count alike."""
    assert indexes.uv_environment(variables) == {
        "UV_DEFAULT_INDEX": "https://me:p%40ss@mine/simple",
        "UV_INDEX": "https://b/simple https://c/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    links = {**variables, "PIP_FIND_LINKS": str(tmp_path), "PIP_INDEX_URL": "https://v/simple", "PIP_NO_INDEX": "1"}
    told = indexes.uv_environment(links)
    assert (told["UV_FIND_LINKS"], told["UV_DEFAULT_INDEX"], told["UV_NO_INDEX"]) == (
        str(tmp_path),
        "https://v/simple",
        "1",
    )


@pytest.mark.parametrize("name", ["UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_NO_INDEX"])
def test_uv_variables_win(variables: dict[str, str], name: str) -> None:
    assert indexes.uv_environment({**variables, name: "https://u/simple"}) == {}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("project/pyproject.toml", '[[tool.uv.index]]\nurl = "https://u/simple"\n'),
        ("uv.toml", '[pip]\nindex-url = "https://u/simple"\n'),
        (".config/uv/uv.toml", 'find-links = ["https://u/wheels"]\n'),
    ],
)
def test_uv_files_win(
    variables: dict[str, str], own_settings: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str
) -> None:
    (own_settings / file).parent.mkdir(parents=True, exist_ok=True)
    (own_settings / file).write_text(text)
    (own_settings / "project").mkdir(exist_ok=True)
    monkeypatch.chdir(own_settings / "project")
    assert indexes.uv_environment(variables) == {}
    (own_settings / file).write_text('[tool.uv]\n[tool.other]\nindex-url = "x"\n')
    assert indexes.uv_environment(variables) != {}


def test_certificates_are_pips_where_nobody_else_names_any() -> None:
    assert indexes.uv_environment({"PIP_CERT": "/ca.pem"}) == {"SSL_CERT_FILE": "/ca.pem"}
    assert indexes.uv_environment({"PIP_CERT": "/ca.pem", "SSL_CERT_FILE": "/other.pem"}) == {}


def test_credentials(variables: dict[str, str], own_settings: Path) -> None:
    (own_settings / ".netrc").write_text("machine files login me password fromnetrc\n")
    os.chmod(own_settings / ".netrc", 0o600)  # noqa: PTH101
    named = {
        **variables,
        "UV_INDEX": "corp-gpu=https://corp/simple https://u:v@other/simple?x=1",
        "UV_INDEX_CORP_GPU_USERNAME": "me",
        "UV_INDEX_CORP_GPU_PASSWORD": "token",
    }
    assert indexes.credentials("https://mine/packages/x.whl", named) == ("me", "p@ss")
    assert indexes.credentials("https://corp/x.whl", named) == ("me", "token")
    assert indexes.credentials("https://other/x.whl", named) == ("u", "v")
    assert indexes.credentials("https://files/x.whl", named) == ("me", "fromnetrc")
    assert indexes.credentials("https://elsewhere/x.whl", named) is None
    assert indexes.credentials("http://mine/packages/x.whl", named) is None, "not in the clear"
    assert indexes.credentials("https://mine:8443/packages/x.whl", named) is None
    assert indexes.credentials("https://mine:443/packages/x.whl", named) == ("me", "p@ss")
