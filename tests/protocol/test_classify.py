"""What a server said, in any of its shapes, and the one error that it means."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol import errors as e
from pixir_sync.protocol.classify import BODY_LIMIT, CLOSE_CODES, CODES, from_close, from_event, from_http, redact
from pixir_sync.protocol.errors import PixirError
from tests.protocol.strategies import Json, plain_json

SECRET = "sk-SENTINEL-0123456789"
MESSAGE = "Something happened."


def nested(code: Any, message: Any = MESSAGE, status: int | None = None, kind: str | None = None) -> Json:
    error = {"type": kind or "invalid_request_error", "code": code, "message": message, "param": None}
    return {"type": "error", "sequence_number": 3, "error": error} | ({"status": status} if status else {})


def flat(code: Any, message: Any = MESSAGE) -> Json:
    return {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 3}


def failed(code: Any, message: Any = MESSAGE) -> Json:
    response = {"id": "resp_1", "status": "failed", "output": [], "error": {"code": code, "message": message}}
    return {"type": "response.failed", "response": response}


def http(status: int, code: Any, message: Any = MESSAGE, kind: str | None = None) -> PixirError:
    error = {"type": kind or "invalid_request_error", "code": code, "message": message, "param": None}
    return from_http(status, {}, json.dumps({"error": error}).encode())


def facts(error: PixirError) -> tuple[type[PixirError], str | None, bool]:
    return type(error), error.code, error.retryable


# Every row of the protocol's table that a code tells: status, code, class, retried.
ROWS: list[tuple[int, str, type[PixirError], bool]] = [
    (400, "previous_response_not_found", e.ProviderError, False),
    (400, "websocket_connection_limit_reached", e.ProviderError, False),
    (400, "websocket_stream_limit_reached", e.ProviderError, False),
    (400, "invalid_stream_id", e.ProviderError, False),
    (429, "rate_limit_exceeded", e.RateLimited, True),
    (429, "slow_down", e.RateLimited, True),
    (429, "too_many_requests", e.RateLimited, True),
    (503, "server_is_overloaded", e.Overloaded, True),
    (503, "service_unavailable_error", e.Overloaded, True),
    (503, "overloaded", e.Overloaded, True),
    (429, "insufficient_quota", e.QuotaExceeded, False),
    (429, "credit_balance_exhausted", e.QuotaExceeded, False),
    (429, "project_spend_limit_exceeded", e.QuotaExceeded, False),
    (429, "organization_usage_limit_exceeded", e.QuotaExceeded, False),
    (429, "usage_limit_reached", e.UsageLimitReached, False),
    (429, "usage_not_included", e.UsageLimitReached, False),
    (400, "context_length_exceeded", e.ContextOverflow, False),
    (404, "model_not_found", e.ModelNotSupported, False),
    (401, "invalid_api_key", e.NotAuthenticated, False),
    (400, "invalid_prompt", e.ProviderError, False),
    (400, "bio_policy", e.ProviderError, False),
    (400, "cyber_policy", e.ProviderError, False),
    (400, "misalignment_policy_violation", e.ProviderError, False),
    (400, "data_residency_mismatch", e.ProviderError, False),
]


@pytest.mark.row("A21", "A22")
@pytest.mark.parametrize(("status", "code", "kind", "retried"), ROWS, ids=[row[1] for row in ROWS])
def test_each_code_means_the_same_in_every_shape(status: int, code: str, kind: type[PixirError], retried: bool) -> None:
    """Nested, flat and `response.failed`, with and without status and sequence number, and over HTTP."""
    bare = {name: value for name, value in flat(code).items() if name in ("type", "code", "message")}
    events = [nested(code, status=status), nested(code), {**nested(code), "sequence_number": "x"}, flat(code), bare,
              failed(code)]  # fmt: skip
    for error in [*map(from_event, events), http(status, code)]:
        assert facts(error) == (kind, code, retried)
        assert error.message == MESSAGE
    assert from_event(events[0]).status == status and from_event(flat(code)).status is None


@pytest.mark.row("A21")
def test_a_server_error_is_retried_in_every_shape() -> None:
    """`server_error` ends a response as failed in a stream, and is the provider's error before one."""
    code = "server_error"
    for event in (nested(code, status=500), nested(code), flat(code), failed(code)):
        assert facts(from_event(event)) == (e.ResponseFailed, "server_error", True)
    assert facts(http(500, "server_error")) == (e.ProviderError, "server_error", True)


TYPES = [
    ("insufficient_quota", e.QuotaExceeded, False), ("service_unavailable_error", e.Overloaded, True),
    ("overloaded", e.Overloaded, True), ("rate_limit_error", e.RateLimited, True),
    ("authentication_error", e.NotAuthenticated, False), ("server_error", e.ResponseFailed, True),
]  # fmt: skip


@pytest.mark.row("A21")
@pytest.mark.parametrize(("name", "kind", "retried"), TYPES)
def test_the_type_decides_where_there_is_no_telling_code(name: str, kind: type[PixirError], retried: bool) -> None:
    """A missing, null or unknown code leaves it to the type."""
    for code in (None, "", "new_code"):
        error = from_event(nested(code, kind=name))
        assert (type(error), error.retryable) == (kind, retried) and error.details["type"] == name


MESSAGES = [
    ("Previous response with id 'resp_1' not found.", "previous_response_not_found", e.ProviderError),
    ("previous_response_not_found", "previous_response_not_found", e.ProviderError),
    ("This model's maximum context length is 4096 tokens.", "context_length_exceeded", e.ContextOverflow),
    ("Your input exceeds the context window of this model.", "context_length_exceeded", e.ContextOverflow),
    ("The 'gpt-x' model is not supported here.", "model_not_supported", e.ModelNotSupported),
    ("The model `gpt-x` does not exist or you do not have access to it.", "model_not_supported", e.ModelNotSupported),
]


@pytest.mark.row("A21")
@pytest.mark.parametrize(("said", "code", "kind"), MESSAGES)
def test_the_message_decides_where_nothing_else_tells(said: str, code: str, kind: type[PixirError]) -> None:
    """Without a code, with a general one, and with the status for a code; not against a code that tells something."""
    shapes = [nested(None, said), nested("invalid_request_error", said), nested(400, said), flat(None, said),
              failed(None, said), {"type": "error", "error": said}]  # fmt: skip
    detail = json.dumps({"detail": said}).encode()
    for error in [*map(from_event, shapes), http(400, None, said), from_http(400, {}, detail)]:
        assert facts(error) == (kind, code, False)
    assert from_event(flat("invalid_prompt", said)).code == "invalid_prompt"


STATUSES: list[tuple[int, type[PixirError], type[PixirError], bool]] = [
    # status, over HTTP, in a stream, retried
    (400, e.ProviderError, e.ProviderError, False), (401, e.NotAuthenticated, e.NotAuthenticated, False),
    (403, e.PermissionDenied, e.PermissionDenied, False), (404, e.ProviderError, e.ProviderError, False),
    (408, e.ProviderError, e.ProviderError, True), (409, e.ProviderError, e.ProviderError, True),
    (422, e.ProviderError, e.ProviderError, False), (429, e.RateLimited, e.RateLimited, True),
    (500, e.ProviderError, e.ResponseFailed, True), (502, e.ProviderError, e.ResponseFailed, True),
    (503, e.Overloaded, e.Overloaded, True), (529, e.Overloaded, e.Overloaded, True),
]  # fmt: skip


@pytest.mark.row("A21", "A22", "C4")
@pytest.mark.parametrize(("status", "over_http", "in_stream", "retried"), STATUSES)
def test_the_status_decides_last(
    status: int, over_http: type[PixirError], in_stream: type[PixirError], retried: bool
) -> None:
    """408, 409, 429 and 5xx are retried; also where the status stands as a number, or as text, in place of the code."""
    for body in (b"", b"no json", b"<html>x</html>", b"[]", b"null", b'{"error": {}}', b'{"error": null}', b"\xff"):
        error = from_http(status, {}, body)
        assert (type(error), error.retryable, error.status) == (over_http, retried, status) and error.message
    for event in (nested(None, status=status), nested(status), nested(str(status)), flat(status), failed(status)):
        error = from_event(event)
        assert (type(error), error.retryable, error.status) == (in_stream, retried, status)


@pytest.mark.row("A21")
def test_an_unknown_code_without_a_status_is_raised() -> None:
    """Nothing is known of it: a failed response that is not retried, its code kept."""
    for event in (nested("brand_new", kind="x"), flat("brand_new"), failed("brand_new"), flat(12345), flat("²")):
        error = from_event(event)
        assert type(error) is e.ResponseFailed and not error.retryable and error.code


@pytest.mark.row("A21")
@pytest.mark.parametrize("event", [
    {"type": "error"}, {"type": "error", "error": None}, flat(None, None), nested(None, None, kind=" "),
    {"type": "response.failed"}, {"type": "response.failed", "response": None},
    {"type": "response.failed", "response": {"status": "failed", "error": None}},
])  # fmt: skip
def test_an_error_that_says_nothing(event: Json) -> None:
    """A message of our own, and no code: the event's own type is none."""
    error = from_event(event)
    assert type(error) is e.ResponseFailed and "provider" in error.message and (error.code or "").strip() == ""
    assert error.details.get("type", " ") == " "


@pytest.mark.row("A21")
def test_a_bare_string_as_error() -> None:
    """A server may send a string as `error`, in each place where one stands."""
    events: list[Json] = [{"type": "error", "error": "boom"}]
    events += [{"type": "response.failed", "response": {"error": "boom"}}]
    bodies = [b'{"error": "boom"}', b'"boom"', b"boom"]
    for error in [*map(from_event, events), *(from_http(500, {}, body) for body in bodies)]:
        assert error.message == "boom"
    assert from_event({"type": "error", "code": "slow_down", "error": "boom"}).retryable


@pytest.mark.row("A22")
@pytest.mark.parametrize(("detail", "message", "code"), [
    ("Unauthorized", "Unauthorized", None),
    ([{"loc": ["body", "model"], "msg": "field required", "input": "SENTINEL"}, {"msg": "too short"}],
     "field required; too short", None),
    ({"message": "No plan", "code": "usage_not_included", "plan_type": "free"}, "No plan", "usage_not_included"),
    ({"msg": "odd"}, "odd", None),
])  # fmt: skip
def test_detail_bodies(detail: Any, message: str, code: str | None) -> None:
    """`detail` as a string, as a list of validation errors (without the inputs they quote), and as an object."""
    error = from_http(400, {}, json.dumps({"detail": detail}).encode())
    assert (error.message, error.code) == (message, code)
    assert isinstance(error, e.UsageLimitReached) == (code is not None)


@pytest.mark.row("A22")
@pytest.mark.parametrize(("size", "cut"), [(0, False), (16_383, False), (16_384, False), (16_385, True)])
def test_bodies_are_capped_exactly(size: int, cut: bool) -> None:
    """16,384 bytes are kept whole; one more is cut off, and the flag says so."""
    assert BODY_LIMIT == 16_384
    error = from_http(500, {}, b"x" * size)
    assert error.details["body_truncated"] is cut
    assert len(error.details["body"].encode()) == min(size, BODY_LIMIT)
    assert len(error.message) <= e.MESSAGE_LIMIT


@pytest.mark.row("A22")
def test_html_is_no_message() -> None:
    """A gateway's page is kept as the body, and the message says the status."""
    error = from_http(502, {}, b"<!doctype html><HTML><body>Bad gateway</body></HTML>")
    assert "502" in error.message and "<" not in error.message and "Bad gateway" in error.details["body"]


@pytest.mark.row("A22")
@pytest.mark.parametrize(("told", "minutes"), [
    ({"resets_at": 1_000_600}, 10), ({"resets_at": 1_000_601}, 11), ({"resets_at": 999_000}, 0),
    ({"resets_in_seconds": 90}, 2), ({"resets_in_seconds": 60, "resets_at": 5_000_000}, 1), ({}, None),
    ({"resets_at": "2026-11-20T00:00:00Z"}, None), ({"resets_at": None}, None), ({"resets_at": 10**400}, None),
])  # fmt: skip
def test_usage_limits_say_the_plan_and_when_it_resets(told: Json, minutes: int | None) -> None:
    """The plan, the time as it came, and the minutes until then, rounded up, never negative."""
    body = {"type": "usage_limit_reached", "message": "limit", "plan_type": "plus", **told}
    for error in (
        from_http(429, {}, json.dumps({"error": body}).encode(), now=1_000_000.0),
        from_event({"type": "error", "status": 429, "error": body}, now=1_000_000.0),
    ):
        assert type(error) is e.UsageLimitReached and not error.retryable and error.details["plan_type"] == "plus"
        assert error.details.get("resets_in_minutes") == minutes
        assert error.details.get("resets_at") == told.get("resets_at")


@pytest.mark.row("C4")
@pytest.mark.parametrize(("status", "code", "advice", "retried"), [
    (400, None, "true", True), (500, None, "false", False), (429, "rate_limit_exceeded", "false", False),
    (503, None, "false", False), (409, None, "false", False), (404, "new_code", "true", True),
    (500, None, "maybe", True), (400, "invalid_prompt", "true", False),
    (429, "insufficient_quota", "true", False), (401, None, "true", False),
    (403, None, "true", False), (400, "context_length_exceeded", "true", False),
])  # fmt: skip
def test_x_should_retry(status: int, code: str | None, advice: str, retried: bool) -> None:
    """The server's advice overrides the status, and a code's yes; never what no retry can mend."""
    body = json.dumps({"error": {"code": code, "message": "m"}}).encode()
    assert from_http(status, {"x-should-retry": advice}, body).retryable is retried
    event = {"type": "error", "status": status, "headers": {"X-Should-Retry": advice}, "error": {"code": code}}
    assert from_event(event).retryable is retried


@pytest.mark.row("C4")
def test_delays_and_request_ids_come_from_headers_of_either_kind() -> None:
    """HTTP headers, and the headers that an error event carries, whatever the case of their names."""
    headers = {"Retry-After": "7", "X-Request-Id": "req_1"}
    event = {"type": "error", "status": 429, "headers": headers, "error": {"message": "m"}}
    for error in (from_event(event), from_http(429, {k.lower(): v for k, v in headers.items()}, b"{}")):
        assert (error.retry_after, error.request_id) == (7.0, "req_1")
    dated = from_http(503, {"retry-after": formatdate(1_000_030, usegmt=True)}, b"", now=1_000_000.0)
    assert dated.retry_after == 30.0
    assert from_event(flat("slow_down", "Please try again in 1.2s.")).retry_after == pytest.approx(1.2)
    assert from_event(flat("slow_down", "Later.")).retry_after is None


@pytest.mark.row("A20")
def test_a_cancelled_response() -> None:
    """By the event's name or by the response's status; an `error` event is an error."""
    told = {"status": "cancelled", "error": {"code": "c", "message": "m"}}
    events: list[Json] = [{"type": "response.cancelled"}, {"type": "response.failed", "response": told}]
    for event in [*events, {"type": "response.done", "response": {"status": "cancelled"}}]:
        error = from_event(event)
        assert type(error) is e.ResponseCancelled and not error.retryable and error.message
    assert type(from_event({**flat("slow_down"), "response": {"status": "cancelled"}})) is e.RateLimited


CLOSES = [(code, e.ConnectionLost, True) for code in (1001, 1005, 1006, 1011, 1012, 1013)] + [
    (1000, e.ConnectionLost, False), (1002, e.ConnectionLost, False), (4000, e.ConnectionLost, False),
    (1008, e.HandshakeRefused, False), (1009, e.FrameTooLarge, False), (4402, e.QuotaExceeded, False),
]  # fmt: skip


@pytest.mark.row("A22")
@pytest.mark.parametrize(("code", "kind", "retried"), CLOSES)
def test_close_codes(code: int, kind: type[PixirError], retried: bool) -> None:
    """Which closes are worth a reconnect, and which say something else; the code and the reason are told."""
    error = from_close(code, f"why {SECRET}", secrets=[SECRET])
    assert (type(error), error.retryable, error.details) == (kind, retried, {"close_code": code})
    assert str(code) in error.message and "why [credential]" in error.message and SECRET not in error.message
    assert str(from_close(code, "")).endswith(str(code)) and len(CLOSE_CODES) == 9


@pytest.mark.row("A22", "A26")
def test_credential_values_are_replaced_everywhere() -> None:
    """Message, code, details and body; whatever kind of iterable the values come in."""
    error = {"message": f"Incorrect API key {SECRET}", "code": f"c-{SECRET}", "type": f"t-{SECRET}", "param": SECRET}
    body = json.dumps({"error": error}).encode()
    found = [
        from_http(401, {}, body, secrets=iter([SECRET])),
        from_http(401, {}, SECRET.encode(), secrets=iter([SECRET])),
        from_http(400, {}, json.dumps({"error": {"code": SECRET}}).encode(), secrets=iter([SECRET])),
        from_event({"type": "error", "error": error}, secrets=iter([SECRET])),
        from_event({"type": "response.cancelled", "response": {"error": error}}, secrets=iter([SECRET])),
    ]
    for each in found:
        assert "SENTINEL" not in json.dumps(each.to_dict()) + repr(each)
        assert "[credential]" in json.dumps(each.to_dict())


@pytest.mark.row("A22", "A26")
@given(st.integers(0, len(SECRET)))
def test_a_credential_at_the_cut_leaves_no_beginning(kept: int) -> None:
    """A body cut off inside a credential value shows no more than its first three characters."""
    body = (b"x" * (BODY_LIMIT - kept) + SECRET.encode() + b"y" * 30)[: BODY_LIMIT + 1]
    shown = json.dumps(from_http(500, {}, body, secrets=[SECRET]).to_dict())
    assert SECRET[:4] not in shown


def test_redaction_of_values_within_values_and_of_short_ones() -> None:
    """A longer value goes first; what is too short to be a credential is left alone."""
    assert redact("key abcdefgh and abcd", ["abcd", "abcdefgh", "", "key"]) == "key [credential] and [credential]"


@given(plain_json, st.sampled_from(["error", "response.failed", "response.cancelled", "response.done"]), plain_json)
def test_odd_events_never_raise(odd: Any, kind: str, other: Any) -> None:
    """Whatever an error event holds, it is some `PixirError` whose facts are plain JSON."""
    inner = dict.fromkeys(("code", "message", "type", "status", "headers", "resets_at", "plan_type"), odd)
    events: list[Json] = [{"error": odd}, {"response": odd}, {"response": {"error": other, "status": odd}}, inner]
    for event in [*events, {"error": inner}, {"detail": odd}]:
        error = from_event({**event, "type": kind})
        assert json.dumps(error.to_dict()) and isinstance(error.message, str)


ODD_HEADERS = st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x-should-retry"]), st.text(max_size=9))


@given(st.integers(300, 599), plain_json.map(json.dumps).map(str.encode) | st.binary(), ODD_HEADERS)
def test_odd_bodies_and_headers_never_raise(status: int, body: bytes, headers: dict[str, str]) -> None:
    """Whatever a gateway answers, it is some `PixirError` with the status."""
    error = from_http(status, headers, body)
    assert error.status == status and json.dumps(error.to_dict())


def test_every_code_of_the_table_is_tested() -> None:
    """A code that is added gets its row here."""
    aliases = {"rate_limit_error", "overloaded_error", "billing_hard_limit_reached", "model_not_supported",
               "authentication_error", "permission_denied"}  # fmt: skip
    assert CODES.keys() - {row[1] for row in ROWS} == aliases
