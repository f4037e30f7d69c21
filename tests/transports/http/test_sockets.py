"""When a TCP connection is used again, and when it is gone at once (row C5)."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import urllib3

from pixir_sync import ConnectionLost, IdleTimeout, InvalidResponse, PixirError, Provider, ProviderError
from tests.support import events as ev
from tests.support.peer import Conn
from tests.transports.http.helpers import (
    DEADLINE,
    Wire,
    answer,
    answers,
    begin,
    in_thread,
    linux,
    nothing_left,
    pause,
    refuse,
    took,
)


@pytest.mark.row("C5")
def test_five_calls_share_one_connection(wire: Wire) -> None:
    """Call after call goes over the connection that the first one opened."""
    with wire.peer(answers) as peer, wire.provider(peer.base_url) as provider:
        results = [provider.complete("x") for _ in range(5)]
        assert len(peer.connections) == 1
        connections = provider.stats()["connections"]
    reused = [r.provider_metadata["connection_reused"] for r in results]
    assert reused == [False, True, True, True, True]
    assert results[0].provider_metadata["connect_ms"] > 0
    assert (connections["opened"], connections["reused"], connections["live"]) == (1, 4, 0)


@pytest.mark.row("C5")
@pytest.mark.parametrize("late", ["end", "trailers", "done", "comment"])
def test_a_late_end_of_the_body_is_waited_for(wire: Wire, late: str) -> None:
    """What follows the terminal event within a quarter of a second does not cost the connection."""

    def script(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.start_sse()
            for event in ev.text_response("hi"):
                conn.sse(event)
            pause(0.1)
            if late == "trailers":
                conn.send(b"0\r\nx-checksum: 1\r\n\r\n")
                continue
            conn.write({"end": b"", "done": b"data: [DONE]\n\n", "comment": b": bye\n\n"}[late])
            conn.finish()

    with wire.peer(script) as peer, wire.provider(peer.base_url) as provider:
        for _ in range(3):
            assert provider.complete("x").text == "hi"
        assert len(peer.connections) == 1


@pytest.mark.row("C5")
@pytest.mark.parametrize("drips", [False, True], ids=["silent", "dripping"])
def test_a_body_that_never_ends_is_left_soon(wire: Wire, drips: bool) -> None:
    """After the terminal event the result comes within about a quarter of a second, and that connection is closed."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        for event in ev.text_response("hi"):
            conn.sse(event)
        with suppress(OSError):
            while drips:
                conn.write(b": more\n\n")
                pause(0.02)
        conn.wait_closed(1)

    with wire.peer([script, answers]) as peer, wire.provider(peer.base_url, timeouts=30) as provider:
        with took(0.2, 1.5):
            assert provider.complete("x").text == "hi"
        assert provider.complete("x").provider_metadata["connection_reused"] is False
        assert len(peer.connections) == 2


@pytest.mark.row("C5")
def test_the_terminal_event_is_not_held_back_by_the_end_of_the_body(wire: Wire) -> None:
    """The terminal event is handed out before anybody waits for the end of the body."""
    seen = threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        for event in ev.text_response("hi"):
            conn.sse(event)
        conn.hold(seen)
        conn.finish()
        answers(conn)

    with wire.peer([script]) as peer, wire.provider(peer.base_url) as provider:
        for event in provider.stream("x"):
            if event.type == "response.completed":
                seen.set()
        provider.complete("x")
        assert len(peer.connections) == 1


@pytest.mark.row("C5")
def test_a_refusal_keeps_the_connection(wire: Wire) -> None:
    """A refusal whose body was read to its end does not cost the connection."""
    with wire.peer([refuse(400, {"error": {"message": "no"}})]) as peer, wire.provider(peer.base_url) as provider:
        with pytest.raises(ProviderError):
            provider.complete("x")
        assert provider.complete("x").provider_metadata["connection_reused"] is True


def _break(provider: Provider) -> None:
    for event in provider.stream("x"):
        if event.text:
            break


def _close(provider: Provider) -> None:
    stream = provider.stream("x")
    while not next(stream).text:
        pass
    stream.close()
    with pytest.raises(PixirError) as caught:
        stream.result()
    assert caught.value.kind == "cancelled" and caught.value.partial is not None
    assert caught.value.partial.text == "half"


def _leave_with(provider: Provider) -> None:
    with provider.stream("x") as stream:
        while not next(stream).text:
            pass


def _forget(provider: Provider) -> None:
    stream = provider.stream("x")
    while not next(stream).text:
        pass
    del stream


def _raise(provider: Provider) -> None:
    with suppress(LookupError), provider.stream("x") as stream:
        for event in stream:
            if event.text:
                raise LookupError


def _throw(provider: Provider) -> None:
    stream = provider.stream("x")
    while not next(stream).text:
        pass
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


LEAVE = [_break, _close, _leave_with, _forget, _raise, _throw]


@pytest.mark.row("C5")
@pytest.mark.parametrize("leave", LEAVE, ids=[f.__name__.strip("_") for f in LEAVE])
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "close-delimited"])
def test_an_abandoned_stream_ends_on_the_wire(wire: Wire, leave: Callable[[Provider], None], chunked: bool) -> None:
    """The server sees the end at once, with the garbage collector off; the next call has a connection of its own."""
    gone = threading.Event()

    def script(conn: Conn) -> None:
        begin(conn, "half", chunked=chunked)
        conn.wait_closed()
        gone.set()

    with wire.peer([script, answers]) as peer, wire.provider(peer.base_url, timeouts=30) as provider, no_collector():
        leave(provider)
        assert gone.wait(1), "the server still holds the connection"
        assert provider.complete("x").text == "hi"
        assert provider.stats()["connections"]["live"] == 0


@pytest.mark.row("C5")
@pytest.mark.parametrize("how", ["forget", "close"])
def test_leaving_at_the_terminal_event_ends_the_connection(wire: Wire, how: str) -> None:
    """Who stops at the terminal event has the result; a connection whose body was not read to its end is closed at once."""
    gone = threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        for event in ev.text_response("hi"):
            conn.sse(event)
        conn.wait_closed()
        gone.set()

    with wire.peer([script, answers]) as peer, wire.provider(peer.base_url) as provider, no_collector():
        stream = provider.stream("x")
        while next(stream).type != "response.completed":
            pass
        held = stream if how == "close" else None
        if held is not None:
            held.close()
        del stream
        assert gone.wait(1)
        assert held is None or held.result().text == "hi"
        assert provider.complete("x").text == "hi"


@pytest.mark.row("C5")
def test_a_connection_that_the_server_closed_is_replaced_unseen(wire: Wire) -> None:
    """A kept connection that the server has closed meanwhile is replaced before anything is sent."""
    closed = threading.Event()

    def once(conn: Conn) -> None:
        answer(conn)
        conn.close()
        closed.set()

    with wire.peer([once, answers]) as peer, wire.provider(peer.base_url, retry=0) as provider:
        provider.complete("x")
        assert closed.wait(DEADLINE)
        again = provider.complete("x")
        assert provider.stats()["replays"] == {}
    assert again.provider_metadata["attempts"] == 1
    assert (again.provider_metadata["connection_reused"], len(peer.requests)) == (False, 2)


def _reset(conn: Conn) -> None:
    conn.reset()


def _cut(conn: Conn) -> None:
    conn.cut()


def _head_then_cut(conn: Conn) -> None:
    conn.start_sse()
    conn.cut()


@pytest.mark.row("C5", "C6")
@pytest.mark.parametrize("lose", [_reset, _cut, _head_then_cut])
def test_lost_on_a_reused_connection_is_replayed_free(wire: Wire, lose: Callable[[Conn], None]) -> None:
    """A reused connection that dies after the request, before any event, is replaced once, also where retries are off."""

    def script(conn: Conn) -> None:
        answer(conn)
        conn.read_request()
        lose(conn)

    with wire.peer([script, answers]) as peer, wire.provider(peer.base_url, retry=0) as provider:
        provider.complete("x")
        with took(0, 2):
            again = provider.complete("y")
        assert provider.stats()["replays"] == {"reused_connection_lost": 1}
    assert (again.text, again.provider_metadata["attempts"]) == ("hi", 2)
    assert again.provider_metadata["connection_reused"] is False
    assert peer.requests[1].body == peer.requests[2].body


@pytest.mark.row("C5", "C6")
def test_lost_twice_is_an_error(wire: Wire) -> None:
    """The free replay happens once: a fresh connection that dies too is an error where retries are off."""

    def script(conn: Conn) -> None:
        answer(conn)
        conn.read_request()
        conn.reset()

    def lost(conn: Conn) -> None:
        conn.read_request()
        conn.reset()

    with wire.peer([script, lost]) as peer, wire.provider(peer.base_url, retry=0) as provider:
        provider.complete("x")
        with pytest.raises(ConnectionLost):
            provider.complete("y")
    assert len(peer.requests) == 3


@pytest.mark.row("C5")
def test_threads_have_connections_of_their_own(wire: Wire) -> None:
    """Streams that run at once do not share a connection; afterwards all of them are kept."""
    together = threading.Barrier(8)

    def script(conn: Conn) -> None:
        while True:
            conn.read_request()
            together.wait(DEADLINE)
            conn.start_sse()
            for event in ev.text_response("hi"):
                conn.sse(event)
            conn.finish()

    with wire.peer(script) as peer, wire.provider(peer.base_url) as provider:
        for _ in range(2):
            calls = [in_thread(lambda: provider.complete("x").text) for _ in range(8)]
            assert [call.result(DEADLINE) for call in calls] == ["hi"] * 8
        assert len(peer.connections) == 8


@pytest.mark.row("C5")
def test_a_late_cancel_does_not_reach_the_next_call(wire: Wire) -> None:
    """Cancelling a call that has ended leaves the connection, which another call may use, alone."""
    half, go_on = threading.Event(), threading.Event()

    def script(conn: Conn) -> None:
        answer(conn)
        begin(conn, "a")
        conn.hold(go_on)
        for event in ev.text_response("a")[5:]:
            conn.sse(event)
        conn.finish()

    with wire.peer([script]) as peer, wire.provider(peer.base_url, retry=0) as provider:
        first = provider.stream("x")
        first.result()
        second = provider.stream("y")
        while not next(second).text:
            pass
        half.set()
        first.cancel()
        go_on.set()
        assert second.result().text == "a"
        assert first.result().text == "hi"
    assert len(peer.connections) == 1


@pytest.mark.row("C5")
def test_a_cancel_while_the_connection_goes_back_leaves_it_alone(plain: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment a connection is free for others, a cancel of the call that had it does not touch it."""
    put_back = urllib3.HTTPConnectionPool._put_conn

    def put_back_and_cancel(pool: Any, conn: Any) -> None:
        put_back(pool, conn)
        stream.cancel()

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "_put_conn", put_back_and_cancel)
    with plain.peer(answers) as peer, plain.provider(peer.base_url, retry=0) as provider:
        for _ in range(2):
            stream = provider.stream("x")
            assert stream.result().text == "hi"
        assert len(peer.connections) == 1


@pytest.mark.row("C5")
@pytest.mark.parametrize("leave", ["cancel", "close"])
def test_a_body_that_is_all_there_frees_its_connection(wire: Wire, leave: str) -> None:
    """A connection whose body was read to its end may serve another call; leaving the first call does not end that one."""
    go_on = threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        raw = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in ev.text_response("hi"))
        conn.respond(200, raw, {"content-type": "text/event-stream"})
        begin(conn, "a")
        conn.hold(go_on)
        for event in ev.text_response("a")[5:]:
            conn.sse(event)
        conn.finish()

    with wire.peer([script]) as peer, wire.provider(peer.base_url, retry=0) as provider:
        first, second = provider.stream("x"), provider.stream("y")
        next(first)
        while not next(second).text:
            pass
        getattr(first, leave)()
        go_on.set()
        assert second.result().text == "a"
    assert len(peer.connections) == 1


@linux
@pytest.mark.row("C5")
def test_nothing_is_left_of_a_provider(wire: Wire) -> None:
    """After close there is no thread and no open file more than before, whatever became of its calls."""

    def lose(conn: Conn) -> None:
        begin(conn, "half")
        conn.cut()

    def stall(conn: Conn) -> None:
        begin(conn, "half")
        conn.wait_closed()

    def talk(conn: Conn) -> None:
        conn.read_request()
        conn.respond(200, {"a": 1})
        conn.wait_closed()

    scripts = {refuse(400): ProviderError, lose: ConnectionLost, stall: IdleTimeout, talk: InvalidResponse}
    for script, kind in scripts.items():
        with (
            nothing_left(),
            no_collector(),
            wire.peer(script) as peer,
            wire.provider(peer.base_url, retry=0, timeouts={"idle": 0.1}) as provider,
            pytest.raises(kind),
        ):
            provider.complete("x")
    with nothing_left(), no_collector(), wire.peer([answers, stall]) as peer, wire.provider(peer.base_url) as provider:
        provider.complete("x")
        held = provider.stream("y")
        in_thread(provider.close).result(DEADLINE)
        with pytest.raises(PixirError):
            held.result()
