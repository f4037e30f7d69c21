"""Events over HTTP as they arrive: any transfer coding, any chunks, every end (rows C1 to C3, A20)."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pixir_sync import (
    ConnectionLost,
    InvalidResponse,
    Overloaded,
    PixirError,
    RateLimited,
    ResponseCancelled,
    ResponseFailed,
    TextDelta,
    assistant,
    user,
)
from tests.support import events as ev
from tests.support.peer import Conn
from tests.transports.http.helpers import DATA, DEADLINE, Json, Wire, answers, begin, quick, request_body

FILES = sorted(DATA.glob("*.sse"))


def events_of(raw: bytes) -> list[Json]:
    """The events of a recorded body, read in the plainest way there is."""
    lines = raw.decode().replace("\r\n", "\n").split("\n")
    found = (line.removeprefix("data:").strip() for line in lines if line.startswith("data:"))
    return [json.loads(text) for text in found if text != "[DONE]"]


def text_of(recorded: list[Json]) -> str:
    return "".join(e["delta"] for e in recorded if e["type"] == "response.output_text.delta")


@pytest.mark.row("C1", "A1")
def test_the_whole_input_is_sent_every_time(wire: Wire) -> None:
    """Each turn sends the full input; the id of an earlier response never goes along by itself."""
    with wire.peer(answers) as peer, wire.provider(peer.base_url) as provider:
        first = provider.complete("one", session="s")
        history: list[Any] = [user("one"), *first.output_items, user("two")]
        provider.complete(history, session="s")
        history += [assistant("hi"), user("three")]
        last = provider.complete(history, session="s")
    bodies = [request_body(r) for r in peer.requests]
    assert [len(b["input"]) for b in bodies] == [1, 3, 5]
    assert not any("previous_response_id" in b for b in bodies)
    assert all(b["stream"] is True and b["store"] is False and "type" not in b for b in bodies)
    assert last.provider_metadata["input_items_sent"] == last.provider_metadata["input_items_total"] == 5
    assert last.provider_metadata["used_previous_response_id"] is False


@pytest.mark.row("C1")
def test_an_id_of_the_callers_own_is_sent_as_it_is(plain: Wire) -> None:
    """A caller that owns the context keeps it: its previous_response_id goes out unchanged."""
    with plain.peer(answers) as peer, plain.provider(peer.base_url) as provider:
        provider.complete("more", previous_response_id="resp_mine", store=True)
    assert request_body(peer.requests[0])["previous_response_id"] == "resp_mine"


@pytest.mark.row("C2")
@pytest.mark.parametrize("gzip", [False, True], ids=["identity", "gzip"])
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "close-delimited"])
def test_events_come_as_they_are_sent(wire: Wire, chunked: bool, gzip: bool) -> None:
    """The peer sends each event only after the consumer saw the one before: nothing is held back, whatever the coding."""
    sent = ev.text_response("a", "b", "c")
    seen = [threading.Event() for _ in sent]

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse(chunked=chunked, gzip=gzip)
        for at, event in enumerate(sent):
            if at:
                conn.hold(seen[at - 1])
            conn.sse(event)
        conn.finish()

    with wire.peer(script) as peer, wire.provider(peer.base_url, timeouts=DEADLINE) as provider:
        stream = provider.stream("x")
        got = []
        for at, event in enumerate(stream):
            got.append(event.data)
            seen[at].set()
        assert got == sent
        assert stream.result().text == "abc"
        assert "gzip" in peer.requests[0].headers["accept-encoding"]


@pytest.mark.row("C2", "C3")
@pytest.mark.parametrize("size", [1, 7, None], ids=["1", "7", "whole"])
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_recorded_bodies_at_any_chunk_size(wire: Wire, path: Any, size: int | None) -> None:
    """A body recorded from a real server gives the same events in chunks of 1 byte, of 7, and whole."""
    raw = path.read_bytes()
    expected = events_of(raw)

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        for at in range(0, len(raw), size or len(raw)):
            conn.send_chunked(raw[at : at + (size or len(raw))])
        conn.finish()

    assert len(FILES) == 4
    with wire.peer(script) as peer, wire.provider(peer.base_url, retry=0) as provider:
        stream = provider.stream("x")
        if expected[-1]["type"] == "response.failed":
            with pytest.raises(PixirError) as caught:
                list(stream)
            assert caught.value.response_id == expected[-1]["response"]["id"]
        else:
            assert [event.data for event in stream] == expected
            assert stream.result().text == text_of(expected) != ""


class _Splitter:
    """A peer's script that answers each request with the next pieces from a queue, and the consumer's side of it."""

    def __init__(self) -> None:
        self.bodies: queue.Queue[tuple[bool, list[bytes]]] = queue.Queue()

    def __call__(self, conn: Conn) -> None:
        while True:
            conn.read_request()
            gzip, pieces = self.bodies.get(timeout=DEADLINE)
            conn.start_sse(gzip=gzip)
            for piece in pieces:
                conn.write(piece)
            conn.finish()


@pytest.fixture
def splitter(plain: Wire) -> Iterator[tuple[_Splitter, Any]]:
    script = _Splitter()
    with plain.peer(script) as peer, plain.provider(peer.base_url, retry=0, timeouts=DEADLINE) as provider:
        yield script, provider


@pytest.mark.row("C2")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_split_gives_the_same_events(splitter: tuple[_Splitter, Any], data: st.DataObject) -> None:
    """Law: wherever a body is cut into pieces, compressed or not, the events are the same."""
    script, provider = splitter
    raw = data.draw(st.sampled_from([path for path in FILES if "failed" not in path.stem])).read_bytes()
    cuts = sorted(data.draw(st.lists(st.integers(1, len(raw) - 1), max_size=12, unique=True)))
    ends = zip([0, *cuts], [*cuts, len(raw)], strict=True)
    script.bodies.put((data.draw(st.booleans()), [raw[a:b] for a, b in ends]))
    assert [event.data for event in provider.stream("x")] == events_of(raw)


def _lines(event: Json) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def _whole(sent: list[Json]) -> bytes:
    return b"".join(map(_lines, sent))


SENT = ev.text_response("Grüße", "\u2028 ", "\U0001f600")
FORMS = {
    "crlf": _whole(SENT).replace(b"\n", b"\r\n"),
    "cr": _whole(SENT).replace(b"\n", b"\r"),
    "mixed": b"".join(_lines(e).replace(b"\n", [b"\n", b"\r", b"\r\n"][i % 3]) for i, e in enumerate(SENT)),
    "bom": b"\xef\xbb\xbf" + _whole(SENT),
    "comments": b": hello\n\n" + b": ping\n".join([b"", *map(_lines, SENT)]),
    "multi-line data": b"".join(
        b"data: " + json.dumps(e, indent=1).replace("\n", "\ndata: ").encode() + b"\n\n" for e in SENT
    ),
    "done": _whole(SENT) + b"data: [DONE]\n\n",
    "done before": b"data: [DONE]\n\n" + _whole(SENT),
    "no event line": b"".join(b"data:" + json.dumps(e).encode() + b"\n\n" for e in SENT),
    "keepalive": b"event: keepalive\ndata: {}\n\n".join([b"", *map(_lines, SENT)]),
    "other fields": b"id: 7\nretry: 10\nodd\n".join([b"", *map(_lines, SENT)]),
}


def sends(raw: bytes, *, chunked: bool = True) -> Any:
    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse(chunked=chunked)
        conn.write(raw)
        conn.finish()
        if chunked:
            answers(conn)

    return script


@pytest.mark.row("C3")
@pytest.mark.parametrize("raw", FORMS.values(), ids=FORMS.keys())
def test_every_form_of_event_stream_is_read(plain: Wire, raw: bytes) -> None:
    """Line ends, BOM, comments, multi-line data, [DONE] or none, no event line: the same events come out."""
    with plain.peer(sends(raw)) as peer, plain.provider(peer.base_url, retry=0, timeouts=DEADLINE) as provider:
        stream = provider.stream("x")
        assert [event.data for event in stream] == SENT
        assert stream.result().text == "Grüße\u2028 \U0001f600"


@pytest.mark.row("C3")
def test_bytes_that_are_no_text_are_an_error(wire: Wire) -> None:
    """Bad UTF-8 is InvalidResponse, after the events before it, whose text is kept; it is not sent again."""
    raw = _whole(SENT[:5]) + b'data: {"type": "\xff\xfe"}\n\n' + _whole(SENT[5:])
    with wire.peer([sends(raw)]) as peer, wire.provider(peer.base_url) as provider:
        stream = provider.stream("x")
        with pytest.raises(InvalidResponse) as caught:
            list(stream)
        assert caught.value.partial is not None and caught.value.partial.text == "Grüße"
        assert caught.value.phase == "stream"
    assert len(peer.requests) == 1


@pytest.mark.row("C3", "A20")
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "close-delimited"])
def test_an_unfinished_last_event_is_dropped(plain: Wire, chunked: bool) -> None:
    """A terminal event without its blank line does not count: the call ends as a lost connection."""
    raw = _whole(SENT).removesuffix(b"\n")
    with plain.peer(sends(raw, chunked=chunked)) as peer, plain.provider(peer.base_url) as provider:
        with pytest.raises(ConnectionLost) as caught:
            provider.complete("x")
        assert caught.value.partial is not None and caught.value.partial.text == "Grüße\u2028 \U0001f600"


@pytest.mark.row("A19")
def test_events_that_are_no_objects_are_counted_and_skipped(plain: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed event neither ends the stream nor gets into a log; unknown ones are passed on."""
    odd = b'data: {"type": secret-words}\n\ndata: [1]\n\ndata: {"type": "x.unknown", "n": 1}\n\n'
    raw = _whole(SENT[:5]) + odd + _whole(SENT[5:])
    with caplog.at_level("DEBUG"), plain.peer(sends(raw)) as peer, plain.provider(peer.base_url, retry=0) as provider:
        stream = provider.stream("x")
        types = [event.type for event in stream]
    assert types == [e["type"] for e in SENT[:5]] + ["x.unknown"] + [e["type"] for e in SENT[5:]]
    assert stream.result().provider_metadata["malformed_events"] == 2
    assert "secret-words" not in caplog.text


CANCELLED = {"type": "response.cancelled", "response": ev.response(status="cancelled")}
ENDS: dict[str, tuple[list[Json], type[PixirError] | None, str | None]] = {
    "completed": ([ev.completed()], None, "stop"),
    "incomplete": ([ev.incomplete()], None, "length"),
    "filtered": ([ev.incomplete("content_filter")], None, "content_filter"),
    "completed, but incomplete": ([{**ev.incomplete(), "type": "response.completed"}], None, "length"),
    "done": ([{**ev.completed(), "type": "response.done"}], None, "stop"),
    "failed": ([ev.failed()], ResponseFailed, None),
    "failed by rate": ([ev.failed("rate_limit_exceeded", "slow down")], RateLimited, None),
    "cancelled": ([CANCELLED], ResponseCancelled, None),
    "error": ([ev.error()], ResponseFailed, None),
    "flat error": ([{"type": "error", "code": "server_is_overloaded", "message": "busy", "param": None}], Overloaded, None),
    "error then failed": ([ev.error("server_is_overloaded"), ev.failed()], Overloaded, None),
    "none": ([], ConnectionLost, None),
}


@pytest.mark.row("A20")
@pytest.mark.parametrize("name", ENDS)
def test_every_end_of_a_response(wire: Wire, name: str) -> None:
    """Completed and incomplete give a result; failed, cancelled, error, and no terminal event at all give an error."""
    end, kind, reason = ENDS[name]

    def script(conn: Conn) -> None:
        begin(conn, "so", " far")
        for event in end:
            conn.sse(event)
        conn.finish()

    with wire.peer(script) as peer, wire.provider(peer.base_url, retry=quick()) as provider:
        stream = provider.stream("x")
        if kind is None:
            assert [event.type for event in stream][-1] == end[0]["type"]
            result = stream.result()
            assert (result.text, result.finish_reason) == ("so far", reason)
        else:
            seen: list[str] = []
            with pytest.raises(PixirError) as caught:
                seen.extend(event.type for event in stream)
            error = caught.value
            assert type(error) is kind
            assert error.partial is not None and error.partial.text == "so far"
            assert (error.output_seen, error.request_sent, error.phase) == (True, True, "stream")
            with pytest.raises(kind) as again:
                stream.result()
            assert again.value is error
    assert len(peer.requests) == 1, "after output nothing is ever sent again"


def test_nothing_is_read_ahead_of_need(plain: Wire) -> None:
    """Events of one chunk are handed out one by one; what comes after the terminal one is not looked at."""
    raw = _whole(SENT) + _whole([ev.error()])
    with plain.peer(sends(raw)) as peer, plain.provider(peer.base_url, retry=0) as provider:
        stream = provider.stream("x")
        deltas = [event.text for event in stream if isinstance(event, TextDelta)]
        assert deltas == ["Grüße", "\u2028 ", "\U0001f600"]
        assert stream.result().finish_reason == "stop"


