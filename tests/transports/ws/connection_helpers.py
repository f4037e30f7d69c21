"""What the tests of one connection share: a `Connection` to a scripted peer, its streams, and a look at its roles."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from pixir_sync import Keepalive, Network
from pixir_sync.cancellation import CancelToken
from pixir_sync.deadline import Deadline
from pixir_sync.network import tls_context
from pixir_sync.protocol.frames import TEXT, frame
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.lanes import Lane, Visit
from pixir_sync.transports.ws.multiplexed import Multiplexed
from pixir_sync.transports.ws.upgrade import upgrade
from pixir_sync.transports.ws.wire import AGAIN, TLSWire, WaitingWire, Wire
from tests.support.peer import DEADLINE
from tests.support.ws_peer import WebSocketPeer

C = TypeVar("C", bound=Connection)
CREATE = b'{"type":"response.create"}'
BEAT = Keepalive(interval=0.2, timeout=0.4)

__all__ = [
    "BEAT", "CREATE", "Watched", "around_recv", "begun", "connected", "multiplexed", "no_role_is_held", "open_descriptor",
    "reads_held", "receive", "send", "till_readable", "watched",
]  # fmt: skip


@contextmanager
def connected(
    peer: WebSocketPeer, *, keepalive: Keepalive | None = None, send_buffer: int | None = None
) -> Iterator[Connection]:
    """A connection to this peer, with no keepalive thread; retired at the end."""
    with _opened(Connection, peer, keepalive, send_buffer) as connection:
        yield connection


@contextmanager
def multiplexed(peer: WebSocketPeer, *, send_buffer: int | None = None) -> Iterator[Multiplexed]:
    """The same for several streams at once."""
    with _opened(Multiplexed, peer, None, send_buffer) as connection:
        yield connection


@contextmanager
def _opened(kind: type[C], peer: WebSocketPeer, keepalive: Keepalive | None, send_buffer: int | None) -> Iterator[C]:
    network = Network(ca_bundle=peer.ca_file, trust_env=False)
    opened = upgrade(peer.websocket_url, {}, network, lambda: tls_context(network), Deadline(DEADLINE), CancelToken())
    if send_buffer is not None:
        opened.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    connection = kind(opened.sock, opened.leftover, keepalive or Keepalive())
    try:
        yield connection
    finally:
        connection.retire()


def begun(connection: Connection, name: str | None = None) -> Lane:
    """A stream that is open on it."""
    lane = Lane(name)
    assert connection.begin(lane, Deadline(DEADLINE))
    return lane


def send(connection: Connection, lane: Lane, data: bytes = CREATE, stall: float | None = DEADLINE, limit: float = 30) -> str:
    """One text message; how sending it went."""
    return connection.send(lane, frame(TEXT, data, os.urandom(4)), stall, Deadline(limit))


def receive(connection: Connection, lane: Lane, count: int = 1, deadline: float = DEADLINE) -> list[Any]:
    """So many messages, as JSON; fewer, where the stream was stopped or time was over."""
    found: list[Any] = []
    limit = Deadline(deadline)
    while len(found) < count and (batch := connection.receive(lane, limit)) is not None:
        found += [json.loads(message) if isinstance(message, bytes) else message for message in batch]
    return found


def till_readable(connection: Connection, deadline: float = DEADLINE) -> None:
    """Wait until something has come that nobody has read."""
    poll = select.poll()
    poll.register(connection.fileno, select.POLLIN)
    assert poll.poll(deadline * 1000), "nothing came"


def around_recv(patch: pytest.MonkeyPatch, around: Callable[[Wire, Callable[[], bytes | None]], bytes | None]) -> None:
    """Let this be done for each read of a wire, which it is given with what makes the read."""

    def patched(kind: type[Wire], reader: Callable[[Any], Callable[[int], bytes]]) -> None:
        def reader_around(wire: Wire) -> Callable[[int], bytes]:
            recv = reader(wire)

            def one(size: int) -> bytes | None:
                try:
                    return recv(size)
                except AGAIN:
                    return None

            def read(size: int) -> bytes:
                data = around(wire, lambda: one(size))
                if data is None:
                    raise BlockingIOError
                return data

            return read

        patch.setattr(kind, "reader", reader_around)

    for kind in (Wire, TLSWire):
        patched(kind, kind.reader)
    recv = WaitingWire.recv  # by no reader: that one waits
    patch.setattr(WaitingWire, "recv", lambda wire: around(wire, lambda: recv(wire)))


class Watched:
    """A lock in another's place that tells when somebody comes to it."""

    def __init__(self, lock: threading.Lock) -> None:
        self.came = threading.Event()
        self._lock = lock
        self.release = lock.release

    def acquire(self, timeout: float) -> bool:
        self.came.set()
        return self._lock.acquire(timeout=timeout)


def watched(connection: Connection) -> Watched:
    """The lock on which a consumer waits for the end of the visit that is going on."""
    (visit,) = connection._reading.values()
    assert isinstance(visit, Visit)
    visit.over = Watched(visit.over)  # type: ignore[assignment]
    return visit.over  # type: ignore[return-value]


@contextmanager
def reads_held(connection: Connection) -> Iterator[None]:
    """Whoever reads comes no further than to the read, until the block ends; of this connection also who has begun to wait."""
    go = threading.Event()

    def held(wire: Wire, recv: Callable[[], bytes | None]) -> bytes | None:
        assert go.wait(DEADLINE)
        return recv()

    with pytest.MonkeyPatch.context() as patch:
        around_recv(patch, held)
        for lane in connection.lanes.values():
            patch.setattr(lane, "read", connection._wire.reader())
        try:
            yield
        finally:
            go.set()


def no_role_is_held(connection: Connection) -> bool:
    """Whether nobody reads, writes, waits, or holds a lock."""
    writer = connection.writer
    roles = not connection.occupied and writer.left and not writer._waiting
    parked = [lane for lane in connection.lanes.values() if lane.parked is not None]
    return roles and not parked and not connection._state.locked() and not connection._wire._io_lock.locked()


def open_descriptor(number: int) -> bool:
    """Whether this number is a file at present."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
