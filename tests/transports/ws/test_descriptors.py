"""A descriptor is closed by the last one who is at it, once, and its number is nobody else's before that."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pixir_sync import ConnectionLost, PixirError
from pixir_sync.deadline import Deadline
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.death import retired
from tests.support.events import text_response
from tests.support.ws_peer import ClientGone, Wire
from tests.transports.http.helpers import descriptors, in_thread, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.connection_helpers import begun, connected, open_descriptor, reads_held, send


def holding(wire: Wire) -> None:
    wire.hold()


def deaf(wire: Wire) -> None:
    wire.stop_reading()
    wire.hold()


ENDS: dict[str, Callable[[Connection], object]] = {
    "die": lambda connection: connection.die(retired("websocket_failed")),
    "retire": lambda connection: connection.retire(),
}


@pytest.mark.row("B26")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("role", ["reads", "writes"])
def test_the_descriptor_outlives_the_one_who_is_at_it(end: str, role: str, peer_of: PeerOf) -> None:
    """The connection is ended by another thread; as long as the first is inside, the number stays taken."""
    peer = peer_of(deaf, receive_buffer=4096)
    with connected(peer, send_buffer=8192) as connection:
        lane, number = begun(connection), connection.fileno
        work: Callable[[], object]
        if role == "reads":
            work = lambda: connection.receive(lane, Deadline(30))  # noqa: E731
            inside = lambda: connection.occupied  # noqa: E731
        else:
            work = lambda: send(connection, lane, b"x" * 8_000_000, 30)  # noqa: E731
            inside = lambda: lane.sent > 0  # noqa: E731
        with reads_held(connection):  # whoever reads comes no further than to the read, and who writes not beyond the lock
            working = in_thread(work)
            wait_until(inside, f"one who {role}")
            if end == "retire" and role == "reads":
                connection.writer.holder = object()  # so that it does not want to send a close frame below
            with connection._wire._io_lock:
                ENDS[end](connection)
                assert not connection.alive and open_descriptor(number)
                others = [os.dup(0) for _ in range(20)]
                assert number not in others
                for other in others:
                    os.close(other)
        if end == "retire" and role == "reads":
            connection.writer.holder = None
        if role == "reads":
            with pytest.raises(ConnectionLost):
                working.result(5)
        else:
            assert working.result(5) in ("stopped", "failed")
            with pytest.raises(ConnectionLost):
                connection.receive(lane, Deadline(5))  # what a turn does next
        assert connection.fileno == -1 and not open_descriptor(number)
        peer.connections[0].resume_reading()


@pytest.mark.row("B26")
def test_a_number_that_is_used_again_is_left_alone(peer_of: PeerOf) -> None:
    """Thirty connections die under their readers while sockets with bytes in them are opened: nobody takes those bytes."""
    peer = peer_of(holding)
    for _ in range(30):
        with connected(peer) as connection:
            lane = begun(connection)
            reading = in_thread(lambda lane=lane, connection=connection: connection.receive(lane, Deadline(30)))  # type: ignore[misc]
            wait_until(lambda: connection.occupied, "the reader")
            ends = [in_thread(lambda c=connection: c.die(retired("x"))), in_thread(connection.lose)]  # type: ignore[misc]
            pairs = []
            for _ in range(5):
                pair = socket.socketpair()
                pair[0].sendall(b"mine")
                pairs.append(pair)
            with pytest.raises(ConnectionLost):
                reading.result(5)
            for end in ends:
                end.result(5)
            connection.lose()
            connection.retire()
            for ours, theirs in pairs:
                theirs.settimeout(5)
                assert theirs.recv(100) == b"mine"
                ours.sendall(b"open")  # and nobody shut it down
                assert theirs.recv(100) == b"open"
                ours.close()
                theirs.close()


def test_who_wakes_is_waited_for(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread is about to shut the socket down when another closes it: the closing is left to the first."""
    at_it, go_on = threading.Event(), threading.Event()
    original = socket.socket.shutdown
    with connected(peer_of(holding)) as connection:
        mine, number = connection._wire._sock, connection.fileno

        def slow(sock: socket.socket, how: int) -> None:
            if sock is mine and threading.current_thread() is not threading.main_thread():
                at_it.set()
                assert go_on.wait(5)
                assert open_descriptor(number)
            original(sock, how)

        monkeypatch.setattr(socket.socket, "shutdown", slow)
        waking = in_thread(connection.lose)
        assert at_it.wait(5)
        connection.die(retired("websocket_failed"))
        assert connection.fileno == -1 and open_descriptor(number)
        go_on.set()
        waking.result(5)
        assert not open_descriptor(number)


def test_waking_what_is_closed_touches_nothing(peer_of: PeerOf) -> None:
    """After the end: stop, lose, retire and die, in any order and number, do nothing to a number that is another's now."""
    with connected(peer_of(holding)) as connection:
        lane, number = begun(connection), connection.fileno
        ours, theirs = socket.socketpair()
        connection.retire()
        with ours, theirs:
            os.dup2(ours.fileno(), number)
            try:
                connection.stop(lane)
                connection.lose()
                connection.die(retired("x"))
                connection.retire()
                os.write(number, b"open")
                theirs.settimeout(5)
                assert theirs.recv(10) == b"open"
            finally:
                os.close(number)


HOWS: dict[str, Callable[[Wire], Any]] = {
    "cut": Wire.cut, "close frame": lambda wire: wire.close(1011), "FIN": Wire.hang_up,
    "binary": lambda wire: wire.frame(2, b"x"), "mute": lambda wire: wire.hold(0.01),
}  # fmt: skip


def test_no_failure_leaves_a_descriptor(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Forty turns that fail in eight ways each leave as many open files as there were."""
    ways = list(HOWS.values())

    def script(wire: Wire) -> None:
        try:
            wire.read_create()
            wire.send_all(text_response("Hello")[:-1])
            ways[wire.number % len(ways)](wire)
        except (OSError, ClientGone):
            return

    provider = provider_of(peer_of(script))
    before = descriptors()
    for number in range(40):
        stream = provider.stream("Hi", session=f"s{number}")
        if number % 4 == 3:
            next(stream)
            stream.close()
        else:
            with pytest.raises(PixirError):
                stream.result()
    del stream
    wait_until(lambda: provider.stats()["connections"]["live"] == 0, "the connections to go")
    wait_until(lambda: descriptors() <= before + 1, "the descriptors")
