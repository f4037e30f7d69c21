"""The tests' own tools: the scripted peer does what its script says, and the made-up events are legal."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import ssl
import threading
import zlib
from collections.abc import Callable

import pytest
import trustme

from tests.support.events import (
    completed,
    created,
    error,
    failed,
    function_call_response,
    incomplete,
    number,
    text_response,
)
from tests.support.peer import DEADLINE, Conn, ScriptedPeer

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


def connected(peer: ScriptedPeer) -> socket.socket:
    return socket.create_connection((peer.host, peer.port), DEADLINE)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def test_requests_are_parsed_and_recorded() -> None:
    """A request's method, path, headers and body arrive, over a kept-alive connection, and every byte is kept."""

    def script(conn: Conn) -> None:
        while True:
            conn.respond(201, {"echo": conn.read_request().json}, {"x-request-id": "req_1"})

    with ScriptedPeer(script) as peer:
        client = http.client.HTTPConnection(peer.host, peer.port, timeout=DEADLINE)
        for n in range(2):
            client.request("POST", "/v1/responses?a=b", json.dumps({"n": n}), {"X-A": "b"})
            answer = client.getresponse()
            assert (answer.status, answer.headers["x-request-id"]) == (201, "req_1")
            assert json.loads(answer.read()) == {"echo": {"n": n}}
        client.close()
        assert len(peer.connections) == 1
        first, second = peer.requests
        assert (first.method, first.path) == ("POST", "/v1/responses?a=b")
        assert (first.headers["x-a"], first.json, second.json) == ("b", {"n": 0}, {"n": 1})
        assert bytes(peer.connections[0].received).count(b"POST ") == 2
    assert peer.base_url == f"http://127.0.0.1:{peer.port}/v1"


def test_chunked_request_body_is_joined() -> None:
    """A request in chunks, with an extension and trailers, is one body."""
    bodies = []

    def script(conn: Conn) -> None:
        bodies.append(conn.read_request().body)
        conn.respond(204)

    with ScriptedPeer(script) as peer, connected(peer) as client:
        head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 204 ")
    assert bodies == [b"abcde"]


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_event_stream_reaches_an_ordinary_client(chunked: bool, zipped: bool) -> None:
    """An event stream, chunked or up to the end, plain or compressed, is what an ordinary client reads."""
    events = text_response("Hé", "llo")

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse(headers={"x-a": "b"}, chunked=chunked, gzip=zipped)
        for event in events:
            conn.sse(event, with_event_line=event["type"] != "response.created")
        conn.finish()

    with ScriptedPeer(script) as peer:
        client = http.client.HTTPConnection(peer.host, peer.port, timeout=DEADLINE)
        client.request("POST", "/v1/responses", "{}")
        answer = client.getresponse()
        body = answer.read()
        client.close()
    assert (answer.status, answer.headers["x-a"]) == (200, "b")
    lines = (gzip.decompress(body) if zipped else body).decode().split("\n")
    assert [json.loads(line[6:]) for line in lines if line.startswith("data: ")] == events
    assert lines[0].startswith("data: ") and "event: response.completed" in lines


def test_each_compressed_event_is_flushed() -> None:
    """A compressed event can be read before the next one is sent."""
    seen = threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse(gzip=True, chunked=False)
        conn.sse(created("one"))
        conn.hold(seen)
        conn.finish()

    with ScriptedPeer(script) as peer, connected(peer) as client:
        client.sendall(GET)
        data = b""
        while b"\r\n\r\n" not in data or len(data.split(b"\r\n\r\n", 1)[1]) < 100:
            data += client.recv(1 << 16)
        plain = zlib.decompressobj(31).decompress(data.split(b"\r\n\r\n", 1)[1])
        assert b"one" in plain
        seen.set()
        read_all(client)


def test_reset_is_a_reset_and_close_is_an_end() -> None:
    """reset() tears the connection down, close() ends it, in scripts given one per connection."""

    def torn(conn: Conn) -> None:
        conn.read_request()
        conn.reset()

    def ended(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"bye")
        conn.close()

    with ScriptedPeer([torn, ended]) as peer:
        with connected(peer) as client, pytest.raises(ConnectionResetError):
            client.sendall(GET)
            read_all(client)
        with connected(peer) as client:
            client.sendall(GET)
            assert read_all(client) == b"bye"


@pytest.mark.parametrize("how", ["close", "abandon"])
def test_wait_closed_sees_the_client_go(how: str) -> None:
    """The script goes on when the client has closed, with what it sent before on record."""
    gone = threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.wait_closed()
        gone.set()

    with ScriptedPeer(script) as peer:
        client = connected(peer)
        client.sendall(GET + b"more")
        if how == "abandon":
            client.shutdown(socket.SHUT_WR)
        else:
            client.close()
        assert gone.wait(DEADLINE)
        client.close()
    assert bytes(peer.connections[0].received) == GET + b"more"


def wait_for_close(conn: Conn) -> None:
    conn.read_request()
    conn.wait_closed(0.1)


def fail(conn: Conn) -> None:
    raise LookupError("of the script")


def read_twice(conn: Conn) -> None:
    conn.read_request()
    conn.read_request(0.1)


@pytest.mark.parametrize(
    ("script", "sent", "kind", "message"),
    [
        (fail, b"", LookupError, "of the script"),
        (wait_for_close, GET, AssertionError, "waited in vain for the client to close"),
        (read_twice, GET, AssertionError, "waited in vain for a request"),
        (read_twice, GET + b"GET", AssertionError, "within a request"),
        (read_twice, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n1", AssertionError, "within a request's body"),
    ],
)
def test_error_of_a_script_is_raised_at_the_end(
    script: Callable[[Conn], None], sent: bytes, kind: type[Exception], message: str
) -> None:
    """What goes wrong in a script, a wait in vain and half a request too, is raised where the block ends."""
    with pytest.raises(kind, match=message), ScriptedPeer(script) as peer, connected(peer) as client:
        client.sendall(sent)
        if message.startswith("within"):
            client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


def test_connection_too_many_is_an_error() -> None:
    """With a list of scripts, a connection that none is left for fails the test."""
    with (
        pytest.raises(AssertionError, match="connection 1 came and there are 1 scripts"),
        ScriptedPeer([lambda conn: None]) as peer,
    ):
        for _ in range(2):
            with connected(peer) as client:
                assert read_all(client) == b""


def test_error_of_the_block_wins_over_the_script() -> None:
    """The test's own error is not hidden by what it did to the script."""

    def serve() -> None:
        with ScriptedPeer(fail) as peer, connected(peer) as client:
            read_all(client)
            raise KeyError("of the test")

    with pytest.raises(KeyError):
        serve()


def test_end_of_the_block_ends_idle_scripts() -> None:
    """A script that waits for a request or an event ends quietly with the block, and no thread or socket stays."""
    waiting = threading.Barrier(3)

    def idle(conn: Conn) -> None:
        waiting.wait(DEADLINE)
        conn.read_request()

    def held(conn: Conn) -> None:
        waiting.wait(DEADLINE)
        conn.hold(threading.Event())

    before = threading.active_count()
    with ScriptedPeer([idle, held]) as peer:
        first, second = connected(peer), connected(peer)
        waiting.wait(DEADLINE)
    assert threading.active_count() == before
    assert (read_all(first), read_all(second)) == (b"", b"")
    first.close()
    second.close()
    with pytest.raises(ConnectionRefusedError):
        connected(peer)


def test_script_that_does_not_end_is_named() -> None:
    """A script that goes on for ever is cut off and fails the test."""
    stop = threading.Event()
    with (
        pytest.raises(AssertionError, match="the script of peer-0 did not end"),
        ScriptedPeer(lambda conn: stop.wait(0.4), deadline=0.1) as peer,
    ):
        connected(peer).close()
        with peer._news:
            assert peer._news.wait_for(lambda: peer.connections, DEADLINE)


def test_tls_peer_serves_and_records_refusals() -> None:
    """Over TLS the same script works; a client that does not trust the certificate leaves a refusal and no error."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"over TLS")
        conn.close()

    with ScriptedPeer(script, ssl_context=server, host="localhost") as peer:
        assert peer.base_url.startswith("https://localhost:")
        with trusting.wrap_socket(connected(peer), server_hostname="localhost") as client:
            client.sendall(GET)
            assert read_all(client) == b"over TLS"
        stranger = connected(peer)
        with contextlib.closing(stranger), pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(stranger, server_hostname="localhost")
    assert len(peer.refused) == 1
    assert len(peer.requests) == 1


def test_made_up_responses_are_whole() -> None:
    """The events of a response are numbered, begin with created, end with completed, and agree with one another."""
    for events in (text_response("a", "b"), function_call_response("f", {"x": 1}), text_response()):
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
        final = events[-1]["response"]
        assert final["id"] == events[0]["response"]["id"]
        assert (final["status"], final["usage"]["total_tokens"]) == ("completed", 15)
        assert final["output"] == [event["item"] for event in events if event["type"] == "response.output_item.done"]
    text = text_response("a", "b")
    assert "".join(event["delta"] for event in text if event["type"].endswith("text.delta")) == "ab"
    assert text[-1]["response"]["output"][0]["content"][0]["text"] == "ab"
    call = function_call_response("f", {"x": 1})
    assert "".join(event.get("delta", "") for event in call) == '{"x": 1}'
    assert call[-1]["response"]["output"][0]["arguments"] == '{"x": 1}'
    assert function_call_response("f", "no json")[-1]["response"]["output"][0]["arguments"] == "no json"


def test_made_up_ends_are_told_by_type_and_status() -> None:
    """The other ends of a response carry their reason, and number() counts anew."""
    assert failed("c", "m")["response"]["error"] == {"code": "c", "message": "m"}
    assert failed()["response"]["status"] == "failed"
    assert incomplete("content_filter")["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert completed()["response"]["status"] == "completed"
    assert error("c", "m", status=429)["error"]["code"] == "c"
    assert error(status=429)["status"] == 429
    assert [event["sequence_number"] for event in number([created(), completed()])] == [0, 1]
