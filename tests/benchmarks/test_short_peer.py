"""The peer of the comparisons of turns, starts, idle connections and memory answers correctly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

from pixir_sync import Provider, Result
from tests.benchmarks.short_peer import LONG, SHORT, ShortPeer, long_answer, short_answer

EVENTS = 2_608


@pytest.fixture(scope="module")
def peer() -> Iterator[ShortPeer]:
    """A peer whose long answer has two blocks."""
    with ShortPeer(EVENTS) as running:
        yield running


def metadata(result: Result) -> dict[str, str]:
    """What the peer tells of the request."""
    assert result.response is not None
    found: dict[str, str] = result.response["metadata"]
    return found


def test_the_short_answer_tells_of_its_request() -> None:
    """Its bytes and its items, in each response object; the id is the request's own."""
    events = [json.loads(event) for event in short_answer(7, 1234, 56)]
    responses = [event["response"] for event in events if "response" in event]
    assert len(events) == SHORT and [event["sequence_number"] for event in events] == list(range(SHORT))
    assert [response["metadata"] for response in responses] == [{"bytes": "1234", "items": "56"}] * 3
    assert {response["id"] for response in responses} == {f"resp_{7:048x}"}


@pytest.mark.parametrize("least", [9, 1_308, EVENTS])
def test_the_long_answer_is_whole(least: int) -> None:
    """Blocks of deltas, numbered without a gap, and a text at the end that is what they gave."""
    events: list[dict[str, Any]] = [json.loads(event) for event in chain.from_iterable(long_answer(1, least))]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert len(events) >= least and (len(events) - 8) % 1_300 == 0
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [events[-4]["text"], events[-3]["part"]["text"], events[-2]["item"]["content"][0]["text"]] == [text] * 3
    assert events[-1]["response"]["output"] == [events[-2]["item"]]


def test_the_long_answer_of_the_comparison_has_a_million_events() -> None:
    """As many as it says."""
    assert LONG >= 1_000_000 and (LONG - 8) % 1_300 == 0


@pytest.mark.parametrize("scheme", ["plain", "tls"])
@pytest.mark.parametrize("transport", ["websocket", "http_sse"])
def test_both_protocols_and_both_answers(
    peer: ShortPeer, transport: Any, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request larger than any buffer is read to its end; then a long answer, on the same connection."""
    monkeypatch.setenv("SSL_CERT_FILE", peer.authority)
    history = [{"role": "user", "content": "x" * 100_000}] * 8
    url = getattr(peer, scheme)
    with Provider(api_key="sk-none", base_url=url, model="short", transport=transport, timeouts=30) as provider:
        told = metadata(provider.complete(history, session="one"))
        assert told["items"] == "8" and 800_000 < int(told["bytes"]) < 801_000
        assert sum(1 for _ in provider.stream("All of it.", model="long", session="one")) == EVENTS
        assert provider.stats()["connections"]["opened"] == 1


def test_many_connections_at_once(peer: ShortPeer) -> None:
    """None disturbs another."""
    with Provider(api_key="sk-none", base_url=peer.plain, model="short", transport="websocket") as provider:
        for _ in range(2):
            told = [metadata(provider.complete("Hi", session=str(number)))["items"] for number in range(40)]
            assert told == ["1"] * 40
        assert provider.stats()["connections"]["live"] == 40
