"""What must not travel: files that hold secrets, told by their name or by what stands in them."""

from __future__ import annotations

import re

_NAMES = frozenset(
    {
        ".dockercfg",
        ".git-credentials",
        ".htpasswd",
        ".netrc",
        ".pgpass",
        ".pypirc",
        "_netrc",
        "id_dsa",
        "id_ecdsa",
        "id_ecdsa_sk",
        "id_ed25519",
        "id_ed25519_sk",
        "id_rsa",
    }
)
_PATHS = (
    ".aws/credentials",
    ".azure/accessTokens.json",
    ".cache/huggingface/token",
    ".config/gcloud/application_default_credentials.json",
    ".config/gcloud/credentials.db",
    ".docker/config.json",
    ".huggingface/token",
    ".kube/config",
)
# Each is the form its issuer documents; `git grep` for one in a repository should find nothing.
_SECRETS = tuple(
    (what, re.compile(pattern))
    for what, pattern in (
        ("a private key", rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----\s*[A-Za-z0-9+/=]"),
        ("an AWS key", rb"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Z0-9])"),
        ("an AWS secret", rb"(?i)aws_secret_access_key[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"),
        ("a GitHub token", rb"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})"),
        ("a GitLab token", rb"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20,}"),
        ("a Google API key", rb"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
        ("a Hugging Face token", rb"(?<![A-Za-z0-9_])hf_[A-Za-z]{34}(?![A-Za-z0-9])"),
        ("a PyPI token", rb"pypi-AgE[A-Za-z0-9_-]{60,}"),
        ("a Slack token", rb"xox[abprs]-[0-9]{8,}-[A-Za-z0-9-]{8,}"),
        (
            "registry logins",
            rb"\"auths\"\s*:\s*\{\s*\"[^\"]+\"\s*:\s*\{\s*\"(?:auth|password|identitytoken)\"\s*:\s*\".",
        ),
        (
            "a password in a URL",
            rb"(?i)\b(?:https?|ftp|postgres(?:ql)?|redis|mongodb)://[^\s/:@\"'<>{}$]+:[^\s/:@\"'<>{}$*]+@[a-z0-9]",
        ),
    )
)
OVERLAP = 4096
"""How many bytes of one piece have to be looked at again with the next one."""


def by_name(path: str) -> str | None:
    """Say what a file with this name holds (``credentials (.netrc)``), None where the name is innocent."""
    path = path.replace("\\", "/")
    name = path.rpartition("/")[2]
    if name in _NAMES:
        return f"credentials ({name})"
    for known in _PATHS:
        if path == known or path.endswith(f"/{known}"):
            return f"credentials ({known})"
    return None


def by_content(data: bytes) -> str | None:
    """Say which secret stands in these bytes (``a private key``), None where none is recognised."""
    for what, pattern in _SECRETS:
        if pattern.search(data):
            return what
    return None
