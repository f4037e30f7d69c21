"""The keepalive thread: pings, answers for consumers that are away, what comes on a connection that nobody uses, and age."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from contextlib import suppress
from typing import Any

import pytest

from pixir_sync import ConnectionLost, Keepalive, PoolOptions, Timeouts
from pixir_sync.deadline import Deadline
from pixir_sync.transports.ws import keepalive, lanes
from tests.support.events import Json, completed, created, error, response, text_response
from tests.support.ws_peer import PING, ClientGone, Wire, answering
from tests.transports.http.helpers import in_thread, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.connection_helpers import BEAT, begun, connected, receive, send, till_readable
from tests.transports.ws.turn_helpers import Talk, how

BEGUN = text_response("Hel", "lo")[:-1]
MESSAGE = {"type": "response.created", "response": {"id": "resp_1"}}


def holding(wire: Wire) -> None:
    wire.hold()


def live(provider: Any) -> int:
    found: int = provider.stats()["connections"]["live"]
    return found


# The thread.


def test_there_is_one_thread_for_all_and_it_goes_with_the_last(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Ten connections, one thread: a daemon with a name; after `close`, or when the provider is forgotten, it ends."""
    peer = peer_of(answering())
    for end in ("close", "forget"):
        provider: Any = provider_of(peer, keepalive=BEAT) if end == "close" else None
        if provider is None:
            from pixir_sync import Network, Provider

            provider = Provider(model="m", api_key="sk", base_url=peer.base_url, transport="websocket", keepalive=BEAT,
                                network=Network(ca_bundle=peer.ca_file, trust_env=False))  # fmt: skip
        assert not provider._websocket._keepalive.running
        for number in range(10):
            provider.complete("Hi", session=f"s{number}")
        threads = [thread for thread in threading.enumerate() if thread.name == "pixir-keepalive"]
        mine = provider._websocket._keepalive._thread
        assert mine in threads and mine.daemon and live(provider) == 10
        if end == "close":
            provider.close()
        else:
            gone = weakref.ref(provider._websocket._pool)
            del provider
            gc.collect()
            assert gone() is None
        mine.join(5)
        assert not mine.is_alive()


def test_a_fault_of_the_thread_costs_one_connection(
    peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it raises while it is at one connection ends that one, with an error that says so; the others keep their pings."""
    peer = peer_of(answering())
    provider: Any = provider_of(peer, keepalive=BEAT)
    for name in ("a", "b"):
        provider.complete("Hi", session=name)
    first, _ = provider._websocket._pool.idle()
    visit = keepalive.visit

    def faulty(connection: Any, *args: Any, **options: Any) -> None:
        if connection is first:
            raise ZeroDivisionError
        visit(connection, *args, **options)

    monkeypatch.setattr(keepalive, "visit", faulty)
    wait_until(lambda: live(provider) == 1, "the first to go")
    assert "ZeroDivisionError" in str(first.death.error())
    seen = sum(wire.pings_seen for wire in peer.connections)
    wait_until(lambda: sum(wire.pings_seen for wire in peer.connections) > seen + 1, "further pings")
    assert provider._websocket._keepalive.running


# Pings.


@pytest.mark.row("B12")
@pytest.mark.parametrize("busy", ["idle", "waiting", "away"])
def test_pings_go_out_at_their_interval(busy: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """While nobody uses the connection, while its consumer waits, and while it is away: one ping per interval, each answered."""
    enough = threading.Event()
    times: list[float] = []

    def script(wire: Wire) -> None:
        wire.answer(to=wire.read_create())
        if busy != "idle":
            wire.read_create()
            wire.send_all(BEGUN, at_once=True)
        while len(times) < 6:
            frame = wire.read_frame()
            assert frame.opcode == PING
            times.append(time.monotonic())
            wire.pong(frame.payload)
        enough.set()
        if busy != "idle":
            wire.send(completed(response("resp_2", output=[])))
        wire.hold()

    provider = provider_of(peer_of(script), keepalive=BEAT)
    provider.complete("Hi", session="s")
    if busy == "waiting":
        assert provider.complete("Hi", session="s").text == "Hello"
    elif busy == "away":
        stream = provider.stream("Hi", session="s")
        next(stream)
        assert enough.wait(10)
        assert stream.result().text == "Hello"
    assert enough.wait(10) and live(provider) == 1
    assert times[5] - times[0] > 4 * BEAT.interval, "they came too often"


@pytest.mark.row("B12")
@pytest.mark.parametrize("busy", ["idle", "waiting", "away"])
def test_the_servers_pings_are_answered(busy: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """While nobody uses the connection, while its consumer waits, and while it is away between two events."""
    answered = threading.Event()

    def script(wire: Wire) -> None:
        wire.answer(to=wire.read_create())
        if busy != "idle":
            wire.read_create()
            wire.send_all(BEGUN, at_once=True)
        for number in range(3):
            wire.ping(b"%d" % number)
            frame = wire.read_frame()
            assert frame.payload == b"%d" % number
        answered.set()
        if busy != "idle":
            wire.send(completed(response("resp_2", output=[])))
        wire.hold()

    provider = provider_of(peer_of(script))
    provider.complete("Hi", session="s")
    stream = provider.stream("Hi", session="s")
    if busy == "waiting":
        stream.result()
    elif busy == "away":
        next(stream)
    assert answered.wait(10)
    if busy != "idle":
        assert stream.result().text == "Hello"


@pytest.mark.row("B12")
def test_a_silent_model_that_answers_pings_lives(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Nothing but pongs for several intervals and timeouts: the answer that follows is delivered."""

    def script(wire: Wire) -> None:
        create = wire.read_create()
        while wire.pings_seen < 8:
            frame = wire.read_frame()
            wire.pong(frame.payload)
        wire.answer("after a think", to=create)
        wire.hold()

    result = provider_of(peer_of(script), keepalive=BEAT).complete("Hi")
    assert result.text == "after a think" and result.provider_metadata["attempts"] == 1


@pytest.mark.row("B12")
@pytest.mark.parametrize("payload", [b"", b"0", b"999"])
def test_a_pong_that_answers_nothing_is_no_answer(payload: bytes, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Pongs that nobody asked for do not keep a peer alive, and neither do events."""

    def script(wire: Wire) -> None:
        wire.auto_pong = False
        wire.read_create()
        with suppress(OSError):
            while not wire.gone.wait(0.02):
                wire.pong(payload)
                wire.send({"type": "keepalive"})

    peer = peer_of(script)
    with pytest.raises(ConnectionLost, match="ping"):
        provider_of(peer, keepalive=BEAT).complete("Hi")
    assert peer.connections[0].gone.wait(5)


@pytest.mark.row("B12")
@pytest.mark.parametrize("how_closed", ["close frame", "FIN", "reset"])
@pytest.mark.parametrize("busy", [False, True])
def test_a_close_is_noticed_within_a_second(
    how_closed: str, busy: bool, peer_of: PeerOf, provider_of: ProviderOf
) -> None:
    """With the usual settings: nobody uses the connection, or its consumer is away."""
    closed = threading.Event()
    ways = {"close frame": lambda wire: wire.close(1001), "FIN": Wire.hang_up, "reset": Wire.cut}

    def script(wire: Wire) -> None:
        wire.answer(to=wire.read_create())
        if busy:
            wire.read_create()
            wire.send_all(BEGUN[:2], at_once=True)
        wire.hold(until=go)
        ways[how_closed](wire)
        closed.set()
        if how_closed != "reset":
            wire.expect_closed()

    go = threading.Event()
    provider: Any = provider_of(peer_of(script))
    provider.complete("Hi", session="s")
    stream = provider.stream("Hi", session="s")
    if busy:
        next(stream)
    pool = provider._websocket._pool
    (connection,) = pool.leased() if busy else pool.idle()
    go.set()
    assert closed.wait(5)
    wait_until(lambda: not connection.alive and connection.fileno == -1, "the close to be noticed", 2.0)
    wait_until(lambda: busy or live(provider) == 0, "the pool to let go")
    if busy:
        with pytest.raises(ConnectionLost):
            stream.result()


# Reading for a consumer that is away.


def test_a_visit_reads_a_bounded_amount(peer_of: PeerOf) -> None:
    """Eight megabytes wait: one visit takes one of them, so that a consumer who comes back waits for no more than that."""

    def script(wire: Wire) -> None:
        wire.read_create()
        with suppress(OSError, ClientGone):
            for _ in range(80):
                wire.send({"type": "x", "pad": "y" * 100_000})
            wire.hold()

    with connected(peer_of(script, receive_buffer=None)) as connection:
        lane = begun(connection)
        send(connection, lane)
        till_readable(connection)
        total = 0
        for _ in range(1000):
            before = connection.inbox.received
            keepalive.visit(connection, time.monotonic(), 20, readable=True)
            taken = connection.inbox.received - before
            total += taken
            assert taken <= (1 << 20) + 65_536
            if total > 8_000_000:
                break
            if not taken:
                till_readable(connection)
        assert len(receive(connection, lane, 80)) == 80


@pytest.mark.row("B12")
def test_a_consumer_that_is_behind_keeps_its_connection(peer_of: PeerOf) -> None:
    """It takes an event now and then of the many that were read for it, so it does not read: its server's pings are answered."""
    count = 30

    def script(wire: Wire) -> None:
        wire.read_create()
        for number in range(count):
            wire.send({"type": "x", "number": number})
            assert gone_on.acquire(timeout=5)
        wire.ping(b"there?")
        pinged.set()
        wire.hold()

    pinged, gone_on = threading.Event(), threading.Semaphore(0)
    peer = peer_of(script)
    with connected(peer, keepalive=BEAT) as connection:
        lane = begun(connection)
        send(connection, lane)
        for number in range(count):  # each is read for it by itself, as it is over TLS
            while len(lane.queue) <= number:
                till_readable(connection)
                connection.drain(1)
            gone_on.release()
        assert pinged.wait(5) and len(lane.queue) == count
        till_readable(connection)
        for _ in range(3):
            connection.receive(lane, Deadline(5))
            keepalive.visit(connection, time.monotonic(), 20, readable=False)
        wait_until(lambda: peer.connections[0].pongs_seen == 1, "the pong")


@pytest.mark.row("B12")
def test_over_the_limit_nothing_more_is_read_until_the_consumer_takes(
    peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's events stay in the socket, the peer is not taken for dead meanwhile, and everything comes in the end."""
    monkeypatch.setattr(lanes, "RETAINED", 200_000)
    total = 400

    def script(wire: Wire) -> None:
        wire.read_create()
        for number in range(total):
            wire.send({"type": "x", "number": number, "pad": "y" * 10_000})
        wire.hold()

    peer = peer_of(script)
    with connected(peer, keepalive=BEAT) as connection:
        lane = begun(connection)
        send(connection, lane)
        now = time.monotonic()

        def tend() -> bool:
            keepalive.visit(connection, now, 20, readable=False)
            return connection.full

        wait_until(tend, "the limit")
        held = connection.inbox.received
        assert 200_000 <= held < 200_000 + 2 * 65_536
        for _ in range(50):
            now += BEAT.interval
            tend()
        assert connection.alive and connection.inbox.received == held and peer.connections[0].pings_seen <= 1
        connection.receive(lane, Deadline(5))
        taken = 1
        while lane.queue:
            connection.receive(lane, Deadline(5))
            taken += 1
        assert not connection.full
        wait_until(tend, "the limit again")
        assert connection.inbox.received > held and connection.alive
        found = receive(connection, lane, 1, 5)
        while found[-1]["number"] < total - 1:
            found += receive(connection, lane)
        assert found[-1]["number"] == total - 1


def test_a_frame_that_grows_puts_the_answer_off(peer_of: PeerOf) -> None:
    """A pong cannot come through in the middle of a long message: the wait for it begins when the message has ended."""
    step = threading.Semaphore(0)
    body = json.dumps({"type": "x", "pad": "y" * 1000}).encode()

    def script(wire: Wire) -> None:
        wire.auto_pong = False
        wire.read_create()
        wire.frame(1, body[:10], length=len(body))
        for at in range(10, 20):
            assert step.acquire(timeout=5)
            wire.raw(body[at : at + 1])
        assert step.acquire(timeout=5)
        wire.raw(body[20:])
        wire.expect_closed()

    peer = peer_of(script)
    with connected(peer, keepalive=Keepalive(interval=20, timeout=30)) as connection:
        lane = begun(connection)
        send(connection, lane)
        now = time.monotonic() + 25  # time for a ping, which leaves by the real clock
        for _ in range(10):
            till_readable(connection)
            keepalive.visit(connection, now, 30, readable=True)
            assert connection.alive
            now += 40
            step.release()
        step.release()
        assert receive(connection, lane)[0]["pad"] == "y" * 1000
        keepalive.visit(connection, now, 30, readable=True)
        keepalive.visit(connection, now + 40, 30, readable=True)
        assert not connection.alive and peer.connections[0].gone.wait(5) and peer.connections[0].pings_seen == 1


def test_a_consumer_that_sleeps_gets_everything(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The thread reads for it while it is away: more than the buffers hold is taken, and the server gets through."""
    through = threading.Event()

    def script(wire: Wire) -> None:
        create = wire.read_create()
        wire.answer(deltas=["y" * 50_000] * 80, to=create)
        through.set()
        wire.hold()

    stream = provider_of(peer_of(script), keepalive=Keepalive(interval=0.4, timeout=2)).stream("Hi")
    next(stream)
    assert through.wait(20), "nobody read for the consumer"
    assert stream.result().text == "y" * 4_000_000


# What comes while nobody uses the connection.

STRAYS: dict[str, tuple[list[Json], bool]] = {
    "an unknown event": ([{"type": "codex.rate_limits"}, {"type": "some.news", "response": {"id": "resp_77"}}], True),
    "keepalive": ([{"type": "keepalive"}], True),
    "the end of the last response, once more": ([{"type": "response.done", "response": response("resp_1")}], True),
    "output": ([{"type": "response.output_text.delta", "delta": "stray"}], False),
    "another response": ([created("resp_77")], False),
    "an error": ([error("server_error")], False),
}


@pytest.mark.row("B12")
@pytest.mark.parametrize("noticed", ["by the thread", "by the turn"])
@pytest.mark.parametrize("stray", STRAYS)
def test_what_comes_between_two_turns(
    stray: str, noticed: str, peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """News and the rest of the last response are dropped; anything else retires the connection. No turn ever sees any of it."""
    said, go = threading.Event(), threading.Event()
    events, kept = STRAYS[stray]
    if noticed == "by the turn":
        monkeypatch.setattr(keepalive, "_TICK", 3600)

    def script(wire: Wire) -> None:
        wire.answer("one", "resp_1", to=wire.read_create())
        wire.hold(until=go)
        wire.send_all(events)
        said.set()
        if kept:
            wire.answer("two", "resp_2", to=wire.read_create())
        wire.expect_closed()

    peer = peer_of([script, answering(text="two")])
    provider: Any = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    (connection,) = provider._websocket._pool.idle()
    before = connection.inbox.received
    go.set()
    assert said.wait(5)
    if noticed == "by the thread":
        wait_until(lambda: connection.inbox.received > before and (kept or live(provider) == 0), "it to be read")
    result = talk.say("two")
    assert result.text == "two" and result.provider_metadata["connection_reused"] is kept
    assert how(result) == ("delta" if kept else "websocket_reconnected") and len(peer.connections) == (1 if kept else 2)


def test_what_is_left_of_the_last_response_may_come_with_the_next(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A late ``response.done`` just before the first event of the next turn: it ends nothing."""

    def script(wire: Wire) -> None:
        wire.answer("one", "resp_1", to=wire.read_create())
        create = wire.read_create()
        wire.send({"type": "response.done", "response": response("resp_1", status="completed")})
        wire.answer("two", "resp_2", to=create)
        wire.hold()

    talk = Talk(provider_of(peer_of(script)))
    talk.say("one")
    result = talk.say("two")
    assert result.text == "two" and result.response_id == "resp_2" and how(result) == "delta"


# Age.


@pytest.mark.row("B11")
@pytest.mark.parametrize("limit", ["max_idle", "max_lifetime"])
@pytest.mark.parametrize("by", ["the thread", "the lease"])
def test_the_old_and_the_idle_are_retired(
    limit: str, by: str, peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread while nobody asks, else by the lease that would have got it; politely, with a close frame."""
    if by == "the lease":
        monkeypatch.setattr(keepalive, "_TICK", 3600)
    options: dict[str, Any] = {limit: 0.2}
    peer = peer_of(answering())
    provider = provider_of(peer, pool=PoolOptions(**options), keepalive=BEAT if by == "the thread" else Keepalive())
    talk = Talk(provider)
    talk.say("one")
    (first,) = peer.connections
    if by == "the thread":
        assert first.gone.wait(5)
        wait_until(lambda: live(provider) == 0, "the thread")
    else:
        assert not first.gone.wait(0.3)
    result = talk.say("two")
    assert how(result) == ("max_lifetime" if limit == "max_lifetime" else "websocket_reconnected")
    assert first.gone.wait(5) and [frame.code for frame in first.frames if frame.opcode == 8] == [1000]
    assert len(peer.connections) == 2


@pytest.mark.row("B11")
def test_one_that_is_in_use_is_not_cut_for_its_age(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Older than its lifetime in the middle of an answer: the answer ends first."""
    go_on = threading.Event()

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(BEGUN, at_once=True)
        while wire.pings_seen < 5:
            wire.pong(wire.read_frame().payload)
        wire.send(completed(response("resp_1", output=[])))
        go_on.set()
        wire.expect_closed()

    peer = peer_of([script])
    provider = provider_of(peer, pool=PoolOptions(max_lifetime=0.3, max_idle=0.3), keepalive=BEAT,
                           timeouts=Timeouts(idle=10))  # fmt: skip
    assert provider.complete("Hi", session="s").text == "Hello"
    wait_until(lambda: live(provider) == 0, "the connection to go")


def test_a_consumer_that_waits_is_not_disturbed(peer_of: PeerOf) -> None:
    """The thread's visits never take the role from one who polls, and never wait for it."""
    with connected(peer_of(holding)) as connection:
        lane = begun(connection)
        reading = in_thread(lambda: connection.receive(lane, Deadline(30)))
        wait_until(lambda: connection.occupied, "the reader")
        for _ in range(50):
            in_thread(lambda: keepalive.visit(connection, time.monotonic(), 20, readable=True)).result(5)
            assert connection.occupied
        connection.stop(lane)
        assert reading.result(5) is None
