"""How long to wait before the next try, the server's own delay, the request rate and the breaker."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.retry import Breaker, RequestRate, RetryPolicy, non_negative, retry_after

seconds = st.just(0.0) | st.floats(1e-3, 1e9)
chances = st.floats(0, 1)
policies = st.builds(
    RetryPolicy, initial_delay=seconds, max_delay=seconds, jitter=chances, max_server_delay=seconds,
    max_retries=st.integers(0, 10),
)  # fmt: skip


@pytest.mark.row("C4")
@given(policies, st.integers(0, 10_000), chances)
def test_backoff_is_bounded(policy: RetryPolicy, done: int, chance: float) -> None:
    """The wait lies between the doubled delay less its jitter and `max_delay`, however often it was tried."""
    wait = policy.delay(done, None, chance)
    own = min(policy.initial_delay * 2.0 ** min(done, 1000), policy.max_delay)
    assert wait is not None and own * (1 - policy.jitter) <= wait <= own <= policy.max_delay


@pytest.mark.row("C4")
@given(policies, st.integers(0, 100), seconds, chances)
def test_a_servers_delay_is_never_shortened(policy: RetryPolicy, done: int, asked: float, chance: float) -> None:
    """It is kept whatever `max_delay` is, a little longer at most; over `max_server_delay` there is no retry."""
    wait = policy.delay(done, asked, chance)
    if asked > policy.max_server_delay:
        assert wait is None
    else:
        assert wait is not None and asked <= wait <= asked + policy.max_delay * policy.jitter


@pytest.mark.row("C4")
def test_the_official_rule_is_the_default() -> None:
    """Two retries; 0.5, 1, 2, 4, 8, 8 seconds with up to 25 % off; a delay over 120 s is none."""
    policy = RetryPolicy()
    assert policy.max_retries == 2 and policy.replay == "before_output"
    assert [policy.delay(n, None, 0.0) for n in range(6)] == [0.5, 1, 2, 4, 8, 8]
    assert [policy.delay(n, None, 1.0) for n in range(2)] == [0.375, 0.75]
    assert RetryPolicy(jitter=1).delay(0, None, 1.0) == 0.0
    assert (policy.delay(0, 120.0, 0.0), policy.delay(0, 120.5, 0.0), policy.delay(0, 0.0, 0.0)) == (120.0, None, 0.0)


@pytest.mark.parametrize(("name", "value"), [
    ("max_retries", -1), ("max_retries", 1.5), ("max_retries", True), ("max_retries", None), ("initial_delay", -0.1),
    ("initial_delay", float("nan")), ("max_delay", float("inf")), ("max_delay", "8"), ("jitter", 1.1), ("jitter", -0.1),
    ("max_server_delay", None), ("max_server_delay", 10**400), ("replay", "always"), ("replay", None),
])  # fmt: skip
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    """The message names the field."""
    with pytest.raises(InvalidRequest, match=f"retry.{name}"):
        RetryPolicy(**{name: value})


def test_what_a_number_may_be() -> None:
    """None where it is optional, 0 where it need not be positive."""
    non_negative("x", None, optional=True)
    non_negative("x", 0)
    non_negative("x", 2, whole=True, positive=True)
    cases: list[dict[str, Any]] = [{"value": None}, {"value": 0, "positive": True}, {"value": 1.0, "whole": True}]
    for wrong in [*cases, {"value": False}]:
        with pytest.raises(InvalidRequest, match="^x must be a (whole )?number"):
            non_negative("x", **wrong)


DELAYS: list[tuple[dict[str, str], str, float | None]] = [
    ({"retry-after": "7"}, "", 7.0),
    ({"retry-after": "1.5"}, "", 1.5),
    ({"retry-after": "0"}, "try again in 9s", 0.0),
    ({"retry-after": "-3"}, "", 0.0),
    ({"retry-after-ms": "250"}, "", 0.25),
    ({"retry-after-ms": "250", "retry-after": "7"}, "try again in 9s", 0.25),
    ({"retry-after-ms": "soon", "retry-after": "7"}, "", 7.0),
    ({"retry-after-ms": "nan", "retry-after": "inf"}, "", None),
    ({"retry-after": formatdate(1_000_042, usegmt=True)}, "", 42.0),
    ({"retry-after": formatdate(999_000, usegmt=True)}, "", 0.0),
    ({"retry-after": "Fri, 99 Foo 2026"}, "", None),
    ({"retry-after": ""}, "try again in 9s", 9.0),
    ({}, "Rate limit reached. Please try again in 1.2s. Visit us.", 1.2),
    ({}, "Please try again in 20ms.", 0.02),
    ({}, "Please try again in 1m2.5s.", 62.5),
    ({}, "Please try again in 6m0s.", 360.0),
    ({}, "Please try again in 1h2m3s.", 3723.0),
    ({}, "Please TRY AGAIN in 3 seconds", 3.0),
    ({}, "Please try again in 2m", 120.0),
    ({}, "Please try again in a while", None),
    ({}, "Please try again in 5 parsecs", None),
    ({}, "Please try again in " + "9" * 5000 + "s", None),
    ({}, "", None),
]


@pytest.mark.row("C4")
@pytest.mark.parametrize(("headers", "message", "wait"), DELAYS, ids=[str(row[:2])[:50] for row in DELAYS])
def test_the_servers_delay_in_each_form(headers: dict[str, str], message: str, wait: float | None) -> None:
    """Milliseconds, seconds, a date, or what the message says, in this order."""
    found = retry_after(headers, message, 1_000_000.0)
    assert found == (None if wait is None else pytest.approx(wait))


@given(st.text(), st.text(), st.from_regex(r"try again in [0-9hms. ]{0,20}"))
def test_odd_delays_never_raise(one: str, other: str, message: str) -> None:
    """Whatever the headers and the message say, the delay is a number of 0 or more, or none."""
    found = retry_after({"retry-after": one, "retry-after-ms": other}, message, 0.0)
    assert found is None or 0 <= found < float("inf")


@pytest.mark.row("A28")
@given(st.integers(1, 5), st.lists(st.floats(0, 40), max_size=30))
def test_a_request_rate_is_kept_in_every_window(limit: int, gaps: list[float]) -> None:
    """In no 60 seconds are there more places than the limit, and nobody waits without need."""
    rate, now = RequestRate(limit), 0.0
    places: list[float] = []
    for gap in gaps:
        now += gap
        wait = rate.reserve(now)
        assert wait >= 0
        if sum(place > now - 60 for place in places) < limit:
            assert wait == 0
        places.append(now + wait)
    assert all(later - first >= 60 - 1e-6 for first, later in zip(places, places[limit:], strict=False))


def test_a_breaker_doubles_its_pause_to_five_minutes() -> None:
    """Closed at first; 5, 10, 20 … 300, 300 seconds; each pause ends in one probe."""
    breaker, now, pauses = Breaker(), 1000.0, []
    assert breaker.allows(now) and breaker.allows(now)
    for _ in range(9):
        breaker.failed(now)
        opened = next(pause for pause in range(1, 400) if breaker.allows(now + pause))
        assert not breaker.allows(now + opened)
        pauses.append(opened)
        now += opened
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_breaker_lets_one_probe_through() -> None:
    """While the probe runs the others are refused; its success closes the breaker and forgets the pauses."""
    breaker = Breaker()
    breaker.failed(0.0)
    assert not breaker.allows(4.9) and breaker.allows(5.0)
    assert not any(breaker.allows(now) for now in (5.0, 20.0, 60.0))
    breaker.succeeded()
    assert breaker.allows(60.0) and breaker.allows(60.0)
    breaker.failed(60.0)
    breaker.failed(60.0)
    assert not breaker.allows(64.9) and breaker.allows(65.0)


def test_openings_that_fail_together_count_once() -> None:
    """Ten threads that met one outage do not make its first pause five minutes."""
    breaker = Breaker()
    for n in range(10):
        breaker.failed(n / 10)
    assert not breaker.allows(4.9) and breaker.allows(5.0)


def test_a_probe_that_nobody_reports_on_does_not_close_the_door_for_ever() -> None:
    """Its caller may be cancelled: after five minutes another may try."""
    breaker = Breaker()
    breaker.failed(0.0)
    assert breaker.allows(5.0) and not breaker.allows(304.0) and breaker.allows(305.0)


@given(st.lists(st.tuples(st.sampled_from(["allows", "failed", "succeeded"]), st.floats(0, 400)), max_size=40))
def test_a_breaker_never_refuses_for_longer_than_five_minutes(steps: list[tuple[str, float]]) -> None:
    """Whatever happens to it, 300 seconds later a connection may be opened; its repr shows its state."""
    breaker, now = Breaker(), 0.0
    for step, gap in steps:
        now += gap
        if step == "succeeded":
            breaker.succeeded()
            assert breaker.allows(now)
        else:
            getattr(breaker, step)(now)
    assert f"failures={breaker.failures}" in repr(breaker)
    assert breaker.allows(now + 300)
