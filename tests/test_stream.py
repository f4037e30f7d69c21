"""`ResponseStream`: when things happen, how it ends, and that it ends, whatever its consumer does and whatever carries it."""

from __future__ import annotations

import collections.abc
import gc
import select
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from pixir_sync import (
    Cancelled,
    CancelToken,
    ConnectionLost,
    Event,
    FirstEventTimeout,
    InvalidRequest,
    PixirError,
    Provider,
    ProviderClosed,
    ResponseStream,
    Result,
    RetryPolicy,
    TextDelta,
    user,
)
from pixir_sync.local import Close, HttpError, LocalServer, Pause, Step
from pixir_sync.transports.ws import wire
from tests.support.both import Peer, Reply, TransportName
from tests.support.events import Json, text_response
from tests.support.fake import FakeTransport, provider_for
from tests.transports.http.helpers import wait_until

WHOLE = text_response("Hel", "lo")
SOON = 5.0  # a bound for what takes milliseconds, on a machine that is busy


def half(pause: Pause) -> list[Step]:
    """An answer up to its first delta, which then waits: for the test, or for the client to go."""
    return [*WHOLE[:5], pause]


@contextmanager
def peer_and(transport: TransportName, *replies: Reply, **options: Any) -> Iterator[tuple[Peer, Provider]]:
    with Peer(transport, *replies) as peer, peer.provider(**options) as provider:
        yield peer, provider


@contextmanager
def no_collector() -> Iterator[None]:
    """What is freed within is freed by its last reference."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def running(provider: Provider) -> int:
    """How many calls run."""
    assert provider._engine is not None
    return len(provider._engine.live)


def wait_for_threads(before: list[threading.Thread]) -> None:
    """Waits until no other thread is left: the keepalive thread looks at a closed provider when it is woken."""
    until = time.monotonic() + SOON
    while set(threading.enumerate()) - set(before):
        assert time.monotonic() < until, f"{set(threading.enumerate()) - set(before)} go on"
        time.sleep(0.005)


def to_first_text(stream: ResponseStream) -> Event:
    while not (event := next(stream)).text:
        pass
    return event


def end_of(consume: Callable[[], object]) -> PixirError:
    """The error that a call ends with, and that it comes soon."""
    began = time.monotonic()
    with pytest.raises(PixirError) as caught:
        consume()
    assert time.monotonic() - began < SOON
    return caught.value


# When things happen.


@pytest.mark.row("A1")
def test_nothing_happens_before_the_first_next(transport: TransportName) -> None:
    """The request is checked at stream(); no connection, no key, no thread before somebody asks for an event."""
    with LocalServer() as server:
        before = threading.enumerate()
        provider = provider_for(server, transport=transport)
        stream = provider.stream("Hi")
        assert collections.abc.Generator in type(stream).__mro__
        assert stream.metadata["attempts"] == 0 and "running" in repr(stream)
        assert server.connections == 0 and threading.enumerate() == before and running(provider) == 0
        first = next(stream)
        assert first.type == "response.created" and server.connections == 1 and running(provider) == 1
        stream.result()
        assert running(provider) == 0
        provider.close()
        wait_for_threads(before)


@pytest.mark.row("A1")
def test_the_request_is_read_when_it_is_first_sent(transport: TransportName) -> None:
    """What the caller did to its history before the first next() is sent; what it does later is not, on a replay either."""
    history = [user("one", "two")]
    metadata = {"a": "1"}

    def meddle(body: Json) -> Iterator[Step]:
        history[0]["content"][0]["text"] = "changed on the way"
        history.append(user("late"))
        metadata["a"] = "changed"
        yield HttpError(500)

    with peer_and(transport, meddle, WHOLE) as (peer, provider):
        stream = provider.stream(history, metadata=metadata)
        history[0]["content"][0]["text"] = "ONE"
        metadata["a"] = "2"
        stream.result()
        first, second = peer.bodies
    assert first["input"] == [user("ONE", "two")] and first["metadata"] == {"a": "2"}
    assert second == first


def test_a_history_that_was_broken_meanwhile_is_refused_when_it_is_read(transport: TransportName) -> None:
    """The check at the call does not save what is read later: it is InvalidRequest, before any network."""
    history = [user("one")]
    with peer_and(transport, WHOLE) as (peer, provider):
        stream = provider.stream(history)
        history.append("two")  # type: ignore[arg-type]
        error = end_of(stream.result)
        assert isinstance(error, InvalidRequest) and "history[1]" in error.message and error.phase == "shape"
        assert not peer.connections


# How it ends.


def test_the_result_is_the_same_one_each_time(transport: TransportName) -> None:
    """After success, however it was consumed; and the generator returns that very object."""
    with peer_and(transport, WHOLE) as (peer, provider):
        stream = provider.stream("Hi")
        result = stream.result()
        assert stream.result() is result and next(stream, None) is None
        other = provider.stream("Hi")
        with pytest.raises(StopIteration) as stop:
            while True:
                next(other)
        assert stop.value.value is other.result() and isinstance(stop.value.value, Result)
        other.close()
        other.cancel()
        assert other.result() is stop.value.value and "stop" in repr(other)
        assert len(peer.bodies) == 2


def test_the_error_is_the_same_one_each_time(transport: TransportName) -> None:
    """After a failure: raised by the iteration, by result() again and again, also after a close."""
    with peer_and(transport, [HttpError(400)]) as (peer, provider):
        stream = provider.stream("Hi")
        error = end_of(lambda: next(stream))
        assert end_of(stream.result) is error and next(stream, None) is None
        stream.close()
        assert end_of(stream.result) is error and error.kind in repr(stream)
        assert len(peer.bodies) == 1


def test_after_an_early_close_the_partial_result_is_there(transport: TransportName) -> None:
    """Leaving the block early ends the call on the server's side; result() is Cancelled with what there was."""
    held = Pause()
    with peer_and(transport, half(held)) as (_, provider):
        with provider.stream("Hi") as stream:
            assert to_first_text(stream).text == "Hel"
        assert held.gone.wait(SOON) and running(provider) == 0
        error = end_of(stream.result)
        assert isinstance(error, Cancelled) and error.partial is not None and error.partial.text == "Hel"
        assert end_of(stream.result) is error and list(stream) == []
        stream.close()


def test_an_exception_of_the_consumer_ends_the_call(transport: TransportName) -> None:
    """It goes through as it is; the server's side ends."""
    held = Pause()
    with peer_and(transport, half(held)) as (_, provider):
        with pytest.raises(KeyError), provider.stream("Hi") as stream:
            for event in stream:
                if event.text:
                    raise KeyError
        assert held.gone.wait(SOON) and isinstance(end_of(stream.result), Cancelled)


@pytest.mark.parametrize("begun", [False, True])
def test_an_exception_can_be_thrown_in(transport: TransportName, begun: bool) -> None:
    """As into any generator; afterwards the stream is over and says so."""
    with peer_and(transport, half(Pause())) as (_, provider):
        stream = provider.stream("Hi")
        if begun:
            to_first_text(stream)
        with pytest.raises(KeyError):
            stream.throw(KeyError("mine"))
        assert isinstance(end_of(stream.result), Cancelled) and next(stream, None) is None and running(provider) == 0


def test_break_after_the_terminal_event_keeps_the_result(transport: TransportName) -> None:
    """A terminal event that was read wins: the result is whole, and a cancel afterwards changes nothing."""
    for leave in (ResponseStream.close, ResponseStream.cancel, lambda stream: None):
        with peer_and(transport, WHOLE) as (peer, provider):
            stream = provider.stream("Hi")
            for event in stream:
                if event.type == "response.completed":
                    break
            leave(stream)
            assert stream.result().text == "Hello" and stream.result().finish_reason == "stop"
            assert running(provider) == 0 and len(peer.bodies) == 1


def test_yield_from_gives_the_result_to_a_generator(transport: TransportName) -> None:
    """So does its return value, through any number of generators."""

    def outer(provider: Provider) -> Generator[Event, None, str]:
        result = yield from inner(provider)
        return result.text

    def inner(provider: Provider) -> Generator[Event, None, Result]:
        return (yield from provider.stream("Hi"))

    with peer_and(transport, WHOLE) as (_, provider):
        generator = outer(provider)
        with pytest.raises(StopIteration) as stop:
            while True:
                next(generator)
        assert stop.value.value == "Hello"


def test_text_stream_yields_only_text(transport: TransportName) -> None:
    """The pieces of the answer, and afterwards the result."""
    with peer_and(transport, WHOLE) as (_, provider), provider.stream("Hi") as stream:
        assert list(stream.text_stream) == ["Hel", "lo"]
        assert stream.result().text == "Hello"
    with peer_and(transport, [HttpError(400)]) as (_, provider):
        stream = provider.stream("Hi")
        assert isinstance(end_of(lambda: list(stream.text_stream)), PixirError)


def test_metadata_is_the_evidence_so_far(transport: TransportName) -> None:
    """It fills as the call runs, and is a copy."""
    with peer_and(transport, half(Pause())) as (_, provider), provider.stream("Hi") as stream:
        assert stream.metadata["active_transport"] is None
        to_first_text(stream)
        found = stream.metadata
        assert found["active_transport"] == transport and found["attempts"] == 1 and found["total_ms"] is None
        found["attempts"] = 7
        assert stream.metadata["attempts"] == 1


# Cancelling and closing.


@pytest.mark.parametrize("how", [ResponseStream.cancel, ResponseStream.close])
def test_ended_before_it_began_it_opens_nothing(transport: TransportName, how: Callable[[ResponseStream], None]) -> None:
    """A cancel or a close before the first next(): Cancelled, and the server sees no connection."""
    with LocalServer() as server, provider_for(server, transport=transport) as provider:
        stream = provider.stream("Hi")
        how(stream)
        error = end_of(lambda: next(stream))
        assert isinstance(error, Cancelled) and error.partial is not None and not error.request_sent
        assert end_of(stream.result) is error and server.connections == 0
        with provider.stream("Hi") as untouched:
            pass
        assert isinstance(end_of(untouched.result), Cancelled) and server.connections == 0


@pytest.mark.parametrize("how", [ResponseStream.cancel, ResponseStream.close])
@pytest.mark.parametrize("text", ["Hel", ""], ids=["between events", "before the first"])
def test_another_thread_ends_a_wait_at_once(transport: TransportName, how: Callable[[ResponseStream], None], text: str) -> None:
    """The consumer is woken with Cancelled and what there is; the provider goes on to serve."""
    seen = threading.Event()
    with peer_and(transport, half(Pause()) if text else [Pause()], WHOLE, timeouts=60) as (peer, provider):
        stream = provider.stream("Hi")

        def end_it() -> None:
            peer.server.requests.wait(1)
            assert not text or seen.wait(5)
            how(stream)

        def consume() -> None:
            for event in stream:
                if event.text:
                    seen.set()

        thread = threading.Thread(target=end_it)
        thread.start()
        error = end_of(consume)
        thread.join()
        assert isinstance(error, Cancelled) and error.partial is not None and error.partial.text == text
        assert end_of(stream.result) is error and len(peer.bodies) == 1, "a cancel is not tried again"
        assert provider.complete("Hi").text == "Hello" and running(provider) == 0


def test_a_close_by_another_thread_between_two_events_is_seen_by_the_consumer(transport: TransportName) -> None:
    """The consumer's loop ends with Cancelled, never quietly as if the answer had ended."""
    held = Pause()
    with peer_and(transport, half(held)) as (_, provider):
        stream = provider.stream("Hi")
        to_first_text(stream)
        closer = threading.Thread(target=stream.close)
        closer.start()
        closer.join(SOON)
        assert isinstance(end_of(lambda: list(stream)), Cancelled) and held.gone.wait(SOON)


def test_a_cancel_ends_the_wait_before_a_retry(transport: TransportName) -> None:
    """The backoff is a wait like any other."""
    slow = RetryPolicy(initial_delay=30, max_delay=30)
    with peer_and(transport, [HttpError(500)], retry=slow) as (peer, provider):
        stream = provider.stream("Hi")

        def cancel() -> None:
            wait_until(lambda: bool(provider.stats()["replays"]), "the retry")
            stream.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        assert isinstance(end_of(stream.result), Cancelled)
        canceller.join()
        assert len(peer.bodies) == 1 and stream.metadata["attempts"] == 1


@pytest.mark.parametrize(("batch", "ended"), [(WHOLE, False), (WHOLE[:-1], True)], ids=["terminal event read", "not yet"])
def test_a_cancel_between_two_events_of_a_batch(batch: list[Json], ended: bool) -> None:
    """It takes effect at the next event, unless the terminal one has arrived with them: that wins."""
    with Provider(transport=FakeTransport([batch, [WHOLE[-1]]]), model="m") as provider:
        stream = provider.stream("Hi")
        to_first_text(stream)
        stream.cancel()
        if ended:
            error = end_of(lambda: next(stream))
            assert isinstance(error, Cancelled) and error.partial is not None and error.partial.text == "Hel"
        else:
            assert stream.result().text == "Hello"


def test_one_token_cancels_many_streams(transport: TransportName) -> None:
    """Those that run, one that waits to begin and one that is made later; not those that were not given it."""
    token, held = CancelToken(), [Pause(), Pause()]
    with peer_and(transport, *map(half, held), WHOLE) as (peer, provider):
        begun = [provider.stream("Hi", cancel=token) for _ in held]
        for stream in begun:
            to_first_text(stream)
        waiting = provider.stream("Hi", cancel=token)
        free = provider.stream("Hi")
        token.cancel()
        later = provider.stream("Hi", cancel=token)
        for stream in (*begun, waiting, later):
            assert isinstance(end_of(stream.result), Cancelled)
        assert all(pause.gone.wait(SOON) for pause in held)
        assert free.result().text == "Hello" and len(peer.bodies) == 3 and running(provider) == 0


def test_a_token_keeps_nothing_of_finished_streams() -> None:
    """One token may serve a whole program: what it holds for a stream goes with the stream's end."""
    token = CancelToken()
    with Provider(transport=FakeTransport([WHOLE]), model="m") as provider:
        for _ in range(3):
            provider.complete("Hi", cancel=token)
    assert not token._wakers


def test_the_first_event_limit_is_a_typed_error(transport: TransportName) -> None:
    """A peer that never answers: FirstEventTimeout with its phase, not tried again."""
    with peer_and(transport, [Pause()]) as (peer, provider):
        error = end_of(lambda: provider.complete("Hi", timeouts=0.15))
        assert isinstance(error, FirstEventTimeout) and isinstance(error, TimeoutError)
        assert (error.phase, error.request_sent, len(peer.bodies)) == ("first_event", True, 1)


@pytest.mark.row("B15")
def test_a_wait_over_a_websocket_is_short_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C just before a wait does not interrupt it: so it takes a second at most, whatever the limits, and comes again."""
    waits: list[float] = []
    held = Pause()

    def recording() -> Any:
        made = select.poll()

        def poll(limit: float) -> Any:
            waits.append(limit)
            return made.poll(min(limit, 5))

        return SimpleNamespace(register=made.register, modify=made.modify, poll=poll)

    monkeypatch.setattr(wire, "select", SimpleNamespace(poll=recording, POLLIN=select.POLLIN, POLLOUT=select.POLLOUT))
    with peer_and("websocket", [*half(held), *WHOLE[5:]], timeouts=600) as (_, provider):
        stream = provider.stream("Hi")
        to_first_text(stream)
        timer = threading.Timer(0.1, held.event.set)
        timer.start()
        assert stream.result().text == "Hello"
        timer.join()
    assert len(waits) > 5 and 0 < max(waits) <= 1000


# One consumer at a time.


@pytest.mark.parametrize("other", [next, ResponseStream.result, list], ids=["next", "result", "for"])
def test_a_second_consumer_is_refused(transport: TransportName, other: Callable[[Any], object]) -> None:
    """While one thread waits in the stream, another gets an error at once; the first one's answer is whole."""
    held = Pause()
    with peer_and(transport, [*half(held), *WHOLE[5:]]) as (_, provider):
        stream = provider.stream("Hi")
        to_first_text(stream)
        first: list[Result] = []
        thread = threading.Thread(target=lambda: first.append(stream.result()))
        thread.start()
        until = time.monotonic() + SOON
        while not stream._events.gi_running:  # type: ignore[attr-defined]
            assert time.monotonic() < until
        with pytest.raises((InvalidRequest, ValueError)) as caught:
            other(stream)
        assert "already executing" in str(caught.value) or "one consumer at a time" in str(caught.value)
        held.event.set()
        thread.join(SOON)
    assert first[0].text == "Hello" and stream.result() is first[0]


def test_two_consumers_by_turns_share_the_events(transport: TransportName) -> None:
    """Handing a stream over from thread to thread is fine: no event is lost or doubled."""
    with peer_and(transport, WHOLE) as (_, provider):
        stream = provider.stream("Hi")
        found: list[Json] = []

        def take_one() -> None:
            found.extend(event.data for event in [next(stream, None)] if event)

        for _ in range(len(WHOLE) + 1):
            thread = threading.Thread(target=take_one)
            thread.start()
            thread.join(SOON)
        assert found == WHOLE and stream.result().text == "Hello"


# Abandoned.


@pytest.mark.parametrize("hold", ["stream", "iterator", "text"])
def test_an_abandoned_stream_ends_with_its_last_reference(transport: TransportName, hold: str) -> None:
    """With the collector off: the call is live no more and the peer sees the connection end."""
    held = Pause()
    with peer_and(transport, half(held)) as (_, provider), no_collector():
        stream: Any = provider.stream("Hi")
        if hold == "text":
            stream = stream.text_stream
        elif hold == "iterator":
            stream = iter(stream)
        for event in stream:
            if hold == "text" or event.text:
                break
        assert running(provider) == 1
        del stream
        if hold != "text":
            del event
        assert running(provider) == 0 and held.gone.wait(SOON)


def test_an_abandoned_stream_ends_after_a_retry_too(transport: TransportName) -> None:
    """What the first attempt raised keeps nothing of the second one alive."""
    held = Pause()
    with peer_and(transport, [HttpError(500)], half(held)) as (peer, provider), no_collector():
        stream = provider.stream("Hi", cancel=CancelToken())
        to_first_text(stream)
        del stream
        assert running(provider) == 0 and held.gone.wait(SOON)


@pytest.mark.parametrize("how", ["new", "running", "finished", "closed", "broken off"])
def test_a_stream_is_part_of_no_reference_cycle(how: str) -> None:
    """It is freed by its last reference, whatever became of it."""
    with Provider(transport=FakeTransport([WHOLE[:5], WHOLE[5:]]), model="m") as provider, no_collector():
        stream = provider.stream("Hi")
        if how == "running":
            to_first_text(stream)
        elif how == "finished":
            list(stream)
        elif how == "closed":
            with stream:
                to_first_text(stream)
        elif how == "broken off":
            for event in stream:
                if isinstance(event, TextDelta):
                    break
        watched: list[weakref.ref[Any]] = [weakref.ref(stream), weakref.ref(stream._events), weakref.ref(stream._turn)]
        del stream
        assert [ref() for ref in watched] == [None] * 3 and running(provider) == 0


def test_a_provider_is_freed_with_its_last_reference(transport: TransportName) -> None:
    """Neither a stream nor a hook of ours keeps it, and nothing of a used one is left."""
    with LocalServer() as server, no_collector():
        provider = provider_for(server, transport=transport)
        stream = provider.stream("Hi")
        stream.result()
        watched = weakref.ref(provider)
        provider.close()
        del provider
        assert watched() is None and stream.result().text == "Heard: Hi (context: 1)"


def test_a_stream_outlives_its_provider(transport: TransportName) -> None:
    """A stream of a provider that nobody holds goes on: only close() ends it."""
    with Peer(transport, WHOLE) as peer:
        stream = peer.provider().stream("Hi")
        gc.collect()
        assert stream.result().text == "Hello"


def test_closing_the_provider_ends_its_streams_alone(transport: TransportName) -> None:
    """Another provider's are not touched; each of its own ends in ProviderClosed."""
    held = [Pause() for _ in range(3)]
    with Peer(transport, *map(half, held)) as peer:
        one, other = peer.provider(), peer.provider()
        streams = [one.stream("Hi"), one.stream("Hi"), other.stream("Hi")]
        for stream in streams:
            to_first_text(stream)
        one.close()
        for stream in streams[:2]:
            assert isinstance(end_of(partial(list, stream)), ProviderClosed)
        assert not streams[2].metadata["total_ms"] and running(other) == 1
        streams[2].close()
        other.close()
        assert all(pause.gone.wait(SOON) for pause in held)


def test_a_lost_connection_is_an_error_with_what_there_was(transport: TransportName) -> None:
    """Never a quiet end."""
    with peer_and(transport, [*WHOLE[:5], Close()]) as (_, provider):
        stream = provider.stream("Hi")
        texts: list[str] = []
        with pytest.raises(ConnectionLost) as caught:
            texts.extend(stream.text_stream)
        assert caught.value.partial is not None and caught.value.partial.text == "Hel"
