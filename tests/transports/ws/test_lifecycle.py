"""How sessions and providers end: released, closed, forgotten, or with the interpreter (B16)."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest

from pixir_sync import PixirError, Provider, ProviderClosed, ResponseStream
from pixir_sync.local import LocalServer
from tests.support.events import text_response
from tests.support.tls import authority
from tests.support.ws_peer import Script, Wire, answering, conversation
from tests.support.ws_wire import CLOSE, HOLD
from tests.transports.http.helpers import DEADLINE, in_thread, nothing_left, took, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.turn_helpers import Talk, how


def halves(finish: threading.Event) -> Script:
    """Answers with "one two", the second word when the test says so; later questions at once."""

    def script(wire: Wire) -> None:
        wire.read_create(HOLD)
        events = text_response("one ", "two")
        wire.send_all(events[:5])
        wire.hold(until=finish)
        wire.send_all(events[5:])
        answering()(wire)

    return script


def half_where_asked(wire: Wire) -> None:
    """Answers; the question "half" only in part."""
    while True:
        if wire.read_create(HOLD)["input"][-1]["content"] == "half":
            wire.send_all(text_response("one ", "two")[:5])
        else:
            wire.answer("ok")


def to_one(stream: ResponseStream) -> None:
    """Reads its first word: all that the peer sends before the test says so."""
    while next(stream).text != "one ":
        pass


def keepalive_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pixir-keepalive"]


def end_of(stream: Any) -> PixirError | None:
    """The error that a stream ends with."""
    try:
        stream.result()
    except PixirError as error:
        return error
    return None


# A session.


@pytest.mark.row("B16")
def test_a_released_session_is_closed_politely(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Its connection says goodbye; the session is unknown from then on, begins anew with its next turn; others stay."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    talk, other = Talk(provider), Talk(provider, "other")
    assert not provider.has_session("s")
    talk.say("one")
    other.say("one")
    assert provider.has_session("s") and not provider.has_session("s", "scope")
    provider.release("s")
    provider.release("s")
    provider.release("never heard of")
    assert not provider.has_session("s") and provider.has_session("other")
    assert peer.connections[0].gone.wait(DEADLINE)
    assert [frame.code for frame in peer.connections[0].frames if frame.opcode == CLOSE] == [1000]
    assert how(talk.say("two")) == "no_previous_response"
    assert how(other.say("two")) == "delta"
    assert len(peer.connections) == 3


@pytest.mark.row("B16")
def test_a_session_released_in_mid_stream_ends_after_its_turn(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The turn goes on to its end; its late return neither comes back as the session's nor disturbs the successor's."""
    finish = threading.Event()
    peer = peer_of([halves(finish), answering()])
    provider = provider_of(peer)
    stream = provider.stream("x", session="s")
    to_one(stream)
    assert provider.has_session("s")
    provider.release("s")
    assert not provider.has_session("s")
    talk = Talk(provider)
    talk.say("one")  # at once, on a connection of its own
    finish.set()
    assert stream.result().text == "one two"
    assert peer.connections[0].gone.wait(DEADLINE)
    assert provider.has_session("s") and how(talk.say("two")) == "delta"
    assert len(peer.connections) == 2


@pytest.mark.row("B16")
def test_a_session_whose_connection_was_closed_is_none(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """has_session tells of what is there: a connection that the server ended is noticed within a second or so."""
    peer = peer_of([conversation("one", then=lambda wire: wire.close(1001)), answering()])
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    wait_until(lambda: not provider.has_session("s"), "the end of the session")
    assert how(talk.say("two")) == "websocket_reconnected"


# A provider that is closed.


@pytest.mark.row("B16")
@pytest.mark.parametrize("transport", ["websocket", "auto"])
def test_close_ends_everything(peer_of: PeerOf, provider_of: ProviderOf, transport: str) -> None:
    """Streams in flight and in the queue end in ProviderClosed within a second, everything is closed, later calls are refused."""
    finish = threading.Event()
    with nothing_left():
        peer = peer_of(halves(finish))
        provider = provider_of(peer, transport=transport, websocket_url=peer.websocket_url)
        flying, never = provider.stream("x", session="s"), provider.stream("x", session="s")
        to_one(flying)
        consumer = in_thread(lambda: end_of(flying))
        waiting = in_thread(lambda: end_of(provider.stream("y", session="s")))
        wait_until(lambda: provider.stats()["websocket"]["pool"]["waiting"] == 1, "the wait")
        with took(0, 0.9):
            provider.close()
            errors = [consumer.result(DEADLINE), waiting.result(DEADLINE)]
        assert [type(error) for error in errors] == [ProviderClosed] * 2
        assert errors[0] is not None and errors[0].partial is not None and errors[0].request_sent
        assert errors[1] is not None and not errors[1].request_sent
        for call in (lambda: provider.stream("x"), lambda: next(never), lambda: provider.warm_up("x", session="s")):
            with pytest.raises(ProviderClosed):
                call()
        provider.release("s")
        assert not provider.has_session("s")
        assert peer.connections[0].gone.wait(DEADLINE) and len(peer.creates) == 1
        assert provider.stats()["connections"]["live"] == 0
        peer.__exit__(None, None, None)


@pytest.mark.row("B16")
def test_close_is_idempotent_and_may_come_from_anywhere(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Eight threads close at a time, one of them out of the stream's own loop; then once more."""
    provider = provider_of(peer_of(halves(threading.Event())))
    stream = provider.stream("x", session="s")
    with pytest.raises(ProviderClosed):
        for event in stream:
            if event.text:
                closers = [in_thread(provider.close) for _ in range(7)]
                provider.close()
                assert [closer.result(DEADLINE) for closer in closers] == [None] * 7
    provider.close()
    assert type(end_of(stream)) is ProviderClosed


@pytest.mark.row("B16")
def test_close_says_goodbye_on_idle_connections(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Each gets a close frame with 1000 and is then closed."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    for number in range(5):
        provider.complete("x", session=f"s{number}")
    provider.close()
    assert all(wire.gone.wait(DEADLINE) for wire in peer.connections)
    assert [[frame.code for frame in wire.frames if frame.opcode == CLOSE] for wire in peer.connections] == [[1000]] * 5


@pytest.mark.row("B16")
def test_a_result_that_is_there_survives_the_close(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A terminal event that was read wins over a close, as over a cancel."""
    provider = provider_of(peer_of(answering()))
    stream = provider.stream("x", session="s")
    for event in stream:
        if event.type == "response.completed":
            provider.close()
    assert stream.result().text == "ok"


@pytest.mark.row("B16")
def test_with_the_local_server(tls: bool) -> None:
    """release, has_session and close as a program sees them; what was said before the release is the server's no more."""
    bundle = authority().ca_file() if tls else None
    options: dict[str, Any] = {"model": "gpt-5.5", "transport": "websocket", "network": {"ca_bundle": bundle, "trust_env": False}}
    with LocalServer(ssl_context=authority().server_context() if tls else None) as server:
        with Provider(api_key=server.api_key, base_url=server.base_url, **options) as provider:
            talk = Talk(provider)
            assert [talk.say(f"q{n}").text for n in (1, 2)] == ["Heard: q1 (context: 1)", "Heard: q2 (context: 2)"]
            provider.release("s")
            turn = talk.say("q3")
            assert turn.text == "Heard: q3 (context: 3)" and how(turn) == "no_previous_response"
            assert len(server.upgrades) == 2
        assert not server.failures and provider.stats()["connections"]["live"] == 0


# A provider that is forgotten.


@pytest.mark.row("B16")
@pytest.mark.parametrize("collecting", [True, False], ids=["gc on", "gc off"])
def test_a_forgotten_provider_closes_its_connections(peer_of: PeerOf, tls: bool, collecting: bool) -> None:
    """With its last reference its connections go, and its thread within a visit: no close was needed, and no collector."""
    if not collecting:
        gc.disable()
    try:
        with nothing_left():
            peer = peer_of(half_where_asked)
            wait_until(lambda: not keepalive_threads(), "the threads of earlier tests to end")
            provider = Provider(model="m", api_key="k", base_url=peer.base_url, transport="websocket",
                                network={"ca_bundle": peer.ca_file, "trust_env": False})  # fmt: skip
            for number in range(3):
                provider.complete("x", session=f"s{number}")
            with provider.stream("half", session="s0") as left:
                to_one(left)
            assert not provider.has_session("s0")  # its connection was retired, here and now
            del left
            pool = weakref.ref(provider._websocket._pool)  # type: ignore[union-attr]
            assert len(keepalive_threads()) == 1
            del provider
            wait_until(lambda: pool() is None and not keepalive_threads(), "the pool and the thread to go")
            assert all(wire.gone.wait(DEADLINE) for wire in peer.connections)
            peer.__exit__(None, None, None)
    finally:
        gc.enable()


@pytest.mark.row("B16")
def test_a_stream_outlives_the_name_of_its_provider(peer_of: PeerOf) -> None:
    """As long as a stream runs its provider does; with it both go."""
    finish = threading.Event()
    with nothing_left():
        peer = peer_of(halves(finish))
        stream = Provider(model="m", api_key="k", base_url=peer.base_url, transport="websocket",
                          network={"ca_bundle": peer.ca_file, "trust_env": False}).stream("x", session="s")  # fmt: skip
        to_one(stream)
        gc.collect()
        finish.set()
        assert stream.result().text == "one two"
        del stream
        assert peer.connections[0].gone.wait(DEADLINE)
        peer.__exit__(None, None, None)


# The interpreter's end.

LEAVING = """
import sys
from pixir_sync import Network, Provider
url, bundle, how = sys.argv[1:]
def make():
    return Provider(model="m", api_key="k", base_url=url, transport="websocket", network=Network(ca_bundle=bundle or None))
provider = make()
for n in range(3):
    provider.complete("x", session=f"s{n}")
stream = provider.stream("half", session="s0")
while next(stream).text != "one ":
    pass
if how == "error":
    raise SystemExit(3)
if how == "thread":
    import threading
    threading.Thread(target=lambda: [None for _ in stream], daemon=True).start()
if how == "cycle":
    provider.me = [provider, stream]
    del stream, provider
print("left", flush=True)
"""


@pytest.mark.row("B16")
@pytest.mark.parametrize("way", ["names", "cycle", "thread", "error"])
def test_the_end_of_the_interpreter_is_quiet(peer_of: PeerOf, way: str) -> None:
    """With an open stream and idle connections a program ends at once and says nothing; the server sees every connection go."""
    peer = peer_of(half_where_asked)
    # What lies in a cycle is finalised in any order: with warnings on, Python itself tells of sockets that nobody closed.
    strict = [] if way == "cycle" else ["-W", "error", "-X", "dev"]
    command = [sys.executable, *strict, "-c", LEAVING, peer.base_url, peer.ca_file or "", way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == ((3, "", "") if way == "error" else (0, "left\n", ""))
    assert len(peer.connections) == 3 and all(wire.gone.wait(DEADLINE) for wire in peer.connections)


def test_a_closed_provider_cancels_nobody_elses_streams(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Two providers share nothing."""
    finish = threading.Event()
    one, other = provider_of(peer_of(halves(finish))), provider_of(peer_of(halves(threading.Event())))
    stream = one.stream("x", session="s")
    to_one(stream)
    left = other.stream("x", session="s")
    to_one(left)
    other.close()
    left.cancel()  # too late to change why
    assert type(end_of(left)) is ProviderClosed
    finish.set()
    assert stream.result().text == "one two"
