"""Section 8, point 8: faults of the connection, and how faults are placed, counted, composed and taken away."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pixir_sync.local import LocalServer, faults
from tests.local.helpers import Wire as Asked
from tests.local.helpers import both, call, http_connection, over_http, over_websocket, start_stream, text
from tests.local.order import check_answer
from tests.local.raw import DEADLINE, Json, body, connect, kinds, mute
from tests.support.ws_client import read_to

STATUSES = [301, 400, 401, 403, 404, 405, 426, 429, 500, 501, 502, 503, 504]
AGE: Json = {"status": 400, "code": "websocket_connection_limit_reached"}


@pytest.mark.parametrize("status", STATUSES)
def test_an_upgrade_is_refused_with_any_status(server: LocalServer, status: int) -> None:
    """The status with an error object; HTTP is served as ever; without the fault the upgrade succeeds."""
    with server.fault(faults.RefuseUpgrade(status)) as placed:
        with pytest.raises(InvalidStatus) as caught, connect(server):
            pass
        check_answer(over_http(server))
    response = caught.value.response
    assert response.status_code == status and json.loads(response.body)["error"]["message"]
    assert placed.struck == 1 and len(server.upgrades) == 1
    over_websocket(server)


@pytest.mark.parametrize(
    ("given", "expected"), [({"detail": "no"}, b'{"detail":"no"}'), (b"<html>", b"<html>"), (b"", b""), ([], b"[]")]
)
def test_a_refused_upgrade_has_the_given_body_and_headers(server: LocalServer, given: Any, expected: bytes) -> None:
    """A JSON value, or bytes as they are; headers are added."""
    with server.fault(faults.RefuseUpgrade(429, body=given, headers={"Retry-After": "7", "X-Mine": "y"})):
        with pytest.raises(InvalidStatus) as caught, connect(server):
            pass
    response = caught.value.response
    assert (response.status_code, response.body) == (429, expected)
    assert (response.headers["Retry-After"], response.headers["X-Mine"]) == ("7", "y")


def test_a_refused_upgrade_is_no_upgrade_on_the_wire(server: LocalServer) -> None:
    """The head has the status and nothing of a WebSocket."""
    with server.fault(faults.RefuseUpgrade(426)), mute(server, upgraded=False) as client:
        head = read_to(client.sock, b"\r\n\r\n").lower()
    assert head.startswith(b"http/1.1 426 ") and b"sec-websocket-accept" not in head


@pytest.mark.parametrize(("code", "reason"), [(1008, ""), (1008, "not for you"), (1011, ""), (4402, "out of credits")])
def test_an_upgrade_is_followed_by_a_close(server: LocalServer, code: int, reason: str) -> None:
    """101, then at once the close frame, before a request and for one that is sent at once too."""
    with server.fault(faults.CloseAfterUpgrade(code, reason)) as placed:
        with connect(server) as client:
            assert client.ended() == (code, reason)
        with mute(server) as hand:
            assert hand.closed() == code
    assert placed.struck == 2 and server.requests == []


def test_an_upgrade_stalls_until_it_is_released(server: LocalServer) -> None:
    """Not a byte comes; released, 101 comes and the connection serves. HTTP does not stall."""
    stall = faults.StallUpgrade()
    with server.fault(stall) as placed, mute(server, upgraded=False) as client:
        placed.wait()
        assert stall.pause.reached.wait(DEADLINE)
        check_answer(over_http(server))
        assert client.nothing()
        stall.release()
        assert read_to(client.sock, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        client.create()
        check_answer([json.loads(frame.payload) for frame in client.until_terminal()])


def test_a_client_may_leave_a_stalled_upgrade(server: LocalServer) -> None:
    """Its time limit runs out; the server has no failure, and the next upgrade is not held up once the fault is gone."""
    with server.fault(faults.StallUpgrade()), pytest.raises(TimeoutError), connect(server, open_timeout=0.3):
        pass
    over_websocket(server)
    assert server.failures == []


def test_the_age_limit_ends_a_connection(server: LocalServer) -> None:
    """The next request is answered by the error, then close 1000; a new connection serves when the fault has struck."""
    with connect(server) as client:
        first = client.final(store=False)
        with server.fault(faults.AgeLimit(), times=1):
            event = client.refused(previous_response_id=first["id"], store=False)
            assert {"status": event["status"], "code": event["error"]["code"]} == AGE
            closed = client.ended()
            assert closed is not None and closed[0] == 1000
            over_websocket(server)
    assert len(server.upgrades) == 2


def test_the_age_limit_is_the_websockets_own(server: LocalServer) -> None:
    """Over HTTP nothing grows old."""
    with server.fault(faults.AgeLimit(), required=False) as placed:
        check_answer(over_http(server))
    assert placed.struck == 0


def test_a_connection_grows_old_by_itself() -> None:
    """At max_age an idle connection gets the error unasked, then close 1000."""
    with LocalServer(max_age=0.3) as server, connect(server) as client:
        client.final()
        event = client.receive()
        assert {"status": event["status"], "code": event["error"]["code"]} == AGE and "stream_id" not in event
        closed = client.ended()
        assert closed is not None and closed[0] == 1000


def test_a_running_turn_may_end_before_the_age_counts() -> None:
    """What runs at max_age runs to its end, then the error comes, once."""
    stall = faults.Stall(after=2)
    with LocalServer(max_age=0.2) as server, server.fault(stall) as placed, connect(server) as client:
        client.create()
        placed.wait()
        events = [client.receive(), client.receive()]
        with pytest.raises(TimeoutError):
            client.receive(1.0)
        stall.release()
        check_answer(events + client.until_terminal())
        assert client.receive()["error"]["code"] == AGE["code"]
        closed = client.ended()
        assert closed is not None and closed[0] == 1000


def test_a_fault_strikes_while_it_is_in_place_and_no_longer(server: LocalServer) -> None:
    """Every answer inside the block, none before and none behind it."""
    check_answer(over_websocket(server))
    with server.fault(faults.Refuse()) as placed:
        for number in range(1, 4):
            assert kinds(over_websocket(server)) == ["error"] and placed.struck == number
    check_answer(over_websocket(server))
    assert placed.struck == 3


def test_a_fault_may_come_and_go_while_a_connection_lives(server: LocalServer) -> None:
    """It concerns requests, not connections: one socket sees both."""
    with connect(server) as client:
        client.final()
        with server.fault(faults.Refuse()):
            client.refused()
        client.final()


@pytest.mark.parametrize("times", [1, 2, 5])
@both
def test_a_fault_strikes_so_many_times(server: LocalServer, wire: Asked, times: int) -> None:
    """Then it is in place and does nothing more."""
    with server.fault(faults.Refuse(), times=times) as placed:
        ends = [wire(server)[-1]["type"] for _ in range(times + 2)]
    assert ends == ["error"] * times + ["response.completed"] * 2 and placed.struck == times


def test_times_counts_for_each_fault(server: LocalServer) -> None:
    """Two faults with times=1 strike once each."""
    extra = {"type": "keepalive"}
    with server.fault(faults.Extra(extra, after=1), faults.Ending(output="null"), times=1) as placed:
        first, second = over_websocket(server), over_websocket(server)
    assert first[1] == extra and first[-1]["response"]["output"] is None
    check_answer(second)
    assert placed.struck == 2


@both
def test_a_fault_concerns_the_requests_it_is_for(server: LocalServer, wire: Asked) -> None:
    """``when`` is asked for every body; the others are answered and do not count."""
    with server.fault(faults.Refuse(), when=lambda request: "bad" in request["input"]) as placed:
        ends = [wire(server, given)[-1]["type"] for given in ("good", "bad one", "good", "bad two")]
    assert ends == ["response.completed", "error"] * 2 and placed.struck == 2


def test_when_and_times_together(server: LocalServer) -> None:
    """The first request that it is for, and no other."""
    with server.fault(faults.Refuse(), when=lambda request: request["model"] == "bad", times=1):
        ends = [over_websocket(server, model=model)[-1]["type"] for model in ("good", "bad", "bad")]
    assert ends == ["response.completed", "error", "response.completed"]


def test_an_upgrade_has_no_body_to_ask_about(server: LocalServer) -> None:
    """A fault of the upgrade strikes whatever ``when`` says of bodies, on each upgrade up to its times."""
    with server.fault(faults.RefuseUpgrade(503), times=1), pytest.raises(InvalidStatus), connect(server):
        pass
    with server.fault(faults.RefuseUpgrade(503), times=1):
        with pytest.raises(InvalidStatus), connect(server):
            pass
        over_websocket(server)


def test_a_required_fault_that_never_strikes_is_an_error(server: LocalServer) -> None:
    """Leaving the block says so; not where the block itself raised, and not where it was not required."""
    with pytest.raises(AssertionError, match="never happened"), server.fault(faults.Refuse()):
        pass
    with pytest.raises(KeyError), server.fault(faults.Refuse()):
        raise KeyError
    with server.fault(faults.Refuse(), required=False) as placed:
        pass
    assert placed.struck == 0
    check_answer(over_websocket(server))


@pytest.mark.parametrize("fault", [faults.Drop(after=500), faults.Stall(after=500), faults.Extra({"type": "x"}, after=500)])
def test_a_fault_behind_the_end_never_strikes(server: LocalServer, fault: faults.Fault) -> None:
    """An answer that has not so many events is whole, and nothing is counted."""
    with server.fault(fault, required=False) as placed:
        check_answer(over_websocket(server))
    assert placed.struck == 0


def test_wait_returns_when_it_has_struck(server: LocalServer) -> None:
    """From another thread's view: after the strike at once; without one an AssertionError in time."""
    with server.fault(faults.Stall(after=1)) as placed, connect(server) as client:
        with pytest.raises(AssertionError):
            placed.wait(0.05)
        client.create()
        placed.wait()
        placed.wait(0)
        assert placed.struck == 1
    with connect(server) as client:
        client.final()


def test_leaving_the_block_releases_what_stands_still(server: LocalServer) -> None:
    """Every answer that a Stall holds goes on, on all lanes."""
    with connect(server) as client:
        with server.fault(faults.Stall(after=2)) as placed:
            for number in range(5):
                client.create(stream_id=f"n{number}")
            placed.wait(strikes=5)
        for events in client.per_lane(5).values():
            check_answer(events)


@both
def test_faults_compose(server: LocalServer, wire: Asked) -> None:
    """Two shapes at once, each where it belongs: no set-up, no indexes, extra events, another ending."""
    placed = server.fault(faults.WithoutSetUp(), faults.WithoutIndexes(), faults.Ending(output="empty"))
    with placed, server.fault(faults.Extra({"type": "keepalive"}, after=2)):
        events = wire(server)
    assert kinds(events)[:3] == ["created", "in_progress", "keepalive"] and events[-1]["response"]["output"] == []
    assert not [event for event in events if event["type"].endswith(".added") or "output_index" in event]


def test_the_first_placed_is_nearest_to_the_model(server: LocalServer) -> None:
    """What is placed later sees what the earlier one has made of the answer: its events count."""
    extra = faults.Extra({"type": "one"}, {"type": "two"}, after=0)
    with server.fault(extra), server.fault(faults.Drop(after=2, code=1011)), connect(server) as client:
        client.create()
        assert [client.receive()["type"] for _ in range(2)] == ["one", "two"]
        assert client.ended() == (1011, "")


def test_slow_and_dropped(server: LocalServer) -> None:
    """Bytes leave slowly up to the cut, which comes behind the last of them."""
    with server.fault(faults.Drop(after=3), faults.SlowBytes(0.0, size=5)), connect(server) as client:
        client.create()
        assert kinds([client.receive() for _ in range(3)]) == ["created", "in_progress", "output_item.added"]
        assert client.ended() is None


def test_a_connection_fault_and_an_answers_fault(server: LocalServer) -> None:
    """Each strikes where it belongs: the first upgrade is refused, the answer on the second one dropped."""
    with server.fault(faults.RefuseUpgrade(503), times=1), server.fault(faults.Drop(after=1)):
        with pytest.raises(InvalidStatus), connect(server):
            pass
        with connect(server) as client:
            client.create()
            client.receive()
            assert client.ended() is None


def test_faults_from_the_beginning() -> None:
    """LocalServer(faults=...) has them in place for its whole life, and asks for no strike."""
    with LocalServer(faults=[faults.RefuseUpgrade(426), faults.Ending(output="null")]) as server:
        for _ in range(2):
            with pytest.raises(InvalidStatus) as caught, connect(server):
                pass
            assert caught.value.response.status_code == 426
            assert over_http(server)[-1]["response"]["output"] is None
    with LocalServer(faults=[faults.Stall()]):
        pass


def test_a_server_closes_with_an_answer_that_stands_still() -> None:
    """Closing does not wait for a fault: the connection ends with 1001."""
    with LocalServer(faults=[faults.Stall(after=1)]) as server, connect(server) as client:
        client.create()
        assert client.receive()["type"] == "response.created"
        server.close()
        assert client.ended() == (1001, "")


def test_a_drop_on_one_lane_ends_all(server: LocalServer) -> None:
    """A connection is one: what is cut on a lane is cut for the others."""
    with connect(server) as client:
        with server.fault(faults.Stall(after=1), when=lambda request: request.get("stream_id") == "slow") as held:
            client.create(stream_id="slow")
            held.wait()
            client.receive()
            with server.fault(faults.Drop(after=1)):
                client.create(stream_id="fast")
                with pytest.raises(ConnectionClosed):
                    while True:
                        assert client.receive()["stream_id"] == "fast"
    assert server.failures == []


def test_a_faults_own_class_can_be_written(server: LocalServer) -> None:
    """A fault is a small class: here one that shouts."""

    class Shout(faults.Fault):
        """Every delta in capitals."""

        def on_answer(self, steps: faults.Steps, strike: faults.Strike, exchange: faults.Exchange) -> faults.Steps:
            strike()
            for step in steps:
                yield {**step, "delta": step["delta"].upper()} if isinstance(step, dict) and "delta" in step else step

    with server.fault(Shout()), connect(server) as client:
        events = client.turn("hi")
    assert "".join(event["delta"] for event in events if "delta" in event) == "HEARD: HI (CONTEXT: 1)"


def test_send_all_tells_every_websocket(server: LocalServer) -> None:
    """An event that answers nothing, on every open WebSocket, idle or not; HTTP does not see it."""
    event: Json = {"type": "codex.rate_limits", "x": 1}
    with connect(server) as one, connect(server) as two:
        one.final()
        two.settled()
        server.send_all(event)
        assert one.receive() == two.receive() == event
        one.silent()
        one.final()


@pytest.mark.parametrize(("code", "reason"), [(1001, ""), (1012, "restart"), (1013, "")])
def test_close_connections_closes_every_websocket(server: LocalServer, code: int, reason: str) -> None:
    """With this code and reason, while an answer runs too; new connections are taken."""
    with server.fault(faults.Stall(after=0), times=1) as placed, connect(server) as idle, connect(server) as busy:
        busy.create()
        placed.wait()
        idle.settled()
        server.close_connections(code, reason)
        assert idle.ended() == busy.ended() == (code, reason)
        over_websocket(server)


def test_http_goes_on_when_websockets_are_closed(server: LocalServer) -> None:
    """close_connections is for WebSockets: a stream over HTTP runs to its end."""
    with server.fault(faults.Stall(after=2)) as placed, http_connection(server) as connection:
        answer = start_stream(connection, body())
        placed.wait()
        server.close_connections()
        for fault in placed.faults:
            fault.release()
        assert answer.read().count(b"event: ") > 5
        assert text(call(connection, "POST", "/v1/responses", body("hi"))[1]) == "Heard: hi (context: 1)"
