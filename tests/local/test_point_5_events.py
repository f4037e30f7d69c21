"""Section 8, point 5: the order of events, sequence numbers, the echo of the request, and what usage counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixir_sync.local import (
    Answer,
    CustomCall,
    Failed,
    FunctionCall,
    HostedCall,
    Incomplete,
    LocalServer,
    Reasoning,
    Refusal,
    Text,
)
from tests.local.helpers import TOOL, bare, both, over_http, over_websocket, text, user
from tests.local.helpers import Wire as Asked
from tests.local.order import check_answer
from tests.local.raw import Json, connect, kinds, only

HOSTED = (
    "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_call", "mcp_list_tools",
)  # fmt: skip
CITATION: Json = {"type": "url_citation", "url": "https://example.org", "title": "E", "start_index": 0, "end_index": 3}
PARTS: dict[str, Any] = {
    "text": Text("Hel", "lo"),
    "one-string": "Hello there, all of you",
    "annotated": Text("Hel", "lo", annotations=[CITATION, CITATION]),
    "empty": Text(""),
    "refusal": Refusal("No, I will not"),
    "summary": Reasoning("It is a greeting"),
    "reasoned": Reasoning("It is a greeting", text="They said hi"),
    "encrypted": Reasoning("It is a greeting", encrypted=True),
    "silent": Reasoning("", encrypted=True),
    "call": FunctionCall("wave", {"hand": "left", "times": 2}),
    "no-arguments": FunctionCall("wave"),
    "no-json": FunctionCall("wave", "{not json", call_id="call_1"),
    "custom": CustomCall("patch", "*** Begin\n*** End"),
    **{kind: HostedCall(kind) for kind in HOSTED},
}
parts = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
ENDS = [None, Incomplete(), Incomplete("content_filter"), Failed("server_error", "Sorry")]


@both
@parts
def test_each_kind_of_part_comes_in_its_order(wire: Asked, part: Any) -> None:
    """Set-up, deltas, done, in the order of the protocol, whole; the terminal event repeats the output."""
    with LocalServer(scenario=Answer(part)) as server:
        response = check_answer(wire(server))
    assert response["status"] == "completed" and len(response["output"]) == 1


@both
@pytest.mark.parametrize("end", ENDS, ids=["completed", "max_output_tokens", "content_filter", "failed"])
def test_all_parts_in_one_answer(wire: Asked, end: Any) -> None:
    """Any number of items follow each other, each with the next index, whatever the answer ends in."""
    with LocalServer(scenario=Answer(*PARTS.values(), end=end)) as server:
        events = wire(server)
    response = check_answer(events)
    assert len(response["output"]) == len(PARTS)
    assert response["status"] == ("completed" if end is None else "failed" if isinstance(end, Failed) else "incomplete")
    if isinstance(end, Incomplete):
        assert response["incomplete_details"] == {"reason": end.reason}
    if isinstance(end, Failed):
        assert response["error"] == {"code": "server_error", "message": "Sorry"}


PART = st.one_of(
    st.text(max_size=40),
    st.lists(st.text(max_size=9), min_size=1, max_size=5).map(lambda deltas: Text(*deltas)),
    st.text(max_size=20).map(Refusal),
    st.builds(Reasoning, st.text(max_size=20), st.text(max_size=20), st.booleans()),
    st.text(max_size=30).map(lambda arguments: FunctionCall("f", arguments)),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=4).map(lambda arguments: FunctionCall("f", arguments)),
    st.text(max_size=30).map(lambda given: CustomCall("c", given)),
    st.sampled_from(HOSTED).map(HostedCall),
)


@settings(max_examples=60)
@given(answer=st.lists(PART, max_size=6), end=st.sampled_from(ENDS), wire=st.sampled_from([over_websocket, over_http]))
def test_any_answer_keeps_the_order(law_server: LocalServer, answer: list[Any], end: Any, wire: Asked) -> None:
    """Whatever an answer is made of, its events keep the order of the protocol, over either transport."""
    law_server.scenario = Answer(*answer, end=end)
    response = check_answer(wire(law_server))
    assert len(response["output"]) == len(answer)


@pytest.mark.parametrize("deltas", [("Hel", "lo"), ("a",), ("", "x", ""), ("naïve ", "👩‍👩‍👧", " text")])
def test_deltas_are_the_given_ones(deltas: tuple[str, ...]) -> None:
    """Text given in pieces is streamed in these pieces."""
    if len(deltas) == 1:
        deltas = (deltas[0], "b")
    with LocalServer(scenario=Answer(Text(*deltas))) as server:
        events = over_websocket(server)
    assert [event["delta"] for event in only(events, "response.output_text.delta")] == list(deltas)


def test_a_calls_name_and_id_are_in_its_item() -> None:
    """The added item names the call, its arguments empty; the done event of the arguments has neither name nor call_id."""
    with LocalServer(scenario=Answer(FunctionCall("wave", {"hand": "left"}, call_id="call_7"))) as server:
        events = over_websocket(server)
    added, done = (only(events, f"response.output_item.{step}")[0]["item"] for step in ("added", "done"))
    for item in (added, done):
        assert (item["type"], item["name"], item["call_id"]) == ("function_call", "wave", "call_7")
    assert added["arguments"] == "" and json.loads(done["arguments"]) == {"hand": "left"}


def test_encrypted_content_differs_between_added_and_done() -> None:
    """The content of the added item is provisional: only that of the done one is taken back."""
    with LocalServer(scenario=Answer(Reasoning("Hm", encrypted=True), "Hi")) as server, connect(server) as client:
        events = client.turn(store=False)
        added, done = (only(events, f"response.output_item.{step}")[0]["item"] for step in ("added", "done"))
        assert added["encrypted_content"] != done["encrypted_content"]
        server.scenario = None
        assert client.refused([*bare([added]), user("on")], store=False)["status"] == 400
        client.final([*bare([done]), user("on")], store=False)


def test_sequence_numbers_begin_anew() -> None:
    """Each response counts its events from 0 without a gap, also in lanes that run at once."""
    with LocalServer() as server, connect(server) as client:
        for number in range(6):
            client.create("several words", stream_id=f"n{number % 3}")
        for events in client.per_lane(6).values():
            numbers = [event["sequence_number"] for event in events]
            assert numbers == [*range(len(events) // 2)] * 2


ECHOED: dict[str, Any] = {
    "instructions": "be kind",
    "tools": [TOOL, {"type": "custom", "name": "patch"}],
    "tool_choice": {"type": "function", "name": "get_weather"},
    "parallel_tool_calls": False,
    "max_tool_calls": 3,
    "max_output_tokens": 900,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_object"}, "verbosity": "low"},
    "metadata": {"a": "b"},
    "store": False,
    "truncation": "auto",
    "prompt_cache_key": "key-1",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "explicit", "ttl": "12h"},
    "temperature": 0,
    "top_p": 0.5,
    "top_logprobs": 2,
    "service_tier": "flex",
    "safety_identifier": "person-1",
    "user": "person-1",
    "model": "m-2",
}


@both
@pytest.mark.parametrize(("field", "value"), ECHOED.items(), ids=ECHOED.keys())
def test_each_field_is_echoed(shared: LocalServer, wire: Asked, field: str, value: Any) -> None:
    """What a request says, every lifecycle event's response repeats, as it was sent."""
    fields = {"tools": [TOOL], field: value} if field == "tool_choice" else {field: value}
    events = wire(shared, **fields)
    responses = [event["response"] for event in events if "response" in event]
    assert len(responses) == 3 and all(response[field] == value for response in responses)


def test_all_fields_are_echoed_at_once(shared: LocalServer) -> None:
    """Nor does one field take another's place."""
    response = over_websocket(shared, **ECHOED)[-1]["response"]
    assert {field: response[field] for field in ECHOED} == ECHOED


def test_links_are_echoed(shared: LocalServer) -> None:
    """The previous response's id, and the conversation as an object."""
    with connect(shared) as client:
        first = client.final()
        assert client.final(previous_response_id=first["id"])["previous_response_id"] == first["id"]
        assert client.final(conversation="conv_1")["conversation"]["id"] == "conv_1"
        assert client.final(conversation={"id": "conv_1"})["conversation"] == {"id": "conv_1"}


def test_what_is_not_sent_has_its_default(shared: LocalServer) -> None:
    """A bare request's response shows the defaults of the service, and what belongs to a WebSocket is not in it."""
    response = over_websocket(shared)[-1]["response"]
    assert (response["store"], response["temperature"], response["top_p"], response["truncation"]) == (True, 1.0, 1.0, "disabled")
    assert (response["tools"], response["tool_choice"], response["metadata"]) == ([], "auto", {})
    assert (response["background"], response["parallel_tool_calls"], response["service_tier"]) == (False, True, "default")
    for field in ("instructions", "previous_response_id", "conversation", "error", "incomplete_details", "max_output_tokens"):
        assert response[field] is None
    assert not response.keys() & {"input", "stream", "stream_id", "generate", "type"}


def tokens(response: Json) -> tuple[int, int]:
    """The input tokens and the cached ones among them."""
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"]["reasoning_tokens"] <= usage["output_tokens"]
    return usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]


def test_usage_comes_with_the_terminal_event_only(shared: LocalServer) -> None:
    """Until then it is null."""
    events = over_websocket(shared)
    assert [event["response"]["usage"] is None for event in events if "response" in event] == [True, True, False]


def test_a_continuation_caches_what_was_there(shared: LocalServer) -> None:
    """Cached tokens are those of all that came before; what is new costs what it costs by itself; nothing is lost or doubled."""
    with connect(shared) as client:
        previous = client.final([user("m0")], store=False)
        assert tokens(previous)[1] == 0
        for number in range(1, 8):
            said = [user(f"m{number} " + "word " * number)]
            alone = tokens(client.final(said, store=False, stream_id="alone"))[0]
            new = client.final(said, previous_response_id=previous["id"], store=False)
            (before, _), (counted, cached) = tokens(previous), tokens(new)
            assert cached > before and counted == cached + alone
            previous = new


def test_a_warm_up_is_cached_to_the_token(shared: LocalServer) -> None:
    """With no output in between, what is cached is exactly what was sent."""
    with connect(shared) as client:
        first = client.final([user("one")], store=False, generate=False)
        second = client.final([user("two")], previous_response_id=first["id"], store=False, generate=False)
        third = client.final([user("three")], previous_response_id=second["id"], store=False)
    assert tokens(second)[1] == tokens(first)[0] and tokens(third)[1] == tokens(second)[0]


def test_the_same_conversation_in_full_has_none_cached(shared: LocalServer) -> None:
    """Sent in full it counts the same context (but for ids and statuses), of which nothing is cached."""
    with connect(shared) as client:
        first = client.final([user("one " * 50)], store=False)
        chained = client.final([user("two")], previous_response_id=first["id"], store=False)
        full = client.final([user("one " * 50), *bare(first["output"]), user("two")], store=False)
    (chained_tokens, cached), (full_tokens, none) = tokens(chained), tokens(full)
    assert none == 0 < cached and 0 <= chained_tokens - full_tokens < 40


def test_a_fork_and_a_reload_are_cached_too(shared: LocalServer) -> None:
    """From another lane, and from the store over HTTP."""
    with connect(shared) as client:
        first = client.final([user("one")])
        fork = client.final([user("two")], previous_response_id=first["id"], stream_id="fork")
    reload = over_http(shared, [user("two")], previous_response_id=first["id"])[-1]["response"]
    assert tokens(fork)[1] == tokens(reload)[1] > tokens(first)[0]


@both
def test_input_tokens_grow_with_what_is_sent(shared: LocalServer, wire: Asked) -> None:
    """Longer input, instructions and tools each cost tokens; metadata does not."""

    def cost(given: str = "hi", **fields: Any) -> int:
        return tokens(wire(shared, given, **fields)[-1]["response"])[0]

    plain = cost()
    assert plain > 0 and cost("hi " * 100) > plain + 50
    assert cost(instructions="be kind " * 100) > plain + 100 and cost(tools=[TOOL]) > plain + 20
    assert cost(metadata={"a": "b" * 400}) == plain


def test_output_tokens_count_what_was_said(shared: LocalServer) -> None:
    """A longer answer has more of them; those of the reasoning are told apart."""
    short, long = (over_websocket(shared, said)[-1]["response"]["usage"] for said in ("hi", "hi " * 50))
    assert 0 < short["output_tokens"] < long["output_tokens"]
    reasoned = over_websocket(shared, reasoning={"effort": "high"})[-1]["response"]["usage"]
    assert 0 < reasoned["output_tokens_details"]["reasoning_tokens"] < reasoned["output_tokens"]


@both
def test_a_limit_cuts_the_answer(shared: LocalServer, wire: Asked) -> None:
    """max_output_tokens ends the answer incomplete, in order, with as many tokens as were allowed."""
    events = wire(shared, "one two three", max_output_tokens=3)
    response = check_answer(events)
    assert kinds(events)[-1] == "incomplete" and response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 3 and text(response) == "Heard: one two"
    assert response["output"][0]["status"] == "incomplete"
