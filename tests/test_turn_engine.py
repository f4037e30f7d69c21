"""The turn engine over both transports: every end of a response, every shape of an error, retries, the evidence of the call."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from typing import Any, TypeGuard

import pytest

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
    ProviderError,
    QuotaExceeded,
    RateLimited,
    ResponseCancelled,
    ResponseFailed,
    Result,
    RetryPolicy,
    Terminal,
    UsageLimitReached,
    user,
)
from pixir_sync.local import Close, Finish, HttpError, NotJson, Step, Together
from tests.support.both import Peer, Reply, TransportName
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
from tests.support.fake import QUICK, provider_for
from tests.support.peer import Conn, ScriptedPeer
from tests.support.ws_peer import TEXT, frame_bytes


def outcome_of(transport: TransportName, reply: Reply) -> tuple[list[Event], Result | PixirError]:
    """The events that one call yields, and its end, after which there is nothing more."""
    with Peer(transport, reply) as peer, peer.provider(retry=0) as provider:
        stream = provider.stream("Hi")
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
def test_every_terminal_event_ends_the_stream(transport: TransportName, terminal: Json, end: str | type[PixirError]) -> None:
    """Completed and incomplete are yielded and give a Result; the others are not, and become the error with what there is."""
    events, ended = outcome_of(transport, [*BEGUN, terminal])
    if isinstance(end, str):
        assert isinstance(ended, Result) and ended.finish_reason == end and ended.text == "Hello"
        assert isinstance(events[-1], Terminal) and len(events) == len(BEGUN) + 1
    else:
        assert type(ended) is end and ended.output_seen and ended.request_sent and ended.phase == "stream"
        assert ended.partial is not None and ended.partial.text == "Hello" and ended.partial.finish_reason is None
        assert ended.response_id == "resp_1" and len(events) == len(BEGUN)
        assert not any(isinstance(event, Terminal) for event in events)


@pytest.mark.row("A20")
@pytest.mark.parametrize("end", [Finish(), Close(), Close(reset=True)], ids=["finish", "cut", "reset"])
def test_an_end_without_a_terminal_event_is_an_error(transport: TransportName, end: Step) -> None:
    """A stream that ends before its response did, however it ends, is ConnectionLost with the partial result."""
    events, ended = outcome_of(transport, [*BEGUN, end])
    assert type(ended) is ConnectionLost and ended.partial is not None and ended.partial.text == "Hello"
    assert ended.output_seen and ended.request_sent and ended.phase == "stream" and len(events) == len(BEGUN)


@pytest.mark.row("A20")
@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n", b'data: {"type": "response.comp'], ids=["end", "DONE", "cut off"])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_ends_without_a_terminal_event_is_an_error(end: bytes, chunked: bool) -> None:
    """Whatever stands at the end of an HTTP body, and however it is delimited."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse(chunked=chunked)
        for event in BEGUN:
            conn.sse(event)
        if end:
            conn.write(end)
        conn.finish()

    with ScriptedPeer(script) as peer, provider_for(peer, transport="http_sse", retry=0) as provider:
        with pytest.raises(ConnectionLost) as caught:
            provider.complete("Hi")
    assert caught.value.partial is not None and caught.value.partial.text == "Hello" and caught.value.output_seen


@pytest.mark.row("A20")
def test_nothing_after_the_terminal_event_counts(transport: TransportName) -> None:
    """Events behind it, and an error of the connection, change nothing."""
    whole = text_response("Hello")
    events, ended = outcome_of(transport, [Together(*whole, failed(), *whole), Close(reset=True)])
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
def test_the_status_decides_how_it_ended(transport: TransportName, terminal: Json, reason: str | None) -> None:
    """Over the name of the event; what cut an answer short is the finish reason."""
    _, ended = outcome_of(transport, [*BEGUN, terminal])
    if reason is None:
        assert isinstance(ended, ResponseFailed)
    else:
        assert isinstance(ended, Result) and ended.finish_reason == reason


@pytest.mark.row("A17")
@pytest.mark.parametrize("raw", ["[1]", '"text"', "{", '{"a": ', "null", "5"])
def test_arguments_that_are_no_object_are_an_invalid_response(transport: TransportName, raw: str) -> None:
    """The raw string is kept in the partial result, and stays out of the error."""
    _, ended = outcome_of(transport, function_call_response("get_weather", raw))
    assert isinstance(ended, InvalidResponse) and ended.partial is not None
    call = ended.partial.function_calls[0]
    assert (call.name, call.args, call.arguments) == ("get_weather", None, raw)
    assert ended.details == {"call_id": "call_1", "name": "get_weather", "characters": len(raw)}


@pytest.mark.row("A17")
def test_a_call_gives_its_finish_reason_and_a_cut_one_is_evidence(transport: TransportName) -> None:
    """Whole calls end as tool_calls; a call that a limit cut off is in the result as it came, without arguments."""
    _, ended = outcome_of(transport, function_call_response("f", {"a": 1}))
    assert isinstance(ended, Result) and ended.finish_reason == "tool_calls"
    assert (ended.function_calls[0].args, ended.function_calls[0].arguments) == ({"a": 1}, '{"a": 1}')
    whole = function_call_response("f", '{"a": ')
    _, ended = outcome_of(transport, [*whole[:-1], incomplete(output=whole[-1]["response"]["output"])])
    assert isinstance(ended, Result) and ended.finish_reason == "length"
    assert (ended.function_calls[0].args, ended.function_calls[0].arguments) == (None, '{"a": ')


@pytest.mark.row("A16")
def test_a_result_has_every_field_and_travels_as_json(transport: TransportName) -> None:
    """All fields of the contract are there end to end, and the round trip gives an equal value."""
    _, ended = outcome_of(transport, text_response("Hel", "lo"))
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
    _, called = outcome_of(transport, function_call_response("f", {"a": 1}))
    assert isinstance(called, Result) and Result.from_json(called.to_json()) == called


@pytest.mark.row("A16", "A25")
def test_the_evidence_has_the_names_of_the_contract(transport: TransportName) -> None:
    """Each is there and plain JSON, in the result and in the stream's metadata alike."""
    with Peer(transport, text_response("ok")) as peer, peer.provider() as provider, provider.stream("Hi") as stream:
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
def test_unknown_events_and_fields_pass_through(transport: TransportName) -> None:
    """A type that nobody knows is a plain event with its data; unknown fields of known ones are in their data."""
    odd = {"type": "response.brand_new.delta", "delta": "x", "more": [1]}
    limits = {"type": "codex.rate_limits", "rate_limits": {}}
    whole = text_response("Hel", "lo")
    whole[4]["obfuscation"] = "abc"
    events, ended = outcome_of(transport, [odd, whole[0], limits, *whole[1:5], {"type": "keepalive"}, {"type": ""}, *whole[5:]])
    assert isinstance(ended, Result) and ended.text == "Hello"
    first = events[0]
    assert (type(first), first.type, first.data, first.text) == (Event, odd["type"], odd, "")
    assert limits in [event.data for event in events]
    assert [event.data.get("obfuscation") for event in events if event.text] == ["abc", None]
    assert not any(event.type == "keepalive" for event in events)


@pytest.mark.row("A19", "A26")
@pytest.mark.parametrize(
    "frame",
    [b"{zebra", b"zebra", b"[1]", b"null", b'"zebra"', b'{"zebra": 1}', b'{"type": 5, "zebra": 1}', b'{"type": null}'],
)
def test_a_malformed_frame_is_counted_and_skipped(
    transport: TransportName, frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer around it is whole; its content is not logged."""
    whole = text_response("Hel", "lo")
    with caplog.at_level(logging.DEBUG):
        events, ended = outcome_of(transport, [NotJson(frame), *whole[:4], NotJson(frame), *whole[4:]])
    assert isinstance(ended, Result) and ended.text == "Hello" and len(events) == len(whole)
    assert ended.provider_metadata["malformed_events"] == 2
    assert "zebra" not in caplog.text


@pytest.mark.row("A19")
def test_responses_that_share_an_id_are_told_apart(transport: TransportName) -> None:
    """A server that numbers nothing is heard all the same: what begins with created is no late word of the last response."""
    with Peer(transport, text_response("one"), text_response("two")) as peer, peer.provider() as provider:
        assert [provider.complete("Hi", session="s").text for _ in range(2)] == ["one", "two"]
        assert peer.connections == 1


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
def test_all_shapes_of_an_error_are_the_same_error(
    transport: TransportName, shape: str, code: str, kind: type[PixirError], retryable: bool
) -> None:
    """With its kind, its code, its message and whether it may be tried again; neither status nor number is needed."""
    _, ended = outcome_of(transport, SHAPES[shape](code, "said so"))
    assert isinstance(ended, PixirError)
    assert (type(ended), ended.code, ended.message, ended.retryable, ended.status) == (kind, code, "said so", retryable, None)
    assert not ended.output_seen and ended.partial is not None


@pytest.mark.row("A21")
@pytest.mark.parametrize("shape", ["nested", "flat", "response.failed"])
@pytest.mark.parametrize(("code", "kind"), [(429, RateLimited), ("503", Overloaded), (500, ResponseFailed), (400, ProviderError)])
def test_a_numeric_code_is_a_status(transport: TransportName, shape: str, code: Any, kind: type[PixirError]) -> None:
    """A gateway's number means what it means as a status."""
    _, ended = outcome_of(transport, SHAPES[shape](code, "said so"))
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


def is_refusal(ended: object, kind: type[PixirError], status: int, retryable: bool) -> TypeGuard[PixirError]:
    """Whether a call ended with this error, which knows all that it should."""
    assert isinstance(ended, PixirError)
    assert (type(ended), ended.status, ended.retryable, ended.request_id) == (kind, status, retryable, "req_7")
    assert (ended.request_sent, ended.output_seen) == (True, False)
    return bool(ended.message) and ended.partial is not None and ended.partial.text == ""


@pytest.mark.row("A22")
@pytest.mark.parametrize(("status", "body", "kind", "retryable"), STATUSES)
def test_each_refusal_has_its_kind(status: int, body: Any, kind: type[PixirError], retryable: bool) -> None:
    """By the code and then by the status, with the server's id of the request."""
    headers = {"x-request-id": "req_7", "location": "http://127.0.0.1:9/"}
    events, ended = outcome_of("http_sse", [HttpError(status, body, headers)])
    assert is_refusal(ended, kind, status, retryable) and ended.phase == "first_event" and not events


@pytest.mark.row("A21", "A22")
@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"),
    [row for row in STATUSES if isinstance(row[1], dict) and isinstance(row[1].get("error"), dict)],
)
def test_a_refusal_over_a_websocket_is_the_same_error(status: int, body: Any, kind: type[PixirError], retryable: bool) -> None:
    """What HTTP says by a response's status and headers, an error event has as fields."""
    events, ended = outcome_of("websocket", [HttpError(status, body, {"x-request-id": "req_7"})])
    assert is_refusal(ended, kind, status, retryable) and ended.phase == "stream" and not events


@pytest.mark.row("A22")
@pytest.mark.parametrize(("size", "cut"), [(16_383, False), (16_384, False), (16_385, True), (200_000, True)])
def test_the_body_of_a_refusal_is_capped(size: int, cut: bool) -> None:
    """At 16,384 bytes, with a flag that says exactly whether something is missing."""
    _, ended = outcome_of("http_sse", [HttpError(400, b"x" * size)])
    assert isinstance(ended, ProviderError)
    assert (len(ended.details["body"]), ended.details["body_truncated"]) == (min(size, 16_384), cut)
    assert len(ended.message) <= 2_000


@pytest.mark.row("A22")
def test_a_usage_limit_tells_its_plan_and_its_end(transport: TransportName) -> None:
    """The plan, when it resets, and in how many minutes."""
    limit = {"type": "usage_limit_reached", "message": "m", "plan_type": "plus", "resets_in_seconds": 90}
    _, ended = outcome_of(transport, [HttpError(429, {"error": limit})])
    assert isinstance(ended, UsageLimitReached) and not ended.retryable
    told = {name: ended.details[name] for name in ("plan_type", "resets_in_seconds", "resets_in_minutes")}
    assert told == {"plan_type": "plus", "resets_in_seconds": 90, "resets_in_minutes": 2}


# Attempts.


@pytest.mark.row("A25", "C4")
def test_the_evidence_describes_the_delivered_call() -> None:
    """After a refusal: two attempts, and the id, the limits, the bytes and the connection of the second one."""
    bad = {"x-request-id": "req_bad", "x-ratelimit-limit-requests": "1"}

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.respond(500, b"", bad)
        conn.read_request()
        conn.start_sse(headers={"x-request-id": "req_good", "x-ratelimit-limit-requests": "2"})
        for event in text_response("ok", id="resp_good"):
            conn.sse(event)
        conn.finish()

    with ScriptedPeer(script) as peer, provider_for(peer, transport="http_sse") as provider:
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
def test_the_evidence_over_a_websocket_describes_the_delivered_call() -> None:
    """After a refusal on the same socket: two attempts, and the bytes and the connection of the second one."""
    bad = HttpError(500, {"error": {"message": "m", "code": "server_error"}}, {"x-request-id": "req_bad"})
    with Peer("websocket", [bad], text_response("ok", id="resp_good")) as peer, peer.provider() as provider:
        found = provider.complete("Hi").provider_metadata
        stats = provider.stats()
        total = sum(len(frame_bytes(TEXT, bytes(frame.raw), masked=True)) for frame in peer.server.requests)
        assert peer.connections == 1
    assert (found["attempts"], found["active_transport"], found["fallback_reason"]) == (2, "websocket", None)
    assert (found["request_id"], found["websocket_captured_response_id"]) == (None, "resp_good")
    assert found["connection_reused"] is True and found["connect_ms"] is None
    assert found["bytes_sent"] * 2 == stats["bytes_sent"] == total
    assert stats["connections"] == {"opened": 1, "reused": 1, "live": 1}
    assert stats["replays"] == {"response_failed": 1} and stats["turns"] == {"websocket": {"full": 1}}


@pytest.mark.row("A25")
def test_the_evidence_after_a_lost_socket_describes_the_delivered_call() -> None:
    """A delta that the socket took with it is not what was delivered: that was the whole input, on a socket of its own."""
    replies = (text_response("one", id="resp_a"), [Close(reset=True)], text_response("two", id="resp_b"))
    with Peer("websocket", *replies) as peer, peer.provider(retry=0) as provider:
        first = provider.complete("Hi", session="s")
        result = provider.complete([user("Hi"), *first.output_items, user("Ho")], session="s")
        delta, whole = peer.bodies[1:]
        assert peer.connections == 2
    assert delta["previous_response_id"] == "resp_a" and len(delta["input"]) == 1
    assert "previous_response_id" not in whole and len(whole["input"]) == 3
    found = result.provider_metadata
    assert (result.text, found["attempts"], found["connection_reused"]) == ("two", 2, False) and found["connect_ms"] > 0
    assert (found["input_items_sent"], found["input_items_total"]) == (3, 3)
    assert (found["continuation_attempted"], found["used_previous_response_id"]) == (False, False)
    assert (found["websocket_stored_previous_response_id"], found["websocket_captured_response_id"]) == (None, "resp_b")
    assert found["continuation_reset_reason"] == "websocket_reconnected"
    assert provider.stats()["turns"] == {"websocket": {"full": 2}}
    assert provider.stats()["replays"] == {"reused_connection_lost": 1}


@pytest.mark.row("A25")
def test_a_drop_after_a_delta_is_not_replayed(transport: TransportName) -> None:
    """The error tells of the one attempt, which is in its partial result; the peer sees no other."""
    with Peer(transport, [*BEGUN[:4], Close(reset=True)]) as peer, peer.provider() as provider:
        with pytest.raises(ConnectionLost) as caught:
            provider.complete("Hi")
        assert len(peer.bodies) == peer.connections == 1
    assert caught.value.partial is not None and caught.value.output_seen and caught.value.response_id == "resp_1"
    found = caught.value.partial.provider_metadata
    assert (found["attempts"], found["active_transport"], found["fallback_reason"]) == (1, transport, None)
    assert found["bytes_sent"] == provider.stats()["bytes_sent"] > 0
    assert provider.stats()["errors"] == {"connection_lost": 1} and provider.stats()["replays"] == {}


LOST_AFTER_CREATED: list[Step] = [created("resp_a"), Finish()]


@pytest.mark.row("C4")
def test_a_replayed_call_shows_the_new_attempts_created_and_only_its_content(transport: TransportName) -> None:
    """Lost after response.created: the events of the first attempt were lifecycle; the answer is the second one's alone."""
    with Peer(transport, LOST_AFTER_CREATED, text_response("ok", id="resp_b")) as peer, peer.provider() as provider:
        stream = provider.stream("Hi")
        ids = [event.data["response"]["id"] for event in stream if event.type == "response.created"]
        result = stream.result()
        assert len(peer.bodies) == 2
    assert ids == ["resp_a", "resp_b"] and (result.response_id, result.text) == ("resp_b", "ok")


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("policy", "begun", "requests"),
    [(RetryPolicy(replay="never"), False, 1), (RetryPolicy(replay="before_created"), True, 1),
     (QUICK, True, 3), (QUICK, False, 3),
     (RetryPolicy(max_retries=0), False, 1), (RetryPolicy(initial_delay=0, max_retries=5), False, 6)],
)  # fmt: skip
def test_the_policy_bounds_the_replays(transport: TransportName, policy: RetryPolicy, begun: bool, requests: int) -> None:
    """How many and how far; the last error is the one that is raised."""
    reply: list[Step] = [created(), error()] if begun else [HttpError(500)]
    with Peer(transport, reply) as peer, peer.provider(retry=policy) as provider:
        with pytest.raises(PixirError) as caught:
            provider.complete("Hi")
        assert len(peer.bodies) == requests
    assert caught.value.partial is not None and caught.value.partial.provider_metadata["attempts"] == requests


@pytest.mark.row("C4")
@pytest.mark.parametrize("more", [{"store": True}, {"hosted_tools": [{"type": "web_search"}]}, {"extra_body": {"store": True}}])
def test_a_call_with_effects_is_not_replayed_once_it_was_created(transport: TransportName, more: Json) -> None:
    """With store or hosted tools a second run is a second effect; a refusal before it is tried again all the same."""
    with Peer(transport, [HttpError(500)], LOST_AFTER_CREATED, text_response("ok")) as peer, peer.provider() as provider:
        with pytest.raises(ConnectionLost):
            provider.complete("Hi", **more)
        assert len(peer.bodies) == 2
