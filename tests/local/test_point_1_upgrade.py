"""Section 8, point 1: upgrade and POST on ``/v1/responses``, one engine behind both, the bearer checked at the upgrade."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from pixir_sync.local import LocalServer
from tests.local.helpers import call, http_connection, stream, text
from tests.local.raw import body, connect, kinds, mute, only

PATHS = ["/v1/responses", "/responses"]
paths = pytest.mark.parametrize("path", PATHS)


@paths
def test_both_paths_upgrade(server: LocalServer, path: str) -> None:
    """A WebSocket opens on either path, with a query too, and answers."""
    with connect(server, path=path, query="?model=local") as client:
        assert text(client.final("hi")) == "Heard: hi (context: 1)"
    (upgrade,) = server.upgrades
    assert (upgrade.path, upgrade.query, upgrade.transport) == (path, "model=local", "websocket")


@paths
def test_both_paths_take_a_post(server: LocalServer, path: str) -> None:
    """A POST on either path answers, in one piece or as a stream."""
    with http_connection(server) as connection:
        status, answer, _ = call(connection, "POST", path, body("hi"))
        assert (status, text(answer)) == (200, "Heard: hi (context: 1)")


def test_one_engine_is_behind_both(server: LocalServer) -> None:
    """What one transport stored the other continues, both ways, and both answer with the same events."""
    with connect(server) as client, http_connection(server) as connection:
        socket_first = client.turn("a")
        http_first = stream(connection, body("a"))
        assert kinds(socket_first) == kinds(http_first)
        over_http = call(connection, "POST", "/v1/responses", body("b", previous_response_id=last_id(socket_first)))[1]
        over_socket = client.final("b", previous_response_id=last_id(http_first))
        assert text(over_http) == text(over_socket) == "Heard: b (context: 2)"


def last_id(events: list[Any]) -> str:
    found: str = events[-1]["response"]["id"]
    return found


@paths
@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer local-key2", "Bearer ", "Basic local-key", "local-key"])
def test_the_key_is_checked_at_the_upgrade(server: LocalServer, path: str, given: str | None) -> None:
    """A missing, a wrong and an ill-formed bearer get 401 with an error object in JSON, and no WebSocket."""
    header = {} if given is None else {"Authorization": given}
    with pytest.raises(InvalidStatus) as caught, connect(server, path=path, additional_headers=header):
        pass
    response = caught.value.response
    assert response.status_code == 401 and response.headers["Content-Type"].startswith("application/json")
    error = json.loads(response.body)["error"]
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
    assert set(error) == {"message", "type", "param", "code"} and "wrong" not in error["message"]
    assert len(server.upgrades) == 1 and server.requests == []


def test_a_frame_needs_no_key(server: LocalServer) -> None:
    """The bearer counts once, at the upgrade: fifty frames after it carry none."""
    with connect(server) as client:
        assert {client.turn(f"m{number}")[-1]["type"] for number in range(50)} == {"response.completed"}
    assert len(server.upgrades) == 1 and len(server.requests) == 50


def test_the_upgrade_is_one_by_the_book(server: LocalServer) -> None:
    """101 with the proof of RFC 6455, no subprotocol, no extension, and no request id; nothing comes unasked."""
    with mute(server) as client:
        head, *fields = client.head.decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        assert head == "HTTP/1.1 101 Switching Protocols"
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert headers["upgrade"].lower() == "websocket" and headers["connection"].lower() == "upgrade"
        assert not headers.keys() & {"x-request-id", "sec-websocket-protocol", "sec-websocket-extensions"}
        assert client.nothing()


def test_a_request_that_is_no_upgrade_is_refused(server: LocalServer) -> None:
    """A plain GET of the address of WebSockets is a 405 in JSON."""
    with http_connection(server) as connection:
        for path in PATHS:
            status, answer, _ = call(connection, "GET", path)
            assert status == 405 and answer["error"]["message"]


def test_frames_carry_no_request_id(server: LocalServer) -> None:
    """Events have no request id, and no headers, as on the real service."""
    with connect(server) as client:
        events = client.turn()
    assert all(not event.keys() & {"request_id", "x-request-id", "headers"} for event in events)
    assert len(only(events, "response.completed")) == 1
