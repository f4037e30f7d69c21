"""Every wait has its limit, and what ran out is named; what a peer drips does not stretch it (row C6)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, repeat

import pytest

from pixir_sync import (
    ConnectTimeout,
    DeadlineExceeded,
    FirstEventTimeout,
    IdleTimeout,
    Overloaded,
    ProviderError,
    Timeouts,
    TotalTimeout,
    WriteTimeout,
)
from tests.support import events as ev
from tests.support.peer import Conn, Script
from tests.transports.http.helpers import (
    Wire,
    begin,
    drip,
    full_backlog,
    linux,
    mute_listener,
    nothing_left,
    pause,
    refuse,
    took,
)

SLACK = 1.5  # seconds that a loaded machine may take on top of a limit

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
KEEPALIVE = b'event: keepalive\ndata: {"type":"keepalive"}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def silent(conn: Conn) -> None:
    conn.read_request()
    conn.wait_closed()


def head_only(conn: Conn) -> None:
    conn.read_request()
    conn.start_sse()
    conn.wait_closed()


def drips(pieces: Callable[[], Iterable[bytes]], wait: float = 0.02) -> Script:
    def script(conn: Conn) -> None:
        conn.read_request()
        drip(conn, pieces(), wait)

    return script


def chunks(make: Callable[[], Iterable[bytes]], wait: float = 0.05) -> Script:
    """A script that begins an event stream and drips these chunks."""
    return drips(lambda: chain([HEAD + b"\r\n"], map(chunk, make())), wait)


def bytes_of(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


FIRST = {
    "silence": silent,
    "head, then silence": head_only,
    "head in single bytes": drips(lambda: bytes_of(HEAD + b"x-long: " + 4000 * b"y" + b"\r\n\r\n")),
    "endless 100s": drips(lambda: repeat(b"HTTP/1.1 100 Continue\r\n\r\n")),
    "comments": chunks(lambda: repeat(b": still here\n\n")),
    "keepalive events": chunks(lambda: repeat(KEEPALIVE)),
    "malformed events": chunks(lambda: repeat(b"data: ?\n\n")),
    "an event in single bytes": chunks(lambda: bytes_of(b"data: {" + 4000 * b" "), 0.02),
    "a chunk size in single bytes": drips(lambda: chain([HEAD + b"\r\n"], bytes_of(4000 * b"0"))),
}


@pytest.mark.row("C6")
@pytest.mark.parametrize("name", FIRST)
def test_no_first_event_in_time(wire: Wire, name: str) -> None:
    """Neither silence nor anything that is no event stretches the wait for the first one; it is not tried again."""
    with (
        wire.peer(FIRST[name]) as peer,
        wire.provider(peer.base_url, timeouts=Timeouts(first_event=0.25, idle=30)) as provider,
        took(0.24, 0.25 + SLACK),
        pytest.raises(FirstEventTimeout) as caught,
    ):
        provider.complete("x")
    error = caught.value
    assert (error.phase, error.request_sent, error.output_seen) == ("first_event", True, False)
    assert error.partial is not None and error.partial.text == ""
    assert isinstance(error, TimeoutError)
    assert len(peer.requests) == 1


@pytest.mark.row("C6")
def test_the_idle_limit_holds_for_the_first_event_too(wire: Wire) -> None:
    """Without a limit of its own the first event has the idle limit."""
    with (
        wire.peer(silent) as peer,
        wire.provider(peer.base_url, timeouts=0.2) as provider,
        took(0.19, 0.2 + SLACK),
        pytest.raises(FirstEventTimeout),
    ):
        provider.complete("x")


IDLE: dict[str, Callable[[], Iterable[bytes]]] = {
    "silence": tuple,
    "comments": lambda: repeat(b":\n\n"),
    "keepalive events": lambda: repeat(KEEPALIVE),
    "half an event": lambda: bytes_of(b'data: {"type": "' + 4000 * b"x"),
}


@pytest.mark.row("C6")
@pytest.mark.parametrize("name", IDLE)
def test_no_further_event_in_time(wire: Wire, name: str) -> None:
    """Silence after events, comments and keepalive events end in IdleTimeout, with the text so far; nothing is replayed."""

    def script(conn: Conn) -> None:
        begin(conn, "half")
        drip(conn, map(chunk, IDLE[name]()), 0.05)
        conn.wait_closed()

    with (
        wire.peer(script) as peer,
        wire.provider(peer.base_url, timeouts=Timeouts(first_event=30, idle=0.25)) as provider,
        took(0.24, 0.25 + SLACK),
        pytest.raises(IdleTimeout) as caught,
    ):
        provider.complete("x")
    error = caught.value
    assert (error.phase, error.output_seen, error.response_id) == ("stream", True, "resp_1")
    assert error.partial is not None and error.partial.text == "half"
    assert len(peer.requests) == 1


@pytest.mark.row("C6")
def test_events_in_time_may_go_on_for_longer_than_the_limit(plain: Wire) -> None:
    """The idle limit is for the time between events: a stream may last longer than it."""
    sent = ev.text_response(*"abcdefgh")

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        for event in sent:
            conn.sse(event)
            pause(0.08)
        conn.finish()

    with plain.peer(script) as peer, plain.provider(peer.base_url, timeouts=1.0) as provider, took(1.0, 10):
        assert provider.complete("x").text == "abcdefgh"


@pytest.mark.row("C6")
def test_the_consumers_own_time_does_not_count(wire: Wire) -> None:
    """A consumer may be away for longer than the idle limit; the next event has the whole limit again."""
    resumed = threading.Event()

    def script(conn: Conn) -> None:
        begin(conn, "a")
        conn.hold(resumed)
        pause(0.1)
        for event in ev.text_response("a")[5:]:
            conn.sse(event)
        conn.finish()

    with wire.peer(script) as peer, wire.provider(peer.base_url, timeouts=0.5) as provider:
        stream = provider.stream("x")
        for event in stream:
            if event.text:
                pause(0.28)
                pause(0.28)
                resumed.set()
        assert stream.result().text == "a"


@pytest.mark.row("C6")
@pytest.mark.parametrize("after", ["request", "events", "drip"])
def test_the_total_limit_is_wall_clock(wire: Wire, after: str) -> None:
    """The limit for the whole call holds in every phase, also while events keep coming."""

    def script(conn: Conn) -> None:
        if after == "request":
            return silent(conn)
        begin(conn, "half")
        if after == "drip":
            event = chunk(b'data: {"type":"response.output_text.delta","delta":".","item_id":"msg_1"}\n\n')
            drip(conn, repeat(event))
        conn.wait_closed()

    with (
        wire.peer(script) as peer,
        wire.provider(peer.base_url, timeouts={"total": 0.25}) as provider,
        took(0.24, 0.25 + SLACK),
        pytest.raises(TotalTimeout) as caught,
    ):
        provider.complete("x")
    assert caught.value.request_sent is True
    assert caught.value.partial is not None and caught.value.partial.text.startswith("" if after == "request" else "half")
    assert len(peer.requests) == 1


@pytest.mark.row("C6")
def test_the_total_limit_holds_over_attempts(plain: Wire) -> None:
    """Retries do not start the clock anew."""

    def script(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.respond(503, "", {"retry-after-ms": "60"})

    with (
        plain.peer(script) as peer,
        plain.provider(peer.base_url, retry=1000, timeouts={"total": 0.6}) as provider,
        took(0, 0.6 + SLACK),
        pytest.raises((TotalTimeout, Overloaded)),
    ):
        provider.complete("x")
    assert 2 <= len(peer.requests) <= 10


@linux
@pytest.mark.row("C6")
def test_no_connection_in_time(wire: Wire) -> None:
    """A host that drops what wants to connect gives ConnectTimeout; nothing was sent, nothing is left behind."""
    with (
        full_backlog() as port,
        wire.provider(wire.url(port), retry=0, timeouts={"connect": 0.2}) as provider,
        nothing_left(),
        took(0.19, 0.2 + SLACK),
        pytest.raises(ConnectTimeout) as caught,
    ):
        provider.complete("x")
    assert (caught.value.phase, caught.value.request_sent) == ("connect", False)


@linux
@pytest.mark.row("C6")
def test_a_connection_that_times_out_is_tried_again(plain: Wire) -> None:
    """ConnectTimeout counts as a retry: nothing was sent yet."""
    with full_backlog() as port, plain.provider(plain.url(port), retry=1, timeouts={"connect": 0.1}) as provider:
        with pytest.raises(ConnectTimeout):
            provider.complete("x")
        assert provider.stats()["replays"] == {"connect_timeout": 1}


@linux
@pytest.mark.row("C6")
def test_no_handshake_in_time(tls: Wire) -> None:
    """A peer that accepts and never speaks TLS gives ConnectTimeout."""
    with (
        mute_listener() as port,
        tls.provider(tls.url(port), retry=0, timeouts={"connect": 0.2}) as provider,
        nothing_left(),
        took(0.19, 0.2 + SLACK),
        pytest.raises(ConnectTimeout) as caught,
    ):
        provider.complete("x")
    assert (caught.value.phase, caught.value.request_sent) == ("connect", False)


@pytest.mark.row("C6")
def test_a_handshake_in_single_bytes_has_no_more_time(tls: Wire) -> None:
    """The connect limit is one for the whole handshake, not one for each byte of it."""

    def trickle() -> None:
        with suppress(OSError):
            sock, _ = listener.accept()
            with sock:
                # The head of a TLS record of 16 KB, then its content, byte by byte.
                for piece in chain([b"\x16\x03\x03\x40\x00"], repeat(b"\x02")):
                    sock.send(piece)
                    over.wait(0.02)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        with (
            tls.provider(tls.url(listener.getsockname()[1]), retry=0, timeouts={"connect": 0.2}) as provider,
            took(0.19, 0.2 + SLACK),
            pytest.raises(ConnectTimeout),
        ):
            provider.complete("x")
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.row("C6")
def test_the_total_limit_holds_while_connecting(tls: Wire) -> None:
    """Where the whole call's limit is the shorter one, that is what ran out."""
    with (
        mute_listener() as port,
        tls.provider(tls.url(port), retry=0, timeouts={"total": 0.2}) as provider,
        took(0.19, 0.2 + SLACK),
        pytest.raises(TotalTimeout),
    ):
        provider.complete("x")


@pytest.mark.row("C6")
@pytest.mark.parametrize("limit", ["write", "total"])
def test_a_peer_that_does_not_read(wire: Wire, limit: str) -> None:
    """A server that takes no byte of a large body for too long gives WriteTimeout; it is not tried again."""
    over = threading.Event()

    def script(conn: Conn) -> None:
        conn.hold(over, 20)

    limits = {"write": 0.25} if limit == "write" else {"total": 1.2}  # the whole call's includes making the body
    with wire.peer(script) as peer, wire.provider(peer.base_url, timeouts=limits) as provider:
        with took(0.2, 10), pytest.raises(DeadlineExceeded) as caught:
            provider.complete("x" * 50_000_000 if limit == "write" else "x" * 20_000_000)
        over.set()
    assert type(caught.value) is (WriteTimeout if limit == "write" else TotalTimeout)
    assert (caught.value.phase, caught.value.request_sent) == ("send", True)
    assert len(peer.connections) == 1


@pytest.mark.row("C6")
def test_a_slow_reader_is_no_dead_one(plain: Wire) -> None:
    """A body may take longer than the write limit, as long as bytes are taken."""

    def patient(conn: Conn) -> None:
        conn.sock.settimeout(5)
        head = b""
        while b"\r\n\r\n" not in head:
            head += conn.sock.recv(1)
        left = size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while left:
            left -= len(conn.sock.recv(min(left, size // 16), socket.MSG_WAITALL))
            pause(0.08)
        conn.start_sse()
        for event in ev.text_response("hi"):
            conn.sse(event)
        conn.finish()

    with plain.peer(patient) as peer, plain.provider(peer.base_url, timeouts={"write": 0.6}) as provider, took(1.2, 20):
        assert provider.complete("x" * 16_000_000).text == "hi"


@pytest.mark.row("C6")
def test_a_limit_per_call_wins(plain: Wire) -> None:
    """The call's own limits go over the provider's."""
    with (
        plain.peer(silent) as peer,
        plain.provider(peer.base_url, timeouts=30) as provider,
        took(0.14, 0.15 + SLACK),
        pytest.raises(FirstEventTimeout),
    ):
        provider.complete("x", timeouts={"first_event": 0.15})


def test_a_refused_call_leaves_the_limits_of_the_next_alone(wire: Wire) -> None:
    """The short wait for the end of a refusal's body does not stay with the connection."""

    with wire.peer([refuse(400)]) as peer, wire.provider(peer.base_url) as provider:
        with pytest.raises(ProviderError, match="400"):
            provider.complete("x")
        assert provider.complete("x").text == "hi"
    assert len(peer.connections) == 1
