"""A registry of the distribution specification in this process, which can be told to misbehave."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]+)")
TAGS = re.compile(r"/v2/(.+)/tags/list")
UPLOADS = re.compile(r"/v2/(.+)/blobs/uploads/([^/]*)")


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class FakeRegistry:
    """Keep what is pushed in memory; ``auth`` is None, "basic" or "bearer"; the login is me / s3cret."""

    def __init__(self, auth=None):
        self.auth = auth
        self.blobs, self.manifests, self.uploads = {}, {}, {}
        self.seen = []  # (method, path, headers)
        self.tokens, self.token_requests = {}, []
        self.page = 100  # the most tags in an answer
        self.faults = []  # [method, part of the path, what to do, how often]
        self.lock = threading.Lock()

        class Handler(_Handler):
            fake = self

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def fail(self, method, part, action, times=1):
        """Do ``action(handler)`` in place of the answer to the next requests; True from it goes on as usual."""
        self.faults.append([method, part, action, times])

    def requests(self, method=None):
        return [path for verb, path, _ in self.seen if method in {None, verb}]

    def put_blob(self, repository, data):
        self.blobs[repository, digest(data)] = data
        return digest(data)

    def put_manifest(self, repository, tag, data, media_type):
        for name in (tag, digest(data)):
            self.manifests[repository, name] = (data, media_type)
        return digest(data)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeRegistry

    def log_message(self, *_):
        pass

    def handle(self):
        with suppress(ConnectionError, ValueError):
            super().handle()

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        length = headers.pop("Content_Length", str(len(body)))
        for name, value in {**headers, "Content_Length": length}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message="no", **headers):
        self.body()
        self.answer(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode(), **headers)

    def cut(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def body(self, limit=None):
        size = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(size if limit is None else min(limit, size))

    def route(self):
        fake = self.fake
        url = urlsplit(self.path)
        with fake.lock:
            fake.seen.append((self.command, self.path, dict(self.headers)))
            fault = next((f for f in fake.faults if f[0] == self.command and f[1] in self.path and f[3]), None)
            if fault:
                fault[3] -= 1
        if fault and fault[2](self) is not True:
            return
        if url.path == "/token":
            self.token(parse_qs(url.query))
        elif not self.authorised(parse_qs(url.query)):
            challenge = f'Bearer realm="http://{fake.host}/token",service="fake",scope="repository:x:pull"'
            self.refuse(
                401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="fake"' if fake.auth == "basic" else challenge
            )
        elif url.path == "/v2/":
            self.answer(200)
        elif match := TAGS.fullmatch(url.path):
            self.tags(match[1], parse_qs(url.query))
        elif match := UPLOADS.fullmatch(url.path):
            self.upload(*match.groups(), parse_qs(url.query))
        elif match := MANIFEST.fullmatch(url.path):
            self.manifest(*match.groups())
        elif match := BLOB.fullmatch(url.path):
            self.blob(*match.groups())
        else:
            self.refuse(404, "NAME_UNKNOWN")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = route  # noqa: N815

    def tags(self, repository, query):
        last, most = query.get("last", [""])[0], min(int(query.get("n", ["100"])[0]), self.fake.page)
        known = sorted(tag for name, tag in self.fake.manifests if name == repository and ":" not in tag and tag > last)
        more = {"Link": "</next>; rel=next"} if len(known) > most else {}
        self.answer(200, json.dumps({"name": repository, "tags": known[:most]}).encode(), **more)

    def token(self, query):
        sent = self.headers.get("Authorization", "")
        self.fake.token_requests.append((self.command, sent, sorted(query.get("scope", []))))
        if self.command == "POST":
            form = parse_qs(self.body().decode())
            self.fake.token_requests[-1] += (form,)
            good, scopes = form.get("refresh_token") == ["identity"], form["scope"][0].split()
        else:
            good, scopes = sent in {"", "Basic " + base64.b64encode(b"me:s3cret").decode()}, query.get("scope", [])
            if not sent:  # strangers may only look
                scopes = [scope.replace("pull,push", "pull") for scope in scopes]
        if not good:
            self.refuse(401, "UNAUTHORIZED", "wrong password")
            return
        name = uuid.uuid4().hex
        self.fake.tokens[name] = set(scopes)
        self.answer(200, json.dumps({"token": name, "expires_in": 300}).encode())

    def authorised(self, query):
        sent = self.headers.get("Authorization", "")
        if self.fake.auth is None:
            return True
        if self.fake.auth == "basic":
            return sent == "Basic " + base64.b64encode(b"me:s3cret").decode()
        scopes = self.fake.tokens.get(sent.removeprefix("Bearer "))
        match = MANIFEST.match(self.path) or UPLOADS.match(self.path.partition("?")[0]) or BLOB.match(self.path)
        if scopes is None or match is None:
            return scopes is not None
        actions = {scope.split(":")[1]: scope.split(":")[2] for scope in scopes}
        needed = "pull" if self.command in {"GET", "HEAD"} and "/uploads/" not in self.path else "push"
        return needed in actions.get(match[1], "") and all(
            "pull" in actions.get(repository, "") for repository in query.get("from", [])
        )

    def manifest(self, repository, name):
        if self.command == "PUT":
            data = self.body()
            self.fake.put_manifest(repository, name, data, self.headers["Content-Type"])
            self.answer(201, Docker_Content_Digest=digest(data))
        elif self.command == "DELETE":
            found = self.fake.manifests.pop((repository, name), None)
            self.answer(202 if found else 404)
        elif (repository, name) in self.fake.manifests:
            data, media_type = self.fake.manifests[repository, name]
            extra = {"Content_Length": str(len(data))} if self.command == "HEAD" else {}
            self.answer(200, data, Content_Type=media_type, Docker_Content_Digest=digest(data), **extra)
        else:
            self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")

    def blob(self, repository, name):
        data = self.fake.blobs.get((repository, name))
        if data is None:
            self.refuse(404, "BLOB_UNKNOWN")
        elif start := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(start[1])
            self.answer(206, data[first:], Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            self.answer(200, data, Content_Length=str(len(data)))

    def upload(self, repository, name, query):
        uploads, blobs = self.fake.uploads, self.fake.blobs
        if self.command == "POST":
            mounted = query.get("mount", [""])[0]
            source = (query.get("from", [""])[0], mounted)
            if source in blobs:
                blobs[repository, mounted] = blobs[source]
                self.answer(201)
                return
            name = uuid.uuid4().hex
            uploads[name] = bytearray()
        elif name not in uploads:
            self.refuse(404, "BLOB_UPLOAD_UNKNOWN")
            return
        place = {"Location": f"/v2/{repository}/blobs/uploads/{name}?state=1"}
        if self.command == "DELETE":
            del uploads[name]
            self.answer(204)
        elif self.command == "PUT":
            uploads[name] += self.body()
            whole = bytes(uploads.pop(name))
            if digest(whole) != query["digest"][0]:
                self.refuse(400, "DIGEST_INVALID")
                return
            blobs[repository, digest(whole)] = whole
            self.answer(201)
        else:
            if self.command == "PATCH":
                span = re.fullmatch(r"(\d+)-(\d+)", self.headers.get("Content-Range", "")) or ["", "0"]
                if int(span[1]) != len(uploads[name]):
                    self.refuse(416, "RANGE_INVALID")
                    return
                data = self.body()
                if name in uploads:  # not deleted in the meantime
                    uploads[name] += data
            last = max(len(uploads.get(name, b"")) - 1, 0)
            self.answer(204 if self.command == "GET" else 202, Range=f"0-{last}", **place)
