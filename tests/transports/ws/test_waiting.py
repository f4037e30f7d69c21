"""A plain socket whose recv waits by itself: what it may and may not hold up, and where poll waits in its place."""

from __future__ import annotations

import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pixir_sync import IdleTimeout, Keepalive, Timeouts, TotalTimeout
from pixir_sync.deadline import Deadline
from pixir_sync.transports.ws import wire as wire_module
from pixir_sync.transports.ws.wire import AGAIN, AT_MOST, READ, TLSWire, WaitingWire, wire_of
from pixir_sync.transports.ws.wire import Wire as WireOfOurs
from tests.support.events import text_response
from tests.support.peer import DEADLINE
from tests.support.ws_peer import Wire
from tests.transports.http.helpers import in_thread, took
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.connection_helpers import begun, connected, receive, send

MESSAGE = {"type": "response.created", "response": {"id": "resp_1"}}


@contextmanager
def pair() -> Iterator[tuple[WireOfOurs, socket.socket]]:
    """A wire, as of a connection that was just opened, and the other end of its socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield wire_of(ours), theirs


def test_only_a_reader_waits() -> None:
    """The connection's own reads and writes do not; what reads for a consumer does, for a second, and sees the end at once."""
    with pair() as (wire, theirs):
        assert isinstance(wire, WaitingWire) and wire.waits
        with took(0, 0.5):
            assert wire.recv() is None
            while wire.send(memoryview(b"x" * 65_536)):
                pass
            assert wire.send(memoryview(b"x")) == 0
        recv = wire.reader()
        with took(0.9 * AT_MOST, AT_MOST + 1), pytest.raises(AGAIN):
            recv(READ)
        theirs.sendall(b"abc")
        assert recv(READ) == b"abc"
        reading = in_thread(lambda: recv(READ))
        with took(0, 0.9):
            wire.wake()
            assert reading.result(DEADLINE) == b""


def test_poll_waits_where_a_recv_must_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under gevent, known by its own class for sockets, or by its own poll; on macOS; and where the system refuses."""

    class Green(socket.socket):
        def recv(self, *args: int) -> bytes:
            return super().recv(*args)

    ours, theirs = socket.socketpair()
    with theirs, Green(fileno=ours.detach()) as green:
        green.setblocking(False)
        assert type(wire_of(green)) is WireOfOurs and green.gettimeout() == 0
    with monkeypatch.context() as patched:
        patched.setattr(select, "poll", lambda: None)
        with pair() as (wire, _):
            assert type(wire) is WireOfOurs and wire._sock.gettimeout() == 0
    with monkeypatch.context() as mac:
        mac.setattr(sys, "platform", "darwin")
        with pair() as (wire, _):
            assert type(wire) is WireOfOurs and wire._sock.gettimeout() == 0
    with monkeypatch.context() as refused:
        refused.setattr(wire_module, "_TIMEVAL", b"?")
        with pair() as (wire, _):
            assert type(wire) is WireOfOurs and wire._sock.gettimeout() == 0


def test_each_connection_has_the_wire_that_suits_it(peer_of: PeerOf) -> None:
    """One that waits, but not over TLS."""

    def script(wire: Wire) -> None:
        wire.hold()

    with connected(peer_of(script)) as connection:
        assert type(connection._wire) is (TLSWire if type(connection._wire._sock).__name__ == "TLSSocket" else WaitingWire)
        assert (begun(connection).poll is None) is connection._wire.waits


@pytest.mark.parametrize("limit", [0.3, 1.4])
def test_a_limit_is_kept_to(limit: float, peer_of: PeerOf) -> None:
    """One of less than the longest piece, and one of more: what is left after the pieces is waited for by poll."""

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.hold()

    with connected(peer_of(script)) as connection:
        lane = begun(connection)
        send(connection, lane)
        with took(limit, limit + 0.9):
            assert connection.receive(lane, Deadline(limit)) is None


@pytest.mark.parametrize("timeouts", [Timeouts(idle=1.5), Timeouts(total=1.5)])
@pytest.mark.parametrize("pongs", [True, False])
def test_a_limit_under_a_storm_of_signals(timeouts: Timeouts, pongs: bool, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Each signal begins the wait anew, which then has no end of its own: the keepalive thread ends it, as the limit's error."""
    came, over = list[int](), threading.Event()

    def script(wire: Wire) -> None:
        wire.auto_pong = pongs
        wire.read_create()
        wire.send(text_response("x")[0])
        wire.hold()

    def storm(target: int) -> None:
        while not over.wait(0.1):
            signal.pthread_kill(target, signal.SIGUSR1)

    main = threading.main_thread().ident
    assert main is not None and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGUSR1, lambda *args: came.append(1))
    storming = threading.Thread(target=storm, args=(main,), daemon=True)
    storming.start()
    try:
        provider = provider_of(peer_of(script), timeouts=timeouts)
        with took(1.5, 4.5), pytest.raises(IdleTimeout if timeouts.total is None else TotalTimeout):
            list(provider.stream("Hi"))
        assert len(came) > 10
    finally:
        over.set()
        storming.join(DEADLINE)
        signal.signal(signal.SIGUSR1, before)


def test_a_consumer_that_was_away_for_longer_than_its_limit_is_not_stopped(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The time that it took is none of the wait."""

    def script(wire: Wire) -> None:
        wire.answer(to=wire.read_create())
        wire.hold()

    provider = provider_of(peer_of(script), timeouts=Timeouts(idle=0.3), keepalive=Keepalive(interval=0.2, timeout=5))
    stream = provider.stream("Hi", session="s")
    next(stream)
    time.sleep(2)
    assert stream.result().finish_reason == "stop"


def test_events_by_themselves(peer_of: PeerOf) -> None:
    """Each is read when it comes, many in a row; then the connection serves the next stream."""
    turns = 3

    def script(wire: Wire) -> None:
        for _ in range(turns):
            wire.read_create()
            for _ in range(50):
                wire.send(MESSAGE)
                time.sleep(0.001)
        wire.hold()

    with connected(peer_of(script)) as connection:
        for _ in range(turns):
            lane = begun(connection)
            send(connection, lane)
            assert len(receive(connection, lane, 50)) == 50
            connection.end(lane)
