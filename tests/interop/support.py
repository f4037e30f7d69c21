"""Reading the official client's WebSocket with a deadline: its own ``recv`` waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openai.resources.responses.responses import ResponsesConnection
from openai.types.responses import Response
from openai.types.responses.responses_server_event import (
    ResponsesServerEvent,
    ResponseWsCompleted,
    ResponseWsCreated,
    ResponseWsError,
    ResponseWsFailed,
    ResponseWsIncomplete,
)

MODEL = "local-model"
TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")


@contextmanager
def deadline(connection: ResponsesConnection, seconds: float = 5.0) -> Iterator[None]:
    """Close the connection when the time is over, which ends a ``recv`` that waits."""
    timer = threading.Timer(seconds, connection.close)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def read_to(connection: ResponsesConnection, *types: str) -> list[ResponsesServerEvent]:
    """The events up to the first of one of these types."""
    events: list[ResponsesServerEvent] = []
    with deadline(connection):
        while not events or events[-1].type not in types:
            events.append(connection.recv())
    return events


def read_terminals(connection: ResponsesConnection, count: int) -> list[ResponsesServerEvent]:
    """The events until so many responses have ended."""
    events: list[ResponsesServerEvent] = []
    for _ in range(count):
        events += read_to(connection, *TERMINAL)
    return events


def turn(connection: ResponsesConnection, given: Any = "hello", **fields: Any) -> list[ResponsesServerEvent]:
    """One request and its events up to the terminal one."""
    connection.response.create(model=MODEL, input=given, **fields)
    return read_to(connection, *TERMINAL)


def response_in(event: ResponsesServerEvent) -> Response:
    """The response of a lifecycle event."""
    assert isinstance(event, ResponseWsCreated | ResponseWsCompleted | ResponseWsIncomplete | ResponseWsFailed), event
    return event.response


def final(connection: ResponsesConnection, given: Any = "hello", **fields: Any) -> Response:
    """One request and the response that it ends with, which is not an error event."""
    return response_in(turn(connection, given, **fields)[-1])


def error_in(event: ResponsesServerEvent) -> tuple[int | None, str | None, str | None]:
    """The status, code and parameter of an error event, which must have a type and a message for people."""
    assert isinstance(event, ResponseWsError), event
    assert event.error.type and event.error.message
    return event.status, event.error.code, event.error.param


def lane_of(event: ResponsesServerEvent) -> str | None:
    """The lane that an event names; the default lane's events must not even have the field."""
    if "stream_id" not in event.model_fields_set:
        return None
    lane: str | None = event.stream_id
    assert lane is not None
    return lane
