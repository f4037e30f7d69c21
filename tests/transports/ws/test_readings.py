"""What the two who read a connection owe each other: sizes, limits and pings that no other test shows from this side."""

from __future__ import annotations

import errno
import json
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from pixir_sync import ConnectionLost, IdleTimeout, Keepalive, Timeouts
from pixir_sync.deadline import Deadline
from pixir_sync.transports.ws import connection as connection_module
from pixir_sync.transports.ws import keepalive, lanes
from pixir_sync.transports.ws.wire import Poller
from pixir_sync.transports.ws.wire import Wire as WireOfOurs
from tests.support.events import created
from tests.support.ws_peer import PING, PONG, TEXT, ClientGone, Wire
from tests.support.ws_wire import frame_bytes
from tests.transports.http.helpers import in_thread, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.connection_helpers import (
    around_recv,
    begun,
    connected,
    open_descriptor,
    receive,
    send,
    till_readable,
    watched,
)

MESSAGE = {"type": "response.created", "response": {"id": "resp_1"}}


def test_the_bound_for_an_absent_consumer_counts_whole_messages(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of many reads each: what is kept is what they hold, not what their last reads brought."""
    bound, size, total = 1_000_000, 300_000, 20
    monkeypatch.setattr(lanes, "RETAINED", bound)

    def script(wire: Wire) -> None:
        wire.read_create()
        with suppress(OSError, ClientGone):
            for number in range(total):
                wire.send({"type": "x", "number": number, "pad": "y" * size})
            wire.hold()

    with connected(peer_of(script)) as connection:
        lane = begun(connection)
        send(connection, lane)
        while not connection.full:
            till_readable(connection)
            connection.drain(1 << 20)
        held = sum(len(message) for batch, _ in lane.queue for message in batch)
        assert bound <= held < bound + 2 * size, "the bound is not of what is kept"
        found = receive(connection, lane, total)
        assert [data["number"] for data in found] == list(range(total))


def test_a_flood_of_what_is_no_event_does_not_outlast_idle(
    peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is something to read at every moment, and none of it is an event: the wait for one ends, with no limit in all."""
    over = threading.Event()
    flood = frame_bytes(TEXT, b'{"type":"keepalive"}') * 2000

    def script(wire: Wire) -> None:
        wire.read_create()
        with suppress(OSError, AssertionError, ClientGone):  # the client may stop reading, or be gone
            wire.send(created("resp_1"))
            while not over.is_set():
                wire.raw(flood)

    def and_more(wire: WireOfOurs, recv: Callable[[], bytes | None]) -> bytes | None:
        data = recv()
        if data is not None and not over.is_set():
            select.select([wire.fileno], [], [], 1)  # the server is always ahead
        return data

    around_recv(monkeypatch, and_more)
    provider = provider_of(peer_of(script), timeouts=Timeouts(first_event=5, idle=0.5, total=None))
    stream = provider.stream("Hi")
    try:
        waiting = in_thread(lambda: list(stream))
        with pytest.raises(IdleTimeout):
            waiting.result(10)
    finally:
        over.set()
        stream.cancel()


def test_half_a_frame_puts_the_end_of_an_idle_connection_off_once(peer_of: PeerOf) -> None:
    """Its last byte was read while the ping waited: a timeout later the peer is dead, although nothing was visited between."""

    def script(wire: Wire) -> None:
        wire.auto_pong = False
        assert wire.read_frame().opcode == PING
        wire.frame(1, b"half", length=100)
        wire.expect_closed()

    timeout = 30
    with connected(peer_of(script), keepalive=Keepalive(interval=20, timeout=timeout)) as connection:
        now = time.monotonic() + 25
        keepalive._tend_idle([connection], now, timeout)
        till_readable(connection)
        now += 5
        keepalive._tend_idle([connection], now, timeout)
        assert connection.inbox.unfinished and connection.alive
        keepalive._tend_idle([connection], now + timeout - 1, timeout)
        assert connection.alive
        keepalive._tend_idle([connection], now + timeout, timeout)
        assert not connection.alive


def test_an_interrupt_between_two_reads_of_a_message_condemns_nothing(peer_of: PeerOf) -> None:
    """Half a message is the parser's, in nobody's hands: the role is given back, and the rest is read later."""
    go = threading.Event()
    body = json.dumps(MESSAGE).encode()

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.frame(1, body[:10], length=len(body))
        wire.hold(until=go)
        wire.raw(body[10:])
        wire.hold()

    with connected(peer_of(script)) as connection:
        lane = begun(connection)
        send(connection, lane)
        poll = Poller(connection._wire).poll

        def interrupted(left: float) -> object:
            if connection.inbox.unfinished:
                raise KeyboardInterrupt
            return poll(left)

        lane.poll = interrupted
        with pytest.raises(KeyboardInterrupt):
            connection.receive(lane, Deadline(5))
        lane.poll = poll
        assert connection.alive and not connection.occupied
        go.set()
        assert receive(connection, lane) == [MESSAGE]


def test_a_consumer_goes_on_as_soon_as_a_visit_is_over(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the visit's end, not for the longest wait in one piece; what the visit read it gets first, in order."""
    monkeypatch.setattr(connection_module, "AT_MOST", 60.0)
    inside, go_on, more = threading.Event(), threading.Event(), threading.Event()

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send({"type": "x", "number": 0})
        wire.hold(until=more)
        wire.send({"type": "x", "number": 1})
        wire.hold()

    with connected(peer_of(script)) as connection:
        lane = begun(connection)
        send(connection, lane)
        till_readable(connection)

        def slow(wire: object, recv: Callable[[], bytes | None]) -> bytes | None:
            data = recv()
            if threading.current_thread() is visiting:
                inside.set()
                assert go_on.wait(10)
            return data

        around_recv(monkeypatch, slow)
        visiting = threading.Thread(target=connection.drain, args=(1,), daemon=True)
        visiting.start()
        assert inside.wait(5)
        visit = watched(connection)
        consumer = in_thread(lambda: receive(connection, lane, 2, 50))
        assert visit.came.wait(5)
        more.set()
        go_on.set()
        assert [data["number"] for data in consumer.result(10)] == [0, 1]
        visiting.join(5)
        assert not connection.occupied


@pytest.mark.parametrize("how", ["FIN", "reset", "close frame", "nonsense"])
def test_a_visit_that_reads_the_end_closes_the_descriptor(how: str, peer_of: PeerOf) -> None:
    """Nobody else is at the connection, and nobody comes: who read its end is the last one."""

    def script(wire: Wire) -> None:
        wire.read_create()
        if how == "FIN":
            wire.hang_up()
        elif how == "reset":
            wire.cut()
        elif how == "close frame":
            wire.close(1001)
        else:
            wire.raw(b"\xff" * 200)
        if how != "reset":
            wire.expect_closed()

    with connected(peer_of(script)) as connection:
        lane = begun(connection)
        send(connection, lane)
        number = connection.fileno
        while connection.alive:
            till_readable(connection)
            connection.drain(1 << 20)
        assert connection.fileno == -1 and not connection.occupied and not open_descriptor(number)
        with pytest.raises(ConnectionLost):
            receive(connection, lane)


def test_what_a_visit_reads_before_the_stream_begins_is_not_the_streams(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is announced and waits for the visit's end: what the visit read, is nobody's."""
    late, go = {"type": "response.output_text.delta", "response_id": "resp_0", "delta": "old"}, threading.Event()
    ready, inside, go_on = threading.Event(), threading.Event(), threading.Event()
    old = frame_bytes(TEXT, json.dumps(late).encode())

    def script(wire: Wire) -> None:
        wire.hold(until=ready)
        wire.raw(old + old[:20])
        wire.hold(until=go)
        wire.raw(old[20:])
        wire.read_create()
        wire.send(MESSAGE)
        wire.hold()

    peer = peer_of(script)
    with connected(peer) as connection:
        connection.response_id = "resp_0"
        ready.set()
        read = connection_module.Connection._read_for_absent

        def slow(reading: connection_module.Connection, limit: int) -> None:
            inside.set()
            assert go_on.wait(10)
            read(reading, limit)

        monkeypatch.setattr(connection_module.Connection, "_read_for_absent", slow)
        till_readable(connection)
        visiting = in_thread(lambda: connection.drain(1 << 20))
        assert inside.wait(5)
        lane = lanes.Lane()
        begins = in_thread(lambda: connection.begin(lane, Deadline(20)))
        wait_until(lambda: None in connection.lanes, "the stream")
        go_on.set()
        visiting.result(5)
        assert begins.result(5) and not lane.queue and connection.inbox.unfinished
        go.set()
        send(connection, lane)
        assert receive(connection, lane, 2) == [late, MESSAGE], "a message that ends later is for the exchange to sort out"


@pytest.mark.parametrize("owed", ["a pong", "the end"])
def test_a_quiet_connection_that_owes_something_is_visited(owed: str, peer_of: PeerOf) -> None:
    """Nothing came and no ping is due: what could not be sent before goes out, and where sending failed the connection ends."""
    with connected(peer_of(Wire.hold)) as connection:
        now = time.monotonic()
        assert keepalive.quiet(connection, now)
        if owed == "a pong":
            connection.writer.post(PONG, b"late")
        else:
            connection.writer.failed = BrokenPipeError(errno.EPIPE, "x")
        assert not keepalive.quiet(connection, now)
        keepalive._tend_idle([connection], now, 20)
        assert connection.writer.at_rest and connection.alive if owed == "a pong" else connection.fileno == -1


def test_an_interrupt_while_a_visit_goes_on_leaves_the_visit_its_role(peer_of: PeerOf) -> None:
    """The consumer waits for its end, and has nothing that it could give back: the visit reads on by itself."""

    class Interrupted:
        def acquire(self, timeout: float) -> bool:
            raise KeyboardInterrupt

    with connected(peer_of(Wire.hold)) as connection:
        lane, visit = begun(connection), lanes.Visit()
        visit.over = Interrupted()  # type: ignore[assignment]
        connection._reading[connection_module._ROLE] = visit
        with pytest.raises(KeyboardInterrupt):
            connection.receive(lane, Deadline(5))
        assert connection.alive and connection._reading.pop(connection_module._ROLE) is visit


def test_a_stream_is_stopped_before_its_reader_is_woken(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the reader would look at the flag too early, and take the end of the socket for a loss."""
    found: list[bool] = []
    with connected(peer_of(Wire.hold)) as connection:
        lane, wake = begun(connection), WireOfOurs.wake

        def watched(wire: WireOfOurs) -> None:
            found.append(lane.cancelled)
            wake(wire)

        monkeypatch.setattr(WireOfOurs, "wake", watched)
        connection.stop(lane)
        assert found == [True] and connection.receive(lane, Deadline(5)) is None
