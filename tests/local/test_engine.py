"""The pure engine: the order of events, what it answers, what it remembers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.local.engine import Engine
from pixir_sync.local.rules import Models
from pixir_sync.local.state import Connection
from tests.local.helpers import TOOL, Json, bare, body, output, refusal, run, text, user

CUSTOM = {"type": "custom", "name": "patch"}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [TOOL]}
STEPS = {  # what may follow what inside an item, without the deltas
    "message": ["content_part.added", "output_text.done", "content_part.done"],
    "reasoning": ["reasoning_summary_part.added", "reasoning_summary_text.done", "reasoning_summary_part.done"],
    "function_call": ["function_call_arguments.done"],
    "custom_tool_call": ["custom_tool_call_input.done"],
}
DELTAS = {
    "message": ("output_text", "text"),
    "reasoning": ("reasoning_summary_text", "text"),
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}


def check_order(events: list[Json]) -> None:
    """The law of the order of events: set-up, items from added to done, one terminal event that repeats the output."""
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds[-1] in ("completed", "incomplete") and kinds[-1] == events[-1]["response"]["status"]
    done: list[Json] = []
    inner: list[Json] = []
    for event, kind in zip(events[2:-1], kinds[2:-1], strict=True):
        assert event["output_index"] == len(done)
        if kind == "output_item.done":
            check_item(event["item"], inner)
            done.append(event["item"])
            inner = []
        else:
            inner.append(event)
    assert not inner and events[-1]["response"]["output"] == done


def check_item(item: Json, events: list[Json]) -> None:
    """One item: opened empty, its deltas joined are its value, its steps in order."""
    name, field = DELTAS[item["type"]]
    assert events[0]["type"] == "response.output_item.added" and events[0]["item"]["id"] == item["id"]
    assert all(event["item_id"] == item["id"] for event in events[1:])
    steps = [event["type"].removeprefix("response.") for event in events[1:]]
    assert [step for step in steps if not step.endswith(".delta")] == STEPS[item["type"]]
    joined = "".join(event["delta"] for event in events if event["type"] == f"response.{name}.delta")
    whole = next(event[field] for event in events if event["type"] == f"response.{name}.done")
    assert joined == whole


REQUESTS = st.fixed_dictionaries(
    {"input": st.text() | st.sampled_from(["get_weather", "patch", "get_weather and patch", "naïve 👩‍👩‍👧 text"])},
    optional={
        "tools": st.just([TOOL, CUSTOM]),
        "reasoning": st.just({"effort": "low"}),
        "max_output_tokens": st.integers(1, 20),
        "tool_choice": st.sampled_from(["none", "auto"]),
        "include": st.just(["reasoning.encrypted_content"]),
        "store": st.booleans(),
    },
)


@given(request=REQUESTS)
def test_events_come_in_their_order(request: Json) -> None:
    """Whatever is asked, the events keep the order of the protocol and the terminal one repeats the output."""
    events = list(Engine().respond({"model": "m", **request}))
    json.dumps(events)
    check_order(events)


@given(said=st.text())
def test_answer_quotes_the_last_user_text(said: str) -> None:
    """The answer is the last user text and the number of user messages, in every script."""
    answer = run(Engine(), body([user("first"), user(said)]))
    assert text(answer) == f"Heard: {said} (context: 2)"


def test_answer_comes_in_several_deltas() -> None:
    """A sentence is streamed word by word."""
    events = list(Engine().respond(body("one two three")))
    assert len([event for event in events if event["type"].endswith("output_text.delta")]) == 6


def test_request_is_echoed() -> None:
    """The response object repeats the request, and is in progress without usage until the end."""
    fields: Json = {
        "instructions": "be kind", "tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False,
        "temperature": 0, "top_p": 0.5, "metadata": {"a": "b"}, "store": False, "truncation": "auto",
        "max_output_tokens": 900,
    }  # fmt: skip
    created, *_, last = Engine(now=lambda: 12.5).respond(body(**fields))
    response = created["response"]
    assert {key: response[key] for key in fields} == fields
    assert (response["status"], response["usage"], response["created_at"]) == ("in_progress", None, 12)
    assert (last["response"]["status"], last["response"]["error"]) == ("completed", None)


def test_tools_named_in_the_text_are_called_in_order() -> None:
    """Each named tool is called once, in the order of the text, with arguments that fit; other words call nothing."""
    tools = [TOOL, {"type": "function", "name": "get"}, {"type": "function", "name": "b.c"}]
    answer = run(Engine(), body("b.c, then get_weather. But forget b.c-d or xget_weather", tools=tools))
    assert [item["name"] for item in answer["output"]] == ["b.c", "get_weather"]
    assert json.loads(answer["output"][1]["arguments"]) == {"city": "city", "days": 2}
    assert len({item["call_id"] for item in answer["output"]}) == 2


@pytest.mark.parametrize(
    ("said", "fields", "called"),
    [
        ("get_weather", {"tool_choice": "none"}, []),
        ("nothing", {"tool_choice": "auto"}, []),
        ("nothing", {"tool_choice": "required"}, ["get_weather"]),
        ("nothing", {"tool_choice": {"type": "function", "name": "other"}}, ["other"]),
        ("other get_weather", {"parallel_tool_calls": False}, ["other"]),
        ("patch", {"tool_choice": {"type": "custom", "name": "patch"}}, ["patch"]),
        ("other get_weather", {"tool_choice": ALLOWED}, ["get_weather"]),
    ],
)
def test_tool_choice_is_honoured(said: str, fields: Json, called: list[str]) -> None:
    """none, required, a named tool, a list of allowed ones and no parallel calls all do what they say."""
    tools = [TOOL, {"type": "function", "name": "other"}, CUSTOM]
    answer = run(Engine(), body(said, tools=tools, **fields))
    assert [item["name"] for item in answer["output"] if "name" in item] == called


def test_tool_outputs_are_quoted() -> None:
    """After outputs the model quotes them all, in a full input as in a continuation, whatever order they came in."""
    engine, connection = Engine(), Connection()
    tools = [TOOL, CUSTOM]
    first = run(engine, body("get_weather patch", tools=tools, store=False), connection)
    call, custom = bare(first["output"])
    parts = [{"type": "input_text", "text": "ok"}]
    outputs = [
        output(call["call_id"], "sunny"),
        {"type": "custom_tool_call_output", "call_id": custom["call_id"], "output": parts},
    ]
    delta = run(engine, body(outputs, previous_response_id=first["id"], tools=tools, store=False), connection)
    full = [user("get_weather patch"), call, outputs[0], custom, outputs[1]]
    assert text(delta) == text(run(engine, body(full, tools=tools, store=False)))
    assert text(delta) == 'Tool answered: "sunny", "ok" (context: 1)'


def test_reasoning_is_put_out_when_asked() -> None:
    """A reasoning item with a streamed summary comes first; its encrypted content differs between added and done."""
    fields: Json = {"reasoning": {"effort": "high"}, "include": ["reasoning.encrypted_content"], "store": False}
    events = list(Engine().respond(body(**fields)))
    kinds = [event["type"] for event in events]
    added, done = (events[kinds.index(f"response.output_item.{kind}")]["item"] for kind in ("added", "done"))
    assert added["type"] == done["type"] == "reasoning"
    assert added["encrypted_content"] != done["encrypted_content"]
    assert done["summary"][0]["text"]
    assert events[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] > 3
    assert "encrypted_content" not in run(Engine(), body(reasoning={"effort": "low"}))["output"][0]
    assert run(Engine(), body(reasoning={"effort": "none"}))["output"][0]["type"] == "message"


@pytest.mark.parametrize(("limit", "said"), [(1, "Heard:"), (3, "Heard: one two")])
def test_small_limit_ends_incomplete(limit: int, said: str) -> None:
    """max_output_tokens cuts the text, closes the item as incomplete and names the reason."""
    events = list(Engine().respond(body("one two three", max_output_tokens=limit)))
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert text(response) == said and response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == limit


def test_structured_answer_fits_its_schema() -> None:
    """With a json_schema format the text is JSON of that schema."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 7}}, "required": ["n"]}
    answer = run(Engine(), body(text={"format": {"type": "json_schema", "name": "s", "schema": schema}}))
    assert json.loads(text(answer)) == {"n": 7}


def test_context_counts_over_continuation() -> None:
    """A chain counts all user messages and caches what came before; instructions are not inherited."""
    engine, connection = Engine(), Connection()
    previous: Json = {}
    for number in range(1, 6):
        link = {"previous_response_id": previous["id"]} if previous else {"instructions": "be kind"}
        answer = run(engine, body([user(f"m{number}")], store=False, **link), connection)
        assert text(answer) == f"Heard: m{number} (context: {number})"
        cached = answer["usage"]["input_tokens_details"]["cached_tokens"]
        assert (cached > 0) == bool(previous) and cached < answer["usage"]["input_tokens"]
        assert answer["instructions"] == (None if previous else "be kind")
        previous = answer


@given(st.lists(st.sampled_from(["plain", "get_weather", "get_weather other"]), min_size=1, max_size=6))
def test_continuation_equals_full_replay(said: list[str]) -> None:
    """At every turn of any conversation with tools, a continuation and a full replay get the same answer."""
    tools = [TOOL, {"type": "function", "name": "other"}]
    engine, connection = Engine(), Connection()
    history: list[Json] = []
    delta: list[Json] = []
    previous: Json = {}
    pending = list(said)
    while delta or pending:
        if not delta:
            delta = [user(pending.pop(0))]
        history += delta
        link = {"previous_response_id": previous["id"]} if previous else {}
        previous = run(engine, body(delta, tools=tools, store=False, **link), connection)
        replay = run(engine, body(history, tools=tools, store=False))
        assert text(previous) == text(replay)
        assert [item.get("name") for item in previous["output"]] == [item.get("name") for item in replay["output"]]
        history += bare(previous["output"])
        delta = [output(item["call_id"], "done") for item in previous["output"] if "call_id" in item]


def test_only_the_latest_unstored_response_is_known() -> None:
    """With store false an older id, and any id on another connection or over HTTP, is not found."""
    engine, connection = Engine(), Connection()
    old = run(engine, body(store=False), connection)
    new = run(engine, body(store=False), connection)
    for response, where in ((old, connection), (new, Connection()), (new, None)):
        error = refusal(engine, body(store=False, previous_response_id=response["id"]), where)
        assert (error.status, error.code, error.param) == (400, "previous_response_not_found", "previous_response_id")
    assert text(run(engine, body(store=False, previous_response_id=new["id"]), connection)).endswith("(context: 2)")


def test_stored_responses_can_be_continued_from_anywhere() -> None:
    """With store true an older id continues, on any connection and over HTTP."""
    engine = Engine()
    old = run(engine, body(), Connection())
    for where in (Connection(), None):
        assert text(run(engine, body(previous_response_id=old["id"]), where)).endswith("(context: 2)")


def test_refused_continuation_evicts() -> None:
    """A continuation that ends in a 4xx takes its id with it; one that names another id leaves the latest alone."""
    engine, connection = Engine(), Connection()
    latest = run(engine, body(store=False), connection)
    refusal(engine, body(store=False, previous_response_id="resp_other"), connection)
    bad = body([output("call_x", "?")], store=False, previous_response_id=latest["id"])
    assert "No tool call found" in refusal(engine, bad, connection).message
    good = body(store=False, previous_response_id=latest["id"])
    assert refusal(engine, good, connection).code == "previous_response_not_found"


def test_lanes_keep_their_own_latest_and_a_failed_fork_keeps_its_parent() -> None:
    """Each lane remembers its latest; events of a named lane carry its name; a fork that fails evicts nothing."""
    engine, connection = Engine(), Connection()
    main = run(engine, body(store=False), connection)
    bad = body([output("call_x", "?")], store=False, previous_response_id=main["id"], stream_id="side")
    refusal(engine, bad, connection)
    events = list(engine.respond(body(store=False, previous_response_id=main["id"], stream_id="side"), connection))
    assert {event["stream_id"] for event in events} == {"side"}
    assert text(events[-1]["response"]).endswith("(context: 2)")
    assert text(run(engine, body(store=False, previous_response_id=main["id"]), connection)).endswith("(context: 2)")
    for number in range(31):
        run(engine, body(store=False, stream_id=f"lane{number}"), connection)
    assert refusal(engine, body(stream_id="one-more"), connection).code == "websocket_stream_limit_reached"


def test_broken_off_answer_leaves_no_trace() -> None:
    """A response whose events were not read to the end cannot be continued from."""
    engine, connection = Engine(), Connection()
    events = engine.respond(body(), connection)
    created = next(events)
    del events
    gone = body(previous_response_id=created["response"]["id"])
    assert refusal(engine, gone, connection).code == "previous_response_not_found"


def test_disconnect_forgets() -> None:
    """A closed connection knows no response."""
    engine, connection = Engine(), Connection()
    latest = run(engine, body(store=False), connection)
    connection.close()
    assert refusal(engine, body(store=False, previous_response_id=latest["id"]), connection).status == 400


def test_warm_up_prepares_without_output() -> None:
    """generate false gives created and completed with no output, and an id that continues."""
    engine, connection = Engine(), Connection()
    events = list(engine.respond(body([user("one")], generate=False, store=False), connection))
    assert [event["type"] for event in events] == ["response.created", "response.completed"]
    warm = events[-1]["response"]
    assert warm["output"] == [] and warm["usage"]["input_tokens"] > 0 == warm["usage"]["output_tokens"]
    answer = run(engine, body([user("two")], previous_response_id=warm["id"], store=False), connection)
    assert text(answer) == "Heard: two (context: 2)"


def test_conversation_keeps_its_context() -> None:
    """A conversation's id continues it; together with a previous response it is refused."""
    engine = Engine()
    run(engine, body(conversation="conv_1"))
    assert text(run(engine, body(conversation={"id": "conv_1"}))).endswith("(context: 2)")
    both = body(conversation="conv_1", previous_response_id="resp_1")
    assert refusal(engine, both).code == "mutually_exclusive_parameters"


def test_scenario_events_move_the_state() -> None:
    """A scenario's completed response can be continued from; its error evicts."""
    engine, connection = Engine(), Connection()
    message = {"type": "message", "role": "assistant", "content": []}
    scripted: dict[str, Any] = {"id": "resp_scripted", "output": [message]}
    engine.observe(body(store=False), connection, {"type": "response.completed", "response": scripted})
    next_turn = body(store=False, previous_response_id="resp_scripted")
    assert text(run(engine, next_turn, connection)).endswith("(context: 2)")
    engine.observe(body(store=False), connection, {"type": "response.completed", "response": scripted})
    engine.observe(next_turn, connection, {"type": "error"})
    assert refusal(engine, next_turn, connection).code == "previous_response_not_found"


def test_models_can_be_limited() -> None:
    """A model that is not there is a 404; one that does not reason refuses to be asked to."""
    engine = Engine(models=Models(frozenset({"m", "plain"}), frozenset({"m"})))
    assert text(run(engine, body())) == "Heard: hello (context: 1)"
    unknown = refusal(engine, {**body(), "model": "nope"})
    assert (unknown.status, unknown.code) == (404, "model_not_found")
    for fields in ({"include": ["reasoning.encrypted_content"]}, {"reasoning": {"effort": "low"}}):
        assert refusal(engine, {**body(**fields), "model": "plain"}).status == 400
        assert run(engine, body(**fields))["status"] == "completed"


def test_ids_differ_between_servers() -> None:
    """Two engines with different salts never make the same id; one engine never makes an id twice."""
    one, two = Engine(salt="a"), Engine(salt="b")
    ids = {run(engine, body())["id"] for engine in (one, one, two)}
    assert len(ids) == 3


@pytest.mark.parametrize("store", [False, True])
def test_a_turn_does_not_walk_the_whole_conversation(monkeypatch: pytest.MonkeyPatch, store: bool) -> None:
    """Continuing looks at the new items only, stored or not: a turn costs the same however long the conversation is."""
    engine, connection = Engine(), Connection()
    run(engine, body("stored by somebody"))
    last = run(engine, body("one", store=store), connection)
    monkeypatch.setattr("pixir_sync.local.context.Context.all_items", pytest.fail)
    assert text(run(engine, body("two", store=store, previous_response_id=last["id"]), connection)) == "Heard: two (context: 2)"


def test_a_schema_that_only_infinity_fits_is_refused() -> None:
    """What is made for a schema has a JSON form, or the request is a 400."""
    schema = {"type": "number", "exclusiveMinimum": 1e308, "multipleOf": 1e308}
    error = refusal(Engine(), body(text={"format": {"type": "json_schema", "name": "n", "schema": schema}}))
    assert (error.status, error.code) == (400, "invalid_json_schema")


@pytest.mark.parametrize("role", ["system", "developer"])
def test_an_instruction_behind_an_output_does_not_hide_it(role: str) -> None:
    """A program that reminds its model behind each tool output gets its answer, and not the same call for ever."""
    engine, connection = Engine(), Connection()
    called = run(engine, body("get_weather", tools=[TOOL]), connection)
    items = [output(called["output"][0]["call_id"], "sunny"), {"role": role, "content": "Be brief."}]
    answered = run(engine, body(items, tools=[TOOL], previous_response_id=called["id"]), connection)
    assert text(answered) == 'Tool answered: "sunny" (context: 1)'
