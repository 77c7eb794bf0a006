"""What the server answers becomes values or typed errors: spoken to over HTTP, with answers of a real API server."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import yaml

from clustrix.errors import (
    AccessDenied,
    AuthenticationFailed,
    BackendError,
    ConfigError,
    ConnectionLost,
    SubmitRejected,
)
from clustrix.kubernetes import connection
from clustrix.kubernetes.connection import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PODS = "/api/v1/namespaces/ns/pods"


class Server:
    """Answer requests with what was laid out for them, in order."""

    def __init__(self):
        self.answers = []
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                outer.asked.append((self.command, self.path, body, dict(self.headers)))
                status, document = outer.answers.pop(0)
                if status is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                lines = document if isinstance(document, list) else [document]
                data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - the names of the base class

            def log_message(self, *_):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.httpd.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.httpd.shutdown()
    running.httpd.server_close()
    thread.join()


def kubeconfig(path: Path, address: str, namespace: str | None = "ns") -> str:
    context = {"cluster": "c", "user": "u", **({"namespace": namespace} if namespace else {})}
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": context}],
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.fixture
def cluster(server, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "_PAUSE", 0.01)
    made = Cluster(kubeconfig=kubeconfig(tmp_path / "config", server.address))
    yield made
    made.close()


def status(code, reason, message):
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def test_objects(cluster, server):
    server.answers = [(200, {"a": 1}), (201, {"b": 2}), (200, {"c": 3})]
    assert cluster.get(cluster.path("pods", "x")) == {"a": 1}
    assert cluster.create(cluster.path("jobs"), {"kind": "Job"}) == {"b": 2}
    assert cluster.patch(cluster.path("jobs", "j"), {"spec": {"suspend": False}}) == {"c": 3}
    (get, post, patch) = server.asked
    assert get[:2] == ("GET", f"{PODS}/x")
    assert post[:3] == ("POST", "/apis/batch/v1/namespaces/ns/jobs", {"kind": "Job"})
    assert patch[3]["Content-Type"] == "application/merge-patch+json"
    assert {row[3].get("authorization") or row[3].get("Authorization") for row in server.asked} == {"Bearer t0ken"}


def test_what_is_not_there_and_what_is_there_already(cluster, server):
    server.answers = [
        status(404, "NotFound", 'jobs.batch "j" not found'),
        status(404, "NotFound", 'jobs.batch "j" not found'),
        status(409, "AlreadyExists", 'jobs.batch "j" already exists'),
    ]
    assert cluster.job("j") is None
    assert cluster.patch(cluster.path("jobs", "j"), {}) is None
    assert cluster.create(cluster.path("jobs"), {}) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (status(401, "Unauthorized", "Unauthorized"), AuthenticationFailed),
        (status(403, "Forbidden", 'User "system:anonymous" cannot list resource "pods"'), AuthenticationFailed),
        (status(403, "Forbidden", 'jobs.batch is forbidden: User "me" cannot create resource "jobs"'), AccessDenied),
        (status(403, "Forbidden", 'jobs.batch "j" is forbidden: exceeded quota: q'), SubmitRejected),
        (status(400, "BadRequest", "admission webhook no.example denied the request: no"), SubmitRejected),
        (status(422, "Invalid", 'Job.batch "j" is invalid: spec.parallelism'), SubmitRejected),
        (status(404, "NotFound", 'namespaces "ns" not found'), ConfigError),
        (status(500, "InternalError", "etcd is sad"), BackendError),
        ((502, "a proxy's words"), BackendError),
    ],
)  # fmt: skip
def test_refusals_are_typed_and_in_the_server_s_words(cluster, server, answer, kind):
    server.answers = [answer]
    words = answer[1]["message"] if isinstance(answer[1], dict) else "a proxy's words"
    with pytest.raises(kind) as caught:
        cluster.create(cluster.path("jobs"), {})
    assert type(caught.value) is kind
    assert words in caught.value.message


def test_who_logs_in_again_is_known_at_once(cluster, server, tmp_path):
    server.answers = [status(401, "Unauthorized", "Unauthorized"), (200, {"a": 1})]
    with pytest.raises(AuthenticationFailed):
        cluster.job("j")
    place = tmp_path / "config"
    place.write_text(place.read_text().replace("t0ken", "another"))
    assert cluster.job("j") == {"a": 1}
    headers = {name.lower(): value for name, value in server.asked[-1][3].items()}
    assert headers["authorization"] == "Bearer another"


def test_a_login_that_was_replaced_meanwhile_is_taken_up_in_the_same_request(cluster, server, tmp_path):
    """Programs that log in do not always say how long what they give is good for."""
    server.answers = [(200, {}), status(401, "Unauthorized", "Unauthorized"), (200, {"a": 1})]
    cluster.job("j")
    place = tmp_path / "config"
    place.write_text(place.read_text().replace("t0ken", "another"))
    assert cluster.job("j") == {"a": 1}
    sent = [{name.lower(): value for name, value in row[3].items()}["authorization"] for row in server.asked]
    assert sent == ["Bearer t0ken", "Bearer t0ken", "Bearer another"]


def test_a_server_that_is_busy_or_goes_away_is_asked_again(cluster, server):
    server.answers = [status(429, "TooManyRequests", "later"), (None, None), (201, {"kind": "Job"})]
    assert cluster.create(cluster.path("jobs"), {}) == {"kind": "Job"}
    server.answers = [status(409, "Conflict", "the quota has changed"), (201, {"kind": "Job"})]
    assert cluster.create(cluster.path("jobs"), {}) == {"kind": "Job"}


def test_no_answer_is_a_lost_connection(cluster, server):
    server.answers = [(None, None)] * 9
    with pytest.raises(ConnectionLost):
        cluster.job("j")
    assert len(server.asked) == 3


def test_long_lists_come_in_pages(cluster, server):
    first = {"metadata": {"continue": "more", "resourceVersion": "7"}, "items": [{"n": 1}]}
    server.answers = [(200, first), (200, {"metadata": {"resourceVersion": "7"}, "items": [{"n": 2}]})]
    assert cluster.listing(cluster.path("pods"), labelSelector="a in (b)") == ([{"n": 1}, {"n": 2}], "7")
    assert "continue=more" in server.asked[1][1]
    assert "labelSelector=a+in+%28b%29" in server.asked[1][1]


def event(kind, name, version):
    return {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": version}}}


def test_a_watch_goes_on_where_it_ended_and_lists_anew_what_was_forgotten(cluster, server):
    def listed(name, version):
        return 200, {"metadata": {"resourceVersion": version}, "items": [{"metadata": {"name": name}}]}

    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}
    server.answers = [
        listed("a", "5"),
        (200, [event("ADDED", "b", "6"), event("BOOKMARK", "", "9")]),
        (200, [gone]),
        listed("c", "20"),
        (200, [event("DELETED", "c", "21")]),
        (None, None),
    ]
    seen = []

    def follow():
        for kind, pod in cluster.watch_pods("a"):
            seen.append((kind, pod["metadata"]["name"] if pod else None))

    with pytest.raises(ConnectionLost):
        follow()
    assert seen == [
        ("ADDED", "a"), ("SYNCED", None), ("ADDED", "b"), ("ADDED", "c"), ("SYNCED", None), ("DELETED", "c")
    ]  # fmt: skip
    versions = [path.partition("resourceVersion=")[2].partition("&")[0] for _, path, *_ in server.asked]
    assert versions == ["", "5", "9", "", "20", "21"]


@pytest.mark.parametrize(
    ("context", "content", "said"),
    [
        (None, None, "there is no kubeconfig"),
        ("elsewhere", "good", "has no context 'elsewhere'"),
        (None, "a: [", "cannot be used"),
        (None, "[]", "cannot be used"),
    ],
)
def test_kubeconfigs_that_cannot_be_used(tmp_path, context, content, said):
    place = tmp_path / "config"
    if content == "good":
        kubeconfig(place, "http://127.0.0.1:1")
    elif content:
        place.write_text(content)
    with pytest.raises(ConfigError, match=said):
        Cluster(context=context, kubeconfig=str(place)).job("j")


def test_a_context_needs_no_current_one_and_the_first_file_counts(tmp_path, server, monkeypatch):
    """As kubectl has it; the official client asks for a current context, and takes that of the last file."""
    first, second = tmp_path / "first", tmp_path / "second"
    kubeconfig(first, server.address)
    kubeconfig(second, "http://127.0.0.1:1", namespace="other")
    second.write_text(second.read_text().replace("here", "there"))
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}")
    assert (Cluster().space, Cluster(context="there").space) == ("ns", "other")
    first.write_text(first.read_text().replace("current-context: here", "current-context: ''"))
    assert Cluster(context="here", kubeconfig=str(first)).space == "ns"
    with pytest.raises(ConfigError, match="has no current context") as caught:
        _ = Cluster(kubeconfig=str(first)).space
    assert "here" in str(caught.value)


def test_a_login_program_that_fails_is_quoted(tmp_path, server, caplog):
    place = tmp_path / "config"
    kubeconfig(place, server.address)
    document = yaml.safe_load(place.read_text())
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": {**program, "args": ["-c", "echo log in at the cloud >&2; exit 3"]}}
    place.write_text(yaml.safe_dump(document))
    with pytest.raises(AuthenticationFailed, match=r"context here failed: .*log in at the cloud"):
        Cluster(kubeconfig=str(place)).job("j")
    assert not server.asked
    assert not caplog.records


def test_a_namespace_has_to_be_named_somewhere(tmp_path):
    place = kubeconfig(tmp_path / "config", "http://127.0.0.1:1", namespace=None)
    with pytest.raises(ConfigError, match="names no namespace") as caught:
        Cluster(kubeconfig=place).path("pods")
    assert "`namespace`" in str(caught.value)
    assert Cluster(kubeconfig=place, namespace="own").path("pods") == "/api/v1/namespaces/own/pods"
