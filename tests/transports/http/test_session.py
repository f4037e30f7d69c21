"""Refusals, odd answers, and what never leaves the machine or comes in from it (A22, B17 to B19 over HTTP, D4, D5)."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from pixir_sync import (
    ConnectFailed,
    ConnectionLost,
    InvalidRequest,
    InvalidResponse,
    Network,
    NotAuthenticated,
    Overloaded,
    PermissionDenied,
    PixirError,
    Provider,
    ProviderError,
    RateLimited,
)
from tests.support.peer import Conn, ScriptedPeer
from tests.transports.http.helpers import KEY, Wire, answers, quick, refuse, took


def read_head(conn: Conn) -> None:
    """Read the head of a request and leave its body where it is."""
    head = b""
    while b"\r\n\r\n" not in head:
        conn.sock.settimeout(5)
        head += conn.sock.recv(1)


# What does not answer.


@pytest.mark.parametrize("retries", [0, 2])
def test_a_dead_port(wire: Wire, retries: int) -> None:
    """Nobody listens: ConnectFailed, after the retries, with nothing sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with wire.provider(wire.url(port), retry=quick(retries)) as provider:
        with took(0, 3), pytest.raises(ConnectFailed) as caught:
            provider.complete("x")
        assert provider.stats()["replays"] == ({"connect_failed": retries} if retries else {})
    error = caught.value
    assert (error.phase, error.request_sent, error.output_seen) == ("connect", False, False)
    assert f"127.0.0.1:{port}" in error.message
    assert error.partial is not None and error.partial.provider_metadata["attempts"] == 1 + retries


def test_an_unknown_host() -> None:
    """A name that does not resolve is ConnectFailed that says so."""
    network = Network(trust_env=False)
    with (
        Provider(base_url="https://no-such-host.invalid/v1", api_key=KEY, model="m", retry=0, network=network) as provider,
        pytest.raises(ConnectFailed, match="no-such-host.invalid could not be resolved") as caught,
    ):
        provider.complete("x")
    assert (caught.value.phase, caught.value.request_sent) == ("connect", False)


def test_a_certificate_of_an_unknown_authority(tls: Wire, plain: Wire) -> None:
    """A certificate that nobody vouches for is refused before anything is sent, and not tried again."""
    with tls.peer(answers) as peer, plain.provider(peer.base_url) as provider:
        with pytest.raises(ConnectFailed) as caught:
            provider.complete("x")
        assert len(peer.connections) == 1 and peer.requests == []
        assert provider.stats()["replays"] == {}
    assert caught.value.details == {"certificate": True}
    assert (caught.value.retryable, caught.value.phase, caught.value.request_sent) == (False, "connect", False)


def test_a_certificate_for_another_host(authority: tuple[trustme.CA, Path], tls: Wire) -> None:
    """A trusted authority's certificate for somebody else is refused as well."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("elsewhere.example").configure_cert(context)
    with (
        ScriptedPeer(answers, ssl_context=context) as peer,
        tls.provider(peer.base_url) as provider,
        pytest.raises(ConnectFailed) as caught,
    ):
        provider.complete("x")
    assert caught.value.details == {"certificate": True} and peer.requests == []


def test_a_peer_that_speaks_no_tls(tls: Wire, plain: Wire) -> None:
    """A plain server where TLS is expected is ConnectFailed; the key does not go out in clear text."""

    def script(conn: Conn) -> None:
        with suppress(Exception):
            conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            conn.wait_closed()

    with (
        plain.peer(script) as peer,
        tls.provider(tls.url(peer.port), retry=0) as provider,
        pytest.raises(ConnectFailed) as caught,
    ):
        provider.complete("x")
    assert caught.value.phase == "connect" and "certificate" not in caught.value.details
    assert KEY.encode() not in peer.connections[0].received


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("trust", [True, False])
def test_authorities_of_the_environment(
    tls: Wire, plain: Wire, monkeypatch: pytest.MonkeyPatch, variable: str, trust: bool
) -> None:
    """The environment's bundle counts if the network setting trusts the environment, and only then."""
    monkeypatch.setenv(variable, str(tls.bundle))
    with tls.peer(answers) as peer, plain.provider(peer.base_url, trust_env=trust, retry=0) as provider:
        if trust:
            assert provider.complete("x").text == "hi"
        elif variable == "SSL_CERT_FILE":
            pass  # OpenSSL itself reads this one
        else:
            with pytest.raises(ConnectFailed):
                provider.complete("x")


def test_a_chosen_bundle_wins_over_the_environment(tls: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Network(ca_bundle=...) is not overridden by REQUESTS_CA_BUNDLE."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    with tls.peer(answers) as peer, tls.provider(peer.base_url, trust_env=True) as provider:
        assert provider.complete("x").text == "hi"


@pytest.mark.parametrize("shown", [True, False])
def test_a_client_certificate(authority: tuple[trustme.CA, Path], tls: Wire, tmp_path: Path, shown: bool) -> None:
    """A server that asks for a certificate gets the configured one; without it the call fails and does not hang."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("127.0.0.1").configure_cert(context)
    authority[0].configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = authority[0].issue_cert("me@example.com")
    mine.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "me.pem"))
    network = Network(ca_bundle=tls.bundle, trust_env=False, client_cert=str(tmp_path / "me.pem") if shown else None)
    with (
        ScriptedPeer(answers, ssl_context=context) as peer,
        tls.provider(peer.base_url, network=network, retry=0, timeouts=5) as provider,
    ):
        if shown:
            assert provider.complete("x").text == "hi"
        else:
            with pytest.raises((ConnectFailed, ConnectionLost)):
                provider.complete("x")


# What answers with a refusal.


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, NotAuthenticated), (403, PermissionDenied), (426, ProviderError), (429, RateLimited), (503, Overloaded)],
)
def test_a_refusal_keeps_status_headers_and_body(wire: Wire, status: int, kind: type[PixirError]) -> None:
    """The error of a refusal has the status, the id, the delay, the code and the body."""
    body = {"error": {"message": "no", "code": "why", "type": "t"}}
    headers = {"x-request-id": "req_1", "retry-after": "7"}
    with (
        wire.peer([refuse(status, body, headers)]) as peer,
        wire.provider(peer.base_url, retry=0) as provider,
        pytest.raises(kind) as caught,
    ):
        provider.complete("x")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.request_id, error.retry_after, error.code) == (status, "req_1", 7.0, "why")
    assert json.loads(error.details["body"]) == body


@pytest.mark.row("A22")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 1 << 20])
def test_the_body_of_a_refusal_is_capped_exactly(wire: Wire, size: int, chunked: bool) -> None:
    """16,384 bytes are kept, and the flag says whether there were more."""
    raw = b"ab" * (size // 2) + b"c" * (size % 2)

    def script(conn: Conn) -> None:
        conn.read_request()
        with suppress(OSError):  # the client need not read all of it
            if chunked:
                conn.start_sse(418)
                conn.write(raw)
                conn.finish()
            else:
                conn.respond(418, raw)
        conn.wait_closed()

    with (
        wire.peer([script]) as peer,
        wire.provider(peer.base_url) as provider,
        took(0, 3),
        pytest.raises(ProviderError) as caught,
    ):
        provider.complete("x")
    details = caught.value.details
    assert details["body_truncated"] is (size > 16_384)
    assert details["body"].encode() == raw[:16_384]
    assert len(caught.value.message) <= 2_000


@pytest.mark.row("A22")
def test_a_compressed_refusal_is_capped_too(plain: Wire) -> None:
    """A small body that unpacks to a huge one does not fill the memory."""

    def script(conn: Conn) -> None:
        conn.read_request()
        with suppress(OSError):
            conn.start_sse(400, gzip=True)
            conn.write(b"x" * (64 << 20))
            conn.finish()
        conn.wait_closed()

    with (
        plain.peer([script]) as peer,
        plain.provider(peer.base_url) as provider,
        pytest.raises(ProviderError) as caught,
    ):
        provider.complete("x")
    assert caught.value.details == {"body": "x" * 16_384, "body_truncated": True}


@pytest.mark.row("A22")
@pytest.mark.parametrize("end", ["cut", "stall"])
def test_a_refusal_whose_body_is_cut_keeps_what_came(wire: Wire, end: str) -> None:
    """The part of the body that came is in the details."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 400 Bad\r\ncontent-length: 1000\r\n\r\nthe model is")
        if end == "stall":
            conn.wait_closed()

    with (
        wire.peer([script]) as peer,
        wire.provider(peer.base_url) as provider,
        took(0, 4),
        pytest.raises(ProviderError) as caught,
    ):
        provider.complete("x")
    assert (caught.value.status, caught.value.details["body"]) == (400, "the model is")


@pytest.mark.row("A22")
def test_a_page_of_html_is_no_message(wire: Wire) -> None:
    """A gateway's error page is kept as the body; the message is ours."""
    page = "<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"
    with (
        wire.peer([refuse(502, page, {"content-type": "text/html"})]) as peer,
        wire.provider(peer.base_url, retry=0) as provider,
        pytest.raises(ProviderError) as caught,
    ):
        provider.complete("x")
    assert caught.value.message == "the provider answered with 502"
    assert (caught.value.details["body"], caught.value.retryable) == (page, True)


@pytest.mark.row("A22", "A26")
def test_a_refusal_that_quotes_the_key_does_not_show_it(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """The key is replaced in the message and in the details, and stands in no log."""
    body = {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}}
    with (
        caplog.at_level("DEBUG"),
        wire.peer([refuse(401, body)]) as peer,
        wire.provider(peer.base_url) as provider,
        pytest.raises(NotAuthenticated) as caught,
    ):
        provider.complete("secret prompt")
    shown = f"{caught.value!r} {caught.value} {caught.value.to_dict()} {provider!r} {provider.stats()} {caplog.text}"
    assert KEY not in shown and "secret prompt" not in shown
    assert "[credential]" in caught.value.message


# Answers that are none.


@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8"])
def test_a_success_that_is_no_event_stream(wire: Wire, kind: str) -> None:
    """200 with another content type is InvalidResponse at once, and is not retried."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.respond(200, {"id": "resp_1", "status": "completed"}, {"content-type": kind})
        conn.wait_closed()

    with (
        wire.peer([script]) as peer,
        wire.provider(peer.base_url) as provider,
        took(0, 2),
        pytest.raises(InvalidResponse, match=kind.split(";")[0]) as caught,
    ):
        provider.complete("x")
    assert (caught.value.phase, caught.value.request_sent, len(peer.requests)) == ("first_event", True, 1)


@pytest.mark.parametrize("kind", ["Text/Event-Stream", None])
def test_an_event_stream_by_another_name(plain: Wire, kind: str | None) -> None:
    """The content type is read without regard to case, and may be missing."""

    def script(conn: Conn) -> None:
        request = conn.read_request()
        assert request.headers["accept"] == "text/event-stream"
        event = b'data: {"type":"response.completed","response":{"id":"r","status":"completed","output":[]}}\n\n'
        line = f"content-type: {kind}\r\n".encode() if kind else b""
        conn.send(b"HTTP/1.1 200 OK\r\n" + line + b"content-length: %d\r\n\r\n" % len(event) + event)

    with plain.peer([script]) as peer, plain.provider(peer.base_url) as provider:
        assert provider.complete("x").response_id == "r"


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00\x01\x02\x03\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_a_peer_that_speaks_no_http(plain: Wire, said: bytes) -> None:
    """What is no HTTP is an error of the transport, without a hang."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(said)
        conn.wait_closed()

    with (
        plain.peer([script]) as peer,
        plain.provider(peer.base_url, retry=0, timeouts=5) as provider,
        took(0, 2),
        pytest.raises(PixirError) as caught,
    ):
        provider.complete("x")
    assert (caught.value.kind, caught.value.request_sent) == ("connection_lost", True)


def test_endless_headers_end(plain: Wire) -> None:
    """A head without an end does not fill the memory."""

    def script(conn: Conn) -> None:
        conn.read_request()
        with suppress(OSError):
            conn.send(b"HTTP/1.1 200 OK\r\n")
            while True:
                conn.send(b"x-more: " + b"y" * 1000 + b"\r\n")

    with (
        plain.peer([script]) as peer,
        plain.provider(peer.base_url, retry=0, timeouts=5) as provider,
        took(0, 2),
        pytest.raises(ConnectionLost),
    ):
        provider.complete("x")
    assert len(peer.requests) == 1


@pytest.mark.parametrize("close", ["close", "reset", "stay"])
def test_an_answer_before_the_request_was_read(wire: Wire, close: str) -> None:
    """A server that refuses a large body before it has read it is heard."""

    def script(conn: Conn) -> None:
        read_head(conn)
        conn.respond(413, {"error": {"message": "too large"}}, {"connection": "close"})
        if close == "stay":  # reads on for a while, as servers do that want to be heard
            with suppress(AssertionError):
                conn.wait_closed(2)
        elif close == "close":
            conn.sock.shutdown(socket.SHUT_WR)
            with suppress(AssertionError):
                conn.wait_closed(2)

    with (
        wire.peer([script]) as peer,
        wire.provider(peer.base_url, retry=0, timeouts=5) as provider,
        took(0, 4),
        pytest.raises(PixirError) as caught,
    ):
        provider.complete("x" * 8_000_000)
    heard = (caught.value.kind, caught.value.status)
    if close == "reset":  # a reset may overtake the answer
        assert heard in {("provider_http_error", 413), ("connection_lost", None)}
        assert caught.value.request_sent is True
    else:
        assert heard == ("provider_http_error", 413)


# Nothing gets in or out that was not meant to.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(wire: Wire, status: int) -> None:
    """A redirect is an error; the key does not travel on."""
    with wire.peer(answers) as other:
        script = refuse(status, "gone", {"location": f"{other.base_url}/responses"})
        with (
            wire.peer([script]) as peer,
            wire.provider(peer.base_url) as provider,
            pytest.raises(ProviderError) as caught,
        ):
            provider.complete("x")
        assert other.connections == []
    assert (caught.value.status, caught.value.details["body"], len(peer.requests)) == (status, "gone", 1)


@pytest.mark.parametrize("location", ["http://[bad", "ftp://x/", "//", "http://\x7f/", ""])
def test_a_redirect_to_nowhere_is_the_same_refusal(plain: Wire, location: str) -> None:
    """Nobody looks at where a redirect leads."""
    with (
        plain.peer([refuse(302, "gone", {"location": location})]) as peer,
        plain.provider(peer.base_url) as provider,
        pytest.raises(ProviderError) as caught,
    ):
        provider.complete("x")
    assert (caught.value.status, caught.value.details["body"]) == (302, "gone")


def test_the_body_of_a_redirect_is_capped(plain: Wire) -> None:
    """A redirect with an endless body is a refusal like any other."""

    def script(conn: Conn) -> None:
        conn.read_request()
        with suppress(OSError):
            conn.start_sse(302, {"location": "/elsewhere"})
            while True:
                conn.write(b"x" * 65536)

    with (
        plain.peer([script]) as peer,
        plain.provider(peer.base_url, timeouts=5) as provider,
        took(0, 3),
        pytest.raises(ProviderError) as caught,
    ):
        provider.complete("x")
    assert (caught.value.status, caught.value.details["body_truncated"]) == (302, True)


def test_netrc_is_ignored(plain: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A .netrc for the host neither replaces the key nor adds anything."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hidden\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with plain.peer(answers) as peer, plain.provider(peer.base_url, trust_env=True) as provider:
        provider.complete("x")
    assert peer.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_cookies_are_not_kept(wire: Wire) -> None:
    """What a server sets as a cookie, in an answer or a refusal, is never sent back."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.respond(500, "", {"set-cookie": "a=1; Path=/"})
        conn.read_request()
        conn.start_sse(headers={"set-cookie": "tenant=1; Path=/; Domain=127.0.0.1"})
        conn.send_chunked(b'data: {"type":"response.completed","response":{"id":"r","status":"completed"}}\n\n')
        conn.finish()
        answers(conn)

    with wire.peer([script]) as peer, wire.provider(peer.base_url) as provider:
        provider.complete("x")
        provider.complete("x")
    assert len(peer.requests) == 3
    assert not any("cookie" in request.headers for request in peer.requests)


def test_the_headers_of_a_request(plain: Wire) -> None:
    """Our own user agent, the configured headers, and no other program's name or anything of the library beneath."""
    network = Network(trust_env=False, headers={"x-team": "a"})
    options: dict[str, Any] = {"organization": "org", "project": "proj", "originator": "me", "network": network}
    with plain.peer(answers) as peer, plain.provider(peer.base_url, **options) as provider:
        provider.complete("x", headers={"x-trace": "1", "x-team": "b"})
    headers = peer.requests[0].headers
    assert headers.pop("user-agent").startswith("pixir-sync/")
    assert headers.pop("host") == f"127.0.0.1:{peer.port}"
    assert headers.pop("content-length") == str(len(peer.requests[0].body))
    assert headers == {
        "authorization": f"Bearer {KEY}", "accept": "text/event-stream", "accept-encoding": "gzip, deflate",
        "content-type": "application/json", "openai-organization": "org", "openai-project": "proj", "originator": "me",
        "x-trace": "1", "x-team": "b",
    }  # fmt: skip
    assert (peer.requests[0].method, peer.requests[0].path) == ("POST", "/v1/responses")


@pytest.mark.row("D5")
@pytest.mark.parametrize("value", ["sk-a\r\nX-Evil: 1", "sk-a\nb", "sk a", "sk-\x00", "sk-\u00e9"])
def test_a_key_that_cannot_be_sent_is_refused_before_any_network(plain: Wire, value: str) -> None:
    """Control characters, white space and what is not ASCII never get as far as a socket, also from a callable."""
    with plain.peer([]) as peer:
        with pytest.raises(InvalidRequest):
            plain.provider(peer.base_url, api_key=value)
        with plain.provider(peer.base_url, api_key=lambda: value) as provider, pytest.raises(InvalidRequest) as caught:
            provider.complete("x")
        with plain.provider(peer.base_url, api_key=lambda: value) as provider, pytest.raises(InvalidRequest):
            provider.models()
        assert value not in str(caught.value)
    assert peer.connections == []


@pytest.mark.row("D5")
@pytest.mark.parametrize("headers", [{"x": "a\r\nb: c"}, {"x\n": "a"}, {"x y": "a"}, {"": "a"}, {"x": "\u20ac"}, {"x": "\x7f"}])
def test_a_header_that_cannot_be_sent_is_refused_before_any_network(plain: Wire, headers: dict[str, str]) -> None:
    """Neither a call's headers, nor the network setting's, nor a credential's may break out of their line."""

    class Credential:
        identity = "x"

        def headers(self) -> dict[str, str]:
            return headers

    with plain.peer([]) as peer:
        with plain.provider(peer.base_url) as provider, pytest.raises(InvalidRequest):
            provider.complete("x", headers=headers)
        with pytest.raises(InvalidRequest):
            Network(headers=headers)
        with plain.provider(peer.base_url, api_key=None, credential=Credential()) as provider:
            with pytest.raises(InvalidRequest):
                provider.complete("x")
            with pytest.raises(InvalidRequest):
                provider.models()
    assert peer.connections == []
