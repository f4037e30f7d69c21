"""Where two things of the server meet: a slow frame and the reading task, a fault and a fault, a long run and its records."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pixir_sync.local import Answer, HttpError, LocalServer, faults
from tests.local.helpers import body, call, http_connection
from tests.local.raw import connect, kinds


def test_a_close_is_seen_while_a_frame_leaves_slowly() -> None:
    """Also where the reading task has something to say meanwhile: an error, a pong."""
    with LocalServer() as server, server.fault(faults.SlowBytes(interval=0.05)) as placed:
        with connect(server) as client:
            client.create()
            placed.wait()
            client.send("{nonsense")
            client.ws.ping()
            began = time.monotonic()
        assert time.monotonic() - began < 5  # an event takes half a minute


def test_a_slow_frame_is_no_reason_to_give_a_client_up() -> None:
    """A ping waits for it; the client answers as soon as it can, and the answer comes whole."""
    with LocalServer(ping_interval=0.1, ping_timeout=0.3) as server:
        server.scenario = lambda _: [{"type": "response.completed", "text": "x" * 100}]
        with server.fault(faults.SlowBytes(interval=0.01)), connect(server) as client:
            client.create()
            assert kinds([client.receive(10)]) == ["completed"]


@pytest.mark.parametrize("order", [0, 1])
def test_a_slow_answer_has_events_for_other_faults(order: int) -> None:
    """Whichever was placed first."""
    both = [faults.SlowBytes(interval=0, size=500), faults.Ending(output="empty")]
    with LocalServer(scenario=Answer("Hello")) as server, server.fault(*(both[::-1] if order else both)) as placed:
        with connect(server) as client:
            client.create()
            last = client.until_terminal()[-1]
    assert last["response"]["output"] == [] and placed.struck == 2


def test_a_server_may_keep_the_latest_requests_only() -> None:
    """One that runs for days does not remember everything."""
    with LocalServer(keep=3) as server, http_connection(server) as connection:
        for number in range(5):
            call(connection, "POST", "/v1/responses", body(f"m{number}"))
        assert server.requests.texts == ["m2", "m3", "m4"]


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_of_a_key_has_no_case(scheme: str) -> None:
    """RFC 9110, 11.1."""
    with LocalServer() as server, connect(server, additional_headers={"Authorization": f"{scheme} {server.api_key}"}) as client:
        assert client.final("hi", generate=False)["status"] == "completed"


def test_a_refusal_without_a_body_is_an_error_object() -> None:
    """As over a WebSocket."""
    with LocalServer(scenario=lambda _: [HttpError(503)]) as server, http_connection(server) as connection:
        status, said, _ = call(connection, "POST", "/v1/responses", body())
        assert status == 503 and said["error"]["type"] == "server_error"


def test_what_failed_in_an_earlier_run_is_forgotten() -> None:
    """Leaving a second block tells of that block."""

    def fails(_: Any) -> None:
        raise ZeroDivisionError

    server = LocalServer(scenario=fails)
    with pytest.raises(RuntimeError), server, http_connection(server) as connection:
        call(connection, "POST", "/v1/responses", body())
    server.scenario = None
    with server, http_connection(server) as connection:
        assert call(connection, "POST", "/v1/responses", body())[0] == 200
