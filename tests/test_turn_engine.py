"""The turn engine over HTTP: every end of a response, every shape of an error, retries, the evidence of what was delivered."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync import (
    ConnectionLost,
    ContextOverflow,
    Event,
    InvalidResponse,
    ModelNotSupported,
    NotAuthenticated,
    Overloaded,
    PermissionDenied,
    PixirError,
    Provider,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    ResponseCancelled,
    ResponseFailed,
    Result,
    RetryPolicy,
    Terminal,
    UsageLimitReached,
)
from tests.support.events import (
    Json,
    completed,
    created,
    error,
    failed,
    function_call_response,
    incomplete,
    response,
    text_response,
    usage,
)
from tests.support.fake import QUICK, FakeTransport, answers, provider_for, refusing
from tests.support.peer import Conn, ScriptedPeer


def outcome_of(step: Any, request: Any = "Hi", **options: Any) -> tuple[list[Event], Result | PixirError]:
    """The events that one call over HTTP yields, and its end, after which there is nothing more."""
    with ScriptedPeer(answers(step)) as peer, provider_for(peer, **{"retry": 0, **options}) as provider:
        stream = provider.stream(request)
        events: list[Event] = []
        ended: Result | PixirError
        try:
            while True:
                events.append(next(stream))
        except StopIteration as stop:
            ended = stop.value
        except PixirError as raised:
            ended = raised
        assert next(stream, None) is None
        return events, ended


BEGUN = text_response("Hel", "lo")[:-1]  # everything but the terminal event


def done(status: str | None, **more: Any) -> Json:
    return {"type": "response.done", "response": response(status=status, **more)}  # type: ignore[arg-type]


ENDS: list[tuple[str, Json, str | type[PixirError]]] = [
    ("completed", completed(), "stop"),
    ("failed", failed(), ResponseFailed),
    ("incomplete", incomplete(), "length"),
    ("cancelled", {"type": "response.cancelled", "response": response(status="cancelled")}, ResponseCancelled),
    ("error", error(), ResponseFailed),
    ("flat error", {"type": "error", "code": "server_error", "message": "no", "param": None}, ResponseFailed),
    ("done, completed", done("completed"), "stop"),
    ("done, incomplete", done("incomplete", incomplete_details={"reason": "max_output_tokens"}), "length"),
    ("done, failed", done("failed", error={"code": "server_error", "message": "no"}), ResponseFailed),
    ("done, cancelled", done("cancelled"), ResponseCancelled),
    ("done without a status", {"type": "response.done", "response": {"id": "resp_1"}}, "stop"),
    ("done without a response", {"type": "response.done"}, "stop"),
    ("completed without a response", {"type": "response.completed"}, "stop"),
    ("failed without a response", {"type": "response.failed"}, ResponseFailed),
    ("error without anything", {"type": "error"}, ResponseFailed),
]


@pytest.mark.row("A20")
@pytest.mark.parametrize(("terminal", "end"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
def test_every_terminal_event_ends_the_stream(terminal: Json, end: str | type[PixirError]) -> None:
    """Completed and incomplete are yielded and give a Result; the others are not, and become the error with what there is."""
    events, ended = outcome_of([*BEGUN, terminal])
    if isinstance(end, str):
        assert isinstance(ended, Result) and ended.finish_reason == end and ended.text == "Hello"
        assert isinstance(events[-1], Terminal) and len(events) == len(BEGUN) + 1
    else:
        assert type(ended) is end and ended.output_seen and ended.request_sent and ended.phase == "stream"
        assert ended.partial is not None and ended.partial.text == "Hello" and ended.partial.finish_reason is None
        assert ended.response_id == "resp_1" and len(events) == len(BEGUN)
        assert not any(isinstance(event, Terminal) for event in events)


@pytest.mark.row("A20")
@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n", b'data: {"type": "response.comp'], ids=["end", "DONE", "cut off"])
@pytest.mark.parametrize("chunked", [True, False])
def test_an_end_without_a_terminal_event_is_an_error(end: bytes, chunked: bool) -> None:
    """A body that ends before its response did is ConnectionLost with the partial result."""

    def step(conn: Conn) -> None:
        conn.start_sse(chunked=chunked)
        for event in BEGUN:
            conn.sse(event)
        if end:
            conn.write(end)
        conn.finish()

    events, ended = outcome_of(step)
    assert type(ended) is ConnectionLost and ended.partial is not None and ended.partial.text == "Hello"
    assert ended.output_seen and len(events) == len(BEGUN)


@pytest.mark.row("A20")
def test_nothing_after_the_terminal_event_counts() -> None:
    """Events behind it, and an error of the connection, change nothing."""
    whole = text_response("Hello")

    def step(conn: Conn) -> None:
        conn.start_sse()
        conn.write(b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in [*whole, failed(), *whole]))
        conn.reset()

    events, ended = outcome_of(step)
    assert isinstance(ended, Result) and ended.text == "Hello" and len(events) == len(whole)


REASONS: list[tuple[Json, str | None]] = [
    (completed(), "stop"),
    ({"type": "response.completed", "response": response(status="incomplete", incomplete_details={"reason": "content_filter"})},
     "content_filter"),
    ({"type": "response.incomplete", "response": response(status="completed")}, "stop"),
    ({"type": "response.completed", "response": response(status="failed", error={"code": "x", "message": "y"})}, None),
    (incomplete("max_output_tokens"), "length"),
    (incomplete("content_filter"), "content_filter"),
    (incomplete("steered"), "steered"),
    (incomplete("brand_new"), "length"),
    ({"type": "response.incomplete", "response": {}}, "length"),
]  # fmt: skip


@pytest.mark.row("A17")
@pytest.mark.parametrize(("terminal", "reason"), REASONS)
def test_the_status_decides_how_it_ended(terminal: Json, reason: str | None) -> None:
    """Over the name of the event; what cut an answer short is the finish reason."""
    _, ended = outcome_of([*BEGUN, terminal])
    if reason is None:
        assert isinstance(ended, ResponseFailed)
    else:
        assert isinstance(ended, Result) and ended.finish_reason == reason


@pytest.mark.row("A17")
@pytest.mark.parametrize("raw", ["[1]", '"text"', "{", '{"a": ', "null", "5"])
def test_arguments_that_are_no_object_are_an_invalid_response(raw: str) -> None:
    """The raw string is kept in the partial result, and stays out of the error."""
    _, ended = outcome_of(function_call_response("get_weather", raw))
    assert isinstance(ended, InvalidResponse) and ended.partial is not None
    call = ended.partial.function_calls[0]
    assert (call.name, call.args, call.arguments) == ("get_weather", None, raw)
    assert ended.details == {"call_id": "call_1", "name": "get_weather", "characters": len(raw)}


@pytest.mark.row("A17")
def test_a_call_gives_its_finish_reason_and_a_cut_one_is_evidence() -> None:
    """Whole calls end as tool_calls; a call that a limit cut off is in the result as it came, without arguments."""
    _, ended = outcome_of(function_call_response("f", {"a": 1}))
    assert isinstance(ended, Result) and ended.finish_reason == "tool_calls"
    assert (ended.function_calls[0].args, ended.function_calls[0].arguments) == ({"a": 1}, '{"a": 1}')
    whole = function_call_response("f", '{"a": ')
    _, ended = outcome_of([*whole[:-1], incomplete(output=whole[-1]["response"]["output"])])
    assert isinstance(ended, Result) and ended.finish_reason == "length"
    assert (ended.function_calls[0].args, ended.function_calls[0].arguments) == (None, '{"a": ')


@pytest.mark.row("A16")
def test_a_result_has_every_field_and_travels_as_json() -> None:
    """All fields of the contract are there end to end, and the round trip gives an equal value."""
    _, ended = outcome_of(text_response("Hel", "lo"))
    assert isinstance(ended, Result)
    assert {f.name for f in fields(ended)} == {
        "text", "reasoning", "refusal", "reasoning_items", "function_calls", "output_items", "provider_hosted_tools",
        "web_search", "finish_reason", "parsed", "usage", "usage_summary", "response_id", "model", "response",
        "provider_metadata",
    }  # fmt: skip
    assert (ended.text, ended.response_id, ended.model, ended.usage) == ("Hello", "resp_1", "gpt-5.5", usage())
    assert ended.usage_summary is not None and ended.usage_summary["total_tokens"] == 15
    assert ended.output_items == ended.response["output"] if ended.response else False
    assert Result.from_json(ended.to_json()) == ended
    _, called = outcome_of(function_call_response("f", {"a": 1}))
    assert isinstance(called, Result) and Result.from_json(called.to_json()) == called


@pytest.mark.row("A16", "A25")
def test_the_evidence_has_the_names_of_the_contract() -> None:
    """Each is there and plain JSON, in the result and in the stream's metadata alike."""
    with ScriptedPeer(answers(text_response("ok"))) as peer, provider_for(peer) as provider, provider.stream("Hi") as stream:
        before = stream.metadata
        found = stream.result().provider_metadata
        assert stream.metadata == found == json.loads(json.dumps(found)) and before["attempts"] == 0
    assert found.keys() >= {
        "transport_preference", "active_transport", "fallback_reason", "fallback_message", "continuation_attempted",
        "continuation_reset_reason", "used_previous_response_id", "websocket_captured_response_id",
        "websocket_stored_previous_response_id", "websocket_key", "connection_reused", "close_code", "attempts",
        "bytes_sent", "input_items_sent", "input_items_total", "request_id", "rate_limits", "connect_ms",
        "first_event_ms", "total_ms",
    }  # fmt: skip
    assert found["connect_ms"] >= 0 and 0 <= found["first_event_ms"] <= found["total_ms"]
    assert found["attempts"] == found["input_items_sent"] == found["input_items_total"] == 1 and not found["connection_reused"]


# Odd streams.


@pytest.mark.row("A19")
def test_unknown_events_and_fields_pass_through() -> None:
    """A type that nobody knows is a plain event with its data; unknown fields of known ones are in their data."""
    odd = {"type": "response.brand_new.delta", "delta": "x", "more": [1]}
    limits = {"type": "codex.rate_limits", "rate_limits": {}}
    whole = text_response("Hel", "lo")
    whole[4]["obfuscation"] = "abc"
    events, ended = outcome_of([odd, whole[0], limits, *whole[1:5], {"type": "keepalive"}, {"type": ""}, *whole[5:]])
    assert isinstance(ended, Result) and ended.text == "Hello"
    first = events[0]
    assert (type(first), first.type, first.data, first.text) == (Event, odd["type"], odd, "")
    assert limits in [event.data for event in events]
    assert [event.data.get("obfuscation") for event in events if event.text] == ["abc", None]
    assert not any(event.type == "keepalive" for event in events)


@pytest.mark.row("A19", "A26")
@pytest.mark.parametrize(
    "frame",
    [b"data: {zebra\n\n", b"data: zebra\n\n", b"data: [1]\n\n", b"data: null\n\n", b'data: "zebra"\n\n',
     b'data: {"zebra": 1}\n\n', b'data: {"type": 5, "zebra": 1}\n\n',
     b'data: {"type": null}\n\n', b"event: zebra zebra\ndata: {zebra\n\n"],
)  # fmt: skip
def test_a_malformed_frame_is_counted_and_skipped(frame: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The answer around it is whole; its content is not logged."""

    def step(conn: Conn) -> None:
        conn.start_sse()
        for at, event in enumerate(text_response("Hel", "lo")):
            if at in (0, 4):
                conn.write(frame)
            conn.sse(event)
        conn.finish()

    with caplog.at_level(logging.DEBUG):
        events, ended = outcome_of(step)
    assert isinstance(ended, Result) and ended.text == "Hello" and len(events) == len(text_response("Hel", "lo"))
    assert ended.provider_metadata["malformed_events"] == 2
    assert "zebra" not in caplog.text


# Errors.

SHAPES: dict[str, Any] = {
    "nested": lambda code, message: [{"type": "error", "error": {"type": "x", "code": code, "message": message}}],
    "flat": lambda code, message: [{"type": "error", "code": code, "message": message, "param": None}],
    "response.failed": lambda code, message: [failed(code, message)],
    "after created": lambda code, message: [created(), {"type": "error", "error": {"code": code, "message": message}}],
    "numbered": lambda code, message: [{"type": "error", "sequence_number": 3, "error": {"code": code, "message": message}}],
}


@pytest.mark.row("A21")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        ("server_error", ResponseFailed, True), ("rate_limit_exceeded", RateLimited, True),
        ("server_is_overloaded", Overloaded, True),
        ("context_length_exceeded", ContextOverflow, False), ("insufficient_quota", QuotaExceeded, False),
        ("usage_limit_reached", UsageLimitReached, False), ("model_not_found", ModelNotSupported, False),
        ("invalid_prompt", ProviderError, False), ("brand_new", ResponseFailed, False),
    ],
)  # fmt: skip
def test_all_shapes_of_an_error_are_the_same_error(shape: str, code: str, kind: type[PixirError], retryable: bool) -> None:
    """With its kind, its code, its message and whether it may be tried again; neither status nor number is needed."""
    _, ended = outcome_of(SHAPES[shape](code, "said so"))
    assert isinstance(ended, PixirError)
    assert (type(ended), ended.code, ended.message, ended.retryable, ended.status) == (kind, code, "said so", retryable, None)
    assert not ended.output_seen and ended.partial is not None


@pytest.mark.row("A21")
@pytest.mark.parametrize("shape", ["nested", "flat", "response.failed"])
@pytest.mark.parametrize(("code", "kind"), [(429, RateLimited), ("503", Overloaded), (500, ResponseFailed), (400, ProviderError)])
def test_a_numeric_code_is_a_status(shape: str, code: Any, kind: type[PixirError]) -> None:
    """A gateway's number means what it means as a status."""
    _, ended = outcome_of(SHAPES[shape](code, "said so"))
    assert isinstance(ended, PixirError)
    assert (type(ended), ended.status, ended.message) == (kind, int(code), "said so")


STATUSES: list[tuple[int, Any, type[PixirError], bool]] = [
    (400, {"error": {"message": "m", "code": "bad"}}, ProviderError, False),
    (400, {"error": {"message": "m", "code": "context_length_exceeded"}}, ContextOverflow, False),
    (400, {"detail": "The model is not supported"}, ModelNotSupported, False),
    (401, {"error": {"message": "m"}}, NotAuthenticated, False),
    (403, {"error": {"message": "m"}}, PermissionDenied, False),
    (404, {"error": {"message": "m", "code": "model_not_found"}}, ModelNotSupported, False),
    (404, b"", ProviderError, False),
    (408, b"", ProviderError, True),
    (409, b"", ProviderError, True),
    (413, b"<html>too large</html>", ProviderError, False),
    (429, {"error": {"message": "m", "code": "rate_limit_exceeded"}}, RateLimited, True),
    (429, {"error": {"message": "m", "type": "insufficient_quota"}}, QuotaExceeded, False),
    (429, b"slow down", RateLimited, True),
    (500, {"error": "a bare string"}, ProviderError, True),
    (502, b"<html>bad gateway</html>", ProviderError, True),
    (503, b"", Overloaded, True),
    (529, b"", Overloaded, True),
    (302, b"", ProviderError, False),
]


@pytest.mark.row("A22")
@pytest.mark.parametrize(("status", "body", "kind", "retryable"), STATUSES)
def test_each_refusal_has_its_kind(status: int, body: Any, kind: type[PixirError], retryable: bool) -> None:
    """By the code and then by the status, with the server's id of the request."""
    headers = {"x-request-id": "req_7", "location": "http://127.0.0.1:9/"}
    events, ended = outcome_of(refusing(status, body, headers))
    assert isinstance(ended, PixirError) and not events
    assert (type(ended), ended.status, ended.retryable, ended.request_id) == (kind, status, retryable, "req_7")
    assert (ended.phase, ended.request_sent, ended.output_seen) == ("first_event", True, False)
    assert ended.message and ended.partial is not None and ended.partial.text == ""


@pytest.mark.row("A22")
@pytest.mark.parametrize(("size", "cut"), [(16_383, False), (16_384, False), (16_385, True), (200_000, True)])
def test_the_body_of_a_refusal_is_capped(size: int, cut: bool) -> None:
    """At 16,384 bytes, with a flag that says exactly whether something is missing."""
    _, ended = outcome_of(refusing(400, b"x" * size))
    assert isinstance(ended, ProviderError)
    assert (len(ended.details["body"]), ended.details["body_truncated"]) == (min(size, 16_384), cut)
    assert len(ended.message) <= 2_000


@pytest.mark.row("A22")
def test_a_usage_limit_tells_its_plan_and_its_end() -> None:
    """The plan, when it resets, and in how many minutes."""
    limit = {"type": "usage_limit_reached", "message": "m", "plan_type": "plus", "resets_in_seconds": 90}
    _, ended = outcome_of(refusing(429, {"error": limit}))
    assert isinstance(ended, UsageLimitReached) and not ended.retryable
    told = {name: ended.details[name] for name in ("plan_type", "resets_in_seconds", "resets_in_minutes")}
    assert told == {"plan_type": "plus", "resets_in_seconds": 90, "resets_in_minutes": 2}


# Attempts.


@pytest.mark.row("A25", "C4")
def test_the_evidence_describes_the_delivered_call() -> None:
    """After a refusal: two attempts, and the id, the limits, the bytes and the connection of the second one."""
    bad = refusing(500, b"", {"x-request-id": "req_bad", "x-ratelimit-limit-requests": "1"})

    def good(conn: Conn) -> None:
        conn.start_sse(headers={"x-request-id": "req_good", "x-ratelimit-limit-requests": "2"})
        for event in text_response("ok", id="resp_good"):
            conn.sse(event)
        conn.finish()

    with ScriptedPeer(answers(bad, good)) as peer, provider_for(peer) as provider:
        found = provider.complete("Hi").provider_metadata
        stats = provider.stats()
        total = len(peer.connections[0].received)
        assert len(peer.connections) == 1
    assert (found["attempts"], found["request_id"], found["rate_limits"]) == (2, "req_good", {"x-ratelimit-limit-requests": "2"})
    assert found["connection_reused"] is True and found["connect_ms"] is None
    assert found["bytes_sent"] * 2 == stats["bytes_sent"] == total
    assert stats["connections"] == {"opened": 1, "reused": 1, "live": 0}
    assert stats["replays"] == {"provider_http_error": 1} and stats["turns"] == {"http_sse": {"full": 1}}


@pytest.mark.row("A25")
def test_a_drop_after_a_delta_is_not_replayed() -> None:
    """The error tells of the one attempt, which is in its partial result; the peer sees no other."""

    def step(conn: Conn) -> None:
        conn.start_sse(headers={"x-request-id": "req_1"})
        for event in BEGUN[:4]:
            conn.sse(event)
        conn.reset()

    with ScriptedPeer(answers(step)) as peer, provider_for(peer) as provider:
        with pytest.raises(ConnectionLost) as caught:
            provider.complete("Hi")
        assert len(peer.requests) == 1
        sent = len(peer.connections[0].received)
    assert caught.value.partial is not None and caught.value.output_seen
    found = caught.value.partial.provider_metadata
    assert (found["attempts"], found["active_transport"], found["bytes_sent"]) == (1, "http_sse", sent)
    assert caught.value.request_id == found["request_id"] == "req_1" and caught.value.response_id == "resp_1"
    assert provider.stats()["errors"] == {"connection_lost": 1} and provider.stats()["replays"] == {}


@pytest.mark.row("C4")
def test_a_replayed_call_shows_the_new_attempts_created_and_only_its_content() -> None:
    """Lost after response.created: the events of the first attempt were lifecycle; the answer is the second one's alone."""

    def lost(conn: Conn) -> None:
        conn.start_sse()
        conn.sse(created("resp_a"))
        conn.finish()

    with ScriptedPeer(answers(lost, text_response("ok", id="resp_b"))) as peer, provider_for(peer) as provider:
        stream = provider.stream("Hi")
        ids = [event.data["response"]["id"] for event in stream if event.type == "response.created"]
        result = stream.result()
        assert len(peer.requests) == 2
    assert ids == ["resp_a", "resp_b"] and (result.response_id, result.text) == ("resp_b", "ok")


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("policy", "begun", "requests"),
    [(RetryPolicy(replay="never"), False, 1), (RetryPolicy(replay="before_created"), True, 1),
     (QUICK, True, 3), (QUICK, False, 3),
     (RetryPolicy(max_retries=0), False, 1), (RetryPolicy(initial_delay=0, max_retries=5), False, 6)],
)  # fmt: skip
def test_the_policy_bounds_the_replays(policy: RetryPolicy, begun: bool, requests: int) -> None:
    """How many and how far; the last error is the one that is raised."""
    step = [created(), error()] if begun else refusing(500)
    with ScriptedPeer(answers(step)) as peer, provider_for(peer, retry=policy) as provider:
        with pytest.raises(PixirError) as caught:
            provider.complete("Hi")
        assert len(peer.requests) == requests
    assert caught.value.partial is not None and caught.value.partial.provider_metadata["attempts"] == requests


@pytest.mark.row("C4")
@pytest.mark.parametrize("more", [{"store": True}, {"hosted_tools": [{"type": "web_search"}]}, {"extra_body": {"store": True}}])
def test_a_call_with_effects_is_not_replayed_once_it_was_created(more: Json) -> None:
    """With store or hosted tools a second run is a second effect; a refusal before it is tried again all the same."""

    def lost(conn: Conn) -> None:
        conn.start_sse()
        conn.sse(created())
        conn.finish()

    with ScriptedPeer(answers(refusing(500), lost, text_response("ok"))) as peer, provider_for(peer) as provider:
        with pytest.raises(ConnectionLost):
            provider.complete("Hi", **more)
        assert len(peer.requests) == 2


# Laws, over a transport that plays any script.

TEXT = "response.output_text.delta"
ODD = [{"type": "response.brand_new"}, {"type": "keepalive"}, {"type": 5}, {}, {"type": TEXT, "delta": None}]
POOL = [*text_response("Hel", "lo")[:-1], *function_call_response("f", "{}")[2:-1], *ODD, *(row[1] for row in ENDS)]
ERRORS = (ConnectionLost("lost", phase="stream"), InvalidResponse("odd"), RateLimited("slow", retryable=True, retry_after=0.0))
scripts = st.tuples(st.lists(st.lists(st.sampled_from(POOL), max_size=4), max_size=6), st.sampled_from([None, *ERRORS]))


def playing(batches: list[list[Json]], then: PixirError | None) -> Any:
    def play(call: Any) -> Iterator[list[Json]]:
        yield from batches
        if then is not None:
            raise type(then)(then.message, retryable=then.retryable, retry_after=then.retry_after, phase=then.phase)

    return play


@pytest.mark.row("A20")
@given(st.lists(scripts, min_size=1, max_size=3), st.integers(0, 2))
def test_every_stream_ends_exactly_once(attempts: list[tuple[list[list[Json]], PixirError | None]], retries: int) -> None:
    """Whatever a transport brings: a Result or one PixirError, the same again when asked, and nothing after it."""
    fake = FakeTransport(*[playing(*attempt) for attempt in attempts])
    policy = RetryPolicy(max_retries=retries, initial_delay=0)
    with Provider(transport=fake, model="m", retry=policy) as provider:
        stream = provider.stream("Hi")
        ended: Any = None
        terminals = 0
        try:
            while True:
                terminals += isinstance(next(stream), Terminal)
        except StopIteration as stop:
            ended = stop.value
            assert isinstance(ended, Result) and stream.result() is ended and terminals == 1
        except PixirError as raised:
            ended = raised
            assert ended.partial is not None
            with pytest.raises(type(raised)) as again:
                stream.result()
            assert again.value is raised
        with pytest.raises(StopIteration):
            next(stream)
        stats = provider.stats()
        assert sum(stats["errors"].values()) == isinstance(ended, PixirError)
        assert stats["connections"]["live"] == 0 and fake.left == len(fake.calls) <= 1 + retries


@st.composite
def chunked_texts(draw: st.DrawFn) -> list[str]:
    return draw(st.lists(st.text(max_size=5), min_size=1, max_size=12))


@pytest.mark.row("C2")
@given(chunked_texts(), st.lists(st.integers(1, 5), max_size=20))
def test_batches_and_pieces_do_not_matter(pieces: list[str], sizes: list[int]) -> None:
    """The same events in any batches give the same events; the same text in any pieces gives the same answer."""
    whole = text_response(*pieces)
    batches, rest = [], list(whole)
    for size in sizes:
        batches.append(rest[:size])
        rest = rest[size:]
    batches.append(rest)
    with Provider(transport=FakeTransport(batches), model="m") as provider:
        stream = provider.stream("Hi")
        assert [event.data for event in stream] == whole
        result = stream.result()
    with Provider(transport=FakeTransport([text_response("".join(pieces))]), model="m") as provider:
        joined = provider.complete("Hi")
    assert result.text == joined.text == "".join(pieces) and result.output_items == joined.output_items


def test_concurrent_calls_take_numbers_of_their_own() -> None:
    """Calls that run at once are counted as live, each once, and not afterwards."""
    hold, inside = threading.Event(), threading.Barrier(5)

    def play(call: Any) -> Iterator[list[Json]]:
        inside.wait(5)
        hold.wait(5)
        yield text_response("ok")

    with Provider(transport=FakeTransport(play), model="m") as provider:
        threads = [threading.Thread(target=provider.complete, args=("Hi",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        inside.wait(5)
        assert provider.stats()["connections"]["live"] == 4
        hold.set()
        for thread in threads:
            thread.join(5)
        assert provider.stats()["connections"]["live"] == 0
