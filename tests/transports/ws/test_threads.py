"""One session and many threads, one stream and two: one after the other, never mixed, and nobody waits for himself (B14)."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pixir_sync import InvalidRequest, Network, PoolTimeout, Provider, ResponseStream, SessionBusy
from pixir_sync.local import LocalServer
from tests.support.events import text_response
from tests.support.tls import authority
from tests.support.ws_peer import Script, Wire, answering
from tests.support.ws_wire import HOLD
from tests.transports.http.helpers import DEADLINE, in_thread, took, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf

THREADS = 8


def watchful(wire: Wire) -> None:
    """Answers each question with itself, slowly, and sees to it that none comes before the answer has ended."""
    number = 0
    while True:
        question = wire.read_create(HOLD)["input"][-1]["content"]
        number += 1
        events = text_response(*question.split(), id=f"resp_{wire.number}_{number}")
        for event in events[:-1]:
            wire.send(event)
        wire.hold(0.005)
        assert len([frame for frame in wire.frames if frame.opcode == 1]) == number, "a question came in the middle of an answer"
        wire.send(events[-1])


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


@contextmanager
def opened(stream: ResponseStream) -> Iterator[ResponseStream]:
    """The stream, after its first word was read by this thread."""
    with stream:
        while next(stream).text != "one ":
            pass
        yield stream


@pytest.mark.row("B14")
def test_eight_threads_take_turns_in_one_session(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Every thread gets its own answers, whole; the server never has two questions of one session at a time."""
    peer = peer_of(watchful)
    provider = provider_of(peer)
    start = threading.Barrier(THREADS)

    def ask(number: int) -> list[tuple[str, str]]:
        start.wait(DEADLINE)
        asked = [f"thread{number} turn{turn} of{number} mine{number}" for turn in range(5)]
        return [(text.replace(" ", ""), provider.complete(text, session="s").text) for text in asked]

    for future in [in_thread(lambda n=number: ask(n)) for number in range(THREADS)]:  # type: ignore[misc]
        assert all(asked == answered for asked, answered in future.result(20))
    assert len(peer.connections) == 1 and len(peer.creates) == THREADS * 5
    assert provider.stats()["websocket"]["pool"]["leased"] == 0


@pytest.mark.row("B14")
def test_eight_threads_with_the_local_server(tls: bool) -> None:
    """One conversation from eight threads in turn: each answer counts the questions before it, so none was lost or doubled."""
    context = authority().server_context() if tls else None
    with LocalServer(ssl_context=context) as server:
        options: dict[str, Any] = {"api_key": server.api_key, "base_url": server.base_url, "transport": "websocket"}
        network = Network(ca_bundle=authority().ca_file() if tls else None, trust_env=False)
        with Provider(model="gpt-5.5", network=network, **options) as provider:
            history: list[Any] = []
            # Guards the history over a whole turn.
            turn = threading.Lock()

            def ask(number: int) -> list[str]:
                heard = []
                for at in range(3):
                    with turn:
                        history.append({"role": "user", "content": f"{number}.{at}"})
                        result = provider.complete(history, session="s")
                        history.extend(result.output_items)
                        heard.append(result.text)
                        assert result.text == f"Heard: {number}.{at} (context: {len(history) // 2})"
                return heard

            futures = [in_thread(lambda n=number: ask(n)) for number in range(THREADS)]  # type: ignore[misc]
            assert sum(len(future.result(20)) for future in futures) == THREADS * 3
            assert provider.stats()["turns"]["websocket"] == {"full": 1, "delta": THREADS * 3 - 1}


@pytest.mark.row("B14")
def test_the_second_thread_waits_and_then_has_its_turn(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """While one thread is in the middle of a stream the other waits; it goes on when the first has read its last event."""
    finish = threading.Event()
    peer = peer_of(halves(finish))
    provider = provider_of(peer)
    with opened(provider.stream("x", session="s")) as stream:
        second = in_thread(lambda: provider.complete("y", session="s").text)
        wait_until(lambda: provider.stats()["websocket"]["pool"]["waiting"] == 1, "the second thread")
        assert len(peer.creates) == 1 and not second.done()
        finish.set()
        assert stream.result().text == "one two"
        assert second.result(DEADLINE) == "ok"
    assert len(peer.connections) == 1


@pytest.mark.row("B14")
def test_no_turn_in_time_is_a_pool_timeout(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The wait for a session has the pool's limit; the one who times out disturbs neither the stream nor the next turn."""
    finish = threading.Event()
    peer = peer_of(halves(finish))
    provider = provider_of(peer)
    with opened(provider.stream("x", session="s")) as stream:
        late = in_thread(lambda: provider.complete("y", session="s", timeouts={"pool": 0.3}))
        with pytest.raises(PoolTimeout) as caught:
            late.result(DEADLINE)
        assert not isinstance(caught.value, SessionBusy)
        assert caught.value.phase == "pool" and not caught.value.request_sent
        assert caught.value.details["leased"] == 1
        finish.set()
        assert stream.result().text == "one two"
    assert provider.complete("z", session="s").text == "ok"
    assert len(peer.creates) == 2


@pytest.mark.row("B14")
@pytest.mark.parametrize("transport", ["websocket", "auto"])
def test_re_entry_is_refused_at_once(peer_of: PeerOf, provider_of: ProviderOf, transport: str) -> None:
    """The thread that consumes a session's stream would wait for itself: SessionBusy, and the stream goes on."""
    finish = threading.Event()
    peer = peer_of(halves(finish))
    provider = provider_of(peer, transport=transport, websocket_url=peer.websocket_url)
    with opened(provider.stream("x", session="s")) as stream:
        with took(0, 0.9), pytest.raises(SessionBusy) as caught:
            provider.complete("y", session="s")
        assert caught.value.phase == "pool" and isinstance(caught.value, PoolTimeout)
        finish.set()
        assert stream.result().text == "one two"
    assert provider.complete("y", session="s").text == "ok"
    assert len(peer.connections) == 1 and len(peer.creates) == 2


@pytest.mark.row("B14")
def test_a_stream_may_go_on_in_another_thread(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Begun by one thread and read to its end by another: the same answer, the connection serves on."""
    finish = threading.Event()
    finish.set()
    peer = peer_of(halves(finish))
    provider = provider_of(peer)
    with opened(provider.stream("x", session="s")) as stream:
        assert in_thread(lambda: "".join(event.text for event in stream)).result(DEADLINE) == "two"
        assert stream.result().text == "one two"
    assert provider.complete("y", session="s").text == "ok"
    assert len(peer.connections) == 1


@pytest.mark.row("B14")
def test_who_consumes_it_now_is_the_one_who_would_wait_for_himself(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """After a stream went to another thread, re-entry there is SessionBusy, and the thread that began it just waits its turn."""
    read, finish = threading.Event(), threading.Event()

    def script(wire: Wire) -> None:
        wire.read_create(HOLD)
        events = text_response("one ", "two ", "three")
        for part, end in ((events[:5], read), (events[5:6], finish)):
            wire.send_all(part)
            wire.hold(until=end)
        wire.send_all(events[6:])
        answering()(wire)

    provider = provider_of(peer_of(script))
    moved = threading.Event()

    def consume(stream: ResponseStream) -> str:
        while next(stream).text != "two ":
            pass
        with took(0, 0.9), pytest.raises(SessionBusy):
            provider.complete("y", session="s")
        moved.set()
        return stream.result().text

    with opened(provider.stream("x", session="s")) as stream:
        other = in_thread(lambda: consume(stream))
        read.set()
        assert moved.wait(DEADLINE)
        with pytest.raises(PoolTimeout) as caught:
            provider.complete("y", session="s", timeouts={"pool": 0.05})
        assert not isinstance(caught.value, SessionBusy)
        finish.set()
        assert other.result(DEADLINE) == "one two three"
    assert provider.complete("y", session="s").text == "ok"


@pytest.mark.row("B14", "B15")
def test_the_thread_that_took_over_may_leave(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Leaving the block on the thread that reads now ends the call at once, even while the stream is still referred to."""
    read = threading.Event()

    def script(wire: Wire) -> None:
        wire.read_create(HOLD)
        events = text_response("one ", "two ", "three")
        wire.send_all(events[:5])
        wire.hold(until=read)
        wire.send_all(events[5:6])
        wire.expect_closed()

    def leave(stream: ResponseStream) -> None:
        with stream:
            for event in stream:
                if event.text == "two ":
                    break

    provider = provider_of(peer_of([script, answering()]))
    stream = provider.stream("x", session="s")
    while next(stream).text != "one ":
        pass
    read.set()
    in_thread(lambda: leave(stream)).result(DEADLINE)
    assert provider.complete("y", session="s", timeouts={"pool": 2}).text == "ok"
    assert repr(stream).startswith("<ResponseStream cancelled")


def test_two_consumers_at_a_time_are_a_mistake(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A second thread that reads the same stream is told so; the first goes on."""
    finish = threading.Event()
    provider = provider_of(peer_of(halves(finish)))
    with opened(provider.stream("x", session="s")) as stream:
        first = in_thread(stream.result)
        wait_until(lambda: inspect.getgeneratorstate(stream._events) == inspect.GEN_RUNNING, "the first thread")
        for read in (stream.result, lambda: next(stream)):
            with pytest.raises(InvalidRequest, match="one consumer at a time"):
                read()
        finish.set()
        assert first.result(DEADLINE).text == "one two"


@pytest.mark.row("B14")
def test_sessions_do_not_wait_for_each_other(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """While one session's stream stands still, eight others have theirs, each on a connection of its own."""
    finish = threading.Event()

    def script(wire: Wire) -> None:
        (halves(finish) if wire.number == 0 else answering())(wire)

    peer = peer_of(script)
    provider = provider_of(peer)
    with opened(provider.stream("x", session="s")) as stream:
        futures = [in_thread(lambda n=n: provider.complete("y", session=f"s{n}").text) for n in range(THREADS)]  # type: ignore[misc]
        assert [future.result(DEADLINE) for future in futures] == ["ok"] * THREADS
        assert provider.complete("y", session="s", scope="other").text == "ok"
        assert provider.complete("y").text == "ok"
        finish.set()
        assert stream.result().text == "one two"
    assert len(peer.connections) == 3 + THREADS
