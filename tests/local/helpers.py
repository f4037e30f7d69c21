"""What the tests of the local server share: bodies, runs of the pure engine, readers of a real socket."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pixir_sync.local import LocalServer
from pixir_sync.local.engine import Engine
from pixir_sync.local.errors import ApiError
from pixir_sync.local.state import Connection
from tests.local.raw import Client, Json, body, connect

__all__ = [
    "TOOL", "Json", "Wire", "bare", "body", "both", "call", "http_connection", "next_event", "output", "over_http",
    "over_websocket", "receive", "refusal", "run", "send", "socket", "start_stream", "stream", "text", "turn", "user",
]  # fmt: skip

TOOL = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
        "required": ["city"],
    },
}


def user(text: str) -> Json:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def output(call_id: str, text: str) -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def run(engine: Engine, request: Json, connection: Connection | None = None) -> Json:
    """The final response object."""
    last: Json = list(engine.respond(request, connection))[-1]["response"]
    return last


def text(response: Json) -> str:
    return "".join(
        part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
    )


def refusal(engine: Engine, request: Json, connection: Connection | None = None) -> ApiError:
    """The refusal that the request must get."""
    with pytest.raises(ApiError) as caught:
        engine.respond(request, connection)
    return caught.value


def bare(items: list[Json]) -> list[Json]:
    """Output items as a full input with ``store: false`` must carry them: no id, no status."""
    return [{key: value for key, value in item.items() if key not in ("id", "status")} for item in items]


@contextlib.contextmanager
def http_connection(server: LocalServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
    try:
        yield connection
    finally:
        connection.close()


def call(
    connection: http.client.HTTPConnection, method: str, path: str, value: Any = None, *, key: str = "local-key"
) -> tuple[int, Json, http.client.HTTPMessage]:
    """One exchange: status, JSON body, headers. ``value`` may be bytes, sent as they are."""
    data = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    connection.request(method, path, data, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), answer.headers


def start_stream(connection: http.client.HTTPConnection, request: Json) -> http.client.HTTPResponse:
    data = json.dumps({**request, "stream": True})
    connection.request("POST", "/v1/responses", data, {"Authorization": "Bearer local-key"})
    return connection.getresponse()


def next_event(answer: http.client.HTTPResponse) -> Json | None:
    """The next server-sent event, None at the end of the body."""
    lines = []
    while (line := answer.readline()).strip():
        lines.append(line.decode())
    if not lines:
        return None
    event: Json = json.loads(lines[-1].removeprefix("data: "))
    assert lines[0] == f"event: {event['type']}\n"
    return event


def stream(connection: http.client.HTTPConnection, request: Json) -> list[Json]:
    """All the events of a stream."""
    answer = start_stream(connection, request)
    events = []
    while (event := next_event(answer)) is not None:
        events.append(event)
    return events


@contextlib.contextmanager
def socket(server: LocalServer, key: str = "local-key", **options: Any) -> Iterator[Client]:
    """A WebSocket of its own."""
    with connect(server, key=key, **options) as client:
        yield client


def send(client: Client, request: Json) -> None:
    client.send({"type": "response.create", **request})


def receive(client: Client) -> Json:
    return client.receive()


def turn(client: Client, request: Json) -> list[Json]:
    """Send a request and read to its terminal event."""
    send(client, request)
    return client.until_terminal()


Wire = Callable[..., list[Json]]
"""Asks over one of the two transports: ``wire(server, given, last=..., **fields)`` gives the events that came."""


def over_websocket(server: LocalServer, given: Any = "hello", *, last: str | None = None, **fields: Any) -> list[Json]:
    """One turn on a WebSocket of its own, read to a terminal event or to one of the type ``last``."""
    with connect(server) as client:
        client.create(given, **fields)
        return client.until(last) if last else client.until_terminal()


def over_http(server: LocalServer, given: Any = "hello", *, last: str | None = None, **fields: Any) -> list[Json]:
    """One POST with ``stream``, read to the end of its body; a refusal gives its status and JSON body as the only event."""
    with http_connection(server) as connection:
        answer = start_stream(connection, body(given, **fields))
        if answer.status != 200:
            return [{"type": "error", "status": answer.status, **json.loads(answer.read())}]
        events: list[Json] = []
        while (event := next_event(answer)) is not None:
            events.append(event)
    assert last is None or events[-1]["type"] == last
    return events


both = pytest.mark.parametrize("wire", [over_websocket, over_http], ids=["websocket", "http_sse"])
"""Over a WebSocket and over HTTP alike: gives the test a `Wire`."""
