"""Continuation: the table of reasons, and the law that a delta gives the server what a full replay would."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import fields as dataclass_fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixir_sync.protocol.compare import kept, snapshot
from pixir_sync.protocol.continuation import FIELD_RULES, Baseline, Delta, Draft, FieldRule, Full, begins_with, plan
from pixir_sync.protocol.items import assistant, repair, tool_output, user
from pixir_sync.protocol.request import Body, Request, build, outline
from tests.protocol.context_model import Server, canonical, meaning

FIELDS: dict[str, Any] = {"model": "m", "store": False, "instructions": "be brief"}
MESSAGE: dict[str, Any] = {
    "id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
    "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
}  # fmt: skip
REASONING = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "sealed"}
SEARCH = {"id": "ws_1", "type": "web_search_call", "status": "completed"}


def call(number: int, name: str = "look", arguments: str = '{"a": 1}') -> dict[str, Any]:
    return {"id": f"fc_{number}", "type": "function_call", "call_id": f"c{number}", "name": name, "arguments": arguments,
            "status": "completed"}  # fmt: skip


def baseline(output: list[dict[str, Any]], given: list[dict[str, Any]] | None = None) -> Baseline:
    return Draft(FIELDS, given or [user("Hi")], None, Full("no_previous_response")).commit("resp_1", output)


def chosen(items: list[dict[str, Any]], output: list[dict[str, Any]], **options: Any) -> Full | Delta:
    return plan(options.pop("fields", FIELDS), items, baseline(output), **options)


def reason(answer: Full | Delta) -> str:
    return answer.reason if isinstance(answer, Full) else "delta"


@pytest.mark.parametrize(
    ("items", "output", "sent"),
    [
        ([user("Hi"), MESSAGE, user("more")], [MESSAGE], [user("more")]),
        ([user("Hi"), assistant("Hello"), user("more")], [MESSAGE], [user("more")]),
        ([user("Hi"), {"role": "assistant", "content": "Hello"}, user("more")], [MESSAGE], [user("more")]),
        ([user("Hi"), MESSAGE, user("more")], [REASONING, MESSAGE], [user("more")]),
        ([user("Hi"), REASONING, MESSAGE, user("more")], [REASONING, MESSAGE], [user("more")]),
        ([user("Hi"), MESSAGE, user("more")], [MESSAGE, REASONING], [user("more")]),
        ([user("Hi"), call(1), tool_output("c1", "x")], [call(1)], [tool_output("c1", "x")]),
        ([user("Hi"), call(1, arguments='{ "a":1}'), tool_output("c1", "x")], [call(1)], [tool_output("c1", "x")]),
        (
            [user("Hi"), call(1), tool_output("c1", "x"), call(2), tool_output("c2", "y")],
            [call(1), call(2)],
            [tool_output("c1", "x"), tool_output("c2", "y")],
        ),
        (
            [user("Hi"), call(1), call(2), tool_output("c1", "x"), tool_output("c2", "y")],
            [REASONING, call(1), call(2)],
            [tool_output("c1", "x"), tool_output("c2", "y")],
        ),
        ([{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, MESSAGE, user("more")], [MESSAGE], [user("more")]),
        ([user("Hi"), SEARCH, MESSAGE, user("more")], [SEARCH, MESSAGE], [user("more")]),
    ],
)
def test_a_legal_next_turn_is_sent_as_what_is_new(items: Any, output: Any, sent: Any) -> None:
    """In whichever legal form the caller stored the answer, only what is new goes out."""
    answer = chosen(items, output)
    assert isinstance(answer, Delta), answer
    assert (answer.input, answer.previous_response_id, answer.matched) == (sent, "resp_1", 1)


@pytest.mark.parametrize(
    ("items", "output", "why"),
    [
        ([user("Hey"), MESSAGE, user("more")], [MESSAGE], "prefix_mismatch"),
        ([MESSAGE, user("more")], [MESSAGE], "prefix_mismatch"),
        ([], [MESSAGE], "prefix_mismatch"),
        ([user("Hi"), user("more")], [MESSAGE], "output_mismatch"),
        ([user("Hi"), assistant("Bye"), user("more")], [MESSAGE], "output_mismatch"),
        ([user("Hi"), MESSAGE, MESSAGE, user("more")], [MESSAGE], "output_mismatch"),
        ([user("Hi"), MESSAGE, assistant("own words"), user("more")], [MESSAGE], "output_mismatch"),
        ([user("Hi"), user("more"), MESSAGE], [MESSAGE], "output_mismatch"),
        ([user("Hi"), call(2), call(1), tool_output("c1", "x"), tool_output("c2", "y")], [call(1), call(2)], "output_mismatch"),
        ([user("Hi"), tool_output("c1", "x"), call(1)], [call(1)], "output_mismatch"),
        ([user("Hi"), call(1, arguments='{"a": 2}'), tool_output("c1", "x")], [call(1)], "output_mismatch"),
        ([user("Hi"), call(1), user("wait"), call(2), tool_output("c1", "x")], [call(1), call(2)], "output_mismatch"),
        ([user("Hi"), MESSAGE, user("more")], [SEARCH, MESSAGE], "output_mismatch"),
        ([user("Hi"), MESSAGE, call(9), tool_output("c9", "x")], [MESSAGE], "output_mismatch"),
        ([user("Hi"), call(1), tool_output("c1", "x")], [call(1), call(2)], "output_mismatch"),
        ([user("Hi"), MESSAGE], [MESSAGE], "empty_delta"),
    ],
)
def test_anything_else_is_sent_in_full_with_its_reason(items: Any, output: Any, why: str) -> None:
    """An edit, a deletion, a reorder, foreign output or nothing new: the whole input, and the reason."""
    assert reason(chosen(items, output)) == why


NEXT = [user("Hi"), MESSAGE, user("more")]


@pytest.mark.parametrize(
    ("changed", "mode", "why"),
    [
        ({"instructions": "be long"}, "auto", "delta"),
        ({"instructions": "be long"}, "exact", "request_changed"),
        ({"metadata": {"a": "b"}}, "exact", "delta"),
        ({"tools": [{"type": "function", "name": "f"}]}, "auto", "delta"),
        ({"model": "other"}, "auto", "model_changed"),
        ({"store": True}, "auto", "request_changed"),
        ({"truncation": "auto"}, "auto", "request_changed"),
        ({"brand_new_field": 1}, "auto", "request_changed"),
        ({"previous_response_id": "resp_9"}, "auto", "caller_managed"),
        ({"conversation": "conv_9"}, "auto", "caller_managed"),
        ({}, "off", "continuation_off"),
        ({}, "exact", "delta"),
    ],
)
def test_the_field_table_decides_what_else_may_change(changed: dict[str, Any], mode: Any, why: str) -> None:
    """Harmless fields may change, breaking and unknown ones may not; with ``exact`` only metadata may."""
    assert reason(chosen(NEXT, [MESSAGE], fields=FIELDS | changed, mode=mode)) == why


def test_a_field_that_disappears_breaks_like_one_that_changes() -> None:
    """A breaking field of the last turn that is absent now is a change."""
    before = Draft(FIELDS | {"truncation": "auto"}, [user("Hi")], None, Full("no_previous_response")).commit("resp_1", [MESSAGE])
    assert plan(FIELDS, NEXT, before) == Full("request_changed")


def test_without_a_baseline_there_is_no_delta() -> None:
    """A fresh connection gets the whole input."""
    assert plan(FIELDS, NEXT, None) == Full("no_previous_response")


def test_a_strict_match_wants_the_reasoning_too() -> None:
    """Without a session's name, reasoning that is missing means that another conversation may be meant."""
    assert reason(chosen(NEXT, [REASONING, MESSAGE], require_reasoning=True)) == "output_mismatch"
    whole = [user("Hi"), REASONING, MESSAGE, user("more")]
    assert reason(chosen(whole, [REASONING, MESSAGE], require_reasoning=True)) == "delta"


def test_every_field_of_a_request_has_a_decision() -> None:
    """A new field of `Request` without a row in the table fails here."""
    everything: dict[str, Any] = {
        "model": "m", "system_prompt": "s", "history": "h", "tools": [{"name": "f"}], "tool_choice": "auto",
        "parallel_tool_calls": True, "output_schema": {"type": "object"}, "reasoning_effort": "low", "reasoning_summary": "auto",
        "verbosity": "low", "temperature": 0, "top_p": 1, "max_output_tokens": 9, "prompt_cache_key": "k",
        "prompt_cache_retention": "24h", "metadata": {"a": "b"}, "service_tier": "auto", "include": ["x"], "store": True,
        "previous_response_id": "resp_1", "web_search": True, "hosted_tools": [{"type": "file_search"}],
    }  # fmt: skip
    left_out = {"developer_context", "conversation", "extra_body"}
    assert everything.keys() | left_out == {f.name for f in dataclass_fields(Request)}
    body = build(outline(Request(**everything), model="m", store=False, reasons=lambda m: False), warn=pytest.fail)
    assert body.payload.keys() <= FIELD_RULES.keys()
    assert FIELD_RULES["conversation"] is FieldRule.CALLER


def test_a_baseline_does_not_see_what_the_caller_does_to_its_objects() -> None:
    """Mutation in place after sending changes neither the last input nor the output that is held."""
    given, output, fields = [user("Hi")], [copy.deepcopy(MESSAGE)], copy.deepcopy(FIELDS)
    body = Body(fields, given, None, stores=False, caller_managed=False).frozen()
    held = Draft(body.fields, body.items, None, Full("no_previous_response")).commit("resp_1", output)
    given[0]["content"] = "edited"
    output[0]["content"][0]["text"] = "edited"
    fields["model"] = "edited"
    assert reason(plan(FIELDS, NEXT, held)) == "delta"
    assert reason(plan(FIELDS, [given[0], MESSAGE, user("more")], held)) == "prefix_mismatch"


class Counted(str):
    """A text that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_work_of_a_turn_is_one_comparison_of_the_history() -> None:
    """A history that was rebuilt is compared once, item by item, and the baseline is extended in place."""
    given = [user(Counted(f"text {n}")) for n in range(200)]
    held = baseline([MESSAGE], given)
    rebuilt = [user(Counted(f"text {n}")) for n in range(200)]
    Counted.compared = 0
    answer = plan(FIELDS, [*rebuilt, MESSAGE, user("more")], held)
    assert isinstance(answer, Delta)
    assert 200 <= Counted.compared <= 400
    list_before = held.input
    after = Draft(FIELDS, [*rebuilt, MESSAGE, user("more")], held, answer).commit("resp_2", [MESSAGE])
    assert after.input is list_before and len(after.input) == 202


def test_begins_with_tells_how_much_a_baseline_holds() -> None:
    """All of the last input, or nothing."""
    held = baseline([MESSAGE], [user("a"), user("b")])
    assert begins_with([user("a"), user("b"), user("c")], held) == 2
    assert begins_with([user("a"), user("c")], held) == 0
    assert begins_with([user("a")], held) == 0


@pytest.mark.parametrize("kind", ["shell_call", "local_shell_call", "computer_call", "apply_patch_call"])
def test_a_call_that_the_caller_runs_counts_with_what_it_asks(kind: str) -> None:
    """Its id does not make up for another action or another call id: the program ran something else."""
    asked = {"type": kind, "id": "i1", "call_id": "c1", "action": {"commands": ["ls"]}, "status": "completed"}
    answer = {"type": f"{kind}_output", "call_id": "c1", "output": "x"}
    assert reason(chosen([user("Hi"), asked, answer], [asked])) == "delta"
    for edited_call in (asked | {"action": {"commands": ["rm"]}}, asked | {"call_id": "c2"}):
        assert reason(chosen([user("Hi"), edited_call, answer], [asked])) == "output_mismatch"


def test_a_phase_cannot_be_changed_in_two_steps() -> None:
    """A message kept without its phase equals the server's, and is still known to have had it."""
    said = MESSAGE | {"phase": "commentary"}
    held = baseline([said])
    first = plan(FIELDS, NEXT, held)
    assert isinstance(first, Delta)
    after = Draft(FIELDS, NEXT, held, first).commit("resp_2", [assistant("yes")])
    tail = [user("more"), assistant("yes"), user("on")]
    assert reason(plan(FIELDS, [user("Hi"), said, *tail], after)) == "delta"
    assert reason(plan(FIELDS, [user("Hi"), MESSAGE | {"phase": "final_answer"}, *tail], after)) == "prefix_mismatch"


def test_arguments_too_deep_to_compare_go_in_full() -> None:
    """In doubt the input goes in full, and nothing is raised."""
    deep = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    items = [user("Hi"), call(1, arguments=" " + deep), tool_output("c1", "x")]
    assert reason(chosen(items, [call(1, arguments=deep)])) == "output_mismatch"


def test_an_output_without_a_call_id_does_not_stand_between_the_servers_items() -> None:
    """Only the output of a call that came before may."""
    between = [user("Hi"), assistant("one"), {"type": "tool_search_output", "tools": []}, assistant("two"), user("more")]
    assert reason(chosen(between, [assistant("one"), assistant("two")])) == "output_mismatch"


# The law.

TEXTS = st.sampled_from(["one", "two", "three"])
OUTPUTS = st.lists(st.sampled_from(["reasoning", "message", "call", "call"]), min_size=1, max_size=4)
STORED = st.sampled_from(["verbatim", "no_ids", "text", "rebuilt"])
EDITS = st.sampled_from(
    ["none"] * 6
    + ["edit", "delete", "swap", "duplicate", "insert_assistant", "truncate", "drop_reasoning", "in_place", "swap_outputs",
       "late_output"]
)  # fmt: skip


def put_out(kinds: list[str], turn: int) -> list[dict[str, Any]]:
    """What the server puts out in a turn."""
    made: list[dict[str, Any]] = []
    for n, kind in enumerate(kinds):
        name = f"{turn}_{n}"
        if kind == "reasoning":
            made.append({"id": f"rs_{name}", "type": "reasoning", "summary": [], "encrypted_content": f"sealed {name}"})
        elif kind == "message":
            made.append(MESSAGE | {"id": f"msg_{name}", "content": [{"type": "output_text", "text": f"answer {name}"}]})
        else:
            made.append(call(0) | {"id": f"fc_{name}", "call_id": f"c{name}"})
    return made


def stored(item: dict[str, Any], how: str) -> dict[str, Any] | None:
    """The item as a caller keeps it; None where it does not."""
    if how == "verbatim":
        return item
    if how == "text" and item["type"] == "reasoning":
        return None
    if how == "text" and item["type"] == "message":
        return {"role": "assistant", "content": item["content"][0]["text"]}
    kept = copy.deepcopy(item)
    if how == "no_ids":
        kept.pop("id", None)
        kept.pop("status", None)
    return kept


def data_pair(draw: st.DrawFn, places: list[int]) -> tuple[int, int]:
    return draw(st.sampled_from(places)), draw(st.sampled_from(places))


@st.composite
def edited(draw: st.DrawFn, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history after an edit that a caller might make."""
    edit = draw(EDITS)
    if not history or edit == "none":
        return history
    at = draw(st.integers(0, len(history) - 1))
    if edit == "drop_reasoning":
        return [item for item in history if item.get("type") != "reasoning"]
    if edit == "truncate":
        return history[: at + 1]
    if edit == "delete":
        return history[:at] + history[at + 1 :]
    if edit == "duplicate":
        return history[: at + 1] + history[at:]
    if edit == "insert_assistant":
        return [*history[:at], assistant("never said"), *history[at:]]
    if edit == "swap":
        other = draw(st.integers(0, len(history) - 1))
        swapped = list(history)
        swapped[at], swapped[other] = swapped[other], swapped[at]
        return swapped
    if edit == "in_place" and isinstance(history[at].get("content"), str):
        history[at]["content"] += "!"
        return history
    outputs = [n for n, item in enumerate(history) if item.get("type") == "function_call_output"]
    if edit == "swap_outputs" and outputs:
        other, at = data_pair(draw, outputs)
        swapped = list(history)
        swapped[at], swapped[other] = swapped[other], swapped[at]
        return swapped
    if edit == "late_output" and outputs:
        late = draw(st.sampled_from(outputs))
        return [*history[:late], *history[late + 1 :], history[late]]
    return [*history[:at], user("edited"), *history[at + 1 :]]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_edited_the_server_sees_what_a_full_replay_would_show(data: st.DataObject) -> None:
    """Over any turns and edits, full or delta: the model's context equals that of a full replay, and prefix + delta = input."""
    server, held = Server(), None
    made_in: dict[Any, int] = {}
    history: list[dict[str, Any]] = []
    for turn in range(data.draw(st.integers(2, 5))):
        history = data.draw(edited(history))
        if not history or data.draw(st.integers(0, 3)):
            history = [*history, user(data.draw(TEXTS))]  # else tool outputs, or nothing new, end the turn
        items = repair(history, warn=lambda message: None)
        answer = plan(FIELDS, items, held)
        output = put_out(data.draw(OUTPUTS), turn)
        draft = Draft(FIELDS, snapshot(items), held, answer)  # as `Body.frozen` gives them
        if isinstance(answer, Delta):
            seen = server.take(answer.input, answer.previous_response_id, output, f"resp_{turn}")
            assert held is not None and canonical(items[: answer.matched], made_in) == canonical(held.input, made_in)
            assert [item for item in items[answer.matched :] if item in answer.input] == answer.input
        else:
            seen = server.take(items, None, output, f"resp_{turn}")
        assert canonical(seen, made_in) == canonical(items, made_in)
        made_in |= {meaning(item): turn for item in output} | {item["call_id"]: turn for item in output if "call_id" in item}
        held = draft.commit(f"resp_{turn}", output)
        how = data.draw(STORED)
        calls = [item for item in output if item["type"] == "function_call"]
        interleaved = data.draw(st.booleans())
        for item in output:
            kept = stored(item, how)
            history = history if kept is None else [*history, kept]
            if interleaved and item in calls:
                history = [*history, tool_output(item["call_id"], f"done {item['call_id']}")]
        if not interleaved:
            history = history + [tool_output(item["call_id"], f"done {item['call_id']}") for item in calls]


def test_what_is_kept_of_two_answers_shares_the_words_of_the_protocol() -> None:
    """It equals its snapshot, no container of it is the caller's, and its names and words are the same objects for both."""
    text = json.dumps([{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}])
    given, again = json.loads(text), json.loads(text)
    one, other = kept(given), kept(again)
    assert one == snapshot(given) == given and one[0] is not given[0] and one[0]["content"][0] is not given[0]["content"][0]
    for mine, theirs in ((one[0], other[0]), (one[0]["content"][0], other[0]["content"][0])):
        assert all(a is b for a, b in zip(mine, theirs, strict=True)) and mine["type"] is theirs["type"]
    given[0]["content"].clear()
    assert one == other


def test_a_word_of_the_servers_own_is_nobody_elses() -> None:
    """It is kept as it came, and not among the interned, which Python 3.12 never frees."""
    made = {"".join(["a-na", "me"]): "x", "status": "".join(["a-wo", "rd"])}
    (found,) = kept([made])
    assert found == made
    for mine, same in zip([*found][:1] + [found["status"]], ("".join(["a-n", "ame"]), "".join(["a-w", "ord"])), strict=True):
        assert sys.intern(same) is not mine
