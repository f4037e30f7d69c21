"""A cancel from another thread ends every kind of wait, and leaves nothing behind (rows B15 and B16 over HTTP)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import pytest

from pixir_sync import Cancelled, CancelToken, PixirError, Provider, ProviderClosed, ResponseStream
from tests.support import events as ev
from tests.support.peer import Conn
from tests.transports.http.helpers import (
    DEADLINE,
    Wire,
    answer,
    answers,
    begin,
    full_backlog,
    in_thread,
    linux,
    mute_listener,
    nothing_left,
    pause,
    took,
    wait_until,
)


@contextmanager
def connecting(wire: Wire) -> Iterator[tuple[str, Callable[[], object]]]:
    with full_backlog() as port:
        yield wire.url(port), lambda: pause(0.1)


@contextmanager
def handshake(wire: Wire) -> Iterator[tuple[str, Callable[[], object]]]:
    with mute_listener() as port:
        yield wire.url(port), lambda: pause(0.1)


def at_a_peer(script: Callable[[Conn], object]) -> Callable[[Wire], AbstractContextManager[tuple[str, Callable[[], object]]]]:
    @contextmanager
    def place(wire: Wire) -> Iterator[tuple[str, Callable[[], object]]]:
        reached = threading.Event()

        def run(conn: Conn) -> None:
            script(conn)
            reached.set()
            conn.wait_closed()

        with wire.peer([run]) as peer:

            def wait() -> None:
                assert reached.wait(DEADLINE)
                pause(0.03)  # until the client, too, is where the script says

            yield peer.base_url, wait

    return place


def unanswered(conn: Conn) -> None:
    conn.read_request()


def headed(conn: Conn) -> None:
    conn.read_request()
    conn.start_sse()


def half(conn: Conn) -> None:
    begin(conn, "half")


def half_close_delimited(conn: Conn) -> None:
    begin(conn, "half", chunked=False)


def half_of_known_length(conn: Conn) -> None:
    conn.read_request()
    conn.start_sse(chunked=False, headers={"content-length": "100000"})
    for event in ev.text_response("half")[:5]:
        conn.sse(event)


def told_to_wait(conn: Conn) -> None:
    conn.read_request()
    conn.respond(429, "", {"retry-after": "60"})


def refused_at_length(conn: Conn) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 400 Bad\r\ncontent-length: 1000\r\n\r\n{")


def unread(conn: Conn) -> None:
    pause(0.02)


PLACES: dict[str, Callable[[Wire], AbstractContextManager[tuple[str, Callable[[], object]]]]] = {
    "connect": connecting,
    "handshake": handshake,
    "head": at_a_peer(unanswered),
    "first event": at_a_peer(headed),
    "event": at_a_peer(half),
    "event, close-delimited": at_a_peer(half_close_delimited),
    "event, of known length": at_a_peer(half_of_known_length),
    "backoff": at_a_peer(told_to_wait),
}


def run(stream: ResponseStream, seen: list[str] | None = None) -> tuple[str, PixirError | None]:
    """The text that was seen (also put into a list as it comes), and the error at the end."""
    text: list[str] = [] if seen is None else seen
    try:
        for event in stream:
            text.append(event.text)
    except PixirError as error:
        return "".join(text), error
    return "".join(text), None


@linux
@pytest.mark.parametrize("how", ["cancel", "token", "close stream", "close provider"])
@pytest.mark.parametrize("place", PLACES)
def test_every_wait_ends_at_once(wire: Wire, place: str, how: str) -> None:
    """Wherever the consumer waits, another thread ends it in well under a second; no thread and no file is left."""
    if (wire.name, place) == ("plain", "handshake"):
        place = "head"
    with nothing_left(), PLACES[place](wire) as (url, reached), wire.provider(url, timeouts={"connect": None}) as provider:
        token = CancelToken()
        stream = provider.stream("x", cancel=token)
        seen: list[str] = []
        consumer = in_thread(lambda: run(stream, seen))
        reached()
        if place.startswith("event"):
            wait_until(lambda: "half" in seen, "the event")
        assert not consumer.done()
        ends = {"cancel": stream.cancel, "token": token.cancel, "close stream": stream.close, "close provider": provider.close}
        with took(0, 0.9):
            ends[how]()
            text, error = consumer.result(DEADLINE)
        assert type(error) is (ProviderClosed if how == "close provider" else Cancelled)
        assert error.partial is not None
        assert text == error.partial.text == ("half" if place.startswith("event") else "")
        assert error.request_sent is (place not in ("connect", "handshake"))
        with pytest.raises(type(error)) as again:
            stream.result()
        assert again.value is error


@linux
def test_a_write_ends_at_once(wire: Wire) -> None:
    """A call that is still sending its body is cancelled as fast."""
    with nothing_left(), at_a_peer(unread)(wire) as (url, reached), wire.provider(url) as provider:
        stream = provider.stream("x" * 50_000_000)
        consumer = in_thread(lambda: run(stream))
        reached()
        pause(0.25)
        assert not consumer.done()
        with took(0, 0.9):
            stream.cancel()
            _, error = consumer.result(DEADLINE)
        assert type(error) is Cancelled and error.request_sent is True


def test_one_token_cancels_many_streams(wire: Wire) -> None:
    """A token given to several calls ends them all, and those that begin later; the provider goes on with others."""
    ready = threading.Barrier(5)

    def script(conn: Conn) -> None:
        begin(conn, "half")
        ready.wait(DEADLINE)
        conn.wait_closed()

    token = CancelToken()
    with wire.peer([script] * 4 + [answers]) as peer, wire.provider(peer.base_url) as provider:
        streams = [provider.stream("x", cancel=token) for _ in range(4)]
        consumers = [in_thread(lambda s=s: run(s)) for s in streams]  # type: ignore[misc]
        ready.wait(DEADLINE)
        with took(0, 0.9):
            token.cancel()
            ended = [consumer.result(DEADLINE) for consumer in consumers]
        assert [type(error) for _, error in ended] == [Cancelled] * 4
        with pytest.raises(Cancelled):
            provider.complete("x", cancel=token)
        assert len(peer.requests) == 4
        assert provider.complete("x", cancel=CancelToken()).text == "hi"
        assert token._wakers == {}


def test_a_cancel_before_the_first_event_opens_nothing(plain: Wire) -> None:
    """A stream that was cancelled before its first next() never touches the network."""
    with plain.peer([]) as peer, plain.provider(peer.base_url) as provider:
        stream = provider.stream("x")
        stream.cancel()
        with pytest.raises(Cancelled):
            next(stream)
        closed = provider.stream("x")
        closed.close()
        with pytest.raises(Cancelled):
            closed.result()
    assert peer.connections == []


def test_a_terminal_event_that_was_read_wins(wire: Wire) -> None:
    """A cancel that comes after the terminal event was read does not take the result away."""
    with wire.peer(answers) as peer, wire.provider(peer.base_url) as provider:
        stream = provider.stream("x")
        for event in stream:
            if event.type == "response.completed":
                stream.cancel()
        assert stream.result().text == "hi"


def test_a_cancel_while_the_end_of_the_body_is_awaited(wire: Wire) -> None:
    """The wait for the end of the body after the terminal event is no reason to lose the result either."""
    done = threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        for event in ev.text_response("hi"):
            conn.sse(event)
        done.set()
        conn.wait_closed()

    with wire.peer([script, answers]) as peer, wire.provider(peer.base_url) as provider:
        stream = provider.stream("x")
        consumer = in_thread(stream.result)
        assert done.wait(DEADLINE)
        pause(0.1)
        stream.cancel()
        assert consumer.result(DEADLINE).text == "hi"
        assert provider.complete("x").text == "hi"


def test_close_ends_what_runs_and_is_idempotent(wire: Wire) -> None:
    """close() ends a stream in flight with ProviderClosed; afterwards calls are refused, and close() may come again."""

    def script(conn: Conn) -> None:
        begin(conn, "half")
        conn.wait_closed()

    with wire.peer([script]) as peer:
        provider = wire.provider(peer.base_url)
        stream = provider.stream("x")
        later = provider.stream("y")
        seen: list[str] = []
        consumer = in_thread(lambda: run(stream, seen))
        wait_until(lambda: "half" in seen, "the event")
        provider.close()
        _, error = consumer.result(0.9)
        assert type(error) is ProviderClosed and error.partial is not None and error.partial.text == "half"
        provider.close()
        with pytest.raises(ProviderClosed):
            provider.stream("x")
        with pytest.raises(ProviderClosed):
            next(later)
        with pytest.raises(ProviderClosed):
            provider.models()


def test_ctrl_c_ends_the_call_and_the_connection(wire: Wire) -> None:
    """An interrupt while the main thread waits for an event closes the connection; the next call works."""
    seen, gone = threading.Event(), threading.Event()

    def script(conn: Conn) -> None:
        begin(conn, "half")
        conn.hold(seen)
        pause(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        conn.wait_closed()
        gone.set()

    with wire.peer([script, answers]) as peer, wire.provider(peer.base_url) as provider:
        stream = provider.stream("x")
        with pytest.raises(KeyboardInterrupt):
            for event in stream:
                if event.text:
                    seen.set()
        assert gone.wait(1)
        with pytest.raises(Cancelled) as caught:
            stream.result()
        assert caught.value.partial is not None and caught.value.partial.text == "half"
        assert provider.complete("x").text == "hi"


def test_cancels_at_random_moments(plain: Wire) -> None:
    """Wherever a cancel falls, the call ends as a result or as Cancelled, and calls on other threads do not notice."""

    def call(provider: Provider, delay: float) -> Any:
        stream = provider.stream("x")
        threading.Timer(delay, stream.cancel).start()
        return run(stream)[1]

    def undisturbed(provider: Provider) -> list[str]:
        return [provider.complete("y").text for _ in range(40)]

    def tolerant(conn: Conn) -> None:
        with suppress(OSError, AssertionError):  # the client may go in the middle of a request or an answer
            answers(conn)

    with plain.peer(tolerant) as peer, plain.provider(peer.base_url, retry=0) as provider:
        others = in_thread(lambda: undisturbed(provider))
        ended = [call(provider, at * 0.0001) for at in range(60)]
        assert others.result(DEADLINE) == ["hi"] * 40
        assert provider.complete("x").text == "hi"
    assert {type(error) for error in ended} <= {type(None), Cancelled}


def test_a_cancelled_call_says_so_where_a_refusal_was_being_read(wire: Wire) -> None:
    """A cancel while the body of a refusal comes in ends the call at once."""
    with at_a_peer(refused_at_length)(wire) as (url, reached), wire.provider(url) as provider:
        stream = provider.stream("x")
        consumer = in_thread(lambda: run(stream))
        reached()
        with took(0, 0.9):
            stream.cancel()
            _, error = consumer.result(DEADLINE)
    assert error is not None and error.kind in ("cancelled", "provider_http_error")


def test_a_stream_closed_from_another_thread_after_its_end_keeps_its_result(plain: Wire) -> None:
    """close() after the end changes nothing."""
    with plain.peer([answer]) as peer, plain.provider(peer.base_url) as provider:
        stream = provider.stream("x")
        result = stream.result()
        in_thread(stream.close).result(DEADLINE)
        assert stream.result() is result
