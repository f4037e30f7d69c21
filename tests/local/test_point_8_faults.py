"""Section 8, point 8: each fault of an answer, byte for byte: what exactly arrives, over a WebSocket and over HTTP."""

from __future__ import annotations

import http.client
import json
import socket as sockets
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from pixir_sync.local import Answer, LocalServer, Reasoning, faults
from tests.local.helpers import Wire as Asked
from tests.local.helpers import both, call, http_connection, over_websocket, start_stream, text, user
from tests.local.order import check_answer
from tests.local.raw import DEADLINE, Client, Json, body, connect, kinds, mute
from tests.support.ws_wire import PING as PING_FRAME
from tests.support.ws_wire import PONG, TEXT

NESTED_ERROR: Json = {"type": "server_error", "code": "server_error", "message": "Sorry", "param": None}
EVENTS = 12  # of the model's answer to "hello": 2, item and part added, 4 deltas, text, part and item done, completed


def before_the_end(client: Client) -> tuple[list[Json], tuple[int, str] | None]:
    """The events up to the end of the connection, and the close frame, None for a cut."""
    events: list[Json] = []
    while True:
        try:
            events.append(client.receive())
        except ConnectionClosed as closed:
            return events, None if closed.rcvd is None else (int(closed.rcvd.code), closed.rcvd.reason)


@pytest.mark.parametrize("after", [0, 1, 3, EVENTS - 1])
@pytest.mark.parametrize("end", [None, (1011, "bye"), (1012, ""), (1008, "policy")])
def test_drop_ends_a_websocket(server: LocalServer, after: int, end: tuple[int, str] | None) -> None:
    """So many events, then the close frame or, without a code, the end of the TCP connection; nothing of it is remembered."""
    code, reason = end or (None, "")
    with server.fault(faults.Drop(after=after, code=code, reason=reason)) as placed, connect(server) as client:
        client.create()
        events, closed = before_the_end(client)
    assert (len(events), closed, placed.struck) == (after, end, 1)
    assert kinds(events) == ["created", "in_progress", "output_item.added"][:after] or after > 3
    if events:
        with connect(server) as client:
            client.refused(previous_response_id=events[0]["response"]["id"])


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("after", [0, 2])
def test_drop_is_an_end_or_a_reset(server: LocalServer, after: int, reset: bool) -> None:
    """A cut is an orderly end of TCP (FIN), with ``reset`` an RST; what came before has arrived."""
    with server.fault(faults.Drop(after=after, reset=reset)), mute(server) as client:
        client.create()
        for _ in range(after):
            assert client.frame().opcode == TEXT
        if reset:
            with pytest.raises(ConnectionResetError):
                client.sock.recv(1)
        else:
            assert client.sock.recv(1) == b""


@pytest.mark.parametrize("after", [1, 3, EVENTS - 1])
def test_drop_cuts_a_body(server: LocalServer, after: int) -> None:
    """Over HTTP so many events arrive, and the body has no end, whatever code was meant for a WebSocket."""
    with server.fault(faults.Drop(after=after, code=1011)), http_connection(server) as connection:
        answer = start_stream(connection, body())
        with pytest.raises(http.client.IncompleteRead) as caught:
            answer.read()
    assert answer.status == 200 and caught.value.partial.count(b"\n\n") == after


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reset", [True, False])
def test_drop_before_the_first_event_over_http(server: LocalServer, reset: bool, stream: bool) -> None:
    """Not even the head of a response arrives."""
    with server.fault(faults.Drop(reset=reset)), http_connection(server) as connection:
        expected = ConnectionResetError if reset else http.client.RemoteDisconnected
        with pytest.raises(expected):
            call(connection, "POST", "/v1/responses", body(stream=stream))


@pytest.mark.parametrize("after", [0, 1, 5])
def test_stall_stands_still_until_it_is_released(server: LocalServer, after: int) -> None:
    """So many events and not one byte more, while pings are answered; released, the rest comes, whole."""
    stall = faults.Stall(after=after)
    with server.fault(stall) as placed, mute(server) as client:
        client.create()
        frames = [client.frame() for _ in range(after)]
        placed.wait()
        assert stall.pause.reached.wait(DEADLINE) and not stall.pause.event.is_set()
        for _ in range(3):
            client.send(PING_FRAME, b"x")
            assert client.frame().opcode == PONG
        assert client.nothing()
        stall.release()
        frames += client.until_terminal()
    check_answer([json.loads(frame.payload) for frame in frames])


@pytest.mark.parametrize("after", [0, 2])
def test_stall_over_http(server: LocalServer, after: int) -> None:
    """With after=0 not even the head has come; the block's end releases what stands still."""
    with http_connection(server) as connection:
        with server.fault(faults.Stall(after=after)) as placed:
            connection.request("POST", "/v1/responses", json.dumps(body(stream=True)), {"Authorization": "Bearer local-key"})
            placed.wait()
            connection.sock.setblocking(False)
            if not after:
                with pytest.raises(BlockingIOError):
                    connection.sock.recv(1, sockets.MSG_PEEK)
            connection.sock.settimeout(DEADLINE)
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read().count(b"\n\n") == EVENTS


@pytest.mark.parametrize("data", [b"{not json", b"", b"[1]", b"null", "ä".encode(), b"\xff\xfe"])
@pytest.mark.parametrize("after", [0, 3])
def test_garbage_comes_in_the_place_of_an_event(server: LocalServer, after: int, data: bytes) -> None:
    """A text frame with these bytes, valid UTF-8 or not, between the events of a whole answer."""
    with server.fault(faults.Garbage(after=after, data=data)) as placed, mute(server) as client:
        client.create()
        frames = [client.frame() for _ in range(EVENTS + 1)]
    assert frames[after].payload == data and all(frame.opcode == TEXT and frame.fin for frame in frames)
    check_answer([json.loads(frame.payload) for frame in frames[:after] + frames[after + 1 :]])
    assert placed.struck == 1


@pytest.mark.parametrize("after", [0, 3])
def test_garbage_over_http(server: LocalServer, after: int) -> None:
    """A server-sent event whose data is no JSON."""
    with server.fault(faults.Garbage(after=after)), http_connection(server) as connection:
        events = start_stream(connection, body()).read().split(b"\n\n")
    assert events[after] == b"data: {not json" and len(events) == EVENTS + 2 and events[-1] == b""


@pytest.mark.parametrize("data", [b"\0", b"", b'{"type": "response.completed"}', bytes(range(256)) * 300])
@pytest.mark.parametrize("after", [0, 3])
def test_a_binary_frame_comes_between_events(server: LocalServer, after: int, data: bytes) -> None:
    """A binary frame with these bytes; the answer around it is whole."""
    with server.fault(faults.BinaryFrame(after=after, data=data)), connect(server) as client:
        client.create()
        frames = [client.receive_frame() for _ in range(EVENTS + 1)]
    assert frames.pop(after) == data and all(isinstance(frame, str) for frame in frames)
    check_answer([json.loads(frame) for frame in frames])


def test_a_binary_frame_is_nothing_over_http(server: LocalServer) -> None:
    """There is none: nothing happens, and it does not count as struck."""
    with server.fault(faults.BinaryFrame(), required=False) as placed, http_connection(server) as connection:
        assert start_stream(connection, body()).read().count(b"\n\n") == EVENTS
    assert placed.struck == 0


@pytest.mark.parametrize(("interval", "size"), [(0.0, 1), (0.0005, 50), (0.0, 10_000)])
def test_slow_bytes_are_the_same_bytes(server: LocalServer, interval: float, size: int) -> None:
    """Every event leaves in pieces, its frame's head too, and arrives as it is; large ones as well as small ones."""
    server.scenario = Answer("Hi", Reasoning("Think"), "x" * (2000 if size < 100 else 200_000))
    with server.fault(faults.SlowBytes(interval=interval, size=size)) as placed, connect(server) as client:
        check_answer(client.turn())
    assert placed.struck == 1


def test_slow_bytes_come_one_by_one(server: LocalServer) -> None:
    """Read as they come, the bytes of the first frame take many reads."""
    with server.fault(faults.SlowBytes(interval=0.01, size=1)), mute(server) as client:
        client.create()
        pieces = [client.sock.recv(1 << 16) for _ in range(30)]
    assert sum(map(len, pieces)) < 300 and pieces[0][:1] == b"\x81"[: len(pieces[0])]


def test_a_pong_never_breaks_into_a_slow_frame(server: LocalServer) -> None:
    """Pings that come while a frame leaves byte by byte are answered between two frames."""
    with server.fault(faults.SlowBytes(interval=0.0005, size=20)), mute(server) as client:
        client.create()
        for number in range(20):
            client.send(PING_FRAME, b"%d" % number)
        texts: list[bytes] = []
        pongs: list[bytes] = []
        while len(texts) < EVENTS or len(pongs) < 20:
            frame = client.frame()
            (pongs if frame.opcode == PONG else texts).append(frame.payload)
    check_answer([json.loads(payload) for payload in texts])
    assert pongs == [b"%d" % number for number in range(20)]


def test_slow_bytes_over_http(server: LocalServer) -> None:
    """In chunks of so many bytes, inside a character too; joined, they are the stream."""
    server.scenario = "grüße 👩‍👩‍👧"
    with http_connection(server) as connection:
        with server.fault(faults.SlowBytes(interval=0.0, size=1)), mute_post(server) as sock:
            raw = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        whole = start_stream(connection, body()).read()
    chunks = [chunk for chunk in raw.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2] if chunk]
    assert len(chunks) > 500 and {len(chunk) for chunk in chunks} == {1}
    assert b"".join(chunks).count(b"event: ") == whole.count(b"event: ")


def mute_post(server: LocalServer) -> sockets.socket:
    """A socket on which a POST with stream was sent, whose answer is not yet read."""
    data = json.dumps(body(stream=True)).encode()
    sock = sockets.create_connection((server.host, server.port), DEADLINE)
    head = (
        "POST /v1/responses HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer local-key\r\nConnection: close\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    sock.sendall(head.encode() + data)
    return sock


@both
def test_delays_come_before_every_event(server: LocalServer, wire: Asked) -> None:
    """The answer takes at least so long per event, and is whole."""
    with server.fault(faults.Delays(0.1)) as placed:
        begun = time.monotonic()
        events = wire(server)
        taken = time.monotonic() - begun
    check_answer(events)
    assert taken >= 0.1 * EVENTS and placed.struck == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529])
@both
def test_refuse_with_any_status(server: LocalServer, wire: Asked, status: int) -> None:
    """The nested shape: its status, with the error object; over HTTP the status of the response."""
    with server.fault(faults.Refuse(status, code="some_code", message="Sorry", type="some_type")):
        (event,) = wire(server)
    error = {"type": "some_type", "code": "some_code", "message": "Sorry", "param": None}
    assert event == {"type": "error", "status": status, "error": error}


SHAPES: dict[str, list[Json]] = {
    "nested": [{"type": "error", "status": 500, "error": NESTED_ERROR}],
    "flat": [{"type": "error", "code": "server_error", "message": "Sorry", "param": None, "sequence_number": 0}],
    "string": [{"type": "error", "status": 500, "error": "Sorry"}],
    "bare": [{"type": "error", "status": 500, "error": {"message": "Sorry"}}],
    "detail": [{"type": "error", "status": 500, "detail": "Sorry"}],
}


@pytest.mark.parametrize("lane", [None, "side"])
@pytest.mark.parametrize(("shape", "expected"), SHAPES.items(), ids=SHAPES.keys())
def test_refuse_in_each_shape_over_a_websocket(server: LocalServer, shape: Any, expected: list[Json], lane: str | None) -> None:
    """Exactly these events, on the lane that asked; the socket is kept."""
    fields: Json = {} if lane is None else {"stream_id": lane}
    with server.fault(faults.Refuse(message="Sorry", shape=shape), times=1), connect(server) as client:
        assert client.turn(**fields) == [{**event, **fields} for event in expected]
        client.final(**fields)


HTTP_BODIES: dict[str, Any] = {
    "nested": {"error": NESTED_ERROR},
    "string": {"error": "Sorry"},
    "bare": {"error": {"message": "Sorry"}},
    "detail": {"detail": "Sorry"},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("shape", "expected"), HTTP_BODIES.items(), ids=HTTP_BODIES.keys())
def test_refuse_in_each_shape_over_http(server: LocalServer, shape: Any, expected: Json, stream: bool) -> None:
    """A JSON body with a status, and the headers that were asked for beside the usual ones."""
    fault = faults.Refuse(503, message="Sorry", shape=shape, headers={"Retry-After": "2", "retry-after-ms": "1500"})
    with server.fault(fault), http_connection(server) as connection:
        status, answer, headers = call(connection, "POST", "/v1/responses", body(stream=stream))
    assert (status, answer, headers["Content-Type"]) == (503, expected, "application/json")
    assert (headers["Retry-After"], headers["retry-after-ms"]) == ("2", "1500") and headers["x-request-id"]


def test_refuse_with_a_text(server: LocalServer) -> None:
    """Over HTTP a body that is no JSON, as a proxy's; over a WebSocket a nested event."""
    fault = faults.Refuse(502, message="<html>Bad gateway</html>", shape="text")
    with server.fault(fault), http_connection(server) as connection:
        connection.request("POST", "/v1/responses", json.dumps(body()), {"Authorization": "Bearer local-key"})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (502, b"<html>Bad gateway</html>")
        assert over_websocket(server)[0]["error"]["message"] == "<html>Bad gateway</html>"


def test_refuse_tells_its_headers_in_the_frame(server: LocalServer) -> None:
    """Over a WebSocket the headers stand in the event."""
    with server.fault(faults.Refuse(429, code="slow_down", headers={"retry-after": "1"})):
        (event,) = over_websocket(server)
    assert (event["headers"], event["error"]["type"]) == ({"retry-after": "1"}, "rate_limit_error")


@pytest.mark.parametrize(("status", "code"), [(None, "server_error"), (500, None), (429, 1302), (None, None)])
def test_refuse_without_a_status_or_with_a_number_as_code(server: LocalServer, status: int | None, code: Any) -> None:
    """What is None is missing or null, a number stays one: servers do that."""
    with server.fault(faults.Refuse(status, code=code)):
        (event,) = over_websocket(server)
    assert event.get("status") == status and event["error"]["code"] == code
    assert ("status" in event) == (status is not None)


@both
@pytest.mark.parametrize("after", [0, 4])
def test_refuse_as_a_failed_response(server: LocalServer, wire: Asked, after: int) -> None:
    """The shape ``failed``: response.failed, of the response that had begun."""
    with server.fault(faults.Refuse(code="server_error", message="Sorry", shape="failed", after=after)):
        events = wire(server)
    last = events[-1]
    assert len(events) == after + 1 and last["type"] == "response.failed" and last["sequence_number"] == after
    assert (last["response"]["status"], last["response"]["error"]) == ("failed", {"code": "server_error", "message": "Sorry"})
    assert not after or last["response"]["id"] == events[0]["response"]["id"]


@both
@pytest.mark.parametrize("shape", ["nested", "flat", "string", "bare", "detail"])
def test_refuse_in_the_middle(server: LocalServer, wire: Asked, shape: Any) -> None:
    """Behind the first event it is an event over HTTP too, and the last one; what was begun is not remembered."""
    with server.fault(faults.Refuse(message="Sorry", shape=shape, after=3), times=1):
        *events, last = wire(server)
    assert kinds(events) == ["created", "in_progress", "output_item.added"] and last["type"] == "error"
    (lost,) = wire(server, previous_response_id=events[0]["response"]["id"])
    assert lost["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("shape", ["nested", "flat", "failed", "error_then_failed", "string", "bare", "detail", "text"])
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refused_continuation_is_evicted(server: LocalServer, shape: Any, after: int, status: int) -> None:
    """A same-lane continuation that ends in a 4xx or 5xx, in whatever shape, loses the id it referred to."""
    with connect(server) as client:
        latest = client.final([user("one")], store=False)
        linked = {"previous_response_id": latest["id"], "store": False}
        with server.fault(faults.Refuse(status, shape=shape, after=after), times=1):
            client.create([user("two")], **linked)
            client.until("response.failed" if shape in ("failed", "error_then_failed") else "error")
        assert client.refused([user("two")], **linked)["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("after", [0, 3])
def test_a_refused_fork_keeps_its_parent(server: LocalServer, after: int) -> None:
    """The same in another lane evicts nothing."""
    with connect(server) as client:
        latest = client.final([user("one")], store=False)
        with server.fault(faults.Refuse(500, after=after), times=1):
            client.turn([user("two")], previous_response_id=latest["id"], store=False, stream_id="fork")
        again = client.final([user("two")], previous_response_id=latest["id"], store=False)
    assert text(again) == "Heard: two (context: 2)"


def test_a_done_marker_ends_a_stream(server: LocalServer) -> None:
    """Over SSE the last thing is ``data: [DONE]``; over a WebSocket there is none, and it does not count."""
    with server.fault(faults.DoneMarker()) as placed, http_connection(server) as connection:
        raw = start_stream(connection, body()).read()
        check_answer(over_websocket(server))
    assert raw.endswith(b"\n\ndata: [DONE]\n\n") and raw.count(b"[DONE]") == 1 and placed.struck == 1


def test_extra_may_be_raw_bytes(server: LocalServer) -> None:
    """A comment between events over SSE, a frame of its own over a WebSocket."""
    with server.fault(faults.Extra(b": keep-alive\n\n", after=1)), http_connection(server) as connection:
        raw = start_stream(connection, body()).read()
        with connect(server) as client:
            client.create()
            client.receive()
            assert client.receive_frame() == ": keep-alive\n\n"
    assert raw.split(b"\n\n")[1] == b": keep-alive"


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("shape", ["nested", "flat", "error_then_failed", "string", "bare", "detail"])
def test_a_plain_post_is_refused_with_the_status(server: LocalServer, shape: Any, after: int) -> None:
    """Without stream there are no events: whatever the shape and the place, the answer is the status, with its headers."""
    fault = faults.Refuse(503, message="Sorry", shape=shape, after=after, headers={"Retry-After": "2"})
    with server.fault(fault), http_connection(server) as connection:
        status, answer, headers = call(connection, "POST", "/v1/responses", body())
    assert (status, headers["Retry-After"]) == (503, "2") and "Sorry" in json.dumps(answer)


def test_a_plain_post_may_tell_of_a_failed_response(server: LocalServer) -> None:
    """In the shape ``failed`` it is a response like any other, whose status says so."""
    with server.fault(faults.Refuse(message="Sorry", shape="failed")), http_connection(server) as connection:
        status, answer, _ = call(connection, "POST", "/v1/responses", body())
    assert (status, answer["status"], answer["error"]["message"]) == (200, "failed", "Sorry")


@pytest.mark.parametrize(
    "fault", [faults.SlowBytes(0.0, size=50), faults.Delays(0.01), faults.Extra({"type": "keepalive"}, after=1)]
)
def test_a_plain_post_is_whole_under_faults_of_a_stream(server: LocalServer, fault: faults.Fault) -> None:
    """What concerns the bytes and events of a stream leaves the one object of a plain answer as it is."""
    with server.fault(fault, required=False), http_connection(server) as connection:
        status, answer, _ = call(connection, "POST", "/v1/responses", body("hi"))
    assert status == 200 and text(answer) == "Heard: hi (context: 1)"
