"""`Result`, `Usage` and `Evidence`: the fields, the JSON round trip, what is not shown."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.codec import CodecError
from pixir_sync.protocol.result import Evidence, FunctionCall, Result, Usage
from tests.protocol.strategies import objects

words = st.text(st.characters(codec="utf-8"))
calls = st.builds(
    FunctionCall,
    call_id=words,
    name=words,
    args=st.none() | objects,
    arguments=words,
    type=st.sampled_from(["function_call", "custom_tool_call"]),
)
results = st.builds(
    Result,
    text=words,
    reasoning=words,
    refusal=words,
    reasoning_items=st.lists(objects, max_size=2),
    function_calls=st.lists(calls, max_size=2),
    output_items=st.lists(objects, max_size=2),
    provider_hosted_tools=st.lists(objects, max_size=2),
    web_search=objects,
    finish_reason=st.sampled_from([None, "stop", "tool_calls", "length", "content_filter", "steered"]),
    usage=st.none() | objects,
    usage_summary=st.none() | objects,
    response_id=st.none() | words,
    model=st.none() | words,
    response=st.none() | objects,
    provider_metadata=objects,
)
CONTRACT = {
    "text", "reasoning", "refusal", "reasoning_items", "function_calls", "output_items", "provider_hosted_tools",
    "web_search", "finish_reason", "parsed", "usage", "usage_summary", "response_id", "model", "response",
    "provider_metadata",
}  # fmt: skip
METADATA = {
    "transport_preference", "active_transport", "fallback_reason", "fallback_message", "continuation_attempted",
    "continuation_reset_reason", "used_previous_response_id", "websocket_captured_response_id",
    "websocket_stored_previous_response_id", "websocket_key", "connection_reused", "close_code", "attempts",
    "bytes_sent", "input_bytes_held",
    "input_items_sent", "input_items_total", "request_id", "rate_limits", "connect_ms", "first_event_ms", "total_ms",
}  # fmt: skip


@pytest.mark.row("A16")
def test_a_result_has_every_field_of_the_contract() -> None:
    """The fields of `Result` and of `provider_metadata` are the published ones."""
    assert {f.name for f in fields(Result)} == CONTRACT
    assert Evidence().to_dict().keys() >= METADATA
    assert {f.name for f in fields(FunctionCall)} == {"call_id", "name", "args", "arguments", "type"}


@pytest.mark.row("A16")
@given(results)
def test_json_round_trip(result: Result) -> None:
    """`from_json(to_json())` is equal, types of the inner objects included; so is the way over a dict."""
    back = Result.from_json(result.to_json())
    assert back == result
    assert repr(back.to_dict()) == repr(result.to_dict())  # == alone takes 1 for True and 1.0
    assert all(type(call) is FunctionCall for call in back.function_calls)
    assert Result.from_dict(result.to_dict()) == result


@pytest.mark.row("A16")
def test_parsed_does_not_travel() -> None:
    """`parsed` may be any object: it is left out of the JSON, and the rest is kept."""
    result = Result(text="x", parsed=object())
    assert "parsed" not in json.loads(result.to_json())
    assert Result.from_json(result.to_json()) == replace(result, parsed=None)


def test_to_dict_is_a_deep_copy() -> None:
    """Changing what `to_dict` gave changes no result."""
    result = Result(output_items=[{"content": [{"text": "a"}]}])
    result.to_dict()["output_items"][0]["content"][0]["text"] = "b"
    assert result.output_items == [{"content": [{"text": "a"}]}]


def test_unknown_keys_are_left_out_and_missing_ones_have_defaults() -> None:
    """JSON of a newer version is read, and so is less than everything."""
    assert Result.from_json('{"text": "x", "from_the_future": 1}') == Result(text="x")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "1"])
def test_what_is_no_object_is_refused(text: str) -> None:
    """`from_json` raises a ValueError (`CodecError`) for what is no JSON object."""
    with pytest.raises(CodecError):
        Result.from_json(text)


@pytest.mark.row("A16", "A26")
def test_str_is_the_text_and_repr_shows_none() -> None:
    """`str(result)` is its text; no `repr` holds text, arguments or reasoning."""
    call = FunctionCall("call_1", "tool", {"a": "SENTINEL"}, '{"a": "SENTINEL"}')
    result = Result(text="SENTINEL answer", reasoning="SENTINEL", refusal="SENTINEL", function_calls=[call],
                    output_items=[{"text": "SENTINEL"}], response_id="resp_1", parsed="SENTINEL")  # fmt: skip
    assert str(result) == "SENTINEL answer"
    assert "SENTINEL" not in repr(result) + repr([call]) and "resp_1" in repr(result) and "partial" in repr(result)


NEW = {
    "input_tokens": 100, "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 7},
    "output_tokens": 20, "output_tokens_details": {"reasoning_tokens": 15}, "total_tokens": 120,
}  # fmt: skip
OLD = {
    "prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 7},
    "completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 15}, "total_tokens": 120,
}  # fmt: skip
USAGES: dict[str, tuple[Any, Usage | None]] = {
    "today's names": (NEW, Usage(100, 20, 120, 40, 7, 15, 0.4)),
    "the older names": (OLD, Usage(100, 20, 120, 40, 7, 15, 0.4)),
    "no details": ({"input_tokens": 3, "output_tokens": 4}, Usage(3, 4, 7, cache_hit_rate=0.0)),
    "null details": ({"input_tokens": 3, "input_tokens_details": None}, Usage(3, 0, 3, cache_hit_rate=0.0)),
    "no input": ({"input_tokens": 0, "output_tokens": 4, "total_tokens": 4}, Usage(0, 4, 4)),
    "nothing cached is a rate of 0": ({"input_tokens": 5}, Usage(5, 0, 5, cache_hit_rate=0.0)),
    "nulls beside the older names": ({**OLD, "input_tokens": None, "output_tokens": None, "input_tokens_details": {}},
                                     Usage(100, 20, 120, 40, 7, 15, 0.4)),
    "odd values": ({"input_tokens": "3", "output_tokens": True, "total_tokens": -1}, Usage()),
    "empty": ({}, Usage()),
    "null": (None, None),
    "no object": ([1], None),
}  # fmt: skip


@pytest.mark.row("A18")
@pytest.mark.parametrize(("raw", "read"), USAGES.values(), ids=USAGES)
def test_usage_is_read_in_both_namings(raw: Any, read: Usage | None) -> None:
    """Input, output, total, cached, reasoning tokens; the hit rate is None where there was no input."""
    assert Usage.read(raw) == read


@pytest.mark.row("A18")
@given(st.dictionaries(st.sampled_from(sorted({*NEW, *OLD})), objects | st.none() | st.integers() | st.floats()))
def test_odd_usage_never_raises(raw: dict[str, Any]) -> None:
    """Whatever a server puts there, counts are numbers of 0 or more, and the summary is plain JSON."""
    usage = Usage.read(raw)
    assert usage is not None and all(type(value) is int and value >= 0 for value in list(usage.to_dict().values())[:-1])
    assert Usage.from_json(usage.to_json()) == usage


@pytest.mark.row("A25")
@pytest.mark.parametrize("first", [{"audio_tokens": 0}, {"cached_tokens": 0}, [1], None])
def test_a_count_of_the_one_naming_is_looked_for_in_the_other(first: Any) -> None:
    """Gateways send both, and not all of it in both."""
    usage = Usage.read({"input_tokens": 10, "input_tokens_details": first, "prompt_tokens_details": {"cached_tokens": 5}})
    assert usage is not None and (usage.cached_tokens, usage.cache_hit_rate) == (5, 0.5)


def test_the_evidence_of_a_failed_attempt_is_forgotten() -> None:
    """A new attempt keeps the preference, the fallback and the count, and nothing that described the old one."""
    evidence = Evidence(transport_preference="websocket", fallback_reason="connect_failed", attempts=1, bytes_sent=9,
                        request_id="req_1", rate_limits={"x": "1"}, used_previous_response_id=True)  # fmt: skip
    evidence.next_attempt()
    kept = Evidence(transport_preference="websocket", fallback_reason="connect_failed", attempts=2)
    assert evidence.to_dict() == kept.to_dict() and evidence.rate_limits is not Evidence().rate_limits


def test_evidence_gives_copies() -> None:
    """`to_dict` shares nothing with the evidence."""
    evidence = Evidence()
    evidence.to_dict()["rate_limits"]["x"] = "1"
    assert evidence.rate_limits == {}
