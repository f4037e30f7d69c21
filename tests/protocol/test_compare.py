"""What makes two items equal for continuation, and that a snapshot stays what it was."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync.protocol.compare import same_item, snapshot
from pixir_sync.protocol.items import assistant, developer, image, tool_output, user
from tests.protocol.strategies import objects

Item = dict[str, Any]


# Snapshots.


def test_a_snapshot_does_not_see_what_becomes_of_the_items() -> None:
    """Every container is copied, however deep."""
    items = [user("look", image("https://host/a.png")), {"type": "x", "a": [{"b": [1, {"c": "d"}]}]}]
    held = snapshot(items)
    before = copy.deepcopy(items)
    items[0]["content"][1]["detail"] = "high"
    items[0]["content"].append("more")
    items[1]["a"][0]["b"][1]["c"] = "e"
    items[1]["new"] = True
    del items[0]["role"]
    assert held == before


def test_a_snapshot_shares_the_leaves() -> None:
    """A long text is not copied."""
    text = "long" * 1000
    held = snapshot([user(text), assistant(text)])
    assert held[0]["content"] is text
    assert held[1]["content"][0]["text"] is text


class Parts(list[Any]):
    """A list of the caller's own make."""


def test_every_kind_of_container_is_copied() -> None:
    """Tuples and the caller's own lists and mappings become plain ones, as they do in JSON."""
    own = Parts([{"type": "input_text", "text": "a"}])
    items: list[Item] = [{"a": ({"b": 1},), "c": own, "d": OrderedDict(e=1), "f": MappingProxyType({"g": [2]})}]
    held = snapshot(items)
    own.append("more")
    assert held == [{"a": [{"b": 1}], "c": [{"type": "input_text", "text": "a"}], "d": {"e": 1}, "f": {"g": [2]}}]
    assert [type(value) for value in held[0].values()] == [list, list, dict, dict]


def test_an_item_that_contains_itself_is_a_recursion_error() -> None:
    """Not a hang."""
    item: Item = {"type": "x"}
    item["self"] = item
    with pytest.raises(RecursionError):
        snapshot([item])


@given(st.lists(objects, max_size=4))
def test_a_snapshot_equals_what_it_was_taken_of(items: list[Item]) -> None:
    """Equal, and no container of it is the caller's."""
    held = snapshot(items)
    assert held == items and held is not items
    assert all(mine is not theirs for mine, theirs in zip(held, items, strict=True))


# Equality. Each row: two items, and whether they mean the same.

MESSAGE: Item = {
    "id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
    "content": [{"type": "output_text", "text": "Hello", "annotations": [{"type": "url_citation"}], "logprobs": []}],
}  # fmt: skip
PARTS: Item = {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}
CALL: Item = {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1, "b": [2]}'}
CUSTOM: Item = {"id": "ctc_1", "type": "custom_tool_call", "call_id": "c1", "name": "f", "input": '{"a": 1}'}
REASONING: Item = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "sealed", "status": None}
SEARCH: Item = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"query": "x"}}
OUTPUT: Item = tool_output("c1", "done")
SCREEN: Item = {"type": "computer_call_output", "call_id": "c1", "acknowledged_safety_checks": [{"id": "sc_1"}]}


def refusal(text: str) -> Item:
    return {"role": "assistant", "content": [{"type": "refusal", "refusal": text}]}


TABLE: list[tuple[str, Item, Item, bool]] = [
    ("a missing type is message", {"role": "user", "content": "a"}, user("a"), True),
    ("a null type is a missing one", {"type": None, "role": "user", "content": "a"}, user("a"), True),
    ("another type", user("a"), {"type": "reasoning", "role": "user", "content": "a"}, False),
    ("a string is one part of text", user("a"), {"role": "user", "content": [{"type": "input_text", "text": "a"}]}, True),
    ("also of the assistant's", {"role": "assistant", "content": "Hello"}, MESSAGE, True),
    ("also of the developer's", developer("a"), {"role": "developer", "content": [{"type": "input_text", "text": "a"}]}, True),
    ("id, status, annotations and logprobs do not count", assistant("Hello"), MESSAGE, True),
    ("nor does metadata", user("a") | {"metadata": {"a": "b"}}, user("a"), True),
    ("nor do nulls", user("a") | {"phase": None, "name": None}, user("a"), True),
    ("the text counts", assistant("Bye"), MESSAGE, False),
    ("the role counts", user("a"), developer("a"), False),
    ("the part's type counts", user("a"), {"role": "user", "content": [{"type": "output_text", "text": "a"}]}, False),
    ("the division into parts counts", user("ab"), PARTS, False),
    ("the order of parts counts", PARTS, PARTS | {"content": PARTS["content"][::-1]}, False),
    ("the number of parts counts", PARTS, PARTS | {"content": PARTS["content"][:1]}, False),
    ("a tuple of parts is a list", PARTS, PARTS | {"content": tuple(PARTS["content"])}, True),
    ("no content is no empty text", {"role": "assistant", "content": None}, {"role": "assistant", "content": ""}, False),
    ("refusals", refusal("no"), refusal("no"), True),
    ("another refusal", refusal("no"), refusal("never"), False),
    ("a refusal is no text", refusal("no"), assistant("no"), False),
    ("one phase is enough", MESSAGE | {"phase": "commentary"}, MESSAGE, True),
    ("two phases count", MESSAGE | {"phase": "commentary"}, MESSAGE | {"phase": "final_answer"}, False),
    ("an image", user("a", image("https://h/a")), user("a", image("https://h/a")), True),
    ("another image", user("a", image("https://h/a")), user("a", image("https://h/b")), False),
    ("an image's nulls", user(image("https://h/a") | {"file_id": None}), user(image("https://h/a")), True),
    ("white space of arguments", CALL, CALL | {"arguments": ' {"a":1,"b":[ 2 ]} '}, True),
    ("order of keys in arguments", CALL, CALL | {"arguments": '{"b": [2], "a": 1}'}, True),
    ("the id and status of a call", CALL, {**CALL, "id": "fc_2", "status": "completed"}, True),
    ("the call_id", CALL, CALL | {"call_id": "c2"}, False),
    ("the name", CALL, CALL | {"name": "g"}, False),
    ("the arguments", CALL, CALL | {"arguments": '{"a": 2, "b": [2]}'}, False),
    ("one and true are the same to Python", CALL, CALL | {"arguments": '{"a": true, "b": [2]}'}, True),
    ("arguments that are no JSON", CALL | {"arguments": "{"}, CALL | {"arguments": "{"}, True),
    ("other arguments that are no JSON", CALL | {"arguments": "{"}, CALL | {"arguments": "{ "}, False),
    ("a JSON string is not its content", CALL | {"arguments": '"{"'}, CALL | {"arguments": "{"}, False),
    ("arguments that are missing", CALL | {"arguments": None}, CALL | {"arguments": "null"}, False),
    ("a custom call", CUSTOM, {**CUSTOM, "id": None}, True),
    ("a custom call's input is free text", CUSTOM, CUSTOM | {"input": '{"a":1}'}, False),
    ("a custom call's name", CUSTOM, CUSTOM | {"name": "g"}, False),
    ("a function is no custom tool", CALL | {"input": ""}, CUSTOM | {"arguments": CALL["arguments"]}, False),
    ("a tool's output", OUTPUT, OUTPUT | {"id": "fco_1", "status": "completed"}, True),
    ("another output", OUTPUT, OUTPUT | {"output": "failed"}, False),
    ("an output of another call", OUTPUT, OUTPUT | {"call_id": "c2"}, False),
    ("an output of parts", tool_output("c1", [image("https://h/a")]), tool_output("c1", [image("https://h/b")]), False),
    ("an id inside is part of what is said", SCREEN, SCREEN | {"acknowledged_safety_checks": [{"id": "sc_2"}]}, False),
    ("reasoning", REASONING, {"type": "reasoning", "summary": [], "encrypted_content": "sealed"}, True),
    ("reasoning, sealed anew", REASONING, REASONING | {"encrypted_content": "other"}, False),
    ("reasoning, its summary edited", REASONING, REASONING | {"summary": [{"type": "summary_text", "text": "x"}]}, False),
    ("hosted items by type and id", SEARCH, {"id": "ws_1", "type": "web_search_call"}, True),
    ("hosted items of other ids", SEARCH, SEARCH | {"id": "ws_2"}, False),
    ("hosted items of other types", SEARCH, SEARCH | {"type": "file_search_call"}, False),
    ("a hosted item stored without its id", SEARCH, {"type": "web_search_call", "action": {"query": "x"}}, True),
    ("another hosted item without an id", SEARCH, {"type": "web_search_call", "action": {"query": "y"}}, False),
    ("compaction by id", {"type": "compaction", "id": "c", "encrypted_content": "a"}, {"type": "compaction", "id": "c"}, True),
    ("another compaction", {"type": "compaction", "id": "c"}, {"type": "compaction", "id": "d"}, False),
    ("references by id", {"type": "item_reference", "id": "a"}, {"type": "item_reference", "id": "a", "x": 1}, True),
    ("other references", {"type": "item_reference", "id": "a"}, {"type": "item_reference", "id": "b"}, False),
    ("a kind of next year", {"type": "new", "id": "a", "x": [1, None]}, {"type": "new", "x": (1, None), "y": None}, True),
    ("another of next year", {"type": "new", "x": 1}, {"type": "new", "x": 2}, False),
    ("a type that is none", {"type": ["x"], "a": 1}, {"type": ["x"], "a": 1}, True),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "same"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_makes_two_items_equal(one: Item, other: Item, same: bool) -> None:
    """Each clause of the rule, from both sides."""
    assert same_item(one, other) is same
    assert same_item(other, one) is same


FIELDS = {
    "type": st.sampled_from(["message", "function_call", "custom_tool_call", "reasoning", "web_search_call", "x", None]),
    "role": st.sampled_from(["user", "assistant"]),
    "content": st.sampled_from(["a", None]) | st.lists(st.sampled_from([*MESSAGE["content"], *PARTS["content"]])),
    "id": st.sampled_from(["a", "b", None]),
    "call_id": st.sampled_from(["a", "b"]),
    "arguments": st.sampled_from(["{}", "{ }", "{", ""]),
    "phase": st.sampled_from(["a", "b", None]),
    "data": objects,
}
ITEMS = st.fixed_dictionaries({}, optional=FIELDS)


@given(ITEMS)
def test_every_item_is_the_same_as_itself(item: Item) -> None:
    """And as its snapshot, and as one whose keys stand in another order."""
    assert same_item(item, item)
    assert same_item(item, snapshot([item])[0])
    assert same_item(item, dict(reversed(item.items())))


@given(ITEMS, ITEMS)
def test_it_does_not_matter_which_item_comes_first(one: Item, other: Item) -> None:
    """And items that are equal mean the same."""
    assert same_item(one, other) is same_item(other, one)
    if one == other:
        assert same_item(one, other)
