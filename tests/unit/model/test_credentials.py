"""Secrets are recognised, and innocent files are not called secrets."""

from __future__ import annotations

import pytest

from clustrix.model import credentials

# Put together here, so that no scanner of this repository finds them.
SECRETS = {
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA",
    "openssh key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNzaC1rZXk",
    "pkcs8": "-----BEGIN " + "PRIVATE KEY-----\r\nMIIEvQIBADANBg",
    "encrypted": "-----BEGIN ENCRYPTED " + "PRIVATE KEY-----\nMIIFLTBXBgkqhkiG",
    "pgp": "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----\n\nlQOYBF",
    "aws id": "key = AKIA" + "IOSFODNN7EXAMPLE",
    "aws secret": "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
    "github": "token=ghp_" + "a1B2" * 9,
    "github fine-grained": "github_pat_" + "a1B2" * 20,
    "gitlab": "glpat-" + "x" * 20,
    "google": "AIza" + "S" * 35,
    "hugging face": "HF_TOKEN=hf_" + "aB" * 17,
    "pypi": "password = pypi-AgE" + "IcHlwaS5vcmc" * 6,
    "slack": "xoxb-" + "123456789012-abcdefghij",
    "docker": '{"auths": {"ghcr.io": {"auth": "' + 'bWU6cGFzcw=="}}}',
    "url": "index-url = https://me:" + "hunter2@index.example/simple",
    "database": "postgresql://app:" + "secret@db/x",
}
INNOCENT = [
    "",
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIE",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBg",
    'if line.startswith("-----BEGIN RSA ' + 'PRIVATE KEY-----"):',
    "https://example.org/a:b@c",
    "https://user@example.org/",
    "https://${USER}:${PASSWORD}@example.org/",
    "https://<user>:<password>@example.org/",
    "https://user:***@example.org/",
    "git@github.com:me/repo.git",
    "half_precision_is_called_hf_something",
    "AKIA is how they begin",
    "ghp_short",
    '{"auths": {}}',
    "aws_secret_access_key = os.environ[...]",
]
NAMES = {
    ".netrc": True,
    "home/me/.netrc": True,
    "_netrc": True,
    "x/.pypirc": True,
    ".ssh/id_ed25519": True,
    ".ssh/id_ed25519.pub": False,
    ".aws/credentials": True,
    "aws/credentials": False,
    ".aws/config": False,
    ".docker/config.json": True,
    "docker/config.json": False,
    "config.json": False,
    ".kube/config": True,
    ".git-credentials": True,
    "C:\\Users\\me\\.pypirc": True,
    "netrc.py": False,
    "certifi/cacert.pem": False,
}


@pytest.mark.parametrize("name", SECRETS)
def test_secrets(name: str) -> None:
    data = SECRETS[name].encode()
    assert credentials.by_content(data)
    assert credentials.by_content(b"\0binary\xff" * 100 + b"\n" + data + b"\n more")


@pytest.mark.parametrize("text", INNOCENT)
def test_innocent(text: str) -> None:
    assert credentials.by_content(text.encode()) is None


@pytest.mark.parametrize(("path", "secret"), NAMES.items())
def test_names(path: str, secret: bool) -> None:
    assert (credentials.by_name(path) is not None) == secret
