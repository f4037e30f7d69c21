"""Section 8, point 9: ``POST /v1/responses/compact``, going on from its output, and compaction that comes by itself."""

from __future__ import annotations

import pytest

from pixir_sync.local import LocalServer
from tests.local.helpers import TOOL, bare, both, call, http_connection, output, over_websocket, text, user
from tests.local.helpers import Wire as Asked
from tests.local.order import check_answer
from tests.local.raw import Json, body, connect, kinds, only

LONG = "word " * 200


def compacted(server: LocalServer, given: object, **fields: object) -> Json:
    """The compaction of this input."""
    with http_connection(server) as connection:
        status, answer, _ = call(connection, "POST", "/v1/responses/compact", body(given, **fields))
    assert status == 200, answer
    return answer


def history(server: LocalServer, turns: int) -> list[Json]:
    """A conversation as a program keeps it: user messages and answers, bare."""
    items: list[Json] = []
    for number in range(turns):
        items.append(user(f"m{number}"))
        items += bare(over_websocket(server, items, store=False)[-1]["response"]["output"])
    return items


def test_the_shape_of_a_compaction(server: LocalServer) -> None:
    """An object of its own with the user messages, in their order and as they were, then one compaction item; and usage."""
    answer = compacted(server, history(server, 3), instructions="be kind")
    assert (answer["object"], set(answer)) == ("response.compaction", {"id", "object", "created_at", "output", "usage"})
    *messages, item = answer["output"]
    assert [(message["type"], message["role"]) for message in messages] == [("message", "user")] * 3
    assert [message["content"] for message in messages] == [user(f"m{number}")["content"] for number in range(3)]
    assert item["type"] == "compaction" and item["encrypted_content"] and item["id"].startswith("cmp_")
    usage = answer["usage"]
    assert usage["input_tokens"] > 0 < usage["output_tokens"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@both
@pytest.mark.parametrize("form", ["as-it-came", "bare"])
@pytest.mark.parametrize("store", [True, False])
def test_a_conversation_goes_on_from_a_compaction(server: LocalServer, wire: Asked, form: str, store: bool) -> None:
    """Sent whole at the start of a new chain, with ids and statuses or without, the count of user messages goes on."""
    items = compacted(server, history(server, 3))["output"]
    items = items if form == "as-it-came" else bare(items)
    assert text(wire(server, [*items, user("on")], store=store)[-1]["response"]) == "Heard: on (context: 4)"


def test_a_chain_goes_on_from_a_compaction(server: LocalServer) -> None:
    """The new chain is continued like any other, on a WebSocket with store false."""
    items = compacted(server, history(server, 2))["output"]
    with connect(server) as client:
        response = client.final([*items, user("on")], store=False)
        for users in (4, 5):
            response = client.final([user("and on")], previous_response_id=response["id"], store=False)
            assert text(response) == f"Heard: and on (context: {users})"


def test_compactions_can_be_compacted(server: LocalServer) -> None:
    """Again and again, no user message is lost from the count and none counted twice."""
    items: list[Json] = []
    for number in range(4):
        items = compacted(server, [*items, user(f"m{number}")])["output"]
        assert [item["type"] for item in items].count("compaction") == 1
        answer = over_websocket(server, [*items, user("on")], store=False)[-1]["response"]
        assert text(answer) == f"Heard: on (context: {number + 2})"


def test_a_stored_chain_is_compacted_by_its_id(server: LocalServer) -> None:
    """With previous_response_id the whole chain counts; one that is not known is a 400."""
    with connect(server) as client:
        first = client.final([user("m0")])
        second = client.final([user("m1")], previous_response_id=first["id"])
    answer = compacted(server, [user("m2")], previous_response_id=second["id"])
    assert len(answer["output"]) == 4
    assert text(over_websocket(server, [*answer["output"], user("on")])[-1]["response"]) == "Heard: on (context: 4)"


def test_tool_calls_are_compacted_away(server: LocalServer) -> None:
    """Calls and their outputs go into the compaction item; one that is open is refused."""
    call_item: Json = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    answer = compacted(server, [user("m0"), call_item, output("call_1", "x"), user("m1")])
    assert [item["type"] for item in answer["output"]] == ["message", "message", "compaction"]
    assert text(over_websocket(server, [*answer["output"], user("on")], store=False)[-1]["response"]) == "Heard: on (context: 3)"


@pytest.mark.parametrize("content", ["x", "", "gAAAAnonsense", None])
def test_a_foreign_compaction_item_is_refused(server: LocalServer, content: object) -> None:
    """Only what this service sealed is opened."""
    (refused,) = over_websocket(server, [{"type": "compaction", "encrypted_content": content}, user("on")], store=False)
    assert refused["status"] == 400


def threshold(tokens: int) -> Json:
    return {"context_management": [{"type": "compaction", "compact_threshold": tokens}]}


@both
def test_compaction_comes_by_itself(server: LocalServer, wire: Asked) -> None:
    """Over the threshold a compaction item comes first in the stream, with its events, and the answer behind it."""
    events = wire(server, [user(LONG)], store=False, **threshold(50))
    compaction, message = check_answer(events)["output"]
    assert (compaction["type"], message["type"]) == ("compaction", "message") and compaction["encrypted_content"]
    assert kinds(events)[2:5] == ["output_item.added", "compaction.compacting", "output_item.done"]
    assert set(events[3]) == {"type", "sequence_number", "item_id", "output_index"}


@both
def test_below_the_threshold_nothing_is_compacted(server: LocalServer, wire: Asked) -> None:
    """Nor without a threshold that is reached, nor without being asked to."""
    managed: Json = {"context_management": [{"type": "compaction"}]}
    for fields in (threshold(100_000), managed, {}):
        events = wire(server, [user(LONG)], store=False, **fields)
        assert [item["type"] for item in check_answer(events)["output"]] == ["message"]


def test_the_context_shrinks_and_its_count_goes_on(server: LocalServer) -> None:
    """After it, a continuation has a small context again, with all user messages counted."""
    with connect(server) as client:
        first = client.final([user(LONG)], store=False)
        second = client.final([user("m1")], previous_response_id=first["id"], store=False, **threshold(50))
        third = client.final([user("m2")], previous_response_id=second["id"], store=False, **threshold(5_000))
        fourth = client.final([user("m3")], previous_response_id=third["id"], store=False)
    assert [item["type"] for item in second["output"]] == ["compaction", "message"]
    assert (text(third), text(fourth)) == ("Heard: m2 (context: 3)", "Heard: m3 (context: 4)")
    assert third["usage"]["input_tokens"] < first["usage"]["input_tokens"]
    assert third["usage"]["input_tokens_details"]["cached_tokens"] > 0


def test_a_full_replay_after_compaction_says_the_same(server: LocalServer) -> None:
    """A program that keeps all items may send them whole, or from the compaction item on: the answer is the same."""
    with connect(server) as client:
        first = client.final([user(LONG)], store=False, **threshold(50))
        chained = client.final([user("on")], previous_response_id=first["id"], store=False)
        shortened = client.final([*bare(first["output"]), user("on")], store=False)
        whole = client.final([user(LONG), *bare(first["output"]), user("on")], store=False)
    assert text(chained) == text(shortened) == text(whole) == "Heard: on (context: 2)"


def test_a_call_may_follow_a_compaction(server: LocalServer) -> None:
    """The tool loop goes on over an automatic compaction."""
    with connect(server) as client:
        first = client.final([user(f"{LONG} get_weather")], tools=[TOOL], store=False, **threshold(50))
        assert [item["type"] for item in first["output"]] == ["compaction", "function_call"]
        given = [output(first["output"][1]["call_id"], "sunny")]
        answer = client.final(given, previous_response_id=first["id"], store=False)
    assert text(answer) == 'Tool answered: "sunny" (context: 1)'


@pytest.mark.parametrize(
    "value", [{}, [5], [{"type": "nonsense"}], [{"type": "compaction", "compact_threshold": "x"}], [{}]], ids=repr
)
def test_bad_context_management_is_refused(server: LocalServer, value: object) -> None:
    """With the path of what is wrong."""
    (refused,) = over_websocket(server, context_management=value)
    assert refused["status"] == 400 and refused["error"]["param"].startswith("context_management")


def test_the_compaction_item_is_the_terminal_outputs(server: LocalServer) -> None:
    """The done event's encrypted content is that of the terminal output."""
    events = over_websocket(server, [user(LONG)], store=False, **threshold(50))
    done = only(events, "response.output_item.done")[0]["item"]
    assert events[-1]["response"]["output"][0] == done
