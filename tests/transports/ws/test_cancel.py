"""A cancel from another thread ends every kind of wait, whoever leaves retires the socket, and the next turn is clean (B15)."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from pixir_sync import (
    Cancelled,
    CancelToken,
    Network,
    PixirError,
    Provider,
    ProviderClosed,
    ResponseStream,
    RetryPolicy,
    Terminal,
)
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.wire import Wire as Socket
from tests.support.events import text_response
from tests.support.tls import authority
from tests.support.ws_peer import Script, WebSocketPeer, Wire, answering, conversation
from tests.support.ws_wire import HOLD
from tests.transports.http.helpers import (
    DEADLINE,
    full_backlog,
    in_thread,
    linux,
    mute_listener,
    nothing_left,
    pause,
    took,
    wait_until,
)
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.connection_helpers import around_recv, watched
from tests.transports.ws.turn_helpers import Talk, how

Run = tuple[Provider, ResponseStream, Callable[[], object]]
"""A provider, a stream that will wait, and how to wait until it does."""

Place = Callable[[ExitStack, bool, CancelToken], Run]


def half(wire: Wire) -> None:
    """Begins an answer and does not go on."""
    wire.read_create(HOLD)
    wire.send_all(text_response("half", "more")[:5])
    wire.hold()


def provider_at(url: str, tls: bool, **options: object) -> Provider:
    network = Network(ca_bundle=authority().ca_file() if tls else None, trust_env=False)
    settings: dict[str, Any] = {
        "model": "m", "api_key": "sk-test", "transport": "websocket", "retry": 0, "network": network, **options,
    }  # fmt: skip
    return Provider(base_url=url, **settings)


def run(stream: ResponseStream, seen: list[str]) -> PixirError | None:
    """Consumes it; the error at the end."""
    try:
        for event in stream:
            seen.append(event.text)
    except PixirError as error:
        return error
    return None


# The places where a call waits. Each gives a provider, a stream, and a wait until it is there.


def at_a_peer(script: Script, reached: Callable[[WebSocketPeer], object], **peer: Any) -> Place:
    def place(stack: ExitStack, tls: bool, token: CancelToken) -> Run:
        server = stack.enter_context(WebSocketPeer(script, tls=tls, **peer))
        policy = RetryPolicy(max_retries=2, initial_delay=60, max_delay=60)
        provider = stack.enter_context(provider_at(server.base_url, tls, retry=policy))

        def waits() -> None:
            reached(server)
            pause(0.05)

        return provider, provider.stream("x", session="s", cancel=token), waits

    return place


def in_the_pool(stack: ExitStack, tls: bool, token: CancelToken) -> Run:
    server = stack.enter_context(WebSocketPeer(half, tls=tls))
    provider = stack.enter_context(provider_at(server.base_url, tls))
    holder = stack.enter_context(provider.stream("first", session="s"))
    to_half(holder)

    def waits() -> None:
        wait_until(lambda: provider.stats()["websocket"]["pool"]["waiting"] == 1, "the wait")

    return provider, provider.stream("x", session="s", cancel=token), waits


def connecting(stack: ExitStack, tls: bool, token: CancelToken) -> Run:
    port = stack.enter_context(full_backlog())
    return _at_port(stack, port, tls, token)


def handshake(stack: ExitStack, tls: bool, token: CancelToken) -> Run:
    """In TLS; where there is none, in the upgrade."""
    return _at_port(stack, stack.enter_context(mute_listener()), tls, token)


def _at_port(stack: ExitStack, port: int, tls: bool, token: CancelToken) -> Run:
    provider = stack.enter_context(provider_at(f"http{'s' if tls else ''}://127.0.0.1:{port}/v1", tls))
    return provider, provider.stream("x", session="s", cancel=token), lambda: pause(0.1)


def writing(stack: ExitStack, tls: bool, token: CancelToken) -> Run:
    """In the middle of a large frame, to a peer that does not read."""

    def deaf(wire: Wire) -> None:
        wire.stop_reading()
        wire.hold()

    server = stack.enter_context(WebSocketPeer(deaf, tls=tls, receive_buffer=4096))
    provider = stack.enter_context(provider_at(server.base_url, tls))

    def begun() -> bool:
        leased = provider._websocket._pool.leased()  # type: ignore[union-attr]
        return any(isinstance(one, Connection) and any(lane.sent for lane in one.lanes.values()) for one in leased)

    def waits() -> None:
        wait_until(begun, "the first bytes")
        pause(0.05)

    return provider, provider.stream("x" * 12_000_000, session="s", cancel=token), waits


def refusing(wire: Wire) -> None:
    wire.refuse(503)


def mute(wire: Wire) -> None:
    wire.read_request()
    wire.hold()


def unanswered(wire: Wire) -> None:
    wire.read_create(HOLD)
    wire.hold()


def refused(peer: WebSocketPeer) -> None:
    assert peer.wait_connections(1)[0].gone.wait(DEADLINE)


def connected(peer: WebSocketPeer) -> None:
    peer.wait_connections(1)


def asked(peer: WebSocketPeer) -> None:
    peer.wait_creates(1)


PLACES: dict[str, Place] = {
    "pool": in_the_pool,
    "backoff": at_a_peer(refusing, refused, upgrade=False),
    "connect": connecting,
    "handshake": handshake,
    "upgrade": at_a_peer(mute, connected, upgrade=False),
    "write": writing,
    "first event": at_a_peer(unanswered, asked),
    "event": at_a_peer(half, asked),
}
SENT = ("write", "first event", "event")


@linux
@pytest.mark.row("B15")
@pytest.mark.parametrize("way", ["cancel", "token", "close stream", "close provider"])
@pytest.mark.parametrize("place", PLACES)
def test_every_wait_ends_at_once(tls: bool, place: str, way: str) -> None:
    """Wherever the consumer waits, another thread ends it in well under a second; no thread and no descriptor is left."""
    with nothing_left(), ExitStack() as stack:
        token = CancelToken()
        provider, stream, reached = PLACES[place](stack, tls, token)
        seen: list[str] = []
        consumer = in_thread(lambda: run(stream, seen))
        reached()
        if place == "event":
            wait_until(lambda: "half" in seen, "the event")
        assert not consumer.done()
        ends = {"cancel": stream.cancel, "token": token.cancel, "close stream": stream.close, "close provider": provider.close}
        with took(0, 0.9):
            ends[way]()
            error = consumer.result(DEADLINE)
        assert type(error) is (ProviderClosed if way == "close provider" else Cancelled)
        assert error.partial is not None and error.partial.text == "".join(seen) == ("half" if place == "event" else "")
        assert error.request_sent is (place in SENT)
        with pytest.raises(type(error)) as again:
            stream.result()
        assert again.value is error


@pytest.mark.row("B15")
def test_a_consumer_that_waits_while_the_keepalive_thread_reads(
    peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who cancels wakes the thread that reads, whichever it is, and that one the consumer."""
    reading, go_on, armed = threading.Event(), threading.Event(), threading.Event()

    def slow(wire: Socket, recv: Callable[[], bytes | None]) -> bytes | None:
        if armed.is_set() and threading.current_thread().name.startswith("pixir"):
            reading.set()
            assert go_on.wait(DEADLINE)
        return recv()

    around_recv(monkeypatch, slow)
    provider = provider_of(peer_of([half, answering()]), keepalive={"interval": 0.2, "timeout": 5})
    stream = provider.stream("x", session="s")
    while next(stream).text != "half":
        pass
    armed.set()
    assert reading.wait(DEADLINE)
    (connection,) = provider._websocket._pool.leased()  # type: ignore[union-attr]
    assert isinstance(connection, Connection)
    visit = watched(connection)
    consumer = in_thread(lambda: run(stream, []))
    assert visit.came.wait(DEADLINE)
    with took(0, 0.9):
        stream.cancel()
        go_on.set()
        assert type(consumer.result(DEADLINE)) is Cancelled
    armed.clear()
    assert provider.complete("y", session="s").text == "ok"


# Whoever leaves retires the socket, and the next turn is clean.


@contextmanager
def left_behind(peer_of: PeerOf, provider_of: ProviderOf) -> Iterator[tuple[Talk, Callable[[], ResponseStream]]]:
    """A talk with one finished turn; in the block its second one is left. After it the socket is gone, the third turn clean."""
    gone = threading.Event()

    def leaves(wire: Wire) -> None:
        half(wire)
        gone.set()

    with nothing_left():
        peer = peer_of([conversation("one", then=leaves), answering()])
        provider = provider_of(peer)
        talk = Talk(provider)
        talk.say("first")
        history = list(talk.history)

        def begin() -> ResponseStream:
            return provider.stream([*history, {"role": "user", "content": "left"}], session="s")

        yield talk, begin
        assert gone.wait(DEADLINE)
        turn = talk.say("third")
        assert turn.text == "ok" and how(turn) == "caller_cancelled"
        assert [len(create["input"]) for create in peer.creates] == [1, 1, 3]
        assert provider.stats()["websocket"]["pool"]["leased"] == 0
        provider.close()
        peer.__exit__(None, None, None)


def to_half(stream: ResponseStream) -> None:
    for event in stream:
        if event.text == "half":
            return


@pytest.mark.row("B15")
@pytest.mark.parametrize("way", ["break", "exception", "close", "cancel"])
def test_who_leaves_in_mid_stream_retires_the_socket(peer_of: PeerOf, provider_of: ProviderOf, way: str) -> None:
    """By break, exception, close or cancel on its own thread: the server sees the end, the next turn goes in full elsewhere."""
    with left_behind(peer_of, provider_of) as (_, begin):
        if way == "exception":
            with pytest.raises(ZeroDivisionError), begin() as stream:
                to_half(stream)
                raise ZeroDivisionError
        else:
            with begin() as stream:
                to_half(stream)
                if way != "break":
                    getattr(stream, way)()
        with pytest.raises(Cancelled) as caught:
            stream.result()
        assert caught.value.partial is not None and caught.value.partial.text == "half"


@pytest.mark.row("B15", "A25")
@pytest.mark.parametrize("cancels", [True, False])
def test_why_the_session_begins_anew_is_the_consumers_doing(
    peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch, cancels: bool
) -> None:
    """The keepalive thread may be the one that sees the socket end: the next turn still says that the caller left."""
    with left_behind(peer_of, provider_of) as (talk, begin):
        pool = talk._provider._websocket._pool  # type: ignore[union-attr]
        stream = begin()
        to_half(stream)
        (connection,) = pool.leased()
        assert isinstance(connection, Connection)
        if cancels:
            in_thread(stream.cancel).result(DEADLINE)
        else:
            abandon = pool.abandon

            def seen_first(*lease: Any) -> None:
                connection.drain(1)
                abandon(*lease)

            monkeypatch.setattr(pool, "abandon", seen_first)
        if cancels:
            wait_until(lambda: not connection.alive, "the keepalive thread")
        stream.close()
        assert not connection.alive


@pytest.mark.row("B15")
@pytest.mark.parametrize("collecting", [True, False], ids=["gc on", "gc off"])
@pytest.mark.parametrize("held", ["stream", "iterator", "text stream"])
def test_a_stream_that_is_dropped_retires_the_socket(
    peer_of: PeerOf, provider_of: ProviderOf, held: str, collecting: bool
) -> None:
    """The last reference ends the call, with the garbage collector off, too: a stream is part of no cycle."""
    if not collecting:
        gc.disable()
    try:
        with left_behind(peer_of, provider_of) as (_, begin):
            stream = begin()
            kept: Iterator[Any] = stream if held == "stream" else iter(stream) if held == "iterator" else stream.text_stream
            for piece in kept:
                if "half" in (piece, getattr(piece, "text", "")):
                    break
            del stream, kept, piece
    finally:
        gc.enable()


@pytest.mark.row("B15")
def test_the_collector_may_drop_it_anywhere(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A stream in somebody's cycle ends in the collector, on a thread that holds the pool's lock: nothing waits for itself."""

    class Cycle:
        def __init__(self, stream: ResponseStream) -> None:
            self.me, self.stream = self, stream

    with left_behind(peer_of, provider_of) as (talk, begin):
        cycle = Cycle(begin())
        to_half(cycle.stream)
        with talk._provider._websocket._pool._lock:  # type: ignore[union-attr]
            del cycle
            gc.collect()


INTERRUPTED = """
import os, sys, threading
from pixir_sync import Cancelled, Network, Provider
url, bundle = sys.argv[1:]
files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
with Provider(model="m", api_key="k", base_url=url, transport="websocket", network=Network(ca_bundle=bundle or None)) as provider:
    assert provider.complete("warm", session="s").text == "one"
    stream = provider.stream("x", session="s")
    try:
        for event in stream:
            if event.text:
                print(event.text, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    try:
        stream.result()
    except Cancelled as error:
        assert error.partial.text == "half", error.partial.text
    turn = provider.complete("y", session="s")
    assert turn.text == "ok" and turn.provider_metadata["continuation_reset_reason"] == "caller_cancelled", turn.provider_metadata
    assert provider.stats()["websocket"]["pool"]["leased"] == 0
    assert threading.active_count() == 2, threading.enumerate()
provider._websocket._keepalive.look(5)
assert threading.active_count() == 1
assert not files or len(os.listdir("/proc/self/fd")) <= files
"""


@pytest.mark.row("B15")
def test_ctrl_c_retires_the_socket(peer_of: PeerOf) -> None:
    """A real SIGINT while the main thread waits for an event: the socket goes, the next turn is clean, nothing is left."""
    gone = threading.Event()

    def leaves(wire: Wire) -> None:
        half(wire)
        gone.set()

    peer = peer_of([conversation("one", then=leaves), answering()])
    command = [sys.executable, "-W", "error", "-c", INTERRUPTED, peer.base_url, peer.ca_file or ""]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "half\n"
    pause(0.1)  # until it waits for more
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, "interrupted\n", "")
    assert gone.wait(DEADLINE)


# A terminal event that was read.


@pytest.mark.row("B15")
@pytest.mark.parametrize("way", ["cancel", "token", "close from elsewhere"])
def test_a_terminal_event_that_was_seen_wins(peer_of: PeerOf, provider_of: ProviderOf, way: str) -> None:
    """A cancel after it takes nothing away, and the next turn is clean."""
    provider, token = provider_of(peer_of(answering())), CancelToken()
    stream = provider.stream("x", session="s", cancel=token)
    for event in stream:
        if isinstance(event, Terminal):
            end = {"cancel": stream.cancel, "token": token.cancel, "close from elsewhere": stream.close}[way]
            in_thread(end).result(DEADLINE)
    assert stream.result().text == "ok"
    assert provider.complete("y", session="s").text == "ok"


@pytest.mark.row("B15")
def test_a_terminal_event_in_the_batch_at_hand_wins(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The end of the answer was received together with its beginning: a cancel amid that batch comes too late."""

    def at_once(wire: Wire) -> None:
        wire.read_create(HOLD)
        wire.answer("ok", at_once=True)
        wire.hold()

    provider = provider_of(peer_of([at_once, answering()]))
    stream = provider.stream("x", session="s")
    for event in stream:
        if event.type == "response.created":
            stream.cancel()
    assert stream.result().text == "ok"
    assert provider.complete("y", session="s").text == "ok"


@pytest.mark.row("B15")
@pytest.mark.parametrize("way", ["break", "close", "drop"])
def test_leaving_after_the_terminal_event_keeps_the_connection(peer_of: PeerOf, provider_of: ProviderOf, way: str) -> None:
    """Who has seen the end of the answer need not ask once more: the next turn sends only what is new, on the same socket."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    history: list[object] = [{"role": "user", "content": "one"}]
    stream = provider.stream(history, session="s")
    for event in stream:
        if isinstance(event, Terminal):
            break
    if way == "close":
        stream.close()
    if way == "drop":
        history += event.response["output"]  # type: ignore[attr-defined]
        del stream
    else:
        history += stream.result().output_items
    turn = provider.complete([*history, {"role": "user", "content": "two"}], session="s", timeouts={"pool": 2})
    assert how(turn) == "delta" and len(peer.connections) == 1


# Many at a time.


@pytest.mark.row("B15")
def test_one_token_cancels_many_streams(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A token given to several calls ends them all, and those that begin later; others go on."""
    ready = threading.Barrier(9)

    def script(wire: Wire) -> None:
        if wire.number < 8:
            wire.read_create(HOLD)
            wire.send_all(text_response("half", "more")[:5])
            ready.wait(DEADLINE)
            wire.hold()
        else:
            answering()(wire)

    token = CancelToken()
    peer = peer_of(script)
    provider = provider_of(peer)
    streams = [provider.stream("x", session=f"s{n}", cancel=token) for n in range(8)]
    consumers = [in_thread(lambda s=s: run(s, [])) for s in streams]  # type: ignore[misc]
    ready.wait(DEADLINE)
    with took(0, 0.9):
        token.cancel()
        assert [type(consumer.result(DEADLINE)) for consumer in consumers] == [Cancelled] * 8
    with pytest.raises(Cancelled):
        provider.complete("x", cancel=token)
    assert len(peer.creates) == 8 and token._wakers == {}
    assert provider.complete("x", session="s1").text == "ok"


@pytest.mark.row("B15")
def test_a_cancel_before_the_first_event_opens_nothing(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A stream that was cancelled or closed before its first ``next`` never touches the network."""
    peer = peer_of([])
    provider = provider_of(peer)
    for way in ("cancel", "close"):
        stream = provider.stream("x", session="s")
        getattr(stream, way)()
        with pytest.raises(Cancelled):
            stream.result()
    assert peer.connections == [] and not provider.has_session("s")


@linux
@pytest.mark.row("B15")
def test_cancels_at_random_moments(tls: bool) -> None:
    """Wherever a cancel falls, the call ends as a result or as Cancelled, and calls on other threads do not notice."""

    def tolerant(wire: Wire) -> None:
        with suppress(OSError):  # the client may go in the middle of an answer, and of the upgrade
            wire.accept()
            answering()(wire)

    def call(provider: Provider, delay: float) -> PixirError | None:
        stream = provider.stream("x", session="s")
        timer = threading.Timer(delay, stream.cancel)
        timer.start()
        ended = run(stream, [])
        timer.join()
        return ended

    with nothing_left(), WebSocketPeer(tolerant, tls=tls, upgrade=False) as peer, provider_at(peer.base_url, tls) as provider:
        other = in_thread(lambda: [provider.complete("y", session="other").text for _ in range(40)])
        ended = [call(provider, at * 0.0001) for at in range(60)]
        other_ends = [error.to_dict() for error in ended if error is not None and not isinstance(error, Cancelled)]
        assert not other_ends and any(isinstance(error, Cancelled) for error in ended)
        assert other.result(DEADLINE) == ["ok"] * 40
