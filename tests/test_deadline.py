"""Deadline: one limit, handed down (row C6 rests on it)."""

from __future__ import annotations

import math
import time

import pytest

from pixir_sync.deadline import Deadline


def test_no_limit() -> None:
    """None is no limit: it never passes, and its timeout is the None that sockets and locks take."""
    none = Deadline(None)
    assert (none.at, none.remaining(), none.timeout(), none.passed) == (math.inf, math.inf, None, False)
    assert repr(none) == "<Deadline none>"


def test_a_limit_passes() -> None:
    """A deadline counts down to zero, never below, and then has passed."""
    soon, past = Deadline(30), Deadline(0)
    assert 29 < soon.remaining() <= 30 and not soon.passed
    assert (past.passed, past.remaining(), past.timeout()) == (True, 0.0, 0.0)
    assert repr(Deadline(30, now=time.monotonic() - 100)) == "<Deadline in 0.000 s>"


def test_the_clock_can_be_given() -> None:
    """With a time of one's own the deadline is counted from there."""
    assert Deadline(5, now=100.0).at == 105.0


@pytest.mark.parametrize(
    ("own", "other", "expected"), [(10, 20, 10), (20, 10, 10), (None, 10, 10), (10, None, 10), (None, None, None)]
)
def test_the_sooner_one(own: float | None, other: float | None, expected: float | None) -> None:
    """Of two limits the sooner one holds; the deadline itself does not change."""
    deadline = Deadline(own)
    at = deadline.at
    found = deadline.sooner(other).timeout()
    assert found is None if expected is None else found is not None and expected - 1 < found <= expected
    assert deadline.at == at
