"""Repairing a history, and what of it a full input carries; the local server's engine is the referee."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.local.engine import Engine
from pixir_sync.local.errors import ApiError
from pixir_sync.local.sealed import seal_compaction, seal_reasoning
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.history import CALLS, OUTPUTS
from pixir_sync.protocol.items import assistant, check_history, developer, for_full_input, image, repair, tool_output, user

Item = dict[str, Any]
SECRET = "what a tool said in confidence"
MISSING = "No output was recorded for this call."


def call(call_id: str, kind: str = "function_call") -> Item:
    field = {"function_call": "arguments", "custom_tool_call": "input"}.get(kind, "action")
    return {"type": kind, "id": f"id_{call_id}", "call_id": call_id, "name": "look", field: "{}", "status": "completed"}


def made_up(call_id: str, kind: str = "function_call_output") -> Item:
    return {"type": kind, "call_id": call_id, "output": MISSING}


def answer(call_id: str, kind: str = "function_call_output") -> Item:
    return {"type": kind, "call_id": call_id, "output": SECRET}


def repaired(items: list[Item]) -> tuple[list[Item], list[str]]:
    warnings: list[str] = []
    return repair(items, warn=warnings.append), warnings


ASK, MORE, THOUGHT = user("Hi"), user("more"), {"type": "reasoning", "summary": [], "encrypted_content": "sealed"}
A, B, CUSTOM = call("a"), call("b"), call("c", "custom_tool_call")
A_OUT, B_OUT, CUSTOM_OUT = answer("a"), answer("b"), answer("c", "custom_tool_call_output")


@pytest.mark.parametrize(
    "items",
    [
        [],
        [ASK, assistant("Hello"), MORE],
        [ASK, A, A_OUT, MORE],
        [ASK, A, B, B_OUT, A_OUT],
        [ASK, A, A_OUT, B, B_OUT],
        [ASK, A, MORE, A_OUT],
        [ASK, CUSTOM, CUSTOM_OUT],
        [ASK, A, A_OUT, A, A_OUT],
        [ASK, call("s", "computer_call")],
        [ASK, call("s", "shell_call"), answer("s", "shell_call_output")],
        [ASK, call("s", "local_shell_call"), answer("s")],
        [ASK, call("s", "local_shell_call"), {"type": "local_shell_call_output", "id": "s", "output": "x"}],
        [ASK, {"type": "item_reference", "id": "fc_1"}, answer("of the call that is referred to")],
        [ASK, A, {"type": "item_reference", "id": "fco_1"}],
        [ASK, {"type": "web_search_call", "id": "ws_1"}, {"type": "mcp_call", "id": "mcp_1"}],
    ],
)
@pytest.mark.row("A14")
def test_a_history_that_is_whole_stays_the_same_list(items: list[Item]) -> None:
    """Not a copy: nothing to do costs nothing. Outputs in any legal order, call_ids used again, references."""
    result, warnings = repaired(items)
    assert result is items
    assert warnings == []


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([ASK, A, MORE], [ASK, A, made_up("a"), MORE]),
        ([ASK, A], [ASK, A, made_up("a")]),
        ([ASK, A, B, MORE], [ASK, A, B, made_up("a"), made_up("b"), MORE]),
        ([ASK, A, B, B_OUT, MORE], [ASK, A, B, made_up("a"), B_OUT, MORE]),
        ([ASK, A, B, A_OUT, MORE], [ASK, A, B, made_up("b"), A_OUT, MORE]),
        ([ASK, A, A_OUT, B, MORE], [ASK, A, A_OUT, B, made_up("b"), MORE]),
        ([ASK, A, THOUGHT, B, B_OUT], [ASK, A, made_up("a"), THOUGHT, B, B_OUT]),
        ([ASK, A, MORE, A, A_OUT], [ASK, A, made_up("a"), MORE, A, A_OUT]),
        ([ASK, A, A_OUT, A, MORE], [ASK, A, A_OUT, A, made_up("a"), MORE]),
        ([ASK, CUSTOM, MORE], [ASK, CUSTOM, made_up("c", "custom_tool_call_output"), MORE]),
        ([ASK, A, call("s", "shell_call")], [ASK, A, call("s", "shell_call"), made_up("a")]),
    ],
)
@pytest.mark.row("A14")
def test_a_call_without_its_output_gets_one_that_says_so(items: list[Item], expected: list[Item]) -> None:
    """After the last of the calls that stand together, of the call's own kind; it is no reason for a warning."""
    assert repaired(items) == (expected, [])


@pytest.mark.parametrize(
    ("items", "expected", "place"),
    [
        ([ASK, A_OUT, MORE], [ASK, MORE], 1),
        ([A_OUT], [], 0),
        ([ASK, A, A_OUT, A_OUT, MORE], [ASK, A, A_OUT, MORE], 3),
        ([ASK, A_OUT, A, MORE], [ASK, A, made_up("a"), MORE], 1),
        ([ASK, A, B_OUT, MORE], [ASK, A, made_up("a"), MORE], 2),
        ([ASK, A, B_OUT, CUSTOM, CUSTOM_OUT], [ASK, A, CUSTOM, made_up("a"), CUSTOM_OUT], 2),
        ([ASK, CUSTOM_OUT], [ASK], 1),
        ([ASK, answer("s", "computer_call_output")], [ASK], 1),
        ([ASK, answer("s", "shell_call_output"), MORE], [ASK, MORE], 1),
    ],
)
@pytest.mark.row("A14")
def test_an_output_without_its_call_is_left_out(items: list[Item], expected: list[Item], place: int) -> None:
    """With a warning that tells the place and nothing of the content."""
    assert repaired(items) == (expected, [f"history[{place}]: an output without its call was left out"])


def test_a_call_that_stands_twice_is_left_out_once() -> None:
    """One output answers both; a server would wait for a second one."""
    result, warnings = repaired([ASK, A, A, A_OUT])
    assert result == [ASK, A, A_OUT]
    assert warnings == ["history[2]: a second call of the same call_id was left out"]


@pytest.mark.parametrize(("made", "given"), [(CUSTOM, tool_output("c", SECRET)), (A, answer("a", "custom_tool_call_output"))])
@pytest.mark.row("A14")
def test_an_output_goes_as_the_kind_of_its_call(made: Item, given: Item) -> None:
    """`tool_output` answers custom tools, too; the caller's own item stays as it is."""
    before = dict(given)
    result, warnings = repaired([ASK, made, given])
    assert result == [ASK, made, {**given, "type": CALLS[made["type"]]}]
    assert (given, warnings) == (before, [])


# The law. Histories of any make, wrong ones above all.

KINDS = ["function_call", "custom_tool_call", "shell_call"]
PIECES = st.one_of(
    st.sampled_from([ASK, MORE, THOUGHT, assistant("Hello"), {"type": "web_search_call", "id": "ws_1"}]),
    st.builds(call, st.sampled_from("abc"), st.sampled_from(KINDS)),
    st.builds(answer, st.sampled_from("abc"), st.sampled_from([CALLS[kind] for kind in KINDS])),
)


def is_pairless(item: Item) -> bool:
    return item["type"] not in CALLS and item["type"] not in OUTPUTS


@given(st.lists(PIECES, max_size=12))
@pytest.mark.row("A14")
def test_after_repair_calls_and_outputs_pair_up(items: list[Item]) -> None:
    """One output after each call, one call before each output; nothing else removed or reordered; done once, done for good."""
    before = copy.deepcopy(items)
    result, warnings = repaired(items)
    assert items == before

    waiting: dict[str, Item] = {}
    for item in result:
        if item["type"] in CALLS:
            earlier = waiting.get(item["call_id"])
            assert earlier is None or earlier["type"] == "shell_call", "a call before the output of the one before it"
            waiting[item["call_id"]] = item
        elif item["type"] in OUTPUTS:
            assert waiting.pop(item["call_id"], None) is not None, "an output without its call"
    assert {item["type"] for item in waiting.values()} <= {"shell_call"}

    assert [item for item in result if is_pairless(item)] == [item for item in items if is_pairless(item)]
    kept = [item for item in result if item.get("output") != MISSING]
    assert len(kept) + len(warnings) == len(items)
    places = iter(items)
    assert all(any(same_but_kind(item, theirs) for theirs in places) for item in kept), "not in the caller's order"
    assert repair(result, warn=pytest.fail) is result


def same_but_kind(item: Item, theirs: Item) -> bool:
    return item is theirs or (item["type"] in OUTPUTS and {**theirs, "type": item["type"]} == item)


# Full inputs.

MODEL, OTHER = "gpt-5.5", "gpt-5.4"
SEALED, FOREIGN = seal_reasoning(MODEL, "rs_1", done=True), seal_reasoning(OTHER, "rs_2", done=True)


def reasoning(encrypted: Any, summary: Any = ()) -> Item:
    return {"id": "rs_1", "type": "reasoning", "summary": list(summary), "encrypted_content": encrypted, "status": None}


def origin_of(encrypted: str) -> str | None:
    return {FOREIGN: OTHER, "known": MODEL}.get(encrypted)


def full(items: list[Item], store: bool = False) -> list[Item]:
    return for_full_input(items, store=store, model=MODEL, origin_of=origin_of)


@pytest.mark.row("A15")
def test_ids_and_statuses_stay_at_home() -> None:
    """Shallow copies without them; an item that has none goes as it is, and so does everything inside."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "phase": "final_answer",
               "content": [{"type": "output_text", "text": "Hello", "annotations": [], "id": "inside"}]}  # fmt: skip
    before = copy.deepcopy(message)
    sent = full([ASK, message, A, A_OUT | {"status": None}])
    assert sent[0] is ASK
    assert sent[1] == {name: value for name, value in message.items() if name not in ("id", "status")}
    assert sent[1]["content"] is message["content"]
    assert message == before
    assert not any(name in item for item in sent for name in ("id", "status"))


@pytest.mark.parametrize(
    ("item", "goes"),
    [
        (reasoning("unknown origin"), True),
        (reasoning("known"), True),
        (reasoning("unknown origin", [{"type": "summary_text", "text": "x"}]), True),
        (reasoning(FOREIGN), False),
        (reasoning(None), False),
        (reasoning(""), False),
        ({"type": "reasoning", "summary": []}, False),
    ],
)
@pytest.mark.row("A15")
def test_reasoning_goes_only_to_the_model_that_can_read_it(item: Item, goes: bool) -> None:
    """With encrypted content that is not known to be another model's; then the summary goes verbatim, an empty one too."""
    sent = full([ASK, item])
    assert sent == [ASK, {name: item[name] for name in ("type", "summary", "encrypted_content")}] if goes else sent == [ASK]


@pytest.mark.row("A15")
def test_what_means_nothing_without_its_id_is_left_out() -> None:
    """An approval without its request would be refused; the model asks again."""
    request = {"id": "mcpr_1", "type": "mcp_approval_request", "name": "t", "arguments": "{}", "server_label": "s"}
    response = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    assert full([ASK, request, response, {"id": "ig_1", "type": "image_generation_call", "result": "x"}]) == [ASK]


@pytest.mark.row("A15")
def test_a_reference_needs_the_store() -> None:
    """Without it nothing is there to be referred to: an error that tells the place, before anything is sent."""
    with pytest.raises(InvalidRequest, match=r"input\[1\].*store=True"):
        full([ASK, {"type": "item_reference", "id": "msg_1"}])


def test_with_store_everything_goes_as_it_is() -> None:
    """The provider has the items: ids, statuses, references and all."""
    items = [ASK, A, A_OUT, reasoning(None), {"type": "item_reference", "id": "msg_1"}]
    assert full(items, store=True) is items


PUT_OUT = st.sampled_from([
    {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
     "content": [{"type": "output_text", "text": "Hello", "annotations": []}]},
    {"id": "msg_2", "type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
    {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "AAAA"},
    {"id": "cmp_1", "type": "compaction", "encrypted_content": seal_compaction(3)},
    {"id": "mcpr_1", "type": "mcp_approval_request", "server_label": "s", "name": "t", "arguments": "{}"},
    reasoning(SEALED), reasoning(FOREIGN), reasoning(None), reasoning(SEALED, [{"type": "summary_text", "text": "x"}]),
])  # fmt: skip
GIVEN = st.sampled_from([
    ASK, user("look", image("https://host/a.png")), developer("d"), assistant("Hello"), {"role": "user", "content": "untyped"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
])  # fmt: skip
TOOLS = st.one_of(
    st.builds(call, st.sampled_from("abc"), st.sampled_from(KINDS[:2])),
    st.builds(tool_output, st.sampled_from("abc"), st.sampled_from(["x", {"a": 1}, [image("https://host/a.png")]])),
    st.builds(answer, st.sampled_from("abc"), st.sampled_from(["function_call_output", "custom_tool_call_output"])),
)


@given(st.lists(st.one_of(PUT_OUT, GIVEN, TOOLS), max_size=12))
@pytest.mark.row("A14", "A15")
def test_a_server_accepts_every_legal_history_in_full(items: list[Item]) -> None:
    """Whatever was put out before, under ids that were never stored: after repair the engine takes it and answers."""
    before = copy.deepcopy(items)
    history, _ = repaired(check_history([ASK, *items]))
    sent = full(history)
    events = list(Engine().respond({"model": MODEL, "input": sent, "store": False}))
    assert events[-1]["type"] == "response.completed"
    assert items == before


def test_the_referee_refuses_what_is_not_prepared() -> None:
    """Without this the law above might show nothing."""
    for items in ([A, A_OUT], [reasoning(FOREIGN)], [call("a") | {"id": None, "status": None}], [A_OUT]):
        with pytest.raises(ApiError):
            Engine().respond({"model": MODEL, "input": items, "store": False})
