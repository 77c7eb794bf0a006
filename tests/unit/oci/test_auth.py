import base64
import json
import stat
import traceback

import pytest

from clustrix.errors import ConfigError, RegistryDenied, RegistryError
from clustrix.oci.auth import Challenge, Credentials, Keychain, parse_challenges
from clustrix.oci.client import Client
from clustrix.oci.manifest import OCI_MANIFEST
from clustrix.oci.reference import Reference

HUB = "https://index.docker.io/v1/"
SECRET = "s3cret"


def auth(text):
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def keychain(tmp_path):
    def write(**config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return Keychain(tmp_path / "config.json")

    return write


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Install docker-credential-NAME, a sh script."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    (tmp_path / "bin").mkdir()

    def install(name, script):
        path = tmp_path / "bin" / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return install


@pytest.mark.parametrize(
    ("auths", "registry", "found"),
    [
        ({"ghcr.io": {"auth": auth("me:a:b")}}, "ghcr.io", Credentials("me", "a:b")),
        ({"https://ghcr.io/v2/": {"auth": auth("me:p")}}, "ghcr.io", Credentials("me", "p")),
        ({"ghcr.io": {"username": "me", "password": "p"}}, "ghcr.io", Credentials("me", "p")),
        ({"ghcr.io": {"auth": auth("<token>:"), "identitytoken": "t"}}, "ghcr.io", Credentials("<token>", "", "t")),
        ({HUB: {"auth": auth("me:p")}}, "docker.io", Credentials("me", "p")),
        ({"docker.io": {"auth": auth("me:p")}}, "docker.io", Credentials("me", "p")),
        ({"localhost:5000": {"auth": auth("me:p")}}, "localhost:5001", None),
        ({"ghcr.io": {}}, "ghcr.io", None),  # what docker leaves behind when a helper keeps the login
        ({}, "ghcr.io", None),
    ],
)
def test_logins_of_the_file(keychain, auths, registry, found):
    assert keychain(auths=auths).find(registry) == found


def test_secrets_are_not_printed():
    assert "a:b" not in repr(Credentials("me", "a:b", "a:b"))


@pytest.mark.parametrize(
    "text", ["{", "", "[1]", '{"auths": [1]}', '{"auths": {"ghcr.io": 1}}', f'{{"auths": {{"ghcr.io": "{SECRET}"']
)
def test_a_broken_file_is_named_and_not_quoted(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Keychain(path).find("ghcr.io")
    assert str(path) in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_damaged_login_is_named_and_not_quoted(keychain):
    with pytest.raises(ConfigError, match=r"login for ghcr\.io") as caught:
        keychain(auths={"ghcr.io": {"auth": f"{SECRET}!!"}}).find("ghcr.io")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_helpers(keychain, helper):
    answer = '{"ServerURL": "x", "Username": "%s", "Secret": "%s"}'
    helper("one", f"""test "$1" = get && read url; echo '{answer % ("'$url'", SECRET)}'""")
    helper("all", f"""read url; echo '{answer % ("<token>", "'$url'")}'""")
    helper("empty", "echo credentials not found in native keychain; exit 1")
    keys = keychain(
        credHelpers={"ghcr.io": "one", "quay.io": "empty"}, credsStore="all", auths={"quay.io": {"auth": auth("me:p")}}
    )
    assert keys.find("ghcr.io") == Credentials("ghcr.io", SECRET)
    assert keys.find("docker.io") == Credentials("", identity_token=HUB)
    assert keys.find("quay.io") == Credentials("me", "p")  # the file, where the helper has none


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"echo {SECRET}; echo {SECRET} >&2; exit 3", "failed"),
        (f"echo {SECRET}", "gave no login"),
        (f"""echo '{{"Secret": "{SECRET}"}}'""", "gave no login"),
        (None, "not on PATH"),
    ],
)
def test_a_failing_helper_is_named_and_its_secret_is_not(keychain, helper, script, words):
    if script:
        helper("bad", script)
    with pytest.raises(RegistryDenied, match=rf"docker-credential-bad.*ghcr\.io.*{words}|{words}.*ghcr\.io") as caught:
        keychain(credsStore="bad").find("ghcr.io")
    assert caught.value.remedy
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t?x=1,2",service="s", scope="repository:a/b:pull,push"',
            [("bearer", {"realm": "https://a/t?x=1,2", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (r'Bearer realm="a\"b", error=invalid_token', [("bearer", {"realm": 'a"b', "error": "invalid_token"})]),
        (
            'Negotiate, Basic realm="x", Bearer realm="y"',
            [("negotiate", {}), ("basic", {"realm": "x"}), ("bearer", {"realm": "y"})],
        ),
        ("", []),
        ("Bearer", [("bearer", {})]),
        ('"""', []),
    ],
)
def test_challenges(header, challenges):
    assert parse_challenges(header) == tuple(Challenge(*challenge) for challenge in challenges)


# --- the conversation -------------------------------------------------------------------------------------------------


@pytest.fixture
def bearer(fake_registry):
    fake = fake_registry("bearer")
    fake.put_manifest("me/app", "1", b"{}", OCI_MANIFEST)
    return fake


@pytest.fixture
def logged_in(keychain, bearer):
    with Client(
        insecure=True, keychain=keychain(auths={bearer.host: {"auth": auth("me:s3cret")}}), sleep=pytest.fail
    ) as client:
        yield client


def app(fake):
    return Reference.parse(f"{fake.host}/me/app:1")


def test_one_token_serves_until_it_runs_out(bearer, logged_in):
    for _ in range(3):
        logged_in.head(app(bearer), writing=True)
        logged_in.push_manifest(app(bearer), b"{}")
    assert logged_in.stats.requests == {"HEAD": 4, "PUT": 3, "TOKEN": 1}
    assert [scopes for _, _, scopes in bearer.token_requests] == [["repository:me/app:pull,push"]]
    bearer.tokens.clear()  # they ran out sooner than was said
    assert logged_in.head(app(bearer), writing=True)
    assert logged_in.stats.requests["TOKEN"] == 2


def test_strangers_may_look_and_are_told_how_to_log_in(bearer, client):
    assert client.head(app(bearer))
    assert bearer.token_requests[0][1] == ""
    with pytest.raises(RegistryDenied, match="No login for it was found") as caught:
        client.push_manifest(app(bearer), b"{}")
    assert str(app(bearer)) in str(caught.value)
    assert f"docker login {bearer.host}" in str(caught.value)


def test_a_mount_across_asks_to_read_there(bearer, logged_in):
    digest = bearer.put_blob("me/other", b"abc")
    from clustrix.oci.manifest import Descriptor

    blob = Descriptor("", digest, 3)
    assert logged_in.push_blob(app(bearer), blob, pytest.fail, mount_from="me/other") == 0
    assert ["repository:me/app:pull,push", "repository:me/other:pull"] in [
        scopes for *_, scopes in bearer.token_requests
    ]


def test_an_identity_token_is_sent_in_a_form(bearer, keychain):
    keys = keychain(auths={bearer.host: {"identitytoken": "identity"}})
    with Client(insecure=True, keychain=keys, sleep=pytest.fail) as client:
        assert client.head(app(bearer))
    method, authorization, _, form = bearer.token_requests[0]
    assert (method, authorization, form["grant_type"]) == ("POST", "", ["refresh_token"])


def refuse(status):
    return lambda handler: handler.refuse(status, "UNKNOWN", "words")


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        (lambda handler: handler.cut(), RegistryError, "token server .* does not answer"),
        (refuse(503), RegistryError, "token server .* answered 503.*words"),
        (refuse(404), RegistryError, "token server .* answered 404"),
        (refuse(401), RegistryDenied, "token server .* refused the login"),
        (lambda handler: handler.answer(200, b"<html>"), RegistryError, "did not answer in JSON"),
        (lambda handler: handler.answer(200, b"{}"), RegistryDenied, "gave no token"),
        (lambda handler: handler.answer(307, Location="http://127.0.0.1:1/"), RegistryError, "answered 307"),
    ],
)
def test_a_token_server_that_fails_is_named(bearer, client, action, error, words):
    bearer.fail("GET", "/token", action, times=99)
    with pytest.raises(error, match=words) as caught:
        client.head(app(bearer))
    assert type(caught.value) is error
    assert len(bearer.requests("HEAD")) == 1


def test_a_login_is_not_sent_where_anybody_can_read_it(bearer, keychain):
    """Neither to a realm without TLS, nor before a registry asks for it."""
    from clustrix.oci.auth import Authorizer

    keys = keychain(auths={"ghcr.io": {"auth": auth("me:s3cret")}})
    authorizer = Authorizer("ghcr.io", keys, lambda *_, **__: pytest.fail("sent"), insecure=False)
    assert authorizer.header(()) is None
    assert authorizer.challenged('Bearer realm="http://ghcr.io/token"', (), sent=None)
    with pytest.raises(RegistryDenied, match="not https"):
        authorizer.header(())


def test_basic(fake_registry, keychain):
    fake = fake_registry("basic")
    for password, works in (("s3cret", True), ("wrong", False)):
        keys = keychain(auths={fake.host: {"auth": auth(f"me:{password}")}})
        with Client(insecure=True, keychain=keys, sleep=pytest.fail) as client:
            if works:
                client.ping(fake.host)
                client.ping(fake.host)
                assert client.stats.requests == {"GET": 3}  # one of them the question who we are
            else:
                with pytest.raises(RegistryDenied, match="'me' is not enough"):
                    client.ping(fake.host)
