"""What the engine refuses: the rules for a full input with ``store: false``, and malformed requests."""

from __future__ import annotations

from typing import Any

import pytest

from pixir_sync.local.engine import Engine
from pixir_sync.local.state import Connection
from tests.local.helpers import Json, bare, body, output, refusal, run, text, user

SAID: Json = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}
CALL: Json = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
REASONS: Json = {"reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]}


def reasoning_item(model: str = "m") -> Json:
    """A finished reasoning item of that model."""
    item: Json = bare(run(Engine(), {**body(store=False, **REASONS), "model": model})["output"])[0]
    return item


@pytest.mark.parametrize(
    ("items", "status", "code", "says"),
    [
        ([user("a"), {**SAID, "id": "msg_1"}], 404, None, "Item with id 'msg_1' not found"),
        ([{"type": "reasoning", "id": "rs_1", "summary": []}], 404, None, "Item with id 'rs_1' not found"),
        ([{**user("a"), "status": "completed"}], 400, "unknown_parameter", "input[0].status"),
        ([{"type": "reasoning", "summary": []}], 400, "missing_required_parameter", "input[0].encrypted_content"),
        ([{"type": "reasoning", "encrypted_content": "x"}], 400, "missing_required_parameter", "input[0].summary"),
        (
            [{"type": "reasoning", "summary": [], "encrypted_content": "x"}],
            400, "invalid_encrypted_content", "input[0].encrypted_content",
        ),
        ([{"type": "item_reference", "id": "msg_2"}], 404, None, "Item with id 'msg_2' not found"),
        ([user("a"), CALL], 400, None, "No tool output found for function call call_1."),
        ([user("a"), output("call_1", "x")], 400, None, "No tool call found for function call output with call_id"),
        ([output("call_1", "x"), CALL], 400, None, "No tool call found"),
        ([CALL, output("call_1", "x"), output("call_1", "x")], 400, None, "No tool call found"),
        ([{"type": "compaction", "encrypted_content": "x"}], 400, "invalid_encrypted_content", "input[0]"),
    ],
)  # fmt: skip
def test_full_input_without_store_has_rules(items: list[Json], status: int, code: str | None, says: str) -> None:
    """Ids that were never stored, statuses, bare reasoning items and unpaired calls are refused, each by name."""
    error = refusal(Engine(), body(items, store=False))
    assert (error.status, error.code) == (status, code)
    assert says in error.message


def test_reasoning_item_goes_back_to_its_model_only() -> None:
    """Finished encrypted content is taken by the model that made it; another model's and a stale one are refused."""
    item = reasoning_item()
    assert text(run(Engine(), body([user("a"), item, SAID, user("b")], store=False))) == "Heard: b (context: 2)"
    error = refusal(Engine(), body([user("a"), reasoning_item("other")], store=False))
    assert (error.status, error.code) == (400, "invalid_encrypted_content")
    events = Engine().respond(body(store=False, **REASONS))
    stale = next(event["item"] for event in events if event["type"] == "response.output_item.added")
    assert refusal(Engine(), body(bare([stale]), store=False)).code == "invalid_encrypted_content"
    bent = {**item, "encrypted_content": item["encrypted_content"][:-4] + "AAAA"}
    assert refusal(Engine(), body([bent], store=False)).code == "invalid_encrypted_content"


def test_stored_items_may_carry_their_ids() -> None:
    """Stored items are known by id and by reference, their status too; a message needs its reasoning item."""
    engine = Engine()
    reasoning, message = run(engine, body(store=True, **REASONS))["output"]
    good = [user("a"), reasoning, message, user("b")]
    assert text(run(engine, body(good, store=False))).endswith("(context: 2)")
    references: list[Json] = [{"type": "item_reference", "id": item["id"]} for item in (reasoning, message)]
    assert text(run(engine, body([*references, user("b")]))) == "Heard: b (context: 1)"
    error = refusal(engine, body([message, user("b")], store=False))
    assert error.status == 400 and "required 'reasoning' item" in error.message


def test_status_is_allowed_with_store() -> None:
    """With store true a status is let through."""
    assert run(Engine(), body([{**user("a"), "status": "completed"}], store=True))["status"] == "completed"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"type": "nonsense"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": SAID["content"]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "assistant", "content": user("a")["content"]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{**CALL, "call_id": "no spaces"}]}, "input[0].call_id"),
        ({"input": [{**user("a"), "id": 5}]}, "input[0].id"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f g"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"properties": 5}}]}, "tools[0].parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"prompt_cache_key": "a b"}, "prompt_cache_key"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"stream": "yes"}, "stream"),
        ({"generate": False}, "generate"),
        ({"stream_id": "x"}, "stream_id"),
        ({"background": True, "store": False}, "background"),
    ],
)
def test_malformed_requests_name_the_parameter(fields: Json, param: str) -> None:
    """A wrong type, value or shape is refused with the parameter's path."""
    error = refusal(Engine(), body(**fields))
    assert (error.status, error.param, error.type) == (400, param, "invalid_request_error")


@pytest.mark.parametrize("fields", [{"background": True}, {"stream_id": "no spaces"}, {"stream_id": ""}])
def test_websocket_has_refusals_of_its_own(fields: Json) -> None:
    """Background mode and a bad lane name are refused over a WebSocket."""
    assert refusal(Engine(), body(**fields), Connection()).param in ("background", "stream_id")


@pytest.mark.parametrize("value", [{"x": 1}, None, 0, "text"])
def test_unknown_fields_and_nulls_pass(value: Any) -> None:
    """An unknown field is let through, and a null is an absent value."""
    answer = run(Engine(), body(brand_new=value, temperature=None, tools=None))
    assert (answer["temperature"], answer["tools"]) == (1.0, [])


def test_half_a_surrogate_pair_is_refused() -> None:
    """Text that has no UTF-8 form is a refusal, not a crash."""
    assert refusal(Engine(), body("\ud800")).status == 400
    assert refusal(Engine(), body(metadata={"a": "\udfff"})).status == 400
