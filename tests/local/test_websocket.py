"""The WebSocket side of the local server, on a real socket with the `websockets` package."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest
from websockets.exceptions import InvalidStatus

from pixir_sync.local import Close, HttpError, LocalServer, Pause
from tests.local.helpers import TOOL, Json, body, output, receive, send, socket, text, turn, user
from tests.local.raw import mute
from tests.support.ws_wire import TEXT

CREATE = '{"type": "response.create", "model": "m"'


def test_one_socket_serves_a_conversation(server: LocalServer) -> None:
    """Many turns go over one upgrade, each continuing the last; frames and the upgrade are on record."""
    with socket(server) as client:
        previous: Json = {}
        for number in range(1, 6):
            link = {"previous_response_id": previous["id"]} if previous else {}
            previous = turn(client, body([user(f"m{number}")], store=False, **link))[-1]["response"]
            assert text(previous) == f"Heard: m{number} (context: {number})"
    assert (server.connections, len(server.upgrades), len(server.requests)) == (1, 1, 5)
    frame = server.requests[0]
    assert (frame.method, frame.transport, frame.connection) == ("FRAME", "websocket", 1)
    assert frame.body == {"type": "response.create", **body([user("m1")], store=False)}
    assert frame.raw == len(json.dumps(frame.body)) and server.upgrades[0].headers["upgrade"] == "websocket"


def test_tool_round_trip(server: LocalServer) -> None:
    """A call, its output as a continuation, and the answer that quotes it."""
    with socket(server) as client:
        first = turn(client, body("get_weather please", tools=[TOOL], store=False))[-1]["response"]
        call_id = first["output"][0]["call_id"]
        link = {"previous_response_id": first["id"], "store": False, "tools": [TOOL]}
        assert text(turn(client, body([output(call_id, "sunny")], **link))[-1]["response"]) == (
            'Tool answered: "sunny" (context: 1)'
        )


@pytest.mark.parametrize(
    ("frame", "code", "param"),
    [
        ("{nonsense", "invalid_json", None),
        ("[1]", "invalid_json", None),
        ("{}", "missing_required_parameter", "type"),
        ('{"type": "response.cancel"}', "invalid_value", "type"),
        ('{"type": "response.create", "input": "x"}', "missing_required_parameter", "model"),
        (CREATE + ', "input": "x", "background": true}', "unsupported_parameter", "background"),
        (CREATE + ', "input": "x", "stream_id": "a b"}', "invalid_stream_id", "stream_id"),
        (CREATE + ', "input": "\\ud800"}', "invalid_json", None),
    ],
)
def test_bad_frames_get_an_error_frame(server: LocalServer, frame: str, code: str, param: str | None) -> None:
    """What is wrong in a frame is answered with a nested error event with its status, and the socket is kept."""
    with socket(server) as client:
        client.send(frame)
        event = receive(client)
        assert (event["type"], event["status"], event["error"]["code"]) == ("error", 400, code)
        assert event["error"]["param"] == param and set(event) == {"type", "status", "error"}
        assert turn(client, body(stream=True))[-1]["type"] == "response.completed"


def test_upgrade_needs_the_key(server: LocalServer) -> None:
    """A wrong key is refused at the upgrade with 401 and a JSON body."""
    with pytest.raises(InvalidStatus) as caught, socket(server, key="wrong"):
        pass
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body)["error"]["code"] == "invalid_api_key"
    assert len(server.upgrades) == 1 and server.requests == []


def test_disconnect_loses_the_state(server: LocalServer) -> None:
    """An unstored response is gone with its connection; a refused continuation evicts, the socket goes on."""
    with socket(server) as client:
        first = turn(client, body(store=False))[-1]["response"]
    with socket(server) as client:
        lost = turn(client, body(store=False, previous_response_id=first["id"]))[-1]
        assert (lost["status"], lost["error"]["code"]) == (400, "previous_response_not_found")
        latest = turn(client, body(store=False))[-1]["response"]
        turn(client, body([output("call_x", "?")], store=False, previous_response_id=latest["id"]))
        evicted = turn(client, body(store=False, previous_response_id=latest["id"]))[-1]
        assert evicted["error"]["code"] == "previous_response_not_found"


def test_pings_are_answered_while_a_turn_runs(server: LocalServer) -> None:
    """A ping gets its pong though the answer stands still."""
    pause = Pause()
    server.scenario = lambda _: [{"type": "x"}, pause, {"type": "response.completed"}]
    with socket(server) as client:
        send(client, body())
        assert receive(client) == {"type": "x"}
        assert pause.reached.wait(5)
        assert client.ws.ping("hello").wait(5)
        pause.event.set()
        assert receive(client)["type"] == "response.completed"


def test_lanes_answer_in_order_and_pass_each_other(server: LocalServer) -> None:
    """Frames of one lane wait for each other; another lane's turn passes a lane that stands still."""
    pause = Pause()
    server.scenario = lambda request: [{"type": "held"}, pause] if request["input"] == "hold" else None
    with socket(server) as client:
        send(client, body("hold"))
        send(client, body("second"))
        assert receive(client) == {"type": "held"}
        other = turn(client, body("other", stream_id="side"))
        assert {event["stream_id"] for event in other} == {"side"}
        pause.event.set()
        event = receive(client)
        assert event["type"] == "response.created" and "stream_id" not in event


def test_scenarios_close_cut_and_send_raw_frames(server: LocalServer) -> None:
    """Bytes are a text frame as they are, an HttpError an error frame, a Close a close frame or a cut."""
    script: Any = {
        "raw": [b"{garbage", HttpError(429, {"error": {"code": "slow_down"}}, {"retry-after": "1"})],
        "close": [Close(1012, "restart")],
        "cut": [{"type": "x"}, Close()],
    }
    server.scenario = lambda request: script[request["input"]]
    with socket(server) as client:
        send(client, body("raw"))
        assert client.receive_frame() == "{garbage"
        refused = receive(client)
        assert (refused["status"], refused["error"]) == (429, {"code": "slow_down"})
        assert refused["headers"] == {"retry-after": "1"}
        send(client, body("close"))
        assert client.ended() == (1012, "restart")
    with socket(server) as client:
        send(client, body("cut"))
        assert receive(client) == {"type": "x"}
        assert client.ended() is None


def test_binary_and_oversized_frames_end_the_connection() -> None:
    """A binary frame is closed with 1003; one over the limit does not reach the engine."""
    with LocalServer(frame_limit=1000) as server:
        with socket(server) as client:
            client.send(b"x")
            assert client.ended() == (1003, "text frames only")
        with socket(server) as client:
            send(client, body("x" * 2000))
            ended = client.ended()
            assert ended is not None and ended[0] == 1009
    assert server.requests == []


def test_answers_may_be_large(server: LocalServer) -> None:
    """The server's own frames are not capped at a megabyte."""
    said = "x" * 2_000_000
    with socket(server) as client:
        assert text(turn(client, body(said))[-1]["response"]) == f"Heard: {said} (context: 1)"


def test_warm_up_is_continued(server: LocalServer) -> None:
    """generate false answers with an empty output whose id the next turn continues."""
    with socket(server) as client:
        created, done = turn(client, body([user("a")], generate=False, store=False))
        assert (created["type"], done["response"]["output"]) == ("response.created", [])
        link = {"previous_response_id": done["response"]["id"], "store": False}
        assert text(turn(client, body([user("b")], **link))[-1]["response"]) == "Heard: b (context: 2)"


def test_failing_scenario_gets_an_error_frame() -> None:
    """An exception in a scenario is an error frame, and raised at the end."""

    def broken(request: Json) -> NoReturn:
        raise KeyError("broken")

    with (
        pytest.raises(RuntimeError, match="local server failed"),
        LocalServer(scenario=broken) as server,
        socket(server) as client,
    ):
        assert turn(client, body())[-1]["status"] == 500
        server.scenario = None
        assert turn(client, body())[-1]["type"] == "response.completed"


HALF = r'"\ud800"'  # half of a surrogate pair: JSON that no answer can repeat
HALVES = {
    "steer": f'{{"type": "response.steer", "previous_response_id": "r", "input": {HALF}}}',
    "steer, its key": f'{{"type": "response.steer", "previous_response_id": "r", "input": "x", {HALF}: 1}}',
    "previous response": f'{CREATE}, "input": "x", "previous_response_id": {HALF}}}',
    "item reference": f'{CREATE}, "input": [{{"type": "item_reference", "id": {HALF}}}], "store": true}}',
    "model": f'{{"type": "response.create", "model": {HALF}, "input": "x"}}',
}


@pytest.mark.parametrize("frame", HALVES.values(), ids=HALVES.keys())
def test_what_has_no_json_form_is_refused_and_the_socket_kept(frame: str) -> None:
    """Whatever the refusal would quote, it is an error frame; the next turn runs."""
    with LocalServer(models=["m"]) as server, socket(server) as client:
        client.send(frame)
        assert receive(client)["type"] == "error"
        assert turn(client, body())[-1]["type"] == "response.completed"


def test_a_failure_while_reading_cuts_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HTTP answer is written on a WebSocket: a failure of the server's own outside any turn ends the connection."""

    def fails(*args: Any) -> NoReturn:
        raise ZeroDivisionError

    server = LocalServer()
    server.start()
    monkeypatch.setattr("pixir_sync.local.engine.Engine.steer", fails)
    with mute(server) as client:
        client.send(TEXT, b'{"type": "response.steer"}')
        assert client.sock.recv(1) == b""
    assert [type(failure) for failure in server.failures] == [ZeroDivisionError]
    server.close()
