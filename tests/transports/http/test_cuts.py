"""A connection that ends too soon is ConnectionLost, with what came so far (row C6)."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pixir_sync import ConnectionLost, InvalidResponse
from tests.support import events as ev
from tests.support.peer import Conn
from tests.transports.http.helpers import Wire, answers, begin, quick, took


def in_a_chunk(conn: Conn) -> None:
    begin(conn, "half")
    conn.send(b"400\r\ndata: {")
    conn.cut()


def in_a_chunk_size(conn: Conn) -> None:
    begin(conn, "half")
    conn.send(b"4")
    conn.cut()


def between_chunks(conn: Conn) -> None:
    begin(conn, "half")
    conn.cut()


def orderly(conn: Conn) -> None:
    begin(conn, "half")
    conn.close()


def at_the_end_of_the_body(conn: Conn) -> None:
    begin(conn, "half")
    conn.finish()


def close_delimited(conn: Conn) -> None:
    begin(conn, "half", chunked=False)
    conn.finish()


def close_delimited_cut(conn: Conn) -> None:
    begin(conn, "half", chunked=False)
    conn.write(b'data: {"type": "response.completed"')
    conn.cut()


def too_short(conn: Conn) -> None:
    conn.read_request()
    conn.start_sse(chunked=False, headers={"content-length": "100000"})
    for event in ev.text_response("half")[:5]:
        conn.sse(event)
    conn.cut()


def compressed(conn: Conn) -> None:
    conn.read_request()
    conn.start_sse(gzip=True)
    for event in ev.text_response("half")[:5]:
        conn.sse(event)
    conn.cut()


CUTS = [in_a_chunk, in_a_chunk_size, between_chunks, orderly, at_the_end_of_the_body, close_delimited, close_delimited_cut,
        too_short, compressed]  # fmt: skip


@pytest.mark.row("C6", "A20")
@pytest.mark.parametrize("cut", CUTS, ids=[f.__name__ for f in CUTS])
def test_cut_after_output(wire: Wire, cut: Callable[[Conn], None]) -> None:
    """However the body ends early, the text so far is in the error, and nothing is sent again."""
    with wire.peer([cut]) as peer, wire.provider(peer.base_url) as provider:
        with took(0, 2), pytest.raises(ConnectionLost) as caught:
            provider.complete("x")
        assert provider.stats()["replays"] == {}
    error = caught.value
    assert (error.phase, error.request_sent, error.output_seen, error.response_id) == ("stream", True, True, "resp_1")
    assert error.partial is not None
    assert (error.partial.text, error.partial.finish_reason) == ("half", None)
    assert error.partial.provider_metadata["attempts"] == 1


@pytest.mark.row("C6", "A20")
def test_reset_after_output(wire: Wire) -> None:
    """A reset may take bytes with it that were not read yet; what was read is in the error."""

    def script(conn: Conn) -> None:
        begin(conn, "half")
        conn.hold(seen)
        conn.reset()

    seen = threading.Event()
    with wire.peer([script]) as peer, wire.provider(peer.base_url) as provider:
        stream = provider.stream("x")
        while not next(stream).text:
            pass
        seen.set()
        with took(0, 2), pytest.raises(ConnectionLost) as caught:
            stream.result()
    assert caught.value.partial is not None and caught.value.partial.text == "half"
    assert (caught.value.output_seen, caught.value.phase) == (True, "stream")


def nothing(conn: Conn) -> None:
    conn.read_request()
    conn.cut()


def half_a_head(conn: Conn) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
    conn.cut()


def head(conn: Conn) -> None:
    conn.read_request()
    conn.start_sse()
    conn.cut()


def empty_body(conn: Conn) -> None:
    conn.read_request()
    conn.start_sse()
    conn.finish()


def created(conn: Conn) -> None:
    conn.read_request()
    conn.start_sse()
    conn.sse(ev.created())
    conn.cut()


def reset(conn: Conn) -> None:
    conn.read_request()
    conn.reset()


EARLY: dict[Callable[[Conn], None], str] = {
    nothing: "first_event",
    half_a_head: "first_event",
    head: "first_event",
    empty_body: "first_event",
    created: "stream",
    reset: "first_event",
}


@pytest.mark.row("C6", "A20")
@pytest.mark.parametrize("cut", EARLY, ids=[f.__name__ for f in EARLY])
@pytest.mark.parametrize("retries", [0, 1])
def test_cut_before_output(wire: Wire, cut: Callable[[Conn], None], retries: int) -> None:
    """Before any output the retry policy decides; the error says how far the call had come."""
    with wire.peer([cut, answers]) as peer, wire.provider(peer.base_url, retry=quick(retries)) as provider:
        if retries:
            assert provider.complete("x").text == "hi"
            assert provider.stats()["replays"] == {"connection_lost": 1}
        else:
            with took(0, 2), pytest.raises(ConnectionLost) as caught:
                provider.complete("x")
            error = caught.value
            assert (error.phase, error.request_sent, error.output_seen) == (EARLY[cut], True, False)
            assert error.partial is not None and error.partial.text == ""
            assert error.response_id == ("resp_1" if cut is created else None)
    assert len(peer.connections) == 1 + retries


@pytest.mark.row("C6")
@pytest.mark.parametrize(("replay", "sent"), [("never", 1), ("before_created", 1), ("before_output", 2)])
def test_replay_after_created_obeys_the_policy(plain: Wire, replay: str, sent: int) -> None:
    """A response that has begun is asked for again only with replay="before_output"."""
    with plain.peer([created, answers]) as peer, plain.provider(peer.base_url, retry=quick(replay=replay)) as provider:
        stream = provider.stream("x")
        if sent == 2:
            assert stream.result().text == "hi"
        else:
            with pytest.raises(ConnectionLost):
                stream.result()
    assert len(peer.requests) == sent


@pytest.mark.row("C6")
@pytest.mark.parametrize("replay", ["never", "before_created"])
def test_replay_before_created_obeys_the_policy(plain: Wire, replay: str) -> None:
    """Before the response has begun, only replay="never" forbids another attempt."""
    with plain.peer([nothing, answers]) as peer, plain.provider(peer.base_url, retry=quick(replay=replay)) as provider:
        stream = provider.stream("x")
        if replay == "never":
            with pytest.raises(ConnectionLost):
                stream.result()
        else:
            assert stream.result().text == "hi"
    assert len(peer.requests) == 1 + (replay != "never")


@pytest.mark.row("C6")
def test_a_body_that_is_not_what_its_coding_says(wire: Wire) -> None:
    """A body that is no gzip though its header says so is InvalidResponse, not a lost connection."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse(headers={"content-encoding": "gzip"})
        conn.send_chunked(b"data: this is no gzip\n\n")
        conn.finish()

    with (
        wire.peer([script]) as peer,
        wire.provider(peer.base_url) as provider,
        pytest.raises(InvalidResponse),
    ):
        provider.complete("x")
    assert len(peer.requests) == 1
