"""The replay table: each of its rows in each preference, and the laws that hold over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol import errors as e
from pixir_sync.protocol.classify import CLOSE_CODES, from_close, from_event, from_http
from pixir_sync.protocol.errors import PixirError
from pixir_sync.protocol.retry import RetryPolicy
from pixir_sync.protocol.turn import STALE, Action, Situation, decide

RAISE, RETRY, REFRESH, HTTP = Action.RAISE, Action.RETRY, Action.REFRESH, Action.HTTP
SAME, FRESH = Action.FULL_SAME_SOCKET, Action.FULL_FRESH_SOCKET
ON_SOCKET = {"auto": "websocket", "websocket": "websocket", "http_sse": "http_sse"}
ONCE = {
    "previous_response_not_found", "max_lifetime", "frame_too_large", "reused_connection_lost", "credential_refreshed",
}  # fmt: skip


def situation(preference: str, **facts: Any) -> Situation:
    """Before any output, over the transport that this preference begins with."""
    return Situation(**{"policy": RetryPolicy(), "preference": preference, "transport": ON_SOCKET[preference], **facts})


def provider(code: str, **facts: Any) -> PixirError:
    return from_event({"type": "error", "code": code, "message": "m", **facts})


@dataclass
class Row:
    """A row of the table: a failure, where it happens, and what follows in each preference."""

    error: PixirError
    auto: Action
    websocket: Action
    http_sse: Action
    facts: dict[str, Any]


def row(error: PixirError, auto: Action, websocket: Action, http_sse: Action, **facts: Any) -> Row:
    return Row(error, auto, websocket, http_sse, facts)


def refused(status: int) -> PixirError:
    return e.HandshakeRefused("refused", status=status)


UNTRUSTED = e.ConnectFailed("certificate", details={"certificate": True})
facts = st.fixed_dictionaries({name: st.booleans() for name in ("connection_reused", "any_event", "created")})
LOST = e.ConnectionLost("lost")
STALE_LOST = e.ConnectionLost("lost while idle", code=STALE)
ROWS = {
    "certificate not trusted": row(UNTRUSTED, RAISE, RAISE, RAISE),
    "connect failed": row(e.ConnectFailed("refused"), HTTP, RETRY, RETRY),
    "connect timed out": row(e.ConnectTimeout("late"), HTTP, RETRY, RETRY),
    **{f"{status} at the upgrade": row(refused(status), HTTP, RETRY, RETRY) for status in (301, 400, 500, 503)},
    "101 then close 1008": row(from_close(1008, "policy"), HTTP, RETRY, RETRY),
    **{f"{status} at the upgrade": row(refused(status), HTTP, RAISE, RAISE) for status in (404, 405, 426, 501)},
    "401": row(from_http(401, {}, b""), RAISE, RAISE, RAISE),
    "401 with a refreshable credential": row(from_http(401, {}, b""), REFRESH, REFRESH, REFRESH, refreshable=True),
    "403": row(from_http(403, {}, b""), RAISE, RAISE, RAISE, refreshable=True),
    "429": row(from_http(429, {"retry-after": "3"}, b""), RETRY, RETRY, RETRY),
    "401 as a refused upgrade": row(refused(401), REFRESH, REFRESH, REFRESH, refreshable=True),
    "401 as a refused upgrade, not refreshable": row(refused(401), RAISE, RAISE, RAISE),
    "403 as a refused upgrade": row(refused(403), RAISE, RAISE, RAISE),
    "429 as a refused upgrade": row(refused(429), RETRY, RETRY, RETRY),
    "lost on a reused socket before any event": row(LOST, FRESH, FRESH, FRESH, connection_reused=True),
    "lost while it was idle": row(STALE_LOST, FRESH, FRESH, FRESH, connection_reused=True),
    "caller's context, lost while it was idle": row(STALE_LOST, FRESH, FRESH, FRESH, connection_reused=True, caller_managed=True),
    "lost on a reused socket, again": row(
        LOST, HTTP, RETRY, RETRY, connection_reused=True, once={"reused_connection_lost"}),
    "lost on a reused socket after an event": row(LOST, HTTP, RETRY, RETRY, connection_reused=True, any_event=True),
    "lost on a fresh socket": row(LOST, HTTP, RETRY, RETRY),
    "lost after created": row(LOST, HTTP, RETRY, RETRY, any_event=True, created=True),
    "lost after created, with store or hosted tools": row(
        LOST, RAISE, RAISE, RAISE, any_event=True, created=True, stores=True),
    "lost before created, with store": row(LOST, HTTP, RETRY, RETRY, stores=True),
    "lost on a reused socket, with store": row(LOST, FRESH, FRESH, FRESH, stores=True, connection_reused=True),
    "previous_response_not_found": row(provider("previous_response_not_found"), SAME, SAME, RAISE),
    "previous_response_not_found, again": row(
        provider("previous_response_not_found"), RAISE, RAISE, RAISE, once={"previous_response_not_found"}),
    "the age limit": row(provider("websocket_connection_limit_reached"), FRESH, FRESH, RAISE),
    "the age limit, again": row(
        provider("websocket_connection_limit_reached"), RAISE, RAISE, RAISE, once={"max_lifetime"}),
    "close 1009": row(from_close(1009, ""), HTTP, RAISE, RAISE),
    "input over the frame limit": row(e.FrameTooLarge("17 MB"), HTTP, RAISE, RAISE),
    "a provider's error that may be retried": row(provider("server_error"), RETRY, RETRY, RETRY),
    "an overload after created": row(provider("overloaded"), RETRY, RETRY, RETRY, any_event=True, created=True),
    "a provider's error that may not": row(provider("invalid_prompt"), RAISE, RAISE, RAISE),
    "out of retries": row(provider("server_error"), RAISE, RAISE, RAISE, retries=2),
    "a delay of the server's over the limit": row(from_http(429, {"retry-after": "121"}, b""), RAISE, RAISE, RAISE),
    "close 4402": row(from_close(4402, ""), RAISE, RAISE, RAISE),
    "an unknown code without a status": row(provider("brand_new"), RAISE, RAISE, RAISE),
    "an answer that cannot be used": row(e.InvalidResponse("bad"), RAISE, RAISE, RAISE),
    "a wrong request": row(e.InvalidRequest("bad"), RAISE, RAISE, RAISE),
    "no key": row(e.NotAuthenticated("none"), RAISE, RAISE, RAISE),
    "closed": row(e.ProviderClosed("closed"), RAISE, RAISE, RAISE),
    "cancelled": row(e.Cancelled("cancelled"), RAISE, RAISE, RAISE),
    **{kind.kind: row(kind("late"), RAISE, RAISE, RAISE)
       for kind in (e.FirstEventTimeout, e.IdleTimeout, e.WriteTimeout, e.TotalTimeout, e.PoolTimeout, e.SessionBusy)},
    # The caller owns the context: nothing is sent that would drop it.
    "caller's context, lost on a reused socket": row(
        LOST, RAISE, RAISE, FRESH, connection_reused=True, caller_managed=True),
    "caller's context not found": row(
        provider("previous_response_not_found"), RAISE, RAISE, RAISE, caller_managed=True),
    "caller's context, the age limit": row(
        provider("websocket_connection_limit_reached"), RAISE, RAISE, RAISE, caller_managed=True),
}  # fmt: skip


@pytest.mark.parametrize("preference", ["auto", "websocket", "http_sse"])
@pytest.mark.parametrize("name", ROWS)
def test_each_row_of_the_table(name: str, preference: str) -> None:
    """What follows each failure, in each preference."""
    case = ROWS[name]
    expected = getattr(case, preference)
    facts = {**case.facts, "once": set(case.facts.get("once", ()))}
    decision = decide(case.error, situation(preference, **facts), 0.5)
    assert decision.action is expected
    assert bool(decision.reason) == (expected is not RAISE)
    assert (decision.delay > 0) == (expected is RETRY)


@pytest.mark.parametrize("name", ROWS)
def test_auto_over_http_is_as_http(name: str) -> None:
    """Once the call has come down to HTTP there is no way back in it: the rows of ``http_sse`` hold."""
    case = ROWS[name]
    facts = {**case.facts, "once": set(case.facts.get("once", ()))}
    assert decide(case.error, situation("auto", transport="http_sse", **facts), 0.5).action is case.http_sse


@pytest.mark.parametrize("replay", ["never", "before_created", "before_output"])
@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_replayed_after_output(name: str, replay: Any) -> None:
    """After the first output every failure is raised."""
    case = ROWS[name]
    now = situation("auto", **{**case.facts, "policy": RetryPolicy(replay=replay), "output": True, "once": set()})
    assert decide(case.error, now, 0.5).action is RAISE and not now.once


@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_replayed_after_created_where_the_policy_says_so(name: str) -> None:
    """With ``before_created`` a response that began is not asked for again; before that the table holds."""
    case, policy = ROWS[name], RetryPolicy(replay="before_created")
    facts: dict[str, Any] = {**case.facts, "policy": policy, "once": set(case.facts.get("once", ()))}
    assert decide(case.error, situation("auto", **{**facts, "created": True}), 0.5).action is RAISE
    if not case.facts.get("created"):
        assert decide(case.error, situation("auto", **facts), 0.5).action is case.auto


@pytest.mark.parametrize("name", ROWS)
def test_never_replays_nothing_that_was_sent(name: str) -> None:
    """With ``never`` only what failed before the request was sent goes on, as the table says."""
    case, policy = ROWS[name], RetryPolicy(replay="never")
    before_sending = (e.ConnectFailed, e.ConnectTimeout, e.HandshakeRefused, e.FrameTooLarge)
    unsent = case.error is STALE_LOST or isinstance(case.error, before_sending)
    facts: dict[str, Any] = {**case.facts, "policy": policy, "once": set(case.facts.get("once", ()))}
    assert decide(case.error, situation("auto", **facts), 0.5).action is (case.auto if unsent else RAISE)
    sent = type(case.error)("sent", request_sent=True, status=case.error.status, code=case.error.code)
    assert decide(sent, situation("auto", **{**facts, "once": set()}), 0.5).action is RAISE


FINAL = [e.FirstEventTimeout, e.IdleTimeout, e.WriteTimeout, e.TotalTimeout, e.PoolTimeout, e.SessionBusy,
         e.DeadlineExceeded, e.Cancelled, e.ProviderClosed]  # fmt: skip


@pytest.mark.row("A20")
@given(st.sampled_from(FINAL), st.sampled_from(sorted(ON_SOCKET)), facts, st.booleans())
def test_time_limits_and_cancels_are_never_replayed(
    kind: type[PixirError], preference: str, at: dict[str, bool], retryable: bool
) -> None:
    """Wherever they happen, whatever they say of themselves."""
    now = situation(preference, **at)
    assert decide(kind("late", retryable=retryable, status=503), now, 0.0).action is RAISE and not now.once


def test_no_websocket_here_is_remembered_and_other_refusals_are_not() -> None:
    """404, 405, 426 and 501 say so for ten minutes; an outage says nothing about tomorrow."""
    assert all(decide(refused(status), situation("auto"), 0.0).remember for status in (404, 405, 426, 501))
    others = [refused(503), e.ConnectFailed("x"), from_close(1009, ""), LOST]
    assert not any(decide(error, situation("auto"), 0.0).remember for error in others)


@pytest.mark.row("C4")
def test_the_servers_delay_is_kept() -> None:
    """A retry waits what the server asked for, else the policy's backoff; the kind of the error is the reason."""
    slow = from_http(429, {"retry-after": "3"}, b'{"error": {"code": "slow_down"}}')
    decision = decide(slow, situation("http_sse"), 0.0)
    assert (decision.delay, decision.reason) == (3.0, "rate_limited")
    assert decide(provider("server_error"), situation("http_sse", retries=1), 0.0).delay == 1.0


def test_a_row_that_happens_once_is_marked() -> None:
    """The rows that were used up stand in the situation, and nothing else does."""
    for case in ROWS.values():
        now = situation("auto", **{**case.facts, "once": set()})
        decision = decide(case.error, now, 0.0)
        assert now.once == ({decision.reason} & ONCE)


codes = st.sampled_from([
    "previous_response_not_found", "websocket_connection_limit_reached", "server_error", "overloaded", "slow_down", "x",
    "insufficient_quota", "invalid_api_key", "invalid_prompt",
])  # fmt: skip
failures = st.one_of(
    codes.map(provider),
    st.sampled_from([301, 400, 401, 403, 404, 426, 429, 500, 501]).map(refused),
    st.sampled_from([400, 401, 403, 408, 429, 500, 503]).map(lambda status: from_http(status, {}, b"")),
    st.sampled_from(sorted(CLOSE_CODES)).map(lambda code: from_close(code, "")),
    st.sampled_from([case.error for case in ROWS.values()]),
)
@given(st.data())
def test_every_call_ends_and_no_row_repeats(data: st.DataObject) -> None:
    """Whatever goes wrong, in whatever order: bounded attempts, one fallback, each once-row at most once."""
    policy = RetryPolicy(max_retries=data.draw(st.integers(0, 4)))
    preference = data.draw(st.sampled_from(sorted(ON_SOCKET)))
    flags = {name: data.draw(st.booleans()) for name in ("stores", "caller_managed", "refreshable")}
    now = situation(preference, policy=policy, **flags)
    taken: list[str] = []
    fallbacks = 0
    while True:
        for name, value in data.draw(facts).items():
            setattr(now, name, value)
        decision = decide(data.draw(failures), now, data.draw(st.floats(0, 1)))
        if decision.action is RAISE:
            break
        if decision.action is RETRY:
            now.retries += 1
        else:
            taken.append(decision.reason)
        if decision.action is HTTP:
            assert preference == "auto"
            now.transport, fallbacks = "http_sse", fallbacks + 1
        assert now.retries <= policy.max_retries and fallbacks <= 1
        assert len(taken) <= len(ONCE) + 1
    assert all(taken.count(name) == 1 for name in taken)
    assert now.retries <= policy.max_retries
