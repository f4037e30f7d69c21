"""What can go wrong with one socket, each thing made to happen: an end, a reset, silence, a flood, frames that are wrong."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from pixir_sync import ConnectionLost, FrameTooLarge, InvalidResponse, Keepalive, QuotaExceeded, Timeouts, WriteTimeout
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.frames import PING as PING_CODE
from pixir_sync.transports.ws import wire as wire_module
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.death import retired
from pixir_sync.transports.ws.lanes import Lane
from tests.support.events import text_response
from tests.support.ws_peer import BINARY, CLOSE, CONTINUATION, PING, TEXT, ClientGone, Frame, Wire, answering, conversation
from tests.transports.http.helpers import in_thread, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.connection_helpers import (
    BEAT,
    around_recv,
    begun,
    connected,
    no_role_is_held,
    open_descriptor,
    reads_held,
    receive,
    send,
    till_readable,
)

BEGUN = text_response("Hel", "lo")[:-1]  # all but the terminal event
END = "ECONNRESET|ETIMEDOUT|without a word|TLS connection ended"  # over TLS some interpreters tell every error as an end
MESSAGE = {"type": "response.created", "response": {"id": "resp_1"}}


def holding(wire: Wire) -> None:
    wire.hold()


def asked(connection: Connection) -> Lane:
    """A stream whose request was sent."""
    lane = begun(connection)
    assert send(connection, lane) == "done"
    return lane


def closed(connection: Connection) -> None:
    """The descriptor has been given back, and nobody is left at it."""
    assert connection.fileno == -1 and not connection.alive and no_role_is_held(connection)


# Two threads at one TLS socket.


def test_a_thread_that_pings_never_hangs_a_first_exchange(peer_of: PeerOf) -> None:
    """While one thread reads the first answer of a connection, another sends pings on it and drains it: 40 of 40 go through."""

    def script(wire: Wire) -> None:
        wire.read_create()
        for _ in range(5):
            wire.send(MESSAGE)
            wire.ping(b"x")
        wire.hold()

    peer = peer_of(script)
    for _ in range(40):
        with connected(peer) as connection:
            begins, over = threading.Event(), threading.Event()

            def pester(
                connection: Connection = connection, begins: threading.Event = begins, over: threading.Event = over
            ) -> None:
                while not over.wait(0.0001):
                    connection.writer.post(PING_CODE, b"p")
                    connection.writer.flush(connection)
                    begins.set()
                    connection.drain(1 << 16)

            pesterer = in_thread(pester)
            assert begins.wait(5)
            lane = begun(connection)
            assert send(connection, lane) == "done"
            assert receive(connection, lane, 5) == [MESSAGE] * 5
            over.set()
            pesterer.result(5)
    assert sum(wire.pings_seen for wire in peer.connections) >= 40


@pytest.mark.parametrize("tls", [True])
def test_every_call_on_a_tls_socket_is_made_under_its_lock(tls: bool, peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """read and send: never two of them at once, whichever threads make them."""
    wires: dict[int, wire_module.Wire] = {}
    calls: list[tuple[str, bool]] = []

    def guarded(name: str) -> Callable[..., Any]:
        original = getattr(ssl.SSLSocket, name)

        def call(sock: ssl.SSLSocket, *args: Any) -> Any:
            if id(sock) in wires:
                calls.append((name, wires[id(sock)]._io_lock.locked()))
            return original(sock, *args)

        return call

    for name in ("read", "send"):
        monkeypatch.setattr(ssl.SSLSocket, name, guarded(name))
    with connected(peer_of(conversation([MESSAGE] * 3, then=holding))) as connection:
        wires[id(connection._wire._sock)] = connection._wire
        lane = begun(connection)
        connection.writer.post(PING_CODE, b"p")
        send(connection, lane)
        assert receive(connection, lane, 3)
        wires.clear()
    assert {name for name, _ in calls} == {"read", "send"}
    assert all(locked for _, locked in calls)


@pytest.mark.parametrize("pad", [3, 5_000, 16_000, 500_000])
def test_a_read_takes_all_that_tls_has_decrypted(pad: int, peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is read whole, the largest too: nothing waits where poll does not see it, so nobody asks for it."""
    left: list[int] = []

    def watched(wire: wire_module.Wire, recv: Callable[[], bytes | None]) -> bytes | None:
        data = recv()
        if isinstance(wire._sock, ssl.SSLSocket):
            left.append(wire._sock.pending())
        return data

    around_recv(monkeypatch, watched)

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send_all([MESSAGE] * 3 + [{"type": "x", "pad": "a" * pad}], at_once=True)
        wire.hold()

    with connected(peer_of(script)) as connection:
        lane = asked(connection)
        assert len(receive(connection, lane, 4)) == 4
        assert set(left) == ({0} if isinstance(connection._wire._sock, ssl.SSLSocket) else set())


# Waking, and closing under a reader.


def test_a_reader_is_woken_without_tearing_tls_off_the_socket(peer_of: PeerOf) -> None:
    """Bytes that had come when the connection was stopped are still what the server said; nobody parses ciphertext."""
    peer = peer_of(holding)
    with connected(peer) as connection:
        lane = begun(connection)
        with reads_held(connection):  # the reader polls, and gets no further
            reading = in_thread(lambda: receive(connection, lane, 2))
            peer.wait_connections(1)[0].send_all([MESSAGE] * 2, at_once=True)
            till_readable(connection)
            connection.stop(lane)
        assert reading.result(5) == [MESSAGE] * 2
        assert connection.receive(lane, Deadline(5)) is None
        if connection.death is not None:
            assert "protocol" not in str(connection.death.error()) and connection.death.close_code == 1006
        assert peer.connections[0].expect_closed() in ("fin", "reset")


@pytest.mark.parametrize("how", ["stop", "lose", "retire", "die"])
def test_ending_a_connection_under_a_reader_blocks_nobody(how: str, peer_of: PeerOf) -> None:
    """Whoever ends it returns at once, the reader wakes, and the last of the two closes the descriptor."""
    with connected(peer_of(holding)) as connection:
        lane = begun(connection)
        number = connection.fileno
        reading = in_thread(lambda: connection.receive(lane, Deadline(60)))
        wait_until(lambda: connection.occupied, "the reader")
        ends: dict[str, Callable[[], object]] = {
            "stop": lambda: connection.stop(lane), "lose": connection.lose, "retire": connection.retire,
            "die": lambda: connection.die(retired("websocket_failed")),
        }  # fmt: skip
        in_thread(ends[how]).result(5)
        if how == "stop":
            assert reading.result(5) is None
        else:
            with pytest.raises(ConnectionLost):
                reading.result(5)
        closed(connection)
        assert not open_descriptor(number)


def test_a_stop_while_the_socket_is_being_emptied_is_a_stop(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is cancelled before it began just ends: what its own wake-up did to the socket is not its error."""
    with connected(peer_of(holding)) as connection:
        lane = Lane()

        def cancelled_now(wire: wire_module.Wire, recv: Callable[[], bytes | None]) -> bytes | None:
            connection.stop(lane)
            return recv()

        around_recv(monkeypatch, cancelled_now)
        assert connection.begin(lane, Deadline(5)) is False
        assert not connection.alive


# How the server ends it.

CODES: list[tuple[int | None, str, type[Exception]]] = [
    (1000, "", ConnectionLost), (1001, "going away", ConnectionLost), (None, "", ConnectionLost), (1011, "", ConnectionLost),
    (1012, "", ConnectionLost), (4402, "out of credits", QuotaExceeded), (1009, "too big", FrameTooLarge),
]  # fmt: skip


@pytest.mark.parametrize(("code", "reason", "kind"), CODES)
def test_a_close_frame_is_an_error_and_the_end(code: int | None, reason: str, kind: type[Exception], peer_of: PeerOf) -> None:
    """It is answered with its own code, its code is in the error, and the descriptor is closed."""
    answered: list[str | Frame] = []

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send(MESSAGE)
        wire.close(code, reason)
        answered.append(wire.expect_closed())

    peer = peer_of(script)
    with connected(peer) as connection:
        number = connection.fileno
        lane = asked(connection)
        assert receive(connection, lane) == [MESSAGE]
        with pytest.raises(kind) as caught:
            receive(connection, lane)
        assert caught.value.details == {"close_code": code or 1005}  # type: ignore[attr-defined]
        closed(connection)
        assert not open_descriptor(number)
    wait_until(lambda: bool(answered), "the answer")
    assert isinstance(answered[0], Frame) and answered[0].code == (code or 1000)


def test_a_close_frame_keeps_its_code_where_a_reset_follows(peer_of: PeerOf) -> None:
    """The answer to it cannot be sent any more, which changes nothing."""

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send(MESSAGE)
        wire.close(4402, "out of credits")
        wire.cut()

    peer = peer_of(script)
    with connected(peer) as connection:
        lane = asked(connection)
        wire = peer.wait_connections(1)[0]
        assert wire.gone.wait(5) and wire.how == "cut"
        assert receive(connection, lane) == [MESSAGE]
        with pytest.raises(QuotaExceeded, match="out of credits") as caught:
            receive(connection, lane)
        assert caught.value.details == {"close_code": 4402}
        assert connection.writer.failed is not None, "the answer was sent: the reset came too late"


def test_the_code_is_in_the_evidence_of_a_turn_that_was_reset_after_it(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Through the provider, with output: the error has the code, the partial text and the evidence."""

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(BEGUN, at_once=True)
        wire.close(1012, "restart")
        wire.cut()

    stream = provider_of(peer_of(script)).stream("Hi")
    with pytest.raises(ConnectionLost) as caught:
        list(stream)
    error: Any = caught.value
    assert error.details["close_code"] == 1012 and error.phase == "stream" and error.request_sent and error.output_seen
    assert error.partial.text == "Hello" and error.partial.provider_metadata["close_code"] == 1012


ENDS: dict[str, list[Callable[[Wire], object]]] = {
    "reset": [Wire.cut],
    "FIN": [Wire.hang_up],
    "FIN, and TLS ended properly": [lambda wire: wire.hang_up(notify=True)],
    "FIN within a frame": [lambda wire: wire.frame(TEXT, b'{"type":', length=100), Wire.hang_up],
    "reset within a frame": [lambda wire: wire.frame(TEXT, b'{"type":', length=100_000), Wire.cut],
    "FIN within a message of fragments": [lambda wire: wire.frame(TEXT, b"{}", fin=False), Wire.hang_up],
    "close frame": [lambda wire: wire.close(1001)],
    "close frame within a message": [lambda wire: wire.frame(TEXT, b"{}", fin=False), lambda wire: wire.close(1001)],
}


@pytest.mark.row("A20")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("output", [False, True])
def test_an_end_without_a_terminal_event_is_an_error_in_one_way(
    end: str, output: bool, peer_of: PeerOf, provider_of: ProviderOf
) -> None:
    """However the socket ends: `ConnectionLost`, with the phase, what was received, and a close code; the place is free again."""

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(BEGUN if output else [], at_once=True)
        for step in ENDS[end]:
            step(wire)
        with contextlib.suppress(OSError, AssertionError):
            wire.expect_closed()

    provider = provider_of(peer_of(script))
    with pytest.raises(ConnectionLost) as caught:
        provider.complete("Hi")
    error: Any = caught.value
    assert (error.phase, error.request_sent, error.output_seen) == ("stream" if output else "first_event", True, output)
    assert error.partial.text == ("Hello" if output else "")
    assert error.partial.provider_metadata["close_code"] == (1001 if end.startswith("close") else 1006)
    assert provider.stats()["connections"]["live"] == 0


def test_a_reset_is_named_and_is_no_timeout(tls: bool, peer_of: PeerOf) -> None:
    """The errno's name stands in the error, where the interpreter tells it."""

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.cut()

    with connected(peer_of(script)) as connection:
        lane = asked(connection)
        with pytest.raises(ConnectionLost, match=END if tls else "ECONNRESET"):
            receive(connection, lane)
        assert connection.death is not None and connection.death.close_code == 1006


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
def test_the_kernels_own_timeout_is_a_lost_connection(tls: bool, peer_of: PeerOf) -> None:
    """The kernel gives up a peer that takes nothing (ETIMEDOUT): that is no idle timeout, and no write timeout."""

    def script(wire: Wire) -> None:
        wire.stop_reading()
        wire.hold()

    peer = peer_of(script, receive_buffer=4096)
    with connected(peer, send_buffer=8192) as connection:
        lane = begun(connection)
        sock = socket.socket(fileno=socket.dup(connection.fileno))
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
            assert send(connection, lane, b"x" * 4_000_000, stall=20) in ("failed", "stopped")
        with pytest.raises(ConnectionLost, match=END if tls else "ETIMEDOUT") as caught:
            receive(connection, lane, deadline=20)
        assert not isinstance(caught.value, TimeoutError)
        peer.connections[0].resume_reading()


# Writing that does not go on.


def test_a_send_that_times_out_ends_the_connection(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Half a frame is on the wire: `WriteTimeout`, the socket goes, and the next turn has one of its own."""
    halves: list[int] = []

    def mute(wire: Wire) -> None:
        wire.stop_reading()
        with contextlib.suppress(AssertionError):
            wire.expect_closed(1.5)
        wire.resume_reading()
        wire.expect_closed()
        halves.append(len(wire.received))

    peer = peer_of([mute, answering()], receive_buffer=4096)
    provider = provider_of(peer, timeouts=Timeouts(write=0.4))
    with pytest.raises(WriteTimeout) as caught:
        provider.complete("x" * 12_000_000, session="s")
    assert caught.value.phase == "send" and caught.value.request_sent
    assert provider.stats()["connections"]["live"] == 0
    assert provider.complete("Hi", session="s").text == "ok"
    wait_until(lambda: bool(halves), "the first connection's end", 10)
    assert 0 < halves[0] < 12_000_000 and not peer.connections[0].frames and len(peer.creates) == 1


# Silence.


@pytest.mark.row("B12")
@pytest.mark.parametrize("silence", ["no pong", "reads nothing"])
@pytest.mark.parametrize("busy", [True, False])
def test_a_peer_that_is_gone_is_noticed_whatever_idle_is(
    silence: str, busy: bool, peer_of: PeerOf, provider_of: ProviderOf
) -> None:
    """Half-open, in the middle of an answer or between two: dead after the interval and the timeout of the pings."""
    dead = threading.Event()

    def black_hole(wire: Wire) -> None:
        wire.auto_pong = False
        if busy:
            wire.read_create()
            wire.send_all(BEGUN, at_once=True)
        if silence == "reads nothing":
            wire.stop_reading()
            assert dead.wait(10)
            wire.resume_reading()
        wire.expect_closed()

    peer = peer_of([conversation("one", then=black_hole)])
    provider = provider_of(peer, keepalive=BEAT, timeouts=Timeouts(idle=None))
    provider.complete("Hi", session="s")
    if busy:
        with pytest.raises(ConnectionLost, match="ping") as caught:
            provider.complete("Hi", session="s")
        assert str(caught.value.partial) == "Hello" and caught.value.phase == "stream"
    wait_until(lambda: provider.stats()["connections"]["live"] == 0, "the connection to go")
    dead.set()
    wire = peer.connections[0]
    assert wire.gone.wait(5) and wire.pings_seen == 1, "it did not die of a ping that was not answered"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
def test_the_kernel_watches_data_in_flight(peer_of: PeerOf) -> None:
    """TCP_USER_TIMEOUT is a minute, and TCP's own keepalive is on."""
    with connected(peer_of(holding)) as connection, socket.socket(fileno=socket.dup(connection.fileno)) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


# Size.


@pytest.mark.row("B18")
@pytest.mark.parametrize("declared", [(64 << 20) + 1, 1 << 30, (1 << 63) - 1])
def test_a_frame_that_is_declared_too_large_is_refused_at_once(declared: int, peer_of: PeerOf) -> None:
    """Its header is enough: nothing of it is kept, whatever more comes, and the connection ends."""

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send(MESSAGE)
        wire.frame(TEXT, b"{" * 100, length=declared)
        with contextlib.suppress(OSError, ClientGone):
            for _ in range(128):
                wire.raw(b" " * 65_536)
        wire.expect_closed()

    with connected(peer_of(script)) as connection:
        lane = asked(connection)
        tracemalloc.start()
        try:
            assert receive(connection, lane) == [MESSAGE]
            with pytest.raises(FrameTooLarge, match="limit of 67,108,864") as caught:
                receive(connection, lane)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
        assert caught.value.details == {"close_code": 1009} and caught.value.retryable is False
        closed(connection)


@pytest.mark.row("B18")
def test_a_hundred_thousand_fragments_are_one_message(peer_of: PeerOf) -> None:
    """Ten million bytes in pieces of a hundred, joined in linear time; with a ping between them, which is answered."""
    body = json.dumps({"type": "x", "text": "a" * 10_000_000}).encode()

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.frame(TEXT, body[:1], fin=False)
        wire.ping(b"between")
        pieces = [body[at : at + 100] for at in range(1, len(body), 100)]
        head = [bytes((CONTINUATION, len(piece))) + piece for piece in pieces[:-1]]
        wire.raw(b"".join(head), 30)
        wire.frame(CONTINUATION, pieces[-1])
        wire.hold()

    peer = peer_of(script)
    with connected(peer) as connection:
        lane = asked(connection)
        (message,) = receive(connection, lane, deadline=30)
        assert len(message["text"]) == 10_000_000
        wait_until(lambda: peer.connections[0].pongs_seen == 1, "the pong")


# What is left behind.


@pytest.mark.parametrize("way", ["close", "forget", "exception"])
def test_an_abandoned_answer_leaves_nothing_for_the_next_one(way: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Its connection goes, and what the server still says of it reaches nobody."""
    left = threading.Event()

    def chatty(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(BEGUN, at_once=True)
        wire.hold(until=left)
        with contextlib.suppress(OSError):
            wire.answer("of the first")
        wire.expect_closed()

    peer = peer_of([chatty, answering(text="of the second")])
    provider = provider_of(peer)
    stream = provider.stream("one", session="s")
    assert next(stream).type == "response.created"
    if way == "close":
        stream.close()
    elif way == "exception":
        with pytest.raises(KeyError), stream:
            raise KeyError
    del stream
    left.set()
    result = provider.complete("two", session="s")
    assert result.text == "of the second" and result.provider_metadata["continuation_reset_reason"] == "caller_cancelled"
    assert peer.connections[0].gone.wait(5) and len(peer.connections) == 2


# Frames that are wrong.

WRONG: dict[str, tuple[dict[str, Any], int]] = {
    "masked": ({"opcode": TEXT, "payload": b"{}", "masked": True}, 1002),
    "a reserved bit": ({"opcode": TEXT, "payload": b"{}", "rsv": 4}, 1002),
    "compressed, which nobody offered": ({"opcode": TEXT, "payload": b"\xca\x00", "rsv": 4}, 1002),
    "binary": ({"opcode": BINARY, "payload": b"{}"}, 1003),
    "an unknown opcode": ({"opcode": 3, "payload": b"{}"}, 1002),
    "an unknown control frame": ({"opcode": 11}, 1002),
    "a fragmented ping": ({"opcode": PING, "fin": False}, 1002),
    "a long ping": ({"opcode": PING, "payload": b"x" * 126}, 1002),
    "a continuation of nothing": ({"opcode": CONTINUATION, "payload": b"{}"}, 1002),
    "a length too long by form": ({"opcode": TEXT, "payload": b"{}", "width": 8}, 1002),
    "a close frame of one byte": ({"opcode": CLOSE, "payload": b"\x03"}, 1002),
    "a close frame with a code that is never sent": ({"opcode": CLOSE, "payload": b"\x03\xee"}, 1002),
    "a close frame whose reason is no UTF-8": ({"opcode": CLOSE, "payload": b"\x03\xe8\xff"}, 1007),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_frame_is_the_end(wrong: str, peer_of: PeerOf) -> None:
    """What stands before it in the same bytes is delivered; then a typed error, and nothing after it is ever read."""
    options, code = WRONG[wrong]

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send(MESSAGE)
        wire.frame(**options)
        with contextlib.suppress(OSError):
            wire.send(MESSAGE)
        wire.expect_closed()

    with connected(peer_of(script)) as connection:
        lane = asked(connection)
        assert receive(connection, lane) == [MESSAGE]
        with pytest.raises(ConnectionLost) as caught:
            receive(connection, lane)
        assert caught.value.retryable is False and caught.value.details == {"close_code": code}
        assert not lane.queue
        closed(connection)


def test_text_that_is_no_utf_8_ends_the_turn_and_the_connection(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """`InvalidResponse`; the next turn has a fresh socket."""

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.frame(TEXT, b'{"type": "\xff"}')
        wire.expect_closed()

    peer = peer_of([script, answering()])
    provider = provider_of(peer, keepalive=Keepalive())
    with pytest.raises(InvalidResponse, match="UTF-8"):
        provider.complete("Hi", session="s")
    assert provider.complete("Hi", session="s").text == "ok" and len(peer.connections) == 2


def waits_to_write(connection: Connection) -> bool:
    poller = connection.writer._poller
    return poller is not None and poller._mask & select.POLLOUT != 0


def test_a_poll_object_of_one_role_is_not_the_others(peer_of: PeerOf, stack: ExitStack) -> None:
    """A reader polls while a writer waits for room, on a poll object each: one shared by two threads raises."""

    def script(wire: Wire) -> None:
        wire.stop_reading()
        wire.hold()

    peer = peer_of(script, receive_buffer=4096)
    connection = stack.enter_context(connected(peer, send_buffer=8192))
    lane, other = begun(connection), Lane()
    reading = in_thread(lambda: connection.receive(lane, Deadline(30)))
    wait_until(lambda: connection.occupied, "the reader")
    writing = in_thread(lambda: send(connection, other, b"x" * 4_000_000, stall=30))
    wait_until(lambda: waits_to_write(connection), "the writer to wait")
    peer.connections[0].send(MESSAGE)
    assert reading.result(5) == [json.dumps(MESSAGE).encode()] or reading.result(5)
    connection.stop(lane)
    assert writing.result(5) in ("failed", "stopped")
    peer.connections[0].resume_reading()
