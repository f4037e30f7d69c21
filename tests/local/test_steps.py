"""The steps of an answer that are not events: what each does over a WebSocket, over HTTP/SSE and without a stream."""

from __future__ import annotations

import json
import socket as sockets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pixir_sync.local import Answer, Close, Finish, Head, HttpError, LocalServer, NotJson, Pause, Script, Step, Together, faults
from tests.local.helpers import Wire as Asked
from tests.local.helpers import both, call, http_connection, next_event, start_stream, text
from tests.local.order import check_answer
from tests.local.raw import DEADLINE, Json, body, connect, mute
from tests.support.ws_client import read_exactly, read_frame, read_to

A: Json = {"type": "response.a"}
B: Json = {"type": "response.b"}
DONE: Json = {"type": "response.completed", "response": {"id": "resp_1", "output": []}}
FAILED: Json = {"type": "response.failed", "response": {"id": "resp_2", "status": "failed", "output": []}}
WHATEVER = pytest.mark.parametrize("how", ["websocket", "http_sse", "http"])


@contextmanager
def asking(server: LocalServer, how: str) -> Iterator[sockets.socket]:
    """A request that was sent and whose answer nobody reads; the end of the block is the end of its connection."""
    if how == "websocket":
        with mute(server) as client:
            client.create()
            yield client.sock
        return
    data = json.dumps(body(stream=how == "http_sse")).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer local-key\r\nContent-Length: {len(data)}\r\n\r\n"
    with sockets.create_connection((server.host, server.port), DEADLINE) as sock:
        sock.sendall(head.encode() + data)
        yield sock


# Pause: until the test says so, or the client goes.


@WHATEVER
def test_a_pause_knows_that_the_client_has_gone(server: LocalServer, how: str) -> None:
    """The wait ends with the connection, and what was to come is not made; the next request is answered."""
    pause, made = Pause(), []

    def scenario(request: Json) -> Iterator[Step]:
        yield A
        yield pause
        made.append(request)

    server.scenario = Script(scenario)
    with asking(server, how):
        assert pause.reached.wait(DEADLINE) and not pause.gone.is_set()
    assert pause.gone.wait(DEADLINE) and not made
    with http_connection(server) as connection:
        assert text(call(connection, "POST", "/v1/responses", body())[1]) == "Heard: hello (context: 1)"


@both
def test_a_pause_that_is_over_tells_of_no_one_who_left(wire: Asked, server: LocalServer) -> None:
    """A client that stays, and goes after its answer, is no client that went meanwhile."""
    pause = Pause()
    pause.event.set()
    server.scenario = Script([A, pause, DONE])
    assert wire(server) == [A, DONE]
    assert pause.reached.is_set() and not pause.gone.is_set()


@WHATEVER
def test_closing_the_server_ends_a_pause(how: str) -> None:
    """Nothing waits longer than the server runs."""
    pause = Pause()
    with LocalServer(scenario=lambda _: [pause]) as server, asking(server, how):
        assert pause.reached.wait(DEADLINE)
        server.close()
        assert pause.gone.wait(DEADLINE)


def test_an_upgrade_that_stalls_knows_that_the_client_has_gone(server: LocalServer) -> None:
    """As an answer does."""
    stall = faults.StallUpgrade()
    with server.fault(stall):
        with mute(server, upgraded=False):
            assert stall.pause.reached.wait(DEADLINE)
        assert stall.pause.gone.wait(DEADLINE)


# Head: before the first event.


def test_the_head_goes_before_the_first_event(server: LocalServer) -> None:
    """It has arrived while the answer stands still; a refusal then is an event, for the status is gone."""
    pause = Pause()
    server.scenario = lambda _: [Head(), pause, HttpError(429, {"error": {"code": "slow_down"}})]
    with http_connection(server) as connection:
        answer = start_stream(connection, body())
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert pause.reached.wait(DEADLINE)
        pause.event.set()
        assert next_event(answer) == {"type": "error", "status": 429, "error": {"code": "slow_down"}}
        assert next_event(answer) is None


@pytest.mark.parametrize("stream", [True, False])
def test_a_head_may_come_at_any_time(server: LocalServer, stream: bool) -> None:
    """A second one, one behind an event, one before an answer: nothing happens. Without a stream there is none."""
    server.scenario = lambda _: [Head(), Head(), Answer("Hi"), Head()]
    with http_connection(server) as connection:
        if stream:
            answer = start_stream(connection, body())
            events = list(iter(lambda: next_event(answer), None))
            assert text(check_answer(events)) == "Hi"
        else:
            assert text(call(connection, "POST", "/v1/responses", body())[1]) == "Hi"


def test_over_a_websocket_there_is_no_head(server: LocalServer) -> None:
    """The first frame is the first event."""
    server.scenario = lambda _: [Head(), DONE]
    with connect(server) as client:
        assert client.turn() == [DONE]


# Finish: the end of an answer.


@pytest.mark.parametrize("said", [[], [A], [A, Head()]], ids=["nothing", "an event", "and a head"])
def test_an_answer_over_http_finishes_as_a_body_does(server: LocalServer, said: list[Step]) -> None:
    """The body ends properly without a terminal event, what comes behind it is not sent, and the connection is kept."""
    server.scenario = Script([*said, Finish(), B, DONE])
    with http_connection(server) as connection:
        answer = start_stream(connection, body())
        assert [next_event(answer) for step in said if step is A] == [A][: len(said)] and next_event(answer) is None
        assert text(call(connection, "POST", "/v1/responses", body())[1]) == "Heard: hello (context: 1)"
    assert server.connections == 1


def test_an_answer_without_a_stream_finishes_with_what_was_said(server: LocalServer) -> None:
    """The last response that was named is the answer."""
    server.scenario = lambda _: [{"type": "response.created", "response": {"id": "resp_1"}}, Finish(), DONE]
    with http_connection(server) as connection:
        status, found, _ = call(connection, "POST", "/v1/responses", body())
    assert (status, found) == (200, {"id": "resp_1"})


@pytest.mark.parametrize("said", [[], [A]])
def test_an_answer_over_a_websocket_finishes_with_its_connection(server: LocalServer, said: list[Step]) -> None:
    """A close frame with 1000, and nothing behind it."""
    server.scenario = lambda _: [*said, Finish(), B, DONE]
    with connect(server) as client:
        client.create()
        assert [client.receive() for _ in said] == said
        assert client.ended() == (1000, "")


# Together: one write.


@both
def test_what_is_sent_together_arrives_in_its_order(wire: Asked, server: LocalServer) -> None:
    """Whatever it is, and however long."""
    long: Json = {"type": "response.long", "x": "x" * 100_000}
    middle: Json = {"type": "response.middle", "x": "x" * 1000}
    server.scenario = lambda _: [Together(A, long), B, Together(), Together(middle, A, DONE)]
    assert wire(server) == [A, long, B, middle, A, DONE]


def test_frames_that_are_sent_together_are_one_write(server: LocalServer) -> None:
    """The first piece that a client reads holds all of them, many as they are; the connection goes on as ever."""
    server.scenario = Script([Together(b"raw", NotJson(b"{no"), *[A] * 1000, DONE)])
    with mute(server) as client:
        client.create()
        piece = client.sock.recv(1 << 16)
        one, other = sockets.socketpair()
        with one, other:
            one.sendall(piece)
            one.shutdown(sockets.SHUT_WR)
            payloads = [read_frame(other).payload for _ in range(1003)]
            assert other.recv(1) == b""
        assert payloads[:2] == [b"raw", b"{no"] and [json.loads(payload) for payload in payloads[2:]] == [*[A] * 1000, DONE]
        client.create("again")
        assert json.loads(client.until_terminal()[-1].payload)["response"]["output"][0]["content"][0]["text"]


def test_events_that_are_sent_together_are_one_write(server: LocalServer) -> None:
    """One chunk of the body has all of them."""
    server.scenario = lambda _: [Head(), Together(A, b": raw\n\n", NotJson(b"{no"), DONE)]
    with asking(server, "http_sse") as sock:
        assert b"chunked" in read_to(sock, b"\r\n\r\n")
        size = int(read_to(sock, b"\r\n"), 16)
        chunk = read_exactly(sock, size)
    lines = chunk.split(b"\n")
    assert chunk.count(b"\n\n") == 4 and b": raw" in lines and b"data: {no" in lines
    assert [json.loads(line[6:]) for line in lines if line.startswith(b"data: {\"")] == [A, DONE]


def test_together_is_a_plain_answer_too(server: LocalServer) -> None:
    """Without a stream the last response among them is the answer; an error among them is its status."""
    server.scenario = Script([Together(A, DONE)], [Together(A, {"type": "error", "status": 418, "error": {"code": "tea"}}, DONE)])
    with http_connection(server) as connection:
        assert call(connection, "POST", "/v1/responses", body())[:2] == (200, DONE["response"])
        assert call(connection, "POST", "/v1/responses", body())[:2] == (418, {"error": {"code": "tea"}})


@both
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_fault_strikes_before_or_behind_what_is_sent_together(wire: Asked, server: LocalServer, after: int) -> None:
    """Its events count, and are not torn apart."""
    server.scenario = lambda _: [Together(A, B), A, DONE]
    extra: Json = {"type": "response.extra"}
    with server.fault(faults.Extra(extra, after=after)):
        found = wire(server)
    assert found.index(extra) == (0, 2, 2, 3)[after] and len(found) == 5


def test_the_server_knows_what_was_sent_together(server: LocalServer) -> None:
    """A response that completed among it is continued from; one that failed takes what it referred to with it."""
    told: dict[str, Any] = {"store": False, "previous_response_id": "resp_1"}
    server.scenario = Script([Together(A, DONE)], None, [Together(A, DONE)], [Together(A, FAILED)])
    with connect(server) as client:
        assert client.turn(store=False)[-1] == DONE
        assert text(client.final("two", **told)) == "Heard: two (context: 2)"
        assert client.turn(store=False)[-1] == DONE
        assert client.turn(**told)[-1] == FAILED
        assert client.refused(**told)["error"]["code"] == "previous_response_not_found"


# Behind a fault that slows events down they are events still.


@both
def test_faults_count_the_events_that_leave_slowly(wire: Asked, server: LocalServer) -> None:
    """Two faults compose, the slow one nearest to the model."""
    extra: Json = {"type": "response.extra"}
    with server.fault(faults.SlowBytes(interval=0, size=100)), server.fault(faults.Extra(extra, after=2)) as placed:
        found = wire(server)
    assert found.index(extra) == 2 and placed.struck == 1


def test_an_error_that_leaves_slowly_evicts(server: LocalServer) -> None:
    """As one that leaves at once."""
    with connect(server) as client:
        first = client.final(store=False)["id"]
        with server.fault(faults.Refuse(), faults.SlowBytes(interval=0, size=100)):
            client.refused(store=False, previous_response_id=first)
        refused = client.refused(store=False, previous_response_id=first)
    assert refused["error"]["code"] == "previous_response_not_found"


# NotJson and Close stand in a scenario as in a fault.


def test_what_is_no_json_stands_where_an_event_should(server: LocalServer) -> None:
    """In a text frame, or in a data line."""
    server.scenario = lambda _: [NotJson(b"[1"), DONE]
    with connect(server) as client:
        client.create()
        assert (client.receive_frame(), client.receive()) == ("[1", DONE)
    with http_connection(server) as connection:
        assert start_stream(connection, body()).read().startswith(b"data: [1\n\nevent: response.completed\n")


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_behind_events_that_leave_together_takes_none_of_them(server: LocalServer, reset: bool) -> None:
    """They were written, and arrive; then comes the end, or the reset."""
    server.scenario = lambda _: [Together(A, B), Close(reset=reset)]
    with mute(server) as client:
        client.create()
        assert [json.loads(client.frame().payload) for _ in range(2)] == [A, B]
        if reset:
            with pytest.raises(ConnectionResetError):
                client.sock.recv(1)
        else:
            assert client.sock.recv(1) == b""
