"""Raw clients of the local server, none of them pixir_sync's own: WebSockets by the `websockets` package, or by hand on a socket.

The client by hand is mute: it answers no ping, and reads only when it is told to.
"""

from __future__ import annotations

import contextlib
import json
import socket as sockets
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket

from pixir_sync.local import LocalServer
from tests.support.ws_client import masked, read_frame, read_to
from tests.support.ws_wire import CLOSE, TEXT, Frame

__all__ = ["DEADLINE", "TERMINAL", "Client", "Json", "Mute", "body", "connect", "kinds", "mute", "only"]

Json = dict[str, Any]

DEADLINE = 5.0
"""The longest wait for anything, in seconds."""
TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")


def body(given: Any = "hello", **fields: Any) -> Json:
    """A request body with a model."""
    return {"model": "m", "input": given, **fields}


def kinds(events: Iterable[Json]) -> list[str]:
    """The types of the events, without ``response.``."""
    return [str(event["type"]).removeprefix("response.") for event in events]


def only(events: Iterable[Json], kind: str) -> list[Json]:
    """The events of one type."""
    return [event for event in events if event["type"] == kind]


class Client:
    """One WebSocket by the `websockets` package; what is not there in time is an error."""

    def __init__(self, connection: ClientConnection) -> None:
        self.ws = connection

    def send(self, event: Json | str | bytes) -> None:
        """Send a client event, or a text or binary frame as it is."""
        self.ws.send(json.dumps(event) if isinstance(event, dict) else event)

    def create(self, given: Any = "hello", **fields: Any) -> None:
        """Send a ``response.create``."""
        self.send({"type": "response.create", **body(given, **fields)})

    def steer(self, response_id: str, given: Any, **fields: Any) -> None:
        """Send a ``response.steer``."""
        self.send({"type": "response.steer", "previous_response_id": response_id, "input": given, **fields})

    def receive(self, timeout: float = DEADLINE) -> Json:
        """The next event, which is a text frame with a JSON object."""
        frame = self.ws.recv(timeout)
        assert isinstance(frame, str)
        event = json.loads(frame)
        assert isinstance(event, dict)
        return event

    def receive_frame(self) -> str | bytes:
        """The next message as it came."""
        return self.ws.recv(DEADLINE)

    def until(self, *types: str) -> list[Json]:
        """The events up to the first of one of these types, that one included."""
        events = [self.receive()]
        while events[-1]["type"] not in types:
            events.append(self.receive())
        return events

    def until_terminal(self) -> list[Json]:
        """The events up to a terminal one."""
        return self.until(*TERMINAL)

    def turn(self, given: Any = "hello", **fields: Any) -> list[Json]:
        """Send a ``response.create`` and read to its terminal event."""
        self.create(given, **fields)
        return self.until_terminal()

    def final(self, given: Any = "hello", **fields: Any) -> Json:
        """A turn that completes; its response object."""
        last = self.turn(given, **fields)[-1]
        assert last["type"] == "response.completed", last
        response: Json = last["response"]
        return response

    def refused(self, given: Any = "hello", **fields: Any) -> Json:
        """A turn that gets an error frame and nothing else; the frame."""
        (event,) = self.turn(given, **fields)
        assert event["type"] == "error", event
        return event

    def per_lane(self, ends: int) -> dict[str | None, list[Json]]:
        """The events up to so many terminal ones, by their ``stream_id``, each list in the order of arrival."""
        found: dict[str | None, list[Json]] = {}
        while ends:
            event = self.receive()
            found.setdefault(event.get("stream_id"), []).append(event)
            ends -= event["type"] in TERMINAL
        return found

    def settled(self, rounds: int = 3) -> None:
        """Return after round trips of pings: what the server had to do for the frames before, it has begun."""
        for _ in range(rounds):
            assert self.ws.ping().wait(DEADLINE)

    def silent(self) -> None:
        """Assert that nothing has arrived, also after round trips of pings."""
        self.settled()
        with pytest.raises(TimeoutError):
            found = self.ws.recv(0)
            raise AssertionError(f"this came: {found!r}")

    def ended(self) -> tuple[int, str] | None:
        """The server's close frame, None where it cut the connection; anything before it is an error."""
        with pytest.raises(ConnectionClosed) as caught:
            found = self.ws.recv(DEADLINE)
            raise AssertionError(f"this came: {found!r}")
        close = caught.value.rcvd
        return None if close is None else (int(close.code), close.reason)


@contextlib.contextmanager
def connect(
    server: LocalServer, *, key: str = "local-key", path: str = "/v1/responses", query: str = "", **options: Any
) -> Iterator[Client]:
    """A client on a connection of its own; no compression is offered and no ping sent unless the ``options`` say so."""
    scheme = server.websocket_url.partition(":")[0]
    settings: dict[str, Any] = {
        "additional_headers": {"Authorization": f"Bearer {key}"},
        "compression": None,
        "proxy": None,
        "open_timeout": DEADLINE,
        "close_timeout": DEADLINE,
        "ping_interval": None,
        "max_size": None,
        "max_queue": None,
        **options,
    }
    with connect_websocket(f"{scheme}://{server.host}:{server.port}{path}{query}", **settings) as connection:
        yield Client(connection)


class Mute:
    """A WebSocket by hand on a bare socket: it says and reads only what the test tells it to."""

    def __init__(self, sock: sockets.socket, head: bytes) -> None:
        self.sock, self.head = sock, head

    def send(self, opcode: int, payload: bytes = b"") -> None:
        """One whole frame; a large one is masked with zeros, which costs no time."""
        if len(payload) < 1 << 16:
            self.sock.sendall(masked(opcode, payload))
        else:
            self.sock.sendall(struct.pack("!BBQ4x", 0x80 | opcode, 0xFF, len(payload)) + payload)

    def create(self, given: Any = "hello", **fields: Any) -> None:
        """Send a ``response.create``."""
        self.send(TEXT, json.dumps({"type": "response.create", **body(given, **fields)}).encode())

    def frame(self) -> Frame:
        """The next frame."""
        return read_frame(self.sock)

    def until(self, opcode: int) -> list[Frame]:
        """The frames up to the first of this kind, that one included."""
        frames = [self.frame()]
        while frames[-1].opcode != opcode:
            frames.append(self.frame())
        return frames

    def until_terminal(self) -> list[Frame]:
        """The text frames up to that of a terminal event."""
        frames = self.until(TEXT)
        while json.loads(frames[-1].payload)["type"] not in TERMINAL:
            frames += self.until(TEXT)
        return [frame for frame in frames if frame.opcode == TEXT]

    def closed(self) -> int:
        """The code of the close frame that comes at last; pings and text before it are passed over."""
        return int.from_bytes(self.until(CLOSE)[-1].payload[:2], "big")

    def nothing(self) -> bool:
        """Whether there is nothing to read right now."""
        self.sock.setblocking(False)
        try:
            self.sock.recv(1, sockets.MSG_PEEK)
            return False
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(DEADLINE)


def upgrade(key: str = "local-key", more: str = "") -> bytes:
    """The request for an upgrade."""
    return (
        f"GET /v1/responses HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    ).encode()


@contextlib.contextmanager
def mute(server: LocalServer, *, upgraded: bool = True, more: str = "") -> Iterator[Mute]:
    """A mute client; with ``upgraded`` false its request is sent and the answer not yet read. ``more`` are header lines."""
    with sockets.create_connection((server.host, server.port), DEADLINE) as sock:
        sock.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        sock.sendall(upgrade(more=more))
        head = read_to(sock, b"\r\n\r\n") if upgraded else b""
        assert not upgraded or head.startswith(b"HTTP/1.1 101 "), head
        yield Mute(sock, head)
