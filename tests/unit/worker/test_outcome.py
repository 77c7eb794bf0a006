"""Nothing is unpickled that the worker of this very job did not sign."""

from __future__ import annotations

import hashlib
import json
import pickle

import pytest

from clustrix import errors
from clustrix.model.outcome import Failure, Outcome, OutcomeStatus
from clustrix.worker import outcome

KEY = b"a key"
VALUE = pickle.dumps([1, 2])


def failed(name, message, traceback="", variables=()):
    return Failure(type=name, message=message, traceback=traceback, local_variables=variables)


def signed(**fields) -> bytes:
    given = {
        "index": 3,
        "function_name": "f",
        "status": OutcomeStatus.SUCCESS,
        "value_sha256": hashlib.sha256(VALUE).hexdigest(),
        "value_bytes": len(VALUE),
        "failure": failed("ValueError", "\udcff", "trace", (("a", "1"), ("b", "2"))),
        "metadata": {"hostname": "node1", "started": 1.5},
    }
    return outcome.seal(Outcome(**{**given, **fields}), KEY)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def altered(change) -> bytes:
    document = json.loads(signed())
    change(document)
    return json.dumps(document).encode()


def test_what_is_sealed_is_read_again_whatever_its_layout():
    document = json.loads(signed())
    reordered = json.dumps(dict(reversed(document.items()))).encode()
    found = outcome.verify(reordered, KEY, index=3)
    assert outcome.seal(found, KEY) == signed()
    assert outcome.load(found, VALUE) == [1, 2]


@pytest.mark.parametrize(
    ("metadata", "key", "index"),
    [
        (signed(), b"another key", 3),
        (signed(), b"", 3),
        (signed(), KEY, 4),
        (altered(lambda document: document.pop("mac")), KEY, 3),
        (altered(lambda document: document.update(mac="")), KEY, 3),
        (altered(lambda document: document.update(mac=None)), KEY, 3),
        (altered(lambda document: document.update(mac="\xe9")), KEY, 3),
        (altered(lambda document: document.update(index=4)), KEY, 4),
        (altered(lambda document: document.update(status="error")), KEY, 3),
        (altered(lambda document: document["result"].update(sha256="0" * 64)), KEY, 3),
        (altered(lambda document: document["metadata"].update(hostname="node2")), KEY, 3),
        (altered(lambda document: document.update(more=1)), KEY, 3),
        (signed()[:-10], KEY, 3),
        (b"", KEY, 3),
        (b"[]", KEY, 3),
        (b"null", KEY, 3),
        (b"\xff\xfe", KEY, 3),
    ],
)
def test_whatever_is_not_signed_is_refused(metadata, key, index):
    with pytest.raises(errors.Tampered, match=f"item {index} is not signed"):
        outcome.verify(metadata, key, index=index)


def test_a_signature_comes_before_unpickling():
    bomb = pickle.dumps(Bomb())
    metadata = signed(value_sha256=hashlib.sha256(bomb).hexdigest(), value_bytes=len(bomb))
    with pytest.raises(errors.Tampered):
        outcome.read(metadata, bomb, b"another key", index=3)


@pytest.mark.parametrize("value", [b"", VALUE[:-1], VALUE + b"x", pickle.dumps(Bomb()), bytes(len(VALUE))])
def test_another_value_is_refused_before_it_is_unpickled(value):
    with pytest.raises(errors.Tampered, match="the value of item 3"):
        outcome.read(signed(), value, KEY, index=3)


def test_a_refusal_is_raised_as_the_error_that_it_names():
    failure = failed("clustrix.errors.EnvironmentMismatch", "numpy is missing")
    metadata = signed(status=OutcomeStatus.REFUSED, value_sha256=None, value_bytes=0, failure=failure)
    with pytest.raises(errors.EnvironmentMismatch, match="numpy is missing") as caught:
        outcome.read(metadata, b"", KEY, index=3, job_id="t/J", log_tail="tail")
    assert (caught.value.job_id, caught.value.index, caught.value.log_tail) == ("t/J", 3, "tail")


@pytest.mark.parametrize("name", ["os.system", "clustrix.errors.annotations", "clustrix.errors.__doc__", ""])
def test_a_refusal_names_nothing_but_errors(name):
    metadata = signed(status=OutcomeStatus.REFUSED, value_sha256=None, value_bytes=0, failure=failed(name, "m"))
    with pytest.raises(errors.JobFailed, match="m"):
        outcome.read(metadata, b"", KEY, index=3)


def test_an_error_whose_pickle_is_no_exception_arrives_as_text():
    with pytest.raises(errors.JobFailed, match="ValueError"):
        outcome.read(signed(status=OutcomeStatus.ERROR), VALUE, KEY, index=3)
