"""What is sent again, after how long, and what never is: the retry rule over real sockets (row C4)."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from pixir_sync import (
    NotAuthenticated,
    Overloaded,
    PermissionDenied,
    PixirError,
    ProviderError,
    RateLimited,
)
from pixir_sync.hooks import TurnRecord
from tests.support import events as ev
from tests.support.peer import Conn
from tests.transports.http.helpers import Json, Wire, answer, answers, begin, quick, refuse, took

SOON = {"retry-after-ms": "20"}
KINDS = {429: "rate_limited", 503: "overloaded", 529: "overloaded"}


@pytest.mark.row("C4")
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_a_passing_refusal_is_retried(wire: Wire, status: int) -> None:
    """After each of these statuses the same body goes out again, once, after the delay given, on the same connection."""
    with wire.peer([refuse(status, {"error": {"message": "later"}}, SOON)]) as peer, wire.provider(peer.base_url) as provider:
        with took(0.02, 2):
            result = provider.complete("x")
        assert provider.stats()["replays"] == {KINDS.get(status, "provider_http_error"): 1}
    assert result.text == "hi"
    assert result.provider_metadata["attempts"] == 2
    assert peer.requests[0].body == peer.requests[1].body


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ProviderError), (401, NotAuthenticated), (403, PermissionDenied), (404, ProviderError), (422, ProviderError)],
)
def test_a_lasting_refusal_is_raised_at_once(wire: Wire, status: int, kind: type[PixirError]) -> None:
    """These statuses are never retried, whatever delay they name."""
    body = {"error": {"message": "no", "code": "odd", "type": "t", "param": "p"}}
    with wire.peer([refuse(status, body, {**SOON, "x-request-id": "req_9"})]) as peer, wire.provider(peer.base_url) as provider:
        with pytest.raises(kind) as caught:
            provider.complete("x")
        assert provider.stats()["replays"] == {}
    error = caught.value
    assert (error.status, error.message, error.code, error.request_id) == (status, "no", "odd", "req_9")
    assert (error.phase, error.request_sent, error.output_seen) == ("first_event", True, False)
    assert error.details["body_truncated"] is False and error.details["param"] == "p"
    assert len(peer.requests) == 1


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("status", "code", "retried"),
    [
        (429, "rate_limit_exceeded", True),
        (429, "slow_down", True),
        (503, "server_is_overloaded", True),
        (500, "server_error", True),
        (429, "insufficient_quota", False),
        (429, "usage_limit_reached", False),
        (500, "invalid_prompt", False),
        (429, "team_spend_limit_exceeded", False),
    ],
)
def test_the_code_decides_over_the_status(plain: Wire, status: int, code: str, retried: bool) -> None:
    """A quota that is used up is no passing refusal, though its status is one."""
    script = refuse(status, {"error": {"message": "m", "code": code}}, SOON)
    with plain.peer([script]) as peer, plain.provider(peer.base_url) as provider:
        if retried:
            assert provider.complete("x").text == "hi"
            assert sum(provider.stats()["replays"].values()) == 1
        else:
            with pytest.raises(ProviderError):
                provider.complete("x")
    assert len(peer.requests) == 1 + retried


def in_a_second() -> str:
    """A date that is between one and two seconds ahead: dates have whole seconds."""
    return formatdate(int(time.time()) + 2, usegmt=True)


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("headers", "message", "least"),
    [
        ({"retry-after-ms": "60"}, "", 0.06),
        ({"retry-after-ms": "60", "retry-after": "9"}, "", 0.06),
        ({"retry-after": "0.08"}, "", 0.08),
        ({"retry-after": formatdate(0, usegmt=True)}, "", 0.0),
        ({"retry-after": "soon"}, "", 0.0),
        ({"retry-after-ms": "-5"}, "", 0.0),
        ({}, "Please try again in 70ms.", 0.07),
        ({}, "Please try again in 0.06s.", 0.06),
    ],
)
def test_the_servers_delay_is_kept(plain: Wire, headers: dict[str, str], message: str, least: float) -> None:
    """Milliseconds win over seconds, a date in the past means now, the message serves where no header does."""
    script = refuse(429, {"error": {"message": message}}, headers)
    with plain.peer([script]) as peer, plain.provider(peer.base_url) as provider, took(least, 2):
        assert provider.complete("x").provider_metadata["attempts"] == 2


@pytest.mark.row("C4")
def test_a_delay_given_as_a_date_is_kept(plain: Wire) -> None:
    """Retry-After may be a date: the error names the seconds until then."""
    with (
        plain.peer([refuse(503, "", {"retry-after": in_a_second()})]) as peer,
        plain.provider(peer.base_url, retry=0) as provider,
        pytest.raises(Overloaded) as caught,
    ):
        provider.complete("x")
    assert caught.value.retry_after is not None and 0.5 < caught.value.retry_after <= 2


TOO_LONG = [{"retry-after": "121"}, {"retry-after-ms": "120001"}, {"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}]


@pytest.mark.row("C4")
@pytest.mark.parametrize("headers", TOO_LONG)
def test_too_long_a_delay_is_raised_at_once(plain: Wire, headers: dict[str, str]) -> None:
    """A server that asks for more than 120 seconds gets no second request; the error names the delay."""
    with (
        plain.peer([refuse(429, "", headers)]) as peer,
        plain.provider(peer.base_url) as provider,
        took(0, 2),
        pytest.raises(RateLimited) as caught,
    ):
        provider.complete("x")
    assert caught.value.retry_after is not None and caught.value.retry_after > 120
    assert len(peer.requests) == 1


@pytest.mark.row("C4")
def test_a_delay_beyond_the_total_limit_is_raised_at_once(plain: Wire) -> None:
    """Nobody waits for a retry that the limit for the whole call leaves no time for."""
    with (
        plain.peer([refuse(429, "", {"retry-after": "30"})]) as peer,
        plain.provider(peer.base_url, timeouts={"total": 5}) as provider,
        took(0, 2),
        pytest.raises(RateLimited),
    ):
        provider.complete("x")


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("status", "advice", "retried"), [(400, "true", True), (404, "true", True), (500, "false", False), (429, "false", False)]
)
def test_the_servers_advice_decides(wire: Wire, status: int, advice: str, retried: bool) -> None:
    """x-should-retry is followed both ways."""
    with wire.peer([refuse(status, "", {**SOON, "x-should-retry": advice})]) as peer, wire.provider(peer.base_url) as provider:
        if retried:
            assert provider.complete("x").text == "hi"
        else:
            with pytest.raises(ProviderError):
                provider.complete("x")
    assert len(peer.requests) == 1 + retried


@pytest.mark.row("C4")
def test_retries_end(plain: Wire) -> None:
    """After max_retries the last refusal is raised, and every attempt was counted, and stands in the turn's record."""
    told: list[TurnRecord] = []

    def script(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.respond(503, "", SOON)

    with plain.peer([script]) as peer, plain.provider(peer.base_url, retry=quick(3), hooks=told.append) as provider:
        with pytest.raises(Overloaded) as caught:
            provider.complete("x")
        stats = provider.stats()
    assert len(peer.requests) == 4
    assert caught.value.partial is not None and caught.value.partial.provider_metadata["attempts"] == 4
    assert (stats["replays"], stats["errors"]) == ({"overloaded": 3}, {"overloaded": 1})
    assert [(e.attempts, e.replays, e.error_kind, e.error_status) for e in told] == [(4, {"overloaded": 3}, "overloaded", 503)]
    assert told[0].total_ms is not None and told[0].total_ms >= 3 * 20


@pytest.mark.row("C4")
@pytest.mark.parametrize("replay", ["never", "before_created", "before_output"])
def test_an_error_after_created_obeys_the_policy(plain: Wire, replay: str) -> None:
    """A retryable error event before any output is replayed only with replay="before_output"."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        for event in (ev.created(), ev.error("rate_limit_exceeded", "try again in 20ms")):
            conn.sse(event)
        conn.finish()
        answers(conn)

    with plain.peer([script]) as peer, plain.provider(peer.base_url, retry=quick(replay=replay)) as provider:
        stream = provider.stream("x")
        if replay == "before_output":
            assert [event.type for event in stream][:2] == ["response.created", "response.created"]
            assert stream.result().text == "hi"
        else:
            with pytest.raises(RateLimited):
                stream.result()
    assert len(peer.requests) == 1 + (replay == "before_output")


@pytest.mark.row("C4", "A25")
def test_ids_and_limits_of_the_delivered_attempt_are_evidence(wire: Wire) -> None:
    """The request id and the rate-limit headers are those of the attempt that was delivered."""
    headers = {"x-request-id": "req_2", "x-ratelimit-remaining-requests": "41", "X-RateLimit-Reset-Tokens": "6ms",
               "openai-processing-ms": "12", "x-other": "no"}  # fmt: skip

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.respond(500, "", {**SOON, "x-request-id": "req_1", "x-ratelimit-remaining-requests": "42"})
        conn.read_request()
        conn.start_sse(headers=headers)
        for event in ev.text_response("hi"):
            conn.sse(event)
        conn.finish()

    with wire.peer([script]) as peer, wire.provider(peer.base_url) as provider:
        found: Json = provider.complete("x").provider_metadata
    assert found["request_id"] == "req_2"
    assert found["rate_limits"] == {"x-ratelimit-remaining-requests": "41", "x-ratelimit-reset-tokens": "6ms"}
    assert (found["attempts"], found["processing_ms"], found["active_transport"]) == (2, 12, "http_sse")
    assert found["connection_reused"] is True and found["connect_ms"] is None
    assert found["bytes_sent"] > len(peer.requests[1].body)
    assert 0 < found["first_event_ms"] <= found["total_ms"]


class Rotating:
    """A credential whose token is refreshed."""

    identity = "account"

    def __init__(self) -> None:
        self.number = 0

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer token-{self.number}"}

    def refresh(self) -> None:
        self.number += 1


@pytest.mark.row("D3")
@pytest.mark.parametrize("refusals", [1, 2])
def test_a_refused_token_is_refreshed_once(wire: Wire, refusals: int) -> None:
    """After a 401 the credential is refreshed and the call sent again, once; a second 401 is raised."""

    def script(conn: Conn) -> None:
        for _ in range(refusals):
            conn.read_request()
            conn.respond(401, {"error": {"message": "expired"}})
        answers(conn)

    credential = Rotating()
    with wire.peer([script]) as peer, wire.provider(peer.base_url, api_key=None, credential=credential) as provider:
        if refusals == 1:
            assert provider.complete("x").text == "hi"
        else:
            with pytest.raises(NotAuthenticated):
                provider.complete("x")
    assert [r.headers["authorization"] for r in peer.requests] == ["Bearer token-0", "Bearer token-1"]
    assert credential.number == 1


@pytest.mark.row("C4")
def test_a_lost_connection_is_retried_before_output_only(wire: Wire) -> None:
    """A connection lost on its first use, after created, costs a retry; the new attempt's events follow."""

    def lost(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        conn.sse(ev.created())
        conn.cut()

    with wire.peer([lost, answer]) as peer, wire.provider(peer.base_url) as provider:
        result = provider.complete("x")
        assert provider.stats()["replays"] == {"connection_lost": 1}
    assert result.text == "hi"
    assert len(peer.connections) == 2


@pytest.mark.row("C4")
def test_a_call_with_effects_is_not_repeated_after_created(wire: Wire) -> None:
    """With store: true a response that has begun is not made twice."""

    def lost(conn: Conn) -> None:
        conn.read_request()
        conn.start_sse()
        conn.sse(ev.created())
        conn.cut()

    with (
        wire.peer([lost]) as peer,
        wire.provider(peer.base_url, store=True) as provider,
        pytest.raises(PixirError) as caught,
    ):
        provider.complete("x")
    assert (caught.value.kind, caught.value.response_id) == ("connection_lost", "resp_1")


def test_nothing_is_replayed_after_output(plain: Wire) -> None:
    """Also an error event that says retry is raised once a delta came, with what there is."""

    def script(conn: Conn) -> None:
        begin(conn, "half")
        conn.sse(ev.error("rate_limit_exceeded", "try again in 1ms"))
        conn.finish()

    with (
        plain.peer([script]) as peer,
        plain.provider(peer.base_url) as provider,
        pytest.raises(RateLimited) as caught,
    ):
        provider.complete("x")
    error: Any = caught.value
    assert (error.output_seen, error.partial.text, len(peer.requests)) == (True, "half", 1)
