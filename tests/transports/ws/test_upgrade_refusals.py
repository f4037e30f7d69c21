"""Answers to an upgrade other than 101: kept, bounded, and the same errors as over HTTP (row B17)."""

from __future__ import annotations

import json
import pickle
import time
from contextlib import suppress
from typing import Any

import pytest

from pixir_sync import (
    ConnectFailed,
    ContextOverflow,
    HandshakeRefused,
    ModelNotSupported,
    NotAuthenticated,
    Overloaded,
    PermissionDenied,
    PixirError,
    ProviderError,
    QuotaExceeded,
    RateLimited,
)
from pixir_sync.protocol.classify import BODY_LIMIT, from_http
from tests.support.peer import Conn, ScriptedPeer
from tests.transports.http.helpers import linux, nothing_left, took
from tests.transports.ws.upgrade_helpers import KEY, address, answers, opened, peer_of, says

both = pytest.mark.parametrize("kind", ["plain", "tls"])


def error_body(code: str | None, message: str = "No.") -> bytes:
    return json.dumps({"error": {"message": message, "code": code, "type": "invalid_request_error"}}).encode()


def refused(peer: ScriptedPeer, **options: Any) -> PixirError:
    """The error of an upgrade that is refused."""
    with pytest.raises(PixirError) as caught:
        opened(address(peer), **options)
    assert (caught.value.phase, caught.value.request_sent) == ("connect", False)
    return caught.value


@pytest.mark.row("B17")
@both
@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (200, b"hello", {}, HandshakeRefused),
        (204, b"", {}, HandshakeRefused),
        (301, b"", {"location": "https://elsewhere.example/v1"}, HandshakeRefused),
        (400, error_body(None), {}, HandshakeRefused),
        (400, error_body("context_length_exceeded"), {}, ContextOverflow),
        (401, error_body("invalid_api_key"), {"x-request-id": "req_1"}, NotAuthenticated),
        (401, b"", {}, NotAuthenticated),
        (403, b"<html>no</html>", {}, PermissionDenied),
        (404, b"404 page not found", {}, HandshakeRefused),
        (404, error_body("model_not_found"), {}, ModelNotSupported),
        (405, b'{"detail": "Method Not Allowed"}', {"allow": "POST"}, HandshakeRefused),
        (426, b"Upgrade Required", {}, HandshakeRefused),
        (429, error_body("rate_limit_exceeded"), {"retry-after": "7"}, RateLimited),
        (429, error_body("insufficient_quota"), {}, QuotaExceeded),
        (500, error_body("server_error"), {"x-request-id": "req_2", "retry-after": "3"}, HandshakeRefused),
        (501, b"", {}, HandshakeRefused),
        (503, b"busy", {"retry-after-ms": "1500"}, Overloaded),
    ],
)
def test_a_refusal_means_what_it_means_over_http(
    kind: str, status: int, body: bytes, headers: dict[str, str], expected: type[PixirError]
) -> None:
    """Status, headers and body are kept; the error is HTTP's, or HandshakeRefused where HTTP has no narrower one."""
    with peer_of(kind, answers(status, body, **headers)) as peer:
        error = refused(peer)
    assert type(error) is expected
    sent = {"content-type": "text/plain", "content-length": str(len(body)), **headers}
    over_http = from_http(status, sent, body, secrets=[KEY], now=time.time())
    for name in ("message", "code", "status", "retry_after", "request_id", "retryable"):
        assert getattr(error, name) == getattr(over_http, name), name
    assert error.status == status
    assert error.details == over_http.details | {"headers": sent}
    assert error.details["body"].encode() == body
    assert isinstance(error, HandshakeRefused) == (type(over_http) is ProviderError)


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x;note=1\r\n%s\r\n" % (len(p), p) for p in parts) + end


@pytest.mark.row("B17")
@both
@pytest.mark.parametrize(
    ("rest", "body"),
    [
        (chunked(b"Not ", b"here."), "Not here."),
        (chunked(b"Not ", b"here.", end=b""), "Not here."),
        (chunked(b"Not here.", end=b"zz\r\nmore"), "Not here."),
        (chunked(end=b"-5\r\nmore"), ""),
        (chunked(end=b"y" * 4000), ""),
        (b"\r\nNot here.", "Not here."),
        (b"Content-Length: 4\r\n\r\nNot here.", "Not "),
        (b"Content-Length: 99\r\n\r\nNot here.", "Not here."),
        (b"Content-Length: -1\r\n\r\nNot here.", ""),
        (b"Content-Length: nine\r\n\r\nNot here.", ""),
        (b"No colon\r\nContent-Length: 9\r\n\r\nNot here.", "Not here."),
    ],
)
def test_a_body_however_it_is_framed(kind: str, rest: bytes, body: str) -> None:
    """By length, in chunks, or to the end of the connection; of one that is cut off or wrong, what can be read."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 404 Not Found\r\n" + rest)
        conn.close()

    with peer_of(kind, script) as peer:
        error = refused(peer)
    assert (type(error), error.status, error.details["body"]) == (HandshakeRefused, 404, body)


def test_a_head_with_bare_line_feeds() -> None:
    """Old servers write them."""
    with peer_of("plain", says(b"HTTP/1.0 401 No\nContent-Length: 2\n\nno")) as peer:
        error = refused(peer)
    assert (type(error), error.details["body"]) == (NotAuthenticated, "no")


@pytest.mark.row("B17")
@both
@pytest.mark.parametrize("coding", ["length", "chunks", "end"])
@linux
def test_a_large_body_is_not_read(kind: str, coding: str) -> None:
    """Of 24 MB, 16 KiB are kept and little more is read; the error says that the body was cut."""
    size, part = 24 << 20, b"y" * 65_536
    sent = 0

    def script(conn: Conn) -> None:
        nonlocal sent
        conn.read_request()
        how = {"length": b"Content-Length: %d\r\n\r\n" % size, "chunks": b"Transfer-Encoding: chunked\r\n\r\n", "end": b"\r\n"}
        conn.send(b"HTTP/1.1 500 Oh\r\n" + how[coding])
        with suppress(OSError):
            while sent < size:
                (conn.send_chunked if coding == "chunks" else conn.send)(part)
                sent += len(part)

    with peer_of(kind, script) as peer, nothing_left():
        error = refused(peer, limit=30)
    assert (type(error), len(error.details["body"]), error.details["body_truncated"]) == (HandshakeRefused, BODY_LIMIT, True)
    assert sent < size
    assert len(str(error)) <= 2000


@pytest.mark.row("B17")
def test_a_large_body_is_not_waited_for() -> None:
    """Once the kept part is there, the rest of what was declared is of no interest."""
    said = b"HTTP/1.1 500 Oh\r\nContent-Length: 25165824\r\n\r\n" + b"y" * (BODY_LIMIT + 1)
    with peer_of("plain", says(said)) as peer, took(0, 1.8):
        error = refused(peer, limit=30)
    assert (len(error.details["body"]), error.details["body_truncated"]) == (BODY_LIMIT, True)


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body(status: int) -> None:
    """Nothing is waited for behind the head."""
    with peer_of("plain", says(b"HTTP/1.1 %d No\r\n\r\n" % status)) as peer, took(0, 1.8):
        error = refused(peer, limit=30)
    assert (error.status, error.details["body"]) == (status, "")


@pytest.mark.row("B17")
def test_a_body_that_does_not_come() -> None:
    """Two seconds are enough for it: the status says what there is to say, also where the limit for connecting passes."""
    with peer_of("plain", says(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\npart")) as peer:
        with took(1.9, 4):
            error = refused(peer, limit=30)
        assert (type(error), error.details["body"]) == (NotAuthenticated, "part")
        with took(0.29, 1.8):
            error = refused(peer, limit=0.3)
        assert (type(error), error.details["body"]) == (NotAuthenticated, "part")


@pytest.mark.row("B17")
def test_a_redirect_is_not_followed() -> None:
    """It would carry the key elsewhere, perhaps without TLS. Where it leads is told, without a query or a password."""
    with ScriptedPeer([]) as other:
        location = f"ws://user:swordfish@127.0.0.1:{other.port}/v2?token=swordfish#swordfish"
        for status in (301, 302, 303, 307, 308):
            with peer_of("tls", answers(status, location=location)) as peer:
                error = refused(peer)
            assert (type(error), error.status) == (HandshakeRefused, status)
            assert error.details["headers"]["location"] == f"ws://127.0.0.1:{other.port}/v2"
            assert "swordfish" not in f"{error} {error.to_dict()}"
            assert len(peer.requests) == 1
    assert other.connections == []


@pytest.mark.row("B17")
def test_headers_are_told_without_what_is_secret() -> None:
    """The key is replaced wherever a server quotes it; cookies and challenges are left out; long values and lists are cut."""
    body = f"the key {KEY} is wrong".encode()
    headers = {"WWW-Authenticate": "Bearer", "Set-Cookie": "a=b", "X-Api-Key": "k", "X-Echo": "y" * 190 + KEY}
    headers["X-Long"] = "z" * 999
    many = {f"X-{at}": "1" for at in range(100)}
    with peer_of("plain", answers(401, body, **headers, **many)) as peer:
        error = refused(peer)
    told = error.details["headers"]
    assert {"www-authenticate", "set-cookie", "x-api-key"}.isdisjoint(told)
    assert told["x-long"] == "z" * 200
    assert (len(told), max(map(len, told.values()))) == (40, 200)
    assert "sk-test" not in f"{error} {error!r} {error.to_dict()}"


def test_a_refusal_survives_a_pickle_and_json() -> None:
    """It is plain data, as every error is."""
    with peer_of("plain", answers(426, b"Upgrade Required")) as peer:
        error = refused(peer)
    assert json.loads(json.dumps(error.to_dict())) == pickle.loads(pickle.dumps(error)).to_dict() == error.to_dict()
    assert (error.to_dict()["kind"], error.to_dict()["status"]) == ("handshake_refused", 426)


def test_a_connect_failed_is_no_refusal() -> None:
    """Where nobody listens there is no status."""
    with ScriptedPeer([]) as peer:
        url = address(peer)
    with pytest.raises(ConnectFailed, match="cannot be reached: Connection refused") as caught:
        opened(url)
    assert caught.value.status is None
