"""A scripted peer for either transport: the same steps, over HTTP or over a WebSocket.

What a test says about a call holds whatever carries it, so such a test takes the fixture ``transport`` and runs twice::

    def step(line):
        line.begin()
        line.event(created())
        line.cut()

    with Peer(transport, step, text_response("ok")) as peer, peer.provider() as provider:
        provider.complete("Hi")
        assert peer.bodies[0]["input"] == [...]

The n-th request gets the n-th step, those after the last one the last one. A step is a list of events, or ``step(line)``.

Rules kept here:

* `Line` has what both transports have, and each method does what the other transport's does to the same end.
* ``bodies`` are without their envelope (``stream`` over HTTP, ``type`` over a WebSocket), which is checked and taken off.
* Every wait has a deadline; nothing outlives the block. See `tests.support.peer` and `tests.support.ws_peer`.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from pixir_sync import Provider
from tests.support.fake import provider_for
from tests.support.peer import Conn, Request, ScriptedPeer
from tests.support.ws_peer import Frame, WebSocketPeer, Wire
from tests.support.ws_wire import HOLD

__all__ = ["HttpLine", "Line", "Peer", "Step", "TransportName", "WebSocketLine", "bare", "refusing"]

Json = dict[str, Any]
TransportName = Literal["websocket", "http_sse"]
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done", "error")


class Line(ABC):
    """One answer, in the hands of its step."""

    @abstractmethod
    def begin(self) -> None:
        """The answer begins; over a WebSocket nothing is sent for it."""

    @abstractmethod
    def event(self, event: Mapping[str, Any]) -> None:
        """One event, sent at once."""

    @abstractmethod
    def together(self, events: Sequence[Mapping[str, Any]]) -> None:
        """These events, in one write."""

    @abstractmethod
    def text(self, data: bytes) -> None:
        """What stands where an event's JSON should."""

    @abstractmethod
    def finish(self) -> None:
        """The proper end of the answer; if no terminal event was sent, the end of the stream without one."""

    @abstractmethod
    def cut(self) -> None:
        """The end of the connection without a word (FIN)."""

    @abstractmethod
    def reset(self) -> None:
        """The connection is torn down (RST)."""

    @abstractmethod
    def refuse(self, status: int, body: Any, headers: Mapping[str, str] | None) -> None:
        """The whole answer is an error with this status."""

    @abstractmethod
    def wait_closed(self) -> None:
        """Waits until the client has ended the connection."""

    @abstractmethod
    def hold(self, event: threading.Event) -> None:
        """Waits for the test to set an event."""

    def events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """These events, one by one."""
        for event in events:
            self.event(event)


class HttpLine(Line):
    """An answer over HTTP."""

    def __init__(self, conn: Conn) -> None:
        self.conn = conn

    def begin(self) -> None:
        self.conn.start_sse()

    def event(self, event: Mapping[str, Any]) -> None:
        self.conn.sse(event)

    def together(self, events: Sequence[Mapping[str, Any]]) -> None:
        self.conn.write(b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events))

    def text(self, data: bytes) -> None:
        self.conn.write(b"data: " + data + b"\n\n")

    def finish(self) -> None:
        self.conn.finish()

    def cut(self) -> None:
        self.conn.cut()

    def reset(self) -> None:
        self.conn.reset()

    def refuse(self, status: int, body: Any, headers: Mapping[str, str] | None) -> None:
        self.conn.respond(status, body, headers)

    def wait_closed(self) -> None:
        self.conn.wait_closed()
        self.conn.cut()

    def hold(self, event: threading.Event) -> None:
        self.conn.hold(event)


class WebSocketLine(Line):
    """An answer over a WebSocket."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._ended = False

    def begin(self) -> None:
        pass

    def event(self, event: Mapping[str, Any]) -> None:
        self._ended = self._ended or event.get("type") in _TERMINAL
        self.wire.send(event)

    def together(self, events: Sequence[Mapping[str, Any]]) -> None:
        self._ended = self._ended or any(event.get("type") in _TERMINAL for event in events)
        self.wire.send_all(events, at_once=True)

    def text(self, data: bytes) -> None:
        self.wire.send(data)

    def finish(self) -> None:
        if not self._ended:
            self.wire.close(1000)
            self.wait_closed()

    def cut(self) -> None:
        self.wire.hang_up()
        self.wait_closed()

    def reset(self) -> None:
        self.wire.cut()

    def refuse(self, status: int, body: Any, headers: Mapping[str, str] | None) -> None:
        found = body.get("error") if isinstance(body, dict) else None
        more = {"headers": dict(headers)} if headers else {}
        self.event({"type": "error", "status": status, "error": found or {"code": None, "message": "refused"}, **more})

    def wait_closed(self) -> None:
        while not isinstance(self.wire.expect_closed(), str):
            pass  # a close frame; the connection's end is still to come

    def hold(self, event: threading.Event) -> None:
        self.wire.hold(until=event)


Step = Sequence[Mapping[str, Any]] | Callable[[Line], object]


def refusing(status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> Step:
    """A step that is an error with this status: the whole response over HTTP, an ``error`` event over a WebSocket."""
    return lambda line: line.refuse(status, body, headers)


def bare(body: Mapping[str, Any], transport: TransportName) -> Json:
    """A body without its envelope, which must be there, and the other transport's must not."""
    found = dict(body)
    if transport == "websocket":
        assert found.pop("type") == "response.create" and not found.keys() & {"stream", "background"}
    else:
        assert found.pop("stream") is True and not found.keys() & {"type", "background"}
    return found


class Peer:
    """The peer, as a context manager. ``transport`` is what it speaks; `provider` makes one that speaks it, too."""

    def __init__(self, transport: TransportName, *steps: Step) -> None:
        self.transport = transport
        self._steps = steps
        self._next = iter(range(1 << 30))
        # Guards which step is the next one.
        self._lock = threading.Lock()
        http = transport == "http_sse"
        self.server: ScriptedPeer | WebSocketPeer
        self.server = ScriptedPeer(self._over_http) if http else WebSocketPeer(self._over_websocket)

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def bodies(self) -> list[Json]:
        """What was asked for, in order, without the envelopes."""
        if isinstance(self.server, WebSocketPeer):
            return [bare(create, self.transport) for create in self.server.creates]
        return [bare(request.json, self.transport) for request in self.server.requests]

    @property
    def connections(self) -> int:
        """How many connections came."""
        return len(self.server.connections)

    @property
    def heads(self) -> list[Request]:
        """Each request with its path and its headers; over a WebSocket each upgrade."""
        if isinstance(self.server, WebSocketPeer):
            return [wire.request for wire in self.server.connections]
        return list(self.server.requests)

    @property
    def frames(self) -> list[Frame]:
        """Every frame that came; over a WebSocket only."""
        assert isinstance(self.server, WebSocketPeer)
        return [frame for wire in self.server.connections for frame in wire.frames]

    @property
    def received(self) -> bytes:
        """Every byte that came; over a WebSocket the heads of the upgrades and the payloads of the frames, unmasked."""
        if isinstance(self.server, WebSocketPeer):
            wires = self.server.connections
            return b"".join(wire.head for wire in wires) + b"".join(frame.payload for frame in self.frames)
        return b"".join(bytes(conn.received) for conn in self.server.connections)

    def wait_requests(self, count: int) -> None:
        """Waits until so many requests came."""
        if isinstance(self.server, WebSocketPeer):
            self.server.wait_creates(count)
        else:
            self.server.wait_requests(count)

    def provider(self, **options: Any) -> Provider:
        """A provider for this peer: see `tests.support.fake.provider_for`."""
        return provider_for(self, transport=self.transport, **options)

    def __enter__(self) -> Peer:
        self.server.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.__exit__(kind, error, trace)

    def _over_http(self, conn: Conn) -> None:
        while conn.sock.fileno() >= 0:
            conn.read_request()
            self._answer(HttpLine(conn))

    def _over_websocket(self, wire: Wire) -> None:
        while True:
            wire.read_create(HOLD)
            self._answer(WebSocketLine(wire))

    def _answer(self, line: Line) -> None:
        with self._lock:
            step = self._steps[min(next(self._next), len(self._steps) - 1)]
        if callable(step):
            step(line)
            return
        line.begin()
        line.events(step)
        line.finish()

