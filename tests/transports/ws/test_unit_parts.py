"""The parts of a connection by themselves: its pings, its death, whose a message is, and a stream's queue."""

from __future__ import annotations

import errno
import json
import math
import socket
import ssl
import threading
from typing import Any

import pytest

from pixir_sync import ConnectionLost, FrameTooLarge, PixirError, QuotaExceeded
from pixir_sync.protocol.frames import FrameError
from pixir_sync.transports.ws import death, lanes
from pixir_sync.transports.ws.heartbeat import Heartbeat
from pixir_sync.transports.ws.lanes import Lane
from pixir_sync.transports.ws.routing import by_lane, decode, meaning, response_id
from pixir_sync.transports.ws.wire import Wire

# Heartbeat: an interval of 10, a timeout of 5.


@pytest.fixture
def heart() -> Heartbeat:
    return Heartbeat(10, 5, 0)


def test_a_ping_is_due_after_each_interval(heart: Heartbeat) -> None:
    """Not before; and the next one an interval after the last was due, however late that one was asked for."""
    assert heart.due(9.9) is None
    assert heart.due(12) == b"1"
    heart.left(12)
    heart.answered(b"1")
    assert heart.due(19.9) is None and heart.due(20) == b"2"


def test_while_one_is_unanswered_there_is_no_second(heart: Heartbeat) -> None:
    """However long it takes to leave."""
    assert heart.due(10) == b"1" and heart.due(100) is None
    assert not heart.expired(1000), "it has not left"
    heart.left(1000)
    assert heart.due(1001) is None and not heart.expired(1004.9) and heart.expired(1005)


@pytest.mark.parametrize("payload", [b"", b"0", b"2", b"11"])
def test_only_its_own_pong_answers(payload: bytes, heart: Heartbeat) -> None:
    """Another one says nothing about the ping that is waited for."""
    heart.due(10)
    heart.left(10)
    heart.answered(payload)
    assert heart.expired(15)
    heart.answered(b"1")
    assert not heart.expired(1000)


def test_a_pong_that_is_late_for_an_earlier_ping_says_nothing(heart: Heartbeat) -> None:
    """The second ping needs a pong of its own."""
    heart.due(10)
    heart.left(10)
    heart.answered(b"1")
    heart.due(20)
    heart.left(20)
    heart.answered(b"1")
    assert heart.expired(25)


def test_the_wait_can_be_put_off(heart: Heartbeat) -> None:
    """It begins anew; where no ping has left there is nothing to put off."""
    heart.put_off(7)
    assert not heart.expired(100)
    heart.due(10)
    heart.put_off(11)
    assert not heart.expired(100)
    heart.left(12)
    heart.put_off(16)
    assert not heart.expired(20.9) and heart.expired(21)


def test_a_ping_that_nobody_asked_for_changes_nothing(heart: Heartbeat) -> None:
    """One that left by another way (a test's, say) starts no wait."""
    heart.left(3)
    assert not heart.expired(100)


@pytest.mark.parametrize("waiting", ["begins", "is put off"])
def test_an_answer_that_comes_while_the_wait_begins_ends_it(waiting: str) -> None:
    """The reader is on another thread: it has the pong between the look at the ping and the note of its time."""

    class Overtaken(Heartbeat):
        """The answer comes in the middle of the wait's beginning, the first time or the second."""

        left_out = 0

        def _wait_from(self, now: float) -> None:
            self.left_out -= 1
            if self.left_out < 0:
                self.answered(b"1")
            super()._wait_from(now)

    heart = Overtaken(10, 5, 0)
    heart.left_out = int(waiting == "is put off")
    assert heart.due(10) == b"1"
    heart.left(10)
    if waiting == "is put off":
        assert heart.quiet_until == 15
        heart.put_off(12)
    assert not heart.expired(100) and heart.quiet_until == 20 and heart.due(20) == b"2"


def test_after_an_answer_the_next_ping_ends_the_quiet() -> None:
    """Not the timeout of the one that was answered, which may be the longer."""
    heart = Heartbeat(10, 50, 0)
    assert heart.quiet_until == 10 and heart.due(10) == b"1"
    heart.left(10)
    assert heart.quiet_until == 60
    heart.answered(b"1")
    assert heart.quiet_until == 20 and heart.due(20) == b"2"


def test_after_a_long_sleep_one_ping_is_due_not_many(heart: Heartbeat) -> None:
    """A machine that was suspended sends one, and the next at its interval from then."""
    assert heart.due(1000) == b"1"
    heart.left(1000)
    heart.answered(b"1")
    assert heart.due(1000.1) == b"2", "the one that was due while the first waited"
    heart.left(1000.1)
    heart.answered(b"2")
    assert heart.due(1005) is None and heart.due(1010) == b"3"


# Death.

DEATHS: list[tuple[death.Death, type[PixirError], str, str, int | None]] = [
    (death.ended(), ConnectionLost, "without a word", "websocket_failed", 1006),
    (death.broken(ConnectionResetError(errno.ECONNRESET, "x")), ConnectionLost, "ECONNRESET", "websocket_failed", 1006),
    (death.broken(TimeoutError(errno.ETIMEDOUT, "x")), ConnectionLost, "ETIMEDOUT", "websocket_failed", 1006),
    (death.broken(BrokenPipeError(errno.EPIPE, "x")), ConnectionLost, "EPIPE", "websocket_failed", 1006),
    (death.broken(OSError("secret")), ConnectionLost, "OSError", "websocket_failed", 1006),
    (death.broken(ssl.SSLEOFError(8, "x")), ConnectionLost, "TLS connection ended", "websocket_failed", 1006),
    (death.broken(ssl.SSLError(1, "secret")), ConnectionLost, "TLS connection failed", "websocket_failed", 1006),
    (death.closed_by_peer(1001, "bye"), ConnectionLost, "1001: bye", "websocket_failed", 1001),
    (death.closed_by_peer(1009, ""), FrameTooLarge, "1009", "websocket_failed", 1009),
    (death.closed_by_peer(4402, ""), QuotaExceeded, "4402", "websocket_failed", 4402),
    (death.misspoken(FrameError(1002, "a frame is wrong")), ConnectionLost, "a frame is wrong", "websocket_failed", 1002),
    (death.unanswered(20.0), ConnectionLost, "20 s", "keepalive_failed", None),
    (death.retired("max_lifetime"), ConnectionLost, "this side", "max_lifetime", None),
]  # fmt: skip


@pytest.mark.parametrize(("end", "kind", "text", "reset", "code"), DEATHS)
def test_every_end_has_its_error(end: death.Death, kind: type[PixirError], text: str, reset: str, code: int | None) -> None:
    """A fresh one for each who waits, with what is known, and nothing of what a foreign exception quotes."""
    first, second = end.error(), end.error()
    assert first is not second and type(first) is kind and text in str(first) and "secret" not in str(first)
    assert (end.reset, end.close_code) == (reset, code)
    assert first.details.get("close_code", code) == code


@pytest.mark.parametrize(("end", "retryable"), [
    (death.ended(), True), (death.broken(ConnectionResetError(errno.ECONNRESET, "x")), True), (death.unanswered(1), True),
    (death.closed_by_peer(1012, ""), True), (death.misspoken(FrameError(1002, "x")), False),
])  # fmt: skip
def test_a_server_that_breaks_the_protocol_is_not_tried_again(end: death.Death, retryable: bool) -> None:
    """All the other losses may be."""
    assert end.error().retryable is retryable


# Routing.


class Served:
    """A connection that served a response."""

    def __init__(self) -> None:
        self.served = True
        self.response_id: str | None = "resp_1"


def said(**data: Any) -> bytes:
    return json.dumps(data).encode()


@pytest.mark.parametrize("message", [
    b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"type": 1}', b'{"type": null}', b"\xff", b'{"type": "x"', b"[" * 100_000,
])  # fmt: skip
def test_what_is_no_event_is_none(message: bytes) -> None:
    """Nothing is raised, and a stray one means nothing."""
    assert decode(message) is None and meaning([message], Served()) is None


@pytest.mark.parametrize(("message", "ends"), [
    (said(type="response.created", response={"id": "resp_1"}), False),
    (said(type="response.completed", response={"id": "resp_1"}), False),
    (said(type="response.done", response={"id": "resp_1"}), False),
    (said(type="response.done", response_id="resp_1"), False),
    (said(type="response.created", response={"id": "resp_2"}), True),
    (said(type="response.completed", response={}), True),
    (said(type="response.done", response=None), True),
    (said(type="response.output_text.delta", delta="x"), True),
    (said(type="response.output_item.done", item={}), True),
    (said(type="codex.rate_limits"), False),
    (said(type="keepalive"), False),
    (said(type="brand.new", response={"id": "resp_2"}), False),
    (said(type="error", error={"code": "server_error", "message": "x"}), True),
    (said(type="error"), True),
])  # fmt: skip
def test_a_stray_message_ends_a_connection_or_means_nothing(message: bytes, ends: bool) -> None:
    """News and the rest of the last response are dropped; all that speaks of another response ends it."""
    found = meaning([said(type="keepalive"), message], Served())
    assert (found is not None) is ends
    if found is not None:
        assert isinstance(found.error(), ConnectionLost)


def test_the_first_word_of_a_server_is_its_own_error() -> None:
    """Before anything was served an error is about this client, and is told as it is; the age limit always."""
    fresh: Any = Served()
    fresh.served = False
    quota = said(type="error", error={"code": "credit_balance_exhausted", "message": "no credits"})
    found = meaning([quota], fresh)
    assert found is not None and isinstance(found.error(), QuotaExceeded)
    age = said(type="error", error={"code": "websocket_connection_limit_reached", "message": "old"}, status=400)
    found = meaning([age], Served())
    assert found is not None and found.reset == "max_lifetime" and found.error().code == "websocket_connection_limit_reached"


def test_messages_go_to_the_lanes_that_they_name() -> None:
    """In their order, with their sizes; the default lane has those without a name, and what nobody opened is a stray."""
    opened = {name: Lane(name) for name in (None, "a", "b")}
    for lane in opened.values():
        lane.open = True
    opened["b"].open = False
    messages = [said(type="x", stream_id=name, n=n) for n, name in enumerate(["a", "b", "a", "c", 7, ["a"]])] + [said(type="x")]
    parts, strays = by_lane(messages, opened)
    assert [(lane.name, [data.get("n") for data in batch], size) for lane, batch, size in parts] == [
        ("a", [0, 2], len(messages[0]) + len(messages[2])), (None, [None], len(messages[6])),
    ]  # fmt: skip
    assert strays == [messages[1], messages[3], messages[4], messages[5]]


def test_what_cannot_be_read_goes_to_the_default_lane() -> None:
    """Which counts it; without one it is a stray."""
    default = Lane()
    default.open = True
    assert by_lane([b"{"], {None: default})[0] == [(default, [None], 1)]
    assert by_lane([b"{"], {})[1] == [b"{"]


@pytest.mark.parametrize(("data", "found"), [
    ({"response": {"id": "r"}}, "r"), ({"response_id": "r"}, "r"), ({"response": {"id": 7}}, None), ({"response": "r"}, None),
    ({}, None),
])  # fmt: skip
def test_the_id_of_a_response_is_found_where_it_stands(data: dict[str, Any], found: str | None) -> None:
    """In the response object, or beside it; anything else is none."""
    assert response_id(data) == found


# Lanes.


def test_a_lane_counts_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full at the limit, and not when something was taken."""
    monkeypatch.setattr(lanes, "RETAINED", 100)
    lane: Any = Lane("x")
    lane.put([1], 60)
    assert not lane.full
    lane.put([2], 40)
    assert lane.full and "batches=2" in repr(lane)
    assert lane.take() == [1] and not lane.full
    assert lane.take() == [2] and lane.added == lane.taken == 100


def test_a_parked_lane_is_released_once() -> None:
    """Its lock is taken when it is stored, so that the consumer waits; un-parking twice, or nobody, does nothing."""
    lane: Any = Lane()
    lane.unpark()
    lock = lane.park()
    assert lane.parked is lock and lock.locked()
    lane.unpark()
    assert (lane.parked, lock.locked()) == (None, False)
    lane.unpark()


def test_an_interrupt_within_unpark_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock was released and the lane still has it: the next one releases it no second time, and wakes nobody twice."""
    lane: Any = Lane()
    lock = lane.park()
    lock.release()  # and here it struck
    lane.unpark()
    assert (lane.parked, lock.locked()) == (None, False)


# The wire.


def test_a_wait_for_ever_is_within_what_poll_takes() -> None:
    """No deadline, and one beyond all bounds: the wait ends with what comes."""
    from pixir_sync.deadline import Deadline
    from pixir_sync.transports.ws.wire import Poller

    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(ours)
        poller = Poller(wire)
        timer = threading.Timer(0.05, theirs.sendall, [b"x"])
        timer.start()
        assert poller.wait(1, Deadline(None)) == 1
        assert poller.wait(1, Deadline(1e12)) == 1 and poller.wait(1, Deadline(math.inf)) == 1
        assert wire.recv() is not None
        assert poller.wait(1, Deadline(0)) == 0
        timer.join()


def test_a_wire_says_what_there_is() -> None:
    """Bytes, None where there are none yet, b"" at the end; and 0 where nothing can be sent."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        wire = Wire(ours)
        assert wire.recv() is None
        theirs.sendall(b"abc")
        assert wire.recv() == b"abc"
        while wire.send(memoryview(b"x" * 65_536)):
            pass
        assert wire.send(memoryview(b"x")) == 0
        theirs.close()
        wire.wake()
        wire.close()
        wire.close()
        assert wire.closed
