"""Section 8, point 7: the rules for a full input with ``store: false`` (section 4) are enforced, over both transports."""

from __future__ import annotations

from typing import Any

import pytest

from pixir_sync.local import LocalServer
from tests.local.helpers import TOOL, bare, both, output, over_websocket, text, user
from tests.local.helpers import Wire as Asked
from tests.local.raw import Json, connect

SAID: Json = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}
CALL: Json = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
SEARCH: Json = {"type": "web_search_call", "action": {"type": "search", "query": "x"}}
SEALED: Json = {"reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"], "store": False}


def reasoned(server: LocalServer, **fields: Any) -> list[Json]:
    """The output of a turn that reasons: the reasoning item and the message."""
    output_items: list[Json] = over_websocket(server, **{**SEALED, **fields})[-1]["response"]["output"]
    return output_items


@both
@pytest.mark.parametrize(
    ("item", "status"),
    [
        ({**SAID, "id": "msg_1"}, 404),
        ({**user("a"), "id": "msg_1"}, 404),
        ({**CALL, "id": "fc_1"}, 404),
        ({**SEARCH, "id": "ws_1"}, 404),
        ({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}, 404),
        ({"type": "item_reference", "id": "msg_1"}, 404),
        ({**SAID, "status": "completed"}, 400),
        ({**user("a"), "status": "completed"}, 400),
        ({**CALL, "status": "completed"}, 400),
    ],
    ids=["message", "user", "call", "search", "reasoning", "reference", "message-status", "user-status", "call-status"],
)
def test_ids_and_statuses_are_refused(shared: LocalServer, wire: Asked, item: Json, status: int) -> None:
    """An id that was never stored is a 404 that names it, a status a 400 that names its path."""
    (refused,) = wire(shared, [user("a"), item, output("call_1", "x"), user("b")], store=False)
    message = refused["error"]["message"]
    assert refused["status"] == status and refused["error"]["type"] == "invalid_request_error"
    if status == 404:
        assert message.startswith(f"Item with id '{item['id']}' not found.") and "store" in message
    else:
        assert "input[1].status" in message and refused["error"]["param"] == "input[1].status"


@both
def test_an_output_as_it_came_is_refused(shared: LocalServer, wire: Asked) -> None:
    """An unstored answer's items sent back verbatim, with ids and statuses, are a 404; without them they are taken."""
    first = wire(shared, [user("a")], store=False)[-1]["response"]["output"]
    (refused,) = wire(shared, [user("a"), *first, user("b")], store=False)
    assert (refused["status"], first[0]["id"] in refused["error"]["message"]) == (404, True)
    response = wire(shared, [user("a"), *bare(first), user("b")], store=False)[-1]["response"]
    assert text(response) == "Heard: b (context: 2)"


@both
def test_reasoning_needs_its_encrypted_content(shared: LocalServer, wire: Asked) -> None:
    """Left out it is a 400; verbatim, its summary too and even if that is empty, it is taken; without a summary it is not."""
    item, message = bare(reasoned(shared))
    rest = [message, user("b")]
    without = {key: value for key, value in item.items() if key != "encrypted_content"}
    (refused,) = wire(shared, [user("a"), without, *rest], store=False)
    assert (refused["status"], refused["error"]["param"]) == (400, "input[1].encrypted_content")
    unsummed = {key: value for key, value in item.items() if key != "summary"}
    (refused,) = wire(shared, [user("a"), unsummed, *rest], store=False)
    assert (refused["status"], refused["error"]["param"]) == (400, "input[1].summary")
    for good in (item, {**item, "summary": []}):
        assert text(wire(shared, [user("a"), good, *rest], store=False)[-1]["response"]) == "Heard: b (context: 2)"


@both
def test_reasoning_may_be_left_out(shared: LocalServer, wire: Asked) -> None:
    """A message that was never stored does not miss its reasoning item."""
    _, message = bare(reasoned(shared))
    assert text(wire(shared, [user("a"), message, user("b")], store=False)[-1]["response"]) == "Heard: b (context: 2)"


@both
def test_encrypted_content_is_its_models(shared: LocalServer, wire: Asked) -> None:
    """Content of another model, a foreign one, a bent one and one that was cut are 400s with their code."""
    item = bare(reasoned(shared, model="other"))[0]
    mine = bare(reasoned(shared))[0]["encrypted_content"]
    for content in (item["encrypted_content"], "gAAAAfromelsewhere", mine[:-6] + "AAAAAA", mine[:-8], ""):
        (refused,) = wire(shared, [user("a"), {**item, "encrypted_content": content}, user("b")], store=False)
        assert (refused["status"], refused["error"]["code"]) == (400, "invalid_encrypted_content")
        assert refused["error"]["param"] == "input[1].encrypted_content"


@both
@pytest.mark.parametrize("fields", [{"include": ["reasoning.encrypted_content"]}, {"reasoning": {"effort": "low"}}])
def test_a_model_that_does_not_reason_is_not_asked_to(wire: Asked, fields: Json) -> None:
    """Include and effort are 400s there, though nothing else is wrong; another model takes both."""
    with LocalServer(reasoning_models=["thinks"]) as server:
        (refused,) = wire(server, store=False, **fields)
        assert refused["status"] == 400 and refused["error"]["param"] in ("include", "reasoning.effort")
        assert wire(server, store=False, model="thinks", **fields)[-1]["type"] == "response.completed"
        assert wire(server, store=False)[-1]["type"] == "response.completed"


@both
def test_an_item_reference_needs_a_stored_item(shared: LocalServer, wire: Asked) -> None:
    """A reference to a stored item is the item; with store false too, as long as the item was stored."""
    message = wire(shared, [user("a")], store=True)[-1]["response"]["output"][0]
    reference = {"type": "item_reference", "id": message["id"]}
    assert text(wire(shared, [user("a"), reference, user("b")], store=True)[-1]["response"]) == "Heard: b (context: 2)"
    unstored = wire(shared, [user("a")], store=False)[-1]["response"]["output"][0]
    (refused,) = wire(shared, [user("a"), {**reference, "id": unstored["id"]}, user("b")], store=True)
    assert refused["status"] == 404


@both
def test_a_stored_message_needs_its_reasoning(shared: LocalServer, wire: Asked) -> None:
    """By its id without the reasoning item before it, a message is a 400 that names what is missing."""
    reasoning, message = reasoned(shared, store=True)
    (refused,) = wire(shared, [user("a"), message, user("b")], store=False)
    assert refused["status"] == 400 and "without its required 'reasoning' item" in refused["error"]["message"]
    assert reasoning["id"] in refused["error"]["message"]
    assert wire(shared, [user("a"), reasoning, message, user("b")], store=False)[-1]["type"] == "response.completed"


@both
@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([CALL], "No tool output found for function call call_1."),
        ([CALL, user("b")], "No tool output found for function call call_1."),
        ([output("call_1", "x")], "No tool call found for function call output with call_id call_1."),
        ([output("call_1", "x"), CALL], "No tool call found"),
        ([CALL, output("call_1", "x"), output("call_1", "y")], "No tool call found"),
        ([CALL, {"type": "custom_tool_call_output", "call_id": "call_1", "output": "x"}], "No tool call found"),
    ],
)
def test_calls_and_outputs_pair_up(shared: LocalServer, wire: Asked, items: list[Json], says: str) -> None:
    """A call without its output, an output without its call, before it, twice or of another kind: a 400 that says so."""
    (refused,) = wire(shared, [user("a"), *items], store=False)
    assert (refused["status"], refused["error"]["param"]) == (400, "input") and says in refused["error"]["message"]


@both
@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 1, 2, 3), (0, 1, 3, 2)], ids=["pairs", "calls-first", "outputs-swapped"])
def test_calls_and_outputs_come_in_any_legal_order(shared: LocalServer, wire: Asked, order: tuple[int, ...]) -> None:
    """Call, output, call, output, or all calls and then all outputs in any order."""
    items = [CALL, {**CALL, "call_id": "call_2"}, output("call_1", "x"), output("call_2", "y")]
    response = wire(shared, [user("a"), *(items[index] for index in order)], store=False)[-1]["response"]
    assert response["status"] == "completed" and text(response).endswith("(context: 1)")


@both
def test_hosted_items_go_back_without_their_ids(shared: LocalServer, wire: Asked) -> None:
    """A search that was done is part of a full input, bare."""
    assert text(wire(shared, [user("a"), SEARCH, SAID, user("b")], store=False)[-1]["response"]) == "Heard: b (context: 2)"


def test_the_rules_hold_in_a_continuation_too(shared: LocalServer) -> None:
    """What is new in a continuation is checked like a full input, and its refusal evicts."""
    with connect(shared) as client:
        first = client.final("get_weather", tools=[TOOL], store=False)
        call_id = first["output"][0]["call_id"]
        refused = client.refused([{**output(call_id, "x"), "status": "completed"}], previous_response_id=first["id"], store=False)
        assert refused["error"]["param"] == "input[0].status"
        again = client.refused([output(call_id, "x")], previous_response_id=first["id"], store=False)
        assert again["error"]["code"] == "previous_response_not_found"
