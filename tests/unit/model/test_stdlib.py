"""What workers use in place of slow modules says what these say."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clustrix.model import spelling, stdlib

VALUES = [
    None,
    True,
    -3,
    10**30,
    0.1,
    1e300,
    "",
    'q"\\\n\t\x7f\u00fc\U0001f600',
    "\udcff",
    [],
    {},
    [1, [2.5, None]],
    {"b": {"ü": [1]}, "a": ""},
]


@pytest.mark.parametrize("value", VALUES)
def test_json_is_the_one_of_json(value):
    text = stdlib.encode(value)
    assert text == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    for layout in (text, json.dumps(value, indent=1) + "\n"):
        assert stdlib.decode(layout.encode()) == value


@pytest.mark.parametrize("text", [b"", b" ", b"{", b"[1,]", b"{} {}", b"nul", b'"\x01"', b"\xff"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError):
        stdlib.decode(text)


def test_what_json_cannot_say_is_refused():
    with pytest.raises(TypeError, match="bytes"):
        stdlib.encode({"a": b""})


@pytest.mark.parametrize("size", [0, 55, 64, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_digests_are_those_of_hashlib(size):
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    counted = stdlib.Sha256(data[:10])
    counted.update(memoryview(data)[10 : size // 2])
    counted.update(data[max(10, size // 2) :])
    assert counted.digest() == hashlib.sha256(data).digest()
    assert counted.hexdigest() == hashlib.sha256(data).hexdigest()
    assert stdlib.hmac_sha256(b"k" * 32, data) == hmac.digest(b"k" * 32, data, "sha256")


@pytest.mark.parametrize(
    "name",
    ["a", "A.b_c-d", "a--b", "a._-b", "-a", "a-", "~ip", "", ".", "a b", "\u00e4", "0", "a!b", "x__Y", "a\u00b2"],
)
def test_names_are_spelled_as_their_specifications_say(name):
    """PEP 503, PEP 508."""
    assert spelling.normalise(name) == re.sub(r"[-_.]+", "-", name).lower()
    assert spelling.is_name(name) == bool(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name))


def test_a_worker_starts_without_what_is_slow_to_import():
    """It starts in every task: each of these costs it as much as all that it does itself."""
    code = (
        "import clustrix.worker.__main__, clustrix.worker.environment, clustrix.worker.installed, clustrix.decorator\n"
        "import clustrix.worker.rebuilding, sys\n"
        "print(*sorted(sys.modules.keys() & set(sys.argv[1:])))"
    )
    slow = [
        "json",
        "pickle",
        "hashlib",
        "hmac",
        "re",
        "enum",
        "typing",
        "dataclasses",
        "inspect",
        "contextlib",
        "signal",
        "csv",
        "importlib.util",
        "runpy",
        "ssl",
    ]
    argv = [sys.executable, "-S", "-c", code, *slow]
    root = str(Path(stdlib.__file__).parents[2])
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={"PYTHONPATH": root})
    assert done.stdout.split() == []
