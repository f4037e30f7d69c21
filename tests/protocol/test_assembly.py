"""`ResultAssembler`: whatever a server leaves out, and in whatever legal order it speaks, the answer is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.assembly import HANDLERS, ResultAssembler
from pixir_sync.protocol.events import EVENT_TYPES, Event, decode
from pixir_sync.protocol.outcome import finished, partial
from pixir_sync.protocol.result import Evidence, Result
from tests.protocol.strategies import Json, Spec, answers, objects, plain_json, tellings, told
from tests.support import events as wire

WIRE = Path(__file__).parents[1] / "data" / "wire"


def assembled(events: list[Json]) -> ResultAssembler:
    assembler = ResultAssembler()
    for data in events:
        assembler.add(data)
    return assembler


def result_of(events: list[Json]) -> Result:
    return finished(assembled(events), Evidence(), None)


def essence(result: Result) -> Json:
    """What a result says, without ids and statuses."""
    items = [{k: v for k, v in item.items() if k not in ("id", "status")} for item in result.output_items]
    return {
        "text": result.text, "reasoning": result.reasoning, "refusal": result.refusal, "items": items,
        "calls": result.function_calls, "finish": result.finish_reason, "usage": result.usage, "id": result.response_id,
        "hosted": [tool["type"] for tool in result.provider_hosted_tools], "search": result.web_search,
        "thoughts": len(result.reasoning_items),
    }  # fmt: skip


def expected(answer: list[Spec]) -> Json:
    response = wire.response(status="completed", output=[spec.item for spec in answer])
    return essence(result_of([wire.completed({**response, "usage": {"input_tokens": 3, "output_tokens": 2}})]))


def message(text: str, **more: Any) -> Json:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}], **more}


KINDS = st.sampled_from(["message", "reasoning", "function_call", "web_search_call", "output_text"]) | plain_json
odd_items = plain_json | st.fixed_dictionaries(
    {"type": KINDS},
    optional={
        "content": plain_json | st.lists(st.fixed_dictionaries({"type": KINDS, "annotations": plain_json})),
        "action": plain_json | st.fixed_dictionaries({"sources": plain_json}),
        "arguments": plain_json,
        "id": plain_json,
    },
)
odd_fields = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("delta", "text", "arguments", "item_id", "output_index", "content_index"), plain_json),
        "item": odd_items,
        "part": plain_json | st.fixed_dictionaries({"type": KINDS, "text": plain_json}),
        "response": st.fixed_dictionaries({"output": plain_json | st.lists(odd_items), "status": plain_json}),
    },
)
DONE: Json = {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "output": []}}


def delta(text: str, **names: Any) -> Json:
    return {"type": "response.output_text.delta", "delta": text, **names}


def added(item: Json, **names: Any) -> Json:
    return {"type": "response.output_item.added", "item": item, **names}


def done(item: Json, **names: Any) -> Json:
    return {"type": "response.output_item.done", "item": item, **names}


@pytest.mark.row("A16")
@given(st.data())
def test_the_answer_does_not_depend_on_how_it_is_told(data: st.DataObject) -> None:
    """Any legal order, any missing event, id or index, wrong deltas before a done value, any terminal output."""
    answer = data.draw(answers())
    events = told(answer, data.draw(tellings(answer)))
    assert essence(result_of(events)) == expected(answer)


@given(st.data())
def test_a_cut_stream_leaves_a_beginning_of_the_text(data: st.DataObject) -> None:
    """Whatever was read before a failure is in the partial result: a beginning of the answer, and no end of it."""
    answer = data.draw(answers())
    telling = data.draw(tellings(answer))
    telling.lying = telling.interleave = False
    telling.names, telling.positions = "id", "all"
    events = told(answer, telling)
    cut = data.draw(st.integers(0, len(events) - 1))
    left = partial(assembled(events[:cut]), Evidence())
    assert left.finish_reason is None
    whole = expected(answer)
    assert whole["text"].startswith(left.text) and whole["refusal"].startswith(left.refusal)


@given(st.data())
def test_the_text_is_the_joined_text_of_the_events(data: st.DataObject) -> None:
    """Where a server sends its deltas, joining `Event.text` gives `Result.text`."""
    answer = data.draw(answers())
    telling = data.draw(tellings(answer))
    telling.lying = telling.interleave = False
    telling.keep = [kept | {"added", "part_added", "delta", "item_done"} for kept in telling.keep]
    events = told(answer, telling)
    assert "".join(decode(event).text for event in events) == result_of(events).text


@pytest.mark.row("A19")
@given(st.data())
def test_unknown_events_and_fields_change_nothing(data: st.DataObject) -> None:
    """Unknown types between the events, and unknown fields in them, leave the result as it is."""
    answer = data.draw(answers())
    events = told(answer, data.draw(tellings(answer)))
    unknown: Json = {"type": "response.metadata", "output_index": 0, "item_id": "item_0", "delta": "x"}
    noisy = [noise for event in events for noise in (unknown, {**event, "obfuscation": "y"})]
    assert essence(result_of(noisy)) == essence(result_of(events))


@pytest.mark.row("A19")
@given(st.lists(st.tuples(st.sampled_from(sorted(HANDLERS)), objects | odd_fields), max_size=8))
def test_odd_input_never_raises(rows: list[tuple[str, Json]]) -> None:
    """Fields of any type in any event: a partial result, never an exception."""
    assembler = assembled([{**fields, "type": kind} for kind, fields in rows])
    assert isinstance(partial(assembler, Evidence()), Result)


@pytest.mark.parametrize("name", ["aimock_sse_text", "litellm_sse_text", "ogx_sse_text"])
def test_recorded_traffic(name: str) -> None:
    """The recorded answers give their text, with and without the terminal output."""
    lines = (WIRE / f"{name}.sse").read_text().splitlines()
    events = [json.loads(line[5:]) for line in lines if line.startswith("data:") and "[DONE]" not in line]
    whole = result_of(events)
    assert whole.text == "Hello from aimock, one two three."
    events[-1]["response"]["output"] = []
    assert essence(result_of(events)) == essence(whole)


def test_a_done_item_replaces_what_was_built() -> None:
    """The done form of an item counts, not its announcement: its encrypted content differs, and so may its text."""
    begun = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "first"}
    result = result_of([added(begun), done({**begun, "encrypted_content": "last"}), DONE])
    assert [item["encrypted_content"] for item in result.output_items] == ["last"]


def test_deltas_after_a_done_item_of_the_same_index_are_a_new_item() -> None:
    """A gateway that counts every item as the first loses none of them."""
    first = message("one", id="m1")
    events = [added({**first, "content": []}, output_index=0), delta("one", item_id="m1", output_index=0),
              done(first, output_index=0),
              added({**first, "id": "m2", "content": []}, output_index=0),
              delta("two", item_id="m2", output_index=0), DONE]  # fmt: skip
    assert result_of(events).text == "onetwo"
    thought: Json = {"type": "reasoning", "id": "r", "summary": []}
    mixed = [added(thought, output_index=0), delta("one", output_index=0), DONE]
    assert [item["type"] for item in result_of(mixed).output_items] == ["reasoning", "message"]


def test_an_id_that_changes_from_event_to_event_is_one_item() -> None:
    """Where the index is steady and the item not done, a new id is no new item."""
    events = [added({**message(""), "id": "a", "content": []}, output_index=0),
              delta("one ", item_id="b", output_index=0),
              delta("two", item_id="c", output_index=0),
              done(message("one two", id="d"), output_index=0), DONE]  # fmt: skip
    assert [item["content"][0]["text"] for item in result_of(events).output_items] == ["one two"]


def test_function_calls_without_announcement_and_ids() -> None:
    """Deltas that nothing announced belong to the call that the done item names: no nameless call is left over."""
    call = {"type": "function_call", "call_id": "c1", "name": "tool", "arguments": '{"a": 1}'}
    events = [{"type": "response.function_call_arguments.delta", "delta": '{"a": 1}'}, done(call), DONE]
    assert [(found.call_id, found.args) for found in result_of(events).function_calls] == [("c1", {"a": 1})]


def test_two_calls_at_once_without_ids_are_told_apart_by_call_id() -> None:
    """Done forms that come in another order than the announcements find their own call."""
    base: Json = {"type": "function_call", "name": "t"}
    calls = [{**base, "call_id": f"c{n}", "arguments": f'{{"a": {n}}}'} for n in (1, 2)]
    events = [*(added({**call, "arguments": ""}) for call in calls), *(done(call) for call in reversed(calls)), DONE]
    assert [call.args for call in result_of(events).function_calls] == [{"a": 1}, {"a": 2}]


def test_text_and_refusal_without_positions_are_both_kept() -> None:
    """A refusal after text is a part of its own, whether or not the parts are numbered."""
    events = [delta("Well."), {"type": "response.refusal.delta", "delta": "No."}, DONE]
    result = result_of(events)
    assert (result.text, result.refusal) == ("Well.", "No.")
    numbered = [{**event, "content_index": 0} for event in events[:2]]
    assert (result_of([*numbered, DONE]).text, result_of([*numbered, DONE]).refusal) == ("Well.", "No.")


def test_a_done_item_without_content_keeps_the_pieces() -> None:
    """A done form that says nothing does not erase what the deltas said."""
    events = [delta("said"), done(message("", content=[])), DONE]
    assert result_of(events).text == "said"
    call = {"type": "function_call", "call_id": "c1", "name": "tool", "arguments": ""}
    pieces = [added(call), {"type": "response.function_call_arguments.delta", "delta": '{"a": 1}'}, done(call), DONE]
    assert [found.args for found in result_of(pieces).function_calls] == [{"a": 1}]


def test_parts_of_an_announcement_are_kept_beside_the_pieces() -> None:
    """What the announcement said of other positions stays; what deltas say of a position replaces it."""
    begun = message("first", id="m")
    begun["content"].append({"type": "output_text", "text": "second"})
    events = [added(begun), delta("new", item_id="m", content_index=1), DONE]
    assert result_of(events).text == "firstnew"


def test_a_done_item_without_id_finds_the_open_one_that_says_the_same() -> None:
    """Two messages are open and nothing names them: the done form goes to the one that it agrees with."""
    begun = message("", content=[])
    for last in ("two", "one"):
        whole = message(last, phase="final")
        events = [added(begun), delta("one"), added(begun), delta("two"), done(whole), DONE]
        assert [item.get("phase") for item in result_of(events).output_items] == (
            [None, "final"] if last == "two" else ["final", None]
        )
        assert result_of(events).text == "onetwo"


def test_an_item_announced_without_id_takes_the_id_of_its_first_event() -> None:
    """And keeps it: another id is another item."""
    begun = message("", content=[])
    events = [added(begun), delta("a", item_id="m1"), delta("b", item_id="m1"), delta("c", item_id="m2"), DONE]
    items = result_of(events).output_items
    assert [item["content"][0]["text"] for item in items] == ["ab", "c"]


def test_items_stand_in_the_order_of_their_indexes() -> None:
    """Where every item has one; else in the order in which they began."""
    last, first = added(message("last"), output_index=1), added(message("first"), output_index=0)
    assert result_of([last, first, DONE]).text == "firstlast"
    assert result_of([last, added(message("nameless")), first, DONE]).text == "lastnamelessfirst"


@pytest.mark.parametrize("owner", ["response.content_part", "response.reasoning_summary_part"])
def test_an_announcement_ends_the_part_before_it(owner: str) -> None:
    """Parts without positions and done values are told apart by their announcements."""
    kind = "output_text" if owner == "response.content_part" else "summary_text"
    stem = "response.output_text" if kind == "output_text" else "response.reasoning_summary_text"
    begin = {"type": f"{owner}.added", "part": {"type": kind, "text": ""}}
    pieces = [{"type": f"{stem}.delta", "delta": said} for said in ("a", "b", "c")]
    item = result_of([begin, *pieces[:2], begin, pieces[2], DONE]).output_items[0]
    parts = item["content" if kind == "output_text" else "summary"]
    assert [part["text"] for part in parts] == ["ab", "c"]


def test_the_servers_own_form_of_a_part_is_kept() -> None:
    """The annotations of a part that is done survive where the item's own done form never comes."""
    note = {"type": "url_citation", "url": "https://example.org", "title": "T", "start_index": 0, "end_index": 2}
    part = {"type": "output_text", "text": "hi", "annotations": [note]}
    result = result_of([delta("h"), {"type": "response.content_part.done", "part": part}, DONE])
    assert result.output_items[0]["content"] == [part] and result.web_search["annotations"][0]["url"] == note["url"]


@pytest.mark.parametrize("output", [[], None])
def test_an_empty_terminal_output_keeps_the_items(output: Any) -> None:
    """An empty, null or missing output does not erase what came; a missing id neither."""
    events = wire.text_response("a", "b")
    events[-1]["response"] = {"status": "completed", "output": output}
    assert result_of(events).text == "ab" and result_of(events).response_id == "resp_1"
    del events[-1]["response"]
    assert result_of(events).text == "ab" and result_of(events).finish_reason == "stop"


def test_a_terminal_output_overrides_what_was_built() -> None:
    """A non-empty output of the terminal response is the answer."""
    whole = wire.response(output=[message("final")])
    assert result_of([delta("draft"), wire.completed(whole)]).text == "final"


@pytest.mark.row("A17", "A20")
@pytest.mark.parametrize(("kind", "status", "ended"), [
    ("response.completed", "completed", "completed"),
    ("response.completed", "incomplete", "incomplete"),
    ("response.completed", "failed", "failed"),
    ("response.completed", None, "completed"),
    ("response.completed", "in_progress", "completed"),
    ("response.incomplete", None, "incomplete"),
    ("response.incomplete", "completed", "completed"),
    ("response.failed", None, "failed"),
    ("response.cancelled", None, "cancelled"),
    ("response.done", "incomplete", "incomplete"),
    ("response.done", "cancelled", "cancelled"),
    ("response.done", None, "completed"),
    ("error", "completed", "error"),
])  # fmt: skip
def test_status_decides_over_the_name_of_the_event(kind: str, status: str | None, ended: str) -> None:
    """Each terminal event, with and without a status in its response."""
    assembler = assembled([wire.created(), {"type": kind, "response": {"id": "resp_1", "status": status}}])
    assert assembler.status == ended


@pytest.mark.row("A20")
def test_no_status_before_the_terminal_event() -> None:
    """A stream that stops before its terminal event has no status, whatever its response said."""
    assembler = assembled([wire.created(), delta("text")])
    assert assembler.status is None and assembler.terminal is None


@pytest.mark.row("A20")
def test_the_first_terminal_event_counts() -> None:
    """An error that a failed response follows stays the end, and keeps its own data."""
    error = wire.error("server_error")
    assembler = assembled([wire.created(), error, wire.failed("other")])
    assert assembler.terminal is error and assembler.status == "error" and assembler.response_id == "resp_1"


def test_every_view_has_a_handler_and_no_other() -> None:
    """The one look-up per event gives the view that `decode` gives."""
    assert EVENT_TYPES.keys() <= HANDLERS.keys()
    for name, (view, _) in HANDLERS.items():
        assert view is type(decode({"type": name})) and issubclass(view, Event)
