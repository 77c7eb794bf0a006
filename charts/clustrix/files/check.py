"""Check from inside, with the rights of users: what is allowed, and what must not be. Standard library only."""
# ruff: noqa: INP001, PERF203, PLR2004, S310, S323, TC003 - what it opens is named below

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAMESPACE = (ACCOUNT / "namespace").read_text()
API = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
TRUST = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
# With one of these, whoever may run jobs could do more than that.
NEVER = (
    ("", "secrets", "list"),
    ("", "pods", "create"),
    ("", "pods/exec", "create"),
    ("", "serviceaccounts/token", "create"),
    ("rbac.authorization.k8s.io", "roles", "create"),
    ("rbac.authorization.k8s.io", "rolebindings", "create"),
)


def opened(request: urllib.request.Request, trust: ssl.SSLContext) -> http.client.HTTPResponse:
    """Open an answer: for a minute a Service that was made a moment ago may not be known to this node yet."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return urllib.request.urlopen(request, timeout=30, context=trust)
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def ask(path: str, body: dict | None = None) -> dict:
    """Give the API server's answer, decoded."""
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"}
    request = urllib.request.Request(API + path, json.dumps(body).encode() if body else None, headers)
    with opened(request, TRUST) as answer:
        return json.load(answer)


def allowed(group: str, resource: str, verb: str) -> bool:
    """Ask whether we may."""
    name, _, part = resource.partition("/")
    what = {"namespace": NAMESPACE, "group": group, "resource": name, "subresource": part, "verb": verb}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    return ask(path, {**review, "spec": {"resourceAttributes": what}})["status"]["allowed"]


def registry_answers(scheme: str) -> bool:
    """Tell whether the registry answers as one: with what we asked, or with the wish for a login."""
    host, port = os.environ["CLUSTRIX_REGISTRY_SERVICE_HOST"], os.environ["CLUSTRIX_REGISTRY_SERVICE_PORT"]
    # Its certificate is for the name that users know, not for this address; nothing secret is sent.
    anybody = ssl._create_unverified_context()
    try:
        with opened(urllib.request.Request(f"{scheme}://{host}:{port}/v2/"), anybody) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        return error.code == 401


failed = []
for rule in json.loads(sys.argv[1]):
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            failed += [f"missing: {verb} {resource}" for verb in rule["verbs"] if not allowed(group, resource, verb)]
failed += [f"too much: {verb} {resource}" for group, resource, verb in NEVER if allowed(group, resource, verb)]
if "defaults.yaml" not in ask(f"/api/v1/namespaces/{NAMESPACE}/configmaps/clustrix-defaults")["data"]:
    failed.append("clustrix-defaults holds no defaults.yaml")
if os.environ["REGISTRY_SCHEME"] and not registry_answers(os.environ["REGISTRY_SCHEME"]):
    failed.append("the registry does not answer as one")
print("\n".join(failed) or f"namespace {NAMESPACE} is ready for clustrix")
sys.exit(bool(failed))
