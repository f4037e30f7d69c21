"""Whatever a server says: a Result or one PixirError, and in time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fuzz import Fuzz, case


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Fuzz]:
    with Fuzz() as made:
        yield made


@pytest.mark.row("A19", "A20")
@settings(max_examples=500)
@given(st.integers(0, 1 << 40))
def test_a_mutated_conversation_ends_in_one_way(fuzz: Fuzz, seed: int) -> None:
    """Events with odd values, broken frames and broken lines go through the whole stack, and nothing else comes out of it."""
    end = fuzz.run(seed)
    assert not end.startswith("FINDING"), f"{end}\n{case(seed)}"


def test_the_cases_are_of_every_kind(fuzz: Fuzz) -> None:
    """Some of them end well, some as what they say, some as what they broke; otherwise they would show little."""
    for seed in range(400):
        fuzz.run(seed)
    assert not fuzz.findings
    assert {"stop", "tool_calls", "content_filter", "connection_lost", "invalid_response", "response_failed"} <= set(fuzz.ends)
    assert {case(seed).transport for seed in range(20)} == {"websocket", "http_sse"}
