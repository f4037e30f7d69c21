"""Our client against aimock: a server of the Responses API that somebody else wrote, over a WebSocket and over HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pixir_sync import (
    ConnectionLost,
    ItemDone,
    Provider,
    ProviderError,
    RateLimited,
    Result,
    TextDelta,
    tool_output,
    tool_spec,
    user,
)
from tests.interop import aimock

TOOL = tool_spec({"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {}}}})
LONG = "A longer answer, which comes in many pieces and ends before its end."

FIXTURES: list[dict[str, Any]] = [
    {"match": {"userMessage": "hello"}, "response": {"content": LONG}, "chunkSize": 5},
    {"match": {"userMessage": "think"}, "response": {"content": "Done.", "reasoning": "First this, then that."}},
    {"match": {"toolResultContains": "rain"}, "response": {"content": "Take an umbrella."}},
    {
        "match": {"userMessage": "weather", "toolName": "get_weather"},
        "response": {"toolCalls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]},
    },
    {
        "match": {"userMessage": "forbidden"},
        "response": {
            "error": {"message": "That is not allowed.", "type": "invalid_request_error", "code": "invalid_prompt"},
            "status": 400,
        },
    },
    {
        "match": {"userMessage": "busy"},
        "response": {
            "error": {"message": "Too many requests.", "type": "rate_limit_error", "code": "rate_limit_exceeded"},
            "status": 429,
        },
    },
    # Without the latency aimock cuts an HTTP connection before it has written anything.
    {"match": {"userMessage": "cut"}, "response": {"content": LONG}, "chunkSize": 5, "latency": 2, "truncateAfterChunks": 8},
    {"match": {"userMessage": "nothing"}, "response": {"content": LONG}, "truncateAfterChunks": 1},
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One aimock for the tests of this file."""
    with aimock.running(FIXTURES, tmp_path_factory.mktemp("aimock")) as url:
        yield url


@pytest.fixture
def provider(url: str, transport: str) -> Iterator[Provider]:
    """Our client in front of it, which does not retry by itself."""
    websocket_url = url.replace("http://", "ws://") + "/v1/responses"
    with Provider(
        base_url=f"{url}/v1", websocket_url=websocket_url, api_key="mock", model="gpt-5", transport=transport, retry=0, timeouts=5
    ) as provider:
        yield provider


def metadata(result: Result) -> dict[str, Any]:
    """How the call ran."""
    found: dict[str, Any] = result.provider_metadata
    return found


def test_text(provider: Provider, transport: str) -> None:
    """The text comes in pieces, over the transport that was asked for."""
    with provider.stream("hello") as stream:
        deltas = [event.text for event in stream if isinstance(event, TextDelta)]
        result = stream.result()
    assert "".join(deltas) == result.text == LONG
    assert len(deltas) > 5
    assert (result.finish_reason, metadata(result)["active_transport"]) == ("stop", transport)
    assert result.usage is not None


def test_reasoning(provider: Provider) -> None:
    """Reasoning is kept apart from the answer."""
    result = provider.complete("think", reasoning_effort="low", reasoning_summary="auto")
    assert (result.text, result.reasoning) == ("Done.", "First this, then that.")


def test_tool_round_trip(provider: Provider, transport: str) -> None:
    """A call, its output, and the answer; on a WebSocket over the same connection, with only what is new."""
    history: list[Any] = [user("How is the weather?")]
    first = provider.complete(history, tools=[TOOL], session="one")
    (call,) = first.function_calls
    assert (first.finish_reason, call.name, call.args) == ("tool_calls", "get_weather", {"city": "Paris"})
    history += [*first.output_items, tool_output(call.call_id, "rain")]
    second = provider.complete(history, tools=[TOOL], session="one")
    assert (second.finish_reason, second.text) == ("stop", "Take an umbrella.")
    over_websocket = transport == "websocket"
    assert metadata(second)["used_previous_response_id"] is over_websocket
    assert metadata(second)["input_items_sent"] == (1 if over_websocket else len(history))
    assert metadata(second)["connection_reused"] is True


def test_error_frame(provider: Provider, transport: str) -> None:
    """An error is the provider's, with its code and message, and says whether to try again; the next call works."""
    with pytest.raises(ProviderError, match="That is not allowed") as caught:
        provider.complete("forbidden", session="one")
    assert caught.value.code == "invalid_prompt"
    assert not caught.value.retryable
    assert caught.value.status == (None if transport == "websocket" else 400)
    assert provider.complete("hello", session="one").text == LONG


def test_rate_limit(provider: Provider) -> None:
    """A rate limit is known by its code, where there is no status."""
    with pytest.raises(RateLimited) as caught:
        provider.complete("busy")
    assert caught.value.retryable


def test_no_fixture(provider: Provider) -> None:
    """What aimock has no answer for is an error of its own code."""
    with pytest.raises(ProviderError) as caught:
        provider.complete("Something else.")
    assert caught.value.code == "no_fixture_match"


def test_cut_in_the_stream(provider: Provider) -> None:
    """A connection that is cut in the midst of the text gives what came so far with the error, and is not asked again."""
    seen: list[str] = []
    with pytest.raises(ConnectionLost) as caught, provider.stream("cut", session="one") as stream:
        seen.extend(event.text for event in stream if not isinstance(event, ItemDone))
    assert caught.value.output_seen and caught.value.request_sent
    assert caught.value.partial is not None
    assert caught.value.partial.text == "".join(seen) and LONG.startswith(caught.value.partial.text)
    assert 0 < len(caught.value.partial.text) < len(LONG)
    assert provider.complete("hello", session="one").text == LONG


def test_cut_before_the_text(url: str, provider: Provider) -> None:
    """One that is cut before any output is an error as well, since there are no retries here."""
    with pytest.raises(ConnectionLost) as caught:
        provider.complete("nothing")
    assert not caught.value.output_seen
    with urllib.request.urlopen(f"{url}/__aimock/journal", timeout=5) as answer:
        journal = json.load(answer)
    assert [entry["response"].get("interrupted") for entry in journal][-1] is True


def test_the_sentence_without_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Node.js one clear sentence says what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(aimock, "find_spec", lambda name: None)
    with pytest.raises(aimock.NodeMissing, match=r"^interop needs Node\.js 20\.15 or later: "):
        aimock.find_node()
