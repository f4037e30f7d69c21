"""Writing on one connection: whole frames, control frames between them, and no deadlock with a server that writes too."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace

import pytest

from pixir_sync import ConnectionLost
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.frames import CLOSE, TEXT, close_payload
from pixir_sync.protocol.frames import PING as PING_CODE
from pixir_sync.transports.ws import keepalive
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.death import retired
from pixir_sync.transports.ws.lanes import Lane
from pixir_sync.transports.ws.wire import Wire as Socket
from pixir_sync.transports.ws.writer import Writer
from tests.support.ws_peer import PING, PONG, WebSocketPeer, Wire
from tests.transports.http.helpers import in_thread, pause, wait_until
from tests.transports.ws.conftest import PeerOf
from tests.transports.ws.connection_helpers import begun, connected, multiplexed, no_role_is_held, receive, send

MESSAGE = {"type": "response.created", "response": {"id": "resp_1"}}
LARGE = 16_000_000


def deaf(wire: Wire) -> None:
    """Takes nothing until the test says so (`Wire.resume_reading`), or ends."""
    wire.stop_reading()
    while not (wire._channel.reading or wire._peer.ending.wait(0.01)):
        pass
    wire.hold()


def deaf_peer(peer_of: PeerOf) -> WebSocketPeer:
    return peer_of(deaf, receive_buffer=4096)


# Whole frames.


@pytest.mark.row("B26")
def test_nothing_comes_between_the_parts_of_a_frame(peer_of: PeerOf) -> None:
    """16 MB go out while the server pings and the keepalive thread does: one whole frame, then pongs and pings, each whole."""
    writing, over = threading.Event(), threading.Event()

    def script(wire: Wire) -> None:
        wire.auto_pong = False
        wire.stop_reading()
        assert writing.wait(5)
        for number in range(20):
            wire.ping(b"%d" % number)
        wire.send(MESSAGE)
        wire.resume_reading()
        wire.hold()

    peer = peer_of(script, receive_buffer=8192)
    with connected(peer) as connection:
        lane = begun(connection)

        def tend() -> int:
            posted = 0
            while not over.wait(0.002):
                connection.writer.post(PING_CODE, b"p")
                keepalive.visit(connection, time.monotonic(), 20, readable=True)
                posted += 1
            return posted

        tending = in_thread(tend)
        sending = in_thread(lambda: send(connection, lane, b"x" * LARGE, stall=30, limit=60))
        wait_until(lambda: lane.sent > 0, "the frame to begin")
        wait_until(lambda: len(connection.writer._outbox) > 3, "pings that wait for the frame")
        writing.set()
        assert sending.result(40) == "done"
        over.set()
        posted = tending.result(5)
        assert receive(connection, lane) == [MESSAGE]
        (wire,) = peer.connections
        wait_until(lambda: wire.pings_seen == posted and wire.pongs_seen > 0, "the control frames")
        kinds = [frame.opcode for frame in wire.frames]
        text = kinds.index(TEXT)
        assert kinds.count(TEXT) == 1 and len(wire.frames[text].payload) == LARGE
        assert set(kinds) == {TEXT, PING, PONG} and PING in kinds[text:] and PONG not in kinds[:text]
        pongs = [frame.payload for frame in wire.frames if frame.opcode == PONG]
        assert pongs[-1] == b"19" and set(pongs) <= {b"%d" % number for number in range(20)}
        assert wire.unparsed == b"" and all(frame.masked and frame.fin for frame in wire.frames)


class Narrow(Socket):
    """A wire that takes so many bytes of each send, and now and then none."""

    def __init__(self, sock: socket.socket, width: int) -> None:
        super().__init__(sock)
        self._width, self._calls = width, 0

    def send(self, data: memoryview) -> int:
        self._calls += 1
        return super().send(data[: self._width]) if self._calls % 3 else 0


class Alone:
    """A connection that only writes."""

    alive, readable = True, False

    def condemn(self) -> None:
        raise AssertionError

    def drain(self, limit: int) -> None:
        raise AssertionError


@pytest.mark.parametrize("width", [1, 7, 10_000])
def test_what_was_sent_in_part_is_finished_first(width: int) -> None:
    """However little the system takes at a time, the frames that arrive are the frames that were sent, whole."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        left: list[float] = []
        writer = Writer(Narrow(ours, width), threading.Lock(), SimpleNamespace(left=left.append))
        writer.post(PING_CODE, b"first")
        writer.flush(Alone())  # a part of it goes out
        assert bool(left) is (width > 1)
        writer.post(PONG, b"second")
        writer.post(CLOSE, close_payload(1000))
        assert writer.send(Alone(), Lane(), b"FRAME", 5, Deadline(5)) == "done"
        data = theirs.recv(1000)
        lengths = [(b"first", 0x89), (close_payload(1000), 0x88), (b"second", 0x8A)]
        for payload, head in lengths:
            assert data[0] == head and data[1] == 0x80 | len(payload)
            mask, body = data[2:6], data[6 : 6 + len(payload)]
            assert bytes(b ^ mask[at % 4] for at, b in enumerate(body)) == payload
            data = data[6 + len(payload) :]
        assert data == b"FRAME" and len(left) == 1 and writer.holder is None


# Waiting for room.


@pytest.mark.row("B26")
def test_two_sides_that_both_write_do_not_wait_for_each_other(peer_of: PeerOf) -> None:
    """The server reads nothing until its eight megabytes are taken; the client's frame is just as large: it reads meanwhile."""

    writing = threading.Event()

    def script(wire: Wire) -> None:
        wire.stop_reading()
        assert writing.wait(5)
        data = json.dumps({"type": "x", "pad": "y" * 100_000}).encode()
        for _ in range(80):
            wire.send(data)
        wire.resume_reading()
        wire.read_message(30)
        wire.hold()

    peer = peer_of(script, receive_buffer=8192)
    with connected(peer, send_buffer=8192) as connection:
        lane = begun(connection)
        sending = in_thread(lambda: send(connection, lane, b"z" * 8_000_000, stall=10))
        wait_until(lambda: lane.sent > 0, "the frame to begin")
        writing.set()
        assert sending.result(30) == "done"
        assert len(receive(connection, lane, 80)) == 80
        wait_until(lambda: len(peer.connections[0].frames) == 1, "the frame")


def test_progress_keeps_a_slow_send_alive(peer_of: PeerOf) -> None:
    """The limit is the longest time without one byte accepted, not the time for all of them."""
    done = threading.Event()

    def script(wire: Wire) -> None:
        wire.stop_reading()
        while not done.wait(0.1):
            wire.resume_reading()
            wire._drain()  # one piece
            wire.stop_reading()
        wire.resume_reading()
        wire.hold()

    peer = peer_of(script, receive_buffer=16_384)
    with connected(peer, send_buffer=16_384) as connection:
        lane = begun(connection)
        began = time.monotonic()
        how = send(connection, lane, b"z" * 900_000, stall=1.2, limit=60)
        took = time.monotonic() - began
        done.set()
        assert how == "done" and took > 1.2, f"{how} after {took} s"


@pytest.mark.parametrize("limit", ["stall", "deadline"])
def test_a_send_that_does_not_go_on_is_given_up(limit: str, peer_of: PeerOf) -> None:
    """After the longest time without progress, or at the call's deadline."""
    peer = deaf_peer(peer_of)
    with connected(peer, send_buffer=8192) as connection:
        lane = begun(connection)
        stall, deadline = (0.3, 60.0) if limit == "stall" else (None, 0.3)
        sending = in_thread(lambda: send(connection, lane, b"x" * LARGE, stall, deadline))
        assert sending.result(10) == "stalled" and 0 < lane.sent < LARGE
        assert no_role_is_held(connection)
        peer.connections[0].resume_reading()


ENDS: dict[str, Callable[[Connection, Lane], object]] = {
    "stop": lambda connection, lane: connection.stop(lane),
    "die": lambda connection, lane: connection.die(retired("websocket_failed")),
    "retire": lambda connection, lane: connection.retire(),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_writer_that_waits_is_woken_by_the_end(end: str, peer_of: PeerOf) -> None:
    """A cancel, or the connection's end, by another thread; so is a second one that waits for the role."""
    peer = deaf_peer(peer_of)
    with multiplexed(peer, send_buffer=8192) as connection:
        first, second = begun(connection, "a"), begun(connection, "b")
        sending = in_thread(lambda: send(connection, first, b"x" * LARGE, 60, 60))
        wait_until(lambda: first.sent > 0, "the first to write")
        waiting = in_thread(lambda: send(connection, second, b"y", 60, 60))
        wait_until(lambda: bool(connection.writer._waiting), "the second to wait")
        ENDS[end](connection, first)
        assert sending.result(5) in ("stopped", "failed")
        if end == "stop":
            connection.die(retired("websocket_failed"))  # which the keepalive thread does where the system refused
        assert waiting.result(5) == "stopped" and second.sent == 0
        wait_until(lambda: connection.fileno == -1, "the descriptor")
        peer.connections[0].resume_reading()


def test_who_waits_to_write_gets_the_role_after_the_frame(peer_of: PeerOf) -> None:
    """Four threads send frames of a megabyte at once: each arrives whole; one that has no time gives up and leaves nothing."""
    peer = deaf_peer(peer_of)
    with multiplexed(peer, send_buffer=8192) as connection:
        lanes = [begun(connection, str(number)) for number in range(5)]
        sending = [
            in_thread(lambda lane=lane: send(connection, lane, str(lane.name).encode() * 1_000_000, 30))  # type: ignore[misc]
            for lane in lanes[:4]
        ]
        wait_until(lambda: len(connection.writer._waiting) == 3, "three to wait")
        assert send(connection, lanes[4], b"late", stall=0.1) == "stalled" and lanes[4].sent == 0
        peer.connections[0].resume_reading()
        assert [work.result(20) for work in sending] == ["done"] * 4
        wait_until(lambda: len(peer.connections[0].frames) == 4, "the frames")
        assert {frame.payload for frame in peer.connections[0].frames} == {b"%d" % n * 1_000_000 for n in range(4)}
        assert no_role_is_held(connection)


# What is owed.


def test_a_flood_of_pings_is_answered_by_its_last_few(peer_of: PeerOf) -> None:
    """The server pings and reads nothing: what is owed stays small, and the pongs that it gets at last are of its last pings."""
    count, read = 6000, threading.Event()

    def script(wire: Wire) -> None:
        wire.stop_reading()
        for number in range(count):
            wire.ping(b"%0100d" % number)
        assert read.wait(40)
        wire.resume_reading()
        wire.hold()

    peer = peer_of(script, receive_buffer=4096)
    with connected(peer, send_buffer=4096) as connection:
        limit = Deadline(40)
        while connection.inbox.received < count * 102 and not limit.passed:
            connection.drain(1000)
            assert len(connection.writer._pongs) + len(connection.writer._outbox) <= 8
            pause(0.0001)
        assert connection.writer.blocked, "everything could be sent: nothing was owed"
        read.set()
        (wire,) = peer.connections
        last = b"%0100d" % (count - 1)

        def answered() -> bool:
            connection.writer.flush(connection)
            return bool(wire.frames) and wire.frames[-1].payload == last

        wait_until(answered, "the last pong")
        assert {frame.opcode for frame in wire.frames} == {PONG} and wire.pongs_seen < count


def test_a_reader_sends_what_is_owed_as_soon_as_there_is_room(peer_of: PeerOf) -> None:
    """Nobody writes and the keepalive thread does not come: the one who waits for an event polls for both."""
    peer = deaf_peer(peer_of)
    with connected(peer, send_buffer=4096) as connection:
        lane = begun(connection)
        while not connection.writer.blocked:
            connection.writer.post(PING_CODE, os.urandom(100))
            connection.writer.flush(connection)
        waiting = in_thread(lambda: receive(connection, lane))
        wait_until(lambda: connection.occupied, "the reader")
        (wire,) = peer.connections
        wire.auto_pong = False  # nothing comes that would wake the reader
        wire.resume_reading()
        wait_until(lambda: not connection.writer.blocked, "the rest to go out")
        with suppress(OSError):
            wire.send(MESSAGE)
        assert waiting.result(5) == [MESSAGE] and wire.unparsed == b""


def test_a_refused_send_leaves_the_word_to_the_reading_side(peer_of: PeerOf) -> None:
    """The server says why, closes and resets: the frame cannot be sent, and its error event is still delivered."""
    error = {"type": "error", "error": {"code": "server_error", "message": "no"}}

    go = threading.Event()

    def script(wire: Wire) -> None:
        wire.hold(until=go)
        wire.send(error)
        wire.close(1011)
        wire.cut()

    peer = peer_of(script)
    with connected(peer) as connection:
        lane = begun(connection)
        go.set()
        assert peer.wait_connections(1)[0].gone.wait(5)
        how = send(connection, lane, b"x" * 1_000_000)
        assert how in ("failed", "stopped")
        if connection.alive or lane.queue:
            assert receive(connection, lane) == [error]
            with pytest.raises(ConnectionLost):
                receive(connection, lane)
        assert connection.death is not None and connection.death.close_code == 1011
