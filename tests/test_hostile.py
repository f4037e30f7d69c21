"""Peers that never come to an end: each costs a typed error within its limit, and little memory, whatever carries the call.

What is sent is counted, so that a row shows that its peer was at work: a flood sends more than the client may keep, a drip sends
on while the limit passes.
"""

from __future__ import annotations

import json
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from pixir_sync import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    FirstEventTimeout,
    FrameTooLarge,
    IdleTimeout,
    Network,
    PermissionDenied,
    PixirError,
    TotalTimeout,
    WriteTimeout,
    user,
)
from tests.support.both import TransportName
from tests.support.events import created
from tests.support.fake import provider_for
from tests.support.peer import Conn, ScriptedPeer
from tests.support.ws_wire import frame_bytes
from tests.transports.ws.upgrade_helpers import agreement

SSE: TransportName = "http_sse"
WS: TransportName = "websocket"
MB = 1 << 20
TIMEOUTS = {"connect": 1, "first_event": 1, "idle": 1, "write": 1, "total": 20}


@dataclass
class Sent:
    """What a peer has sent so far, and until when it may."""

    size: int = 0
    pieces: int = 0
    until: float = field(default_factory=lambda: time.monotonic() + 30)

    def flood(self, conn: Conn, more: bytes, most: int) -> None:
        """Send this again and again, until the client has had enough."""
        with suppress(OSError):
            while self.size < most and time.monotonic() < self.until:
                conn.send(more)
                self.size += len(more)
        conn.cut()

    def drip(self, conn: Conn, data: bytes) -> None:
        """Send single bytes, twenty a second, until the client has had enough."""
        with suppress(OSError):
            while time.monotonic() < self.until:
                for byte in data:
                    conn.send(bytes((byte,)))
                    self.pieces += 1
                    time.sleep(0.05)
        conn.cut()


def opens(conn: Conn, transport: TransportName) -> None:
    """What stands before the first byte of an answer: the 101, or the head of a stream."""
    if transport == "websocket":
        conn.send(agreement(conn))
        conn.sock.recv(65536)  # the request
    else:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")


def refused(conn: Conn, sent: Sent, encoding: bytes, more: bytes) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 99999999\r\n" + encoding + b"\r\n")
    sent.flood(conn, more, 24 * MB)


def fragments(conn: Conn, sent: Sent) -> None:
    opens(conn, "websocket")
    conn.send(frame_bytes(1, b'{"type": "', fin=False))
    sent.flood(conn, frame_bytes(0, b"x" * 60_000, fin=False) * 8, 200 * MB)


def declared(conn: Conn, sent: Sent) -> None:
    opens(conn, "websocket")
    conn.send(frame_bytes(1, b"{", length=1 << 30))
    sent.flood(conn, b"x" * 65_536, 200 * MB)


def line(conn: Conn, sent: Sent) -> None:
    opens(conn, "http_sse")
    conn.send(b'data: {"type": "')
    sent.flood(conn, b"x" * 65_536, 200 * MB)


def headers(conn: Conn, sent: Sent) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\n")
    sent.flood(conn, b"X-More: " + b"y" * 1000 + b"\r\n", 64 * MB)


def comments(conn: Conn, sent: Sent) -> None:
    opens(conn, "http_sse")
    sent.flood(conn, b": nothing\n\n" * 500, 1 << 40)


def pings(conn: Conn, sent: Sent) -> None:
    opens(conn, "websocket")
    sent.flood(conn, frame_bytes(9, b"x" * 100) * 50, 1 << 40)


Row = tuple[TransportName, Callable[[Conn, Sent], None], tuple[type[PixirError], ...], float]
BOMB = zlib.compressobj(9, wbits=31).compress(b"x" * (8 * MB)) + b"\0" * 1000
FLOODS: list[Row] = [
    (SSE, headers, (ConnectionLost,), 8),
    (WS, headers, (ConnectFailed,), 2),
    (SSE, lambda c, s: refused(c, s, b"", b"x" * 65_536), (PermissionDenied,), 2),
    (WS, lambda c, s: refused(c, s, b"", b"x" * 65_536), (PermissionDenied,), 2),
    (SSE, lambda c, s: refused(c, s, b"Content-Encoding: gzip\r\n", BOMB), (PermissionDenied,), 2),
    (WS, declared, (FrameTooLarge,), 2),
    (WS, fragments, (FrameTooLarge,), 200),
    (SSE, line, (FrameTooLarge,), 300),
    (SSE, comments, (FirstEventTimeout,), 2),
    (WS, pings, (FirstEventTimeout, ConnectionLost), 4),
]


@pytest.mark.parametrize(("transport", "script", "kinds", "memory"), FLOODS, ids=range(len(FLOODS)))
def test_a_flood_is_stopped(transport: TransportName, script: Any, kinds: tuple[type[PixirError], ...], memory: float) -> None:
    """Headers, a refusal's body, a packed one, a declared frame, fragments, a line, comments, pings: none without an end."""
    sent = Sent()
    with ScriptedPeer(lambda conn: script(conn, sent)) as peer, measured() as peak:
        patience = 1.0 if FirstEventTimeout in kinds else 30.0  # of 64 MB, on a busy machine and traced, not all come in a second
        error = failure(peer, transport, connect=10, first_event=patience)
    assert isinstance(error, kinds), repr(error)
    assert peak() < memory * MB, f"{peak() / MB:.1f} MB"
    if script is not declared:  # whose head says enough
        assert sent.size > (len(BOMB) - 1 if isinstance(error, PermissionDenied) else 65_536)


CREATED = json.dumps(created()).encode()
DRIPS: list[tuple[TransportName, bool, bytes, bytes, type[PixirError]]] = [
    (SSE, False, b"", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 999, FirstEventTimeout),
    (WS, False, b"", b"HTTP/1.1 101 OK\r\n" + b"X: y\r\n" * 999, ConnectTimeout),
    (SSE, True, b"", b'data: {"type": "' + b"x" * 9999, FirstEventTimeout),
    (WS, True, b"", frame_bytes(1, b"x" * 9999), FirstEventTimeout),
    (SSE, True, b"data: " + CREATED + b"\n\n", b": still here\n\n" * 99, IdleTimeout),
    (WS, True, frame_bytes(1, CREATED), frame_bytes(9, b"still here") * 99, IdleTimeout),
]


@pytest.mark.parametrize(("transport", "begun", "first", "slowly", "kind"), DRIPS, ids=range(len(DRIPS)))
def test_a_drip_has_no_more_time(
    transport: TransportName, begun: bool, first: bytes, slowly: bytes, kind: type[PixirError]
) -> None:
    """A head, an event or what is none, byte by byte: the limit is one for the whole, not for each byte."""
    sent = Sent()

    def script(conn: Conn) -> None:
        if begun:
            opens(conn, transport)
        else:
            conn.read_request()
        conn.send(first)
        sent.drip(conn, slowly)

    with ScriptedPeer(script) as peer:
        began = time.monotonic()
        error = failure(peer, transport)
        assert isinstance(error, kind), repr(error)
        assert 0.9 < time.monotonic() - began < 4
    assert sent.pieces > 10


@pytest.mark.parametrize("transport", [SSE, WS])
def test_a_peer_that_never_reads(transport: TransportName) -> None:
    """A large request stands still in the peer's buffers: the write limit ends it, and not the total one."""

    def script(conn: Conn) -> None:
        if transport == WS:
            conn.send(agreement(conn))
        time.sleep(3)
        conn.reset()

    with ScriptedPeer(script) as peer:
        began = time.monotonic()
        error = failure(peer, transport, [user("x" * (15 * MB))])
        assert isinstance(error, WriteTimeout) and 0.9 < time.monotonic() - began < 3


@pytest.mark.parametrize("transport", [SSE, WS])
def test_the_limit_for_the_whole_call_holds_where_events_never_end(transport: TransportName) -> None:
    """Every event is in time, and there is always one more."""

    def script(conn: Conn) -> None:
        opens(conn, transport)
        delta = json.dumps({"type": "response.output_text.delta", "delta": "x"}).encode()
        with suppress(OSError):
            while True:
                conn.send(b"data: " + delta + b"\n\n" if transport == SSE else frame_bytes(1, delta))
                time.sleep(0.01)

    with ScriptedPeer(script) as peer:
        began = time.monotonic()
        error = failure(peer, transport, total=1.0)
        assert isinstance(error, TotalTimeout) and 0.9 < time.monotonic() - began < 3
        assert error.partial is not None and "x" in error.partial.text


def failure(peer: ScriptedPeer, transport: str, request: Any = "Hi", **limits: float) -> PixirError:
    """What one attempt at this peer raises."""
    timeouts = {**TIMEOUTS, **limits}
    network = Network(trust_env=False)
    with provider_for(peer, transport=transport, retry=0, timeouts=timeouts, network=network) as provider:
        with pytest.raises(PixirError) as caught:
            provider.complete(request)
    return caught.value


@contextmanager
def measured() -> Iterator[Callable[[], int]]:
    """The most memory that Python had at a time since the block began, in bytes; the peer's own is a few buffers."""
    tracemalloc.start()
    found: list[int] = []
    try:
        yield lambda: found[0] if found else tracemalloc.get_traced_memory()[1]
        found.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
