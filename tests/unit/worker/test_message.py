"""What a pod says at its end, there and back, and what nobody of us wrote."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import zlib

import pytest

from clustrix.errors import StoreError
from clustrix.worker.message import LIMIT, Layer, Message, decode, encode

DIGEST = "sha256:" + "ab" * 32


def pack(head: object, body: bytes = b"", version: str = "clustrix/1") -> str:
    data = zlib.compress((head if isinstance(head, bytes) else json.dumps(head).encode()) + b"\n" + body)
    return f"{version} {base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "message",
    [
        Message(),
        Message(statuses={0: "success"}, inline={0: (b'{"index": 0}\n', b"\x80\x05N.\n\x00")}),
        Message(statuses={3: "error", 4: "success"}, inline={3: (b"{}", b""), 4: (b"{}", b"\n")}, derived=True),
        Message(statuses={0: "refused"}, memory=True, log=True, told=(0,)),
        Message(
            statuses=dict.fromkeys(range(5, 900), "success"),
            manifest=DIGEST,
            layers=(Layer(DIGEST, 12345, (5, 6, 9)), Layer(DIGEST, 0, (7,))),
        ),
    ],
)
def test_a_message_comes_back_as_it_was(message):
    assert decode(encode(message)) == message
    assert decode(f"\n{encode(message)}\n") == message


def test_ten_thousand_items_that_ended_alike_fit():
    message = Message(
        statuses=dict.fromkeys(range(10_000), "success"),
        manifest=DIGEST,
        layers=(Layer(DIGEST, 1, tuple(range(10_000))),),
    )
    assert len(encode(message)) < LIMIT // 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not one of clustrix"),
        ("Error: exit status 3\nTraceback", "not one of clustrix"),
        (pack({"ended": []}, version="clustrix/2"), "another version"),
        ("clustrix/1", "damaged|cut short"),
        ("clustrix/1 !!!", "damaged|cut short"),
        ("clustrix/1 caf\xe9", "damaged"),
        (f"clustrix/1 {base64.b64encode(zlib.compress(bytes(64 << 20))).decode()}", "too large"),
        (encode(Message(statuses={0: "success"}, inline={0: (b"x" * 99, b"")}))[:-8], "damaged|cut short"),
        (pack([]), "damaged"),
        (pack(b"{"), "damaged"),
        (pack(b"[" * 100_000), "damaged"),
        (pack({}), "damaged"),
        (pack({"ended": [[0, 1, "fine"]]}), "damaged"),
        (pack({"ended": [[0, 10**12, "success"]]}), "damaged"),
        (pack({"ended": [[-1, 1, "success"]]}), "damaged"),
        (pack({"ended": [[True, 2, "success"]]}), "damaged"),
        (pack({"ended": [], "inline": [[0, 5, 5]]}, b"short"), "damaged"),
        (pack({"ended": [], "inline": [[0, -5, 5]]}, b"short"), "damaged"),
        (pack({"ended": [], "manifest": "sha256:../../etc"}), "damaged"),
        (pack({"ended": [], "manifest": 7}), "damaged"),
        (pack({"ended": [], "layers": [[DIGEST, "1", []]]}), "damaged"),
    ],
)
def test_what_is_no_message_is_refused(text, words):
    with pytest.raises(StoreError, match=words):
        decode(text)


def test_no_damage_raises_anything_else():
    good = encode(
        Message(statuses={0: "success", 1: "error"}, inline={0: (b"{}", b"v"), 1: (b"{}", b"")}, manifest=DIGEST)
    )
    chance = random.Random(7)
    for _ in range(500):
        place = chance.randrange(len(good))
        damaged = good[:place] + chance.choice("AZaz09+/=- \n\x00") + good[place + 1 :]
        with contextlib.suppress(StoreError):
            decode(damaged)
