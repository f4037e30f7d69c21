"""Whose a message is: the lane's that it names, or nobody's, and what it then means. Pure.

Rules kept here:

* Nothing here raises: a message that cannot be understood is passed on to the default lane, which counts it.
* A message that no stream is open for is left over from an earlier one, or the server's own word. Unknown and informative events
  are dropped; an error says why the connection ends; anything else means that the two sides do not agree on what runs, and
  the connection is of no further use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from pixir_sync.protocol.classify import from_event
from pixir_sync.protocol.codec import CodecError, loads
from pixir_sync.protocol.errors import ConnectionLost
from pixir_sync.protocol.events import LIFECYCLE, TERMINAL, is_output
from pixir_sync.transports.ws.death import Death
from pixir_sync.transports.ws.lanes import Lane

__all__ = ["by_lane", "decode", "meaning", "response_id"]

AGE_LIMIT = "websocket_connection_limit_reached"


class Served(Protocol):
    """What is asked of the connection that a stray message came on."""

    served: bool
    response_id: str | None


def decode(message: bytes) -> dict[str, Any] | None:
    """The server's object, None for what is none."""
    try:
        data = loads(message)
    except CodecError:
        return None
    return data if isinstance(data, dict) and isinstance(data.get("type"), str) else None


def response_id(data: Mapping[str, Any]) -> str | None:
    """The id of the response that an event is about, where it says so."""
    response = data.get("response")
    found = response.get("id") if isinstance(response, dict) else data.get("response_id")
    return found if isinstance(found, str) else None


def by_lane(
    messages: Iterable[bytes], lanes: Mapping[str | None, Lane]
) -> tuple[list[tuple[Lane, list[Any], int]], list[bytes]]:
    """The objects of a connection with several lanes, by lane, with their sizes; and the messages that are for none."""
    batches: dict[str | None, tuple[Lane, list[Any], int]] = {}
    strays: list[bytes] = []
    for message in messages:
        data = decode(message)
        name = data.get("stream_id") if data is not None else None
        lane = lanes.get(name) if name is None or isinstance(name, str) else None
        if lane is None or not lane.open:
            strays.append(message)
            continue
        _, batch, size = batches.get(lane.name, (lane, [], 0))
        batch.append(data)
        batches[lane.name] = (lane, batch, size + len(message))
    return list(batches.values()), strays


def meaning(strays: Iterable[bytes], connection: Served) -> Death | None:
    """Why the connection ends, after messages that are nobody's; None where it goes on."""
    for message in strays:
        data = decode(message)
        kind = "" if data is None else data["type"]
        if data is None or (kind not in TERMINAL and kind not in LIFECYCLE and not is_output(kind)):
            continue
        if kind == "error":
            return _error(data, connection)
        found = response_id(data)
        if found is None or found != connection.response_id:
            return Death(lambda: ConnectionLost("the server sent events of a response that nobody asked for"))
    return None


def _error(data: dict[str, Any], connection: Served) -> Death:
    code = from_event(data).code
    if code == AGE_LIMIT:
        return Death(lambda: from_event(data), reset="max_lifetime")
    if connection.served:
        return Death(lambda: ConnectionLost("the server reported an error between two responses"))
    return Death(lambda: from_event(data))  # in place of an answer to the upgrade: it is about this client
